"""One style for static figures, and interactive figures that live in static HTML.

Static figures are plain matplotlib or seaborn after :func:`use_style`. Interactive ones are made by
:func:`interactive` and :func:`slider` (plotly), :func:`image_slider` (a stack of images) and
:func:`animation` (a matplotlib animation). Each returns an :class:`HTML` object: make it the last
expression of a cell. They need no server, no kernel and no network, are moved by mouse, touch and
keyboard, and are announced to screen readers by their ``alt`` text.

Inside the book (``PAPERKIT_BOOK`` is set) the page loads plotly.js once, for every block of the class
``pk-plotly``; elsewhere each plotly figure brings the script of the installed plotly with it, so that
it shows in JupyterLab too.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike, NDArray

    from paperkit.claims import Interval

__all__ = [
    "HTML",
    "METHOD_COLOURS",
    "animation",
    "band",
    "image_slider",
    "interactive",
    "slider",
    "use_style",
]

MAX_STEPS = 31
MAX_POINTS = 2000  # a step, on average
MAX_FRAME_BYTES = 400_000
MAX_FIGURE_BYTES = 1_200_000


class _Colours(dict[str | int, str]):
    """Colours by name, by role, or by position: ``["blue"]``, ``["method"]``, ``[0]``."""

    ROLES = {  # noqa: RUF012
        "method": "blue",
        "baseline": "vermillion",
        "variant": "green",
        "truth": "black",
        "reference": "black",
        "muted": "grey",
    }

    def __missing__(self, key: str | int) -> str:
        if isinstance(key, int):
            cycle = [colour for name, colour in self.items() if name not in ("black", "grey")]
            return cycle[key % len(cycle)]
        if key in self.ROLES:
            return self[self.ROLES[key]]
        allowed = [*self, *self.ROLES]
        raise KeyError(f"no colour {key!r}; there is: {', '.join(allowed)}, or a position")


METHOD_COLOURS = _Colours(
    blue="#0072B2",
    vermillion="#D55E00",
    green="#009E73",
    purple="#CC79A7",
    orange="#E69F00",
    sky="#56B4E9",
    black="#1c2430",
    grey="#7a8490",
)
"""Colours that readers with colour blindness can tell apart (Okabe and Ito, 2008).

By name (``"blue"``), by position (``METHOD_COLOURS[0]``, as in matplotlib's cycle), or by role:
``"method"`` is the method of the paper, ``"baseline"`` what it is compared with, ``"variant"`` a
second method, ``"truth"`` or ``"reference"`` the known answer, ``"muted"`` the background.
"""

_INK, _GRID, _PAPER = METHOD_COLOURS["black"], "#e3e6ea", "#ffffff"


def use_style() -> None:
    """Set the book's matplotlib style; call it in the first code cell of a notebook.

    White ground (figures stay readable on a dark page, which shows them on a light card), letters
    that survive the width of a phone, the colours of :data:`METHOD_COLOURS`, and files that do not
    change from build to build.
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            "figure.dpi": 128,
            "figure.facecolor": _PAPER,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": _PAPER,
            "savefig.dpi": "figure",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10.5,
            "text.color": _INK,
            "axes.facecolor": _PAPER,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=[METHOD_COLOURS[i] for i in range(6)]),
            "grid.color": _GRID,
            "grid.linewidth": 0.8,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
            "svg.hashsalt": "paperkit",
        }
    )


def band(
    ax: Axes,
    x: ArrayLike,
    intervals: Interval | Sequence[Interval],
    *,
    label: str,
    colour: str | None = None,
    marker: str = "o",
) -> Line2D:
    """Draw estimates as a line, and their intervals as a band around it.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    x : array_like, shape (P,)
        Positions.
    intervals : sequence of P Interval, or one Interval that holds P
        What to draw.
    label : str
        Entry of the legend.
    colour : str, optional
        A colour; the next one of the cycle if left out.
    marker : str
        Marker of the estimates.

    Returns
    -------
    matplotlib.lines.Line2D

    Raises
    ------
    ValueError
        If the lengths differ or a number is not finite.
    """
    from paperkit.claims import Interval

    if isinstance(intervals, Interval):
        parts = [intervals.estimate, intervals.low, intervals.high]
    else:
        kept = list(intervals)
        parts = [[getattr(i, end) for i in kept] for end in ("estimate", "low", "high")]
    middle, low, high = (np.asarray(part, float) for part in parts)
    xs = np.asarray(x)
    if xs.ndim != 1 or middle.shape != xs.shape:
        raise ValueError(f"x and intervals must have one length, got {xs.shape}, {middle.shape}")
    if not all(np.all(np.isfinite(part)) for part in (middle, low, high)):
        raise ValueError("an interval has an end that is not finite")
    (line,) = ax.plot(xs, middle, marker=marker, label=label, color=colour)
    ax.fill_between(xs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


class HTML:
    """A figure as HTML; notebooks show it when it is the last expression of a cell.

    Attributes
    ----------
    html : str
        The block, complete with its script.
    alt : str
        What is seen, for someone who cannot see it.
    """

    def __init__(self, html: str, alt: str) -> None:
        self.html = html
        self.alt = alt

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<figure: {self.alt}>"


# ------------------------------------------------------------------------------------------ plotly


def interactive(plotly_figure: Any, *, alt: str) -> HTML:
    """Show a plotly figure.

    Parameters
    ----------
    plotly_figure : plotly.graph_objects.Figure
        The figure. It is not changed; numbers are sent in single precision.
    alt : str
        What is seen, in a sentence.

    Returns
    -------
    HTML

    Raises
    ------
    TypeError
        If it is not a plotly figure.
    ValueError
        If `alt` is empty or the figure is larger than 1.2 MB of HTML.
    """
    import plotly.graph_objects as go

    _check_alt(alt)
    if not isinstance(plotly_figure, go.Figure):
        raise TypeError(f"plotly_figure must be a plotly Figure, got {plotly_figure!r}")
    spec = _spec(go.Figure(_lean(plotly_figure.to_plotly_json())))
    return _plotly_block(spec, alt=alt, bar="", steps="")


def slider(
    frames: Iterable[Any],
    labels: Iterable[Any],
    *,
    name: str,
    alt: str,
    layout: Any = None,
    start: int = 0,
) -> HTML:
    """Show a plotly figure with one slider that steps through precomputed frames.

    Axis ranges that `layout` leaves open are fixed to hold all frames: with axes that adapt, a
    curve appears not to move. The slider is a native one, so it obeys the keyboard.

    Parameters
    ----------
    frames : sequence of (trace or list of traces)
        One entry for each step, all with the same number of plotly traces. At most 31 steps and
        2,000 points a step on average.
    labels : sequence
        What the slider shows at each step: text or numbers.
    name : str
        Name of what the slider changes, with its unit.
    alt : str
        What is seen and what moving the slider shows, in a sentence or two.
    layout : plotly.graph_objects.Layout or dict, optional
        Axis titles and so on.
    start : int
        The step shown first; it should make the point by itself.

    Returns
    -------
    HTML

    Raises
    ------
    ValueError
        If `alt` or `name` is empty, lengths differ, a number is not finite, or it is too large.
    """
    import plotly.graph_objects as go

    _check_alt(alt)
    steps = [list(f) if isinstance(f, list | tuple) else [f] for f in frames]
    texts = _check_steps(steps, labels, name, start)
    counts = {len(step) for step in steps}
    if len(counts) > 1 or counts == {0}:
        raise ValueError(f"every frame needs the same number of traces, got {sorted(counts)}")
    plain = [[_lean(trace) for trace in go.Figure(step).to_plotly_json()["data"]] for step in steps]
    points = 0
    for i, step in enumerate(plain):
        for trace in step:
            points += _check_trace(trace, f"frame {i}")
    if points > MAX_POINTS * MAX_STEPS:
        raise ValueError(
            f"{points:,} points in all frames; at most {MAX_POINTS * MAX_STEPS:,} are allowed"
        )
    base = go.Figure(layout=layout).to_plotly_json()["layout"]
    _fix_ranges(plain, base)
    base.setdefault("uirevision", "slider")  # a zoomed view survives the next step
    spec = _spec(go.Figure(data=plain[start], layout=base))
    stack = [go.Figure(data=step).to_dict()["data"] for step in plain]
    return _plotly_block(spec, alt=alt, bar=_bar(texts, name, start), steps=_script_json(stack))


def _spec(figure: Any) -> dict[str, Any]:
    """Data, layout and frames of a figure in the book's style, arrays as base64."""
    import plotly.graph_objects as go
    import plotly.io as pio

    default = pio.templates[pio.templates.default] if pio.templates.default else None
    if default is None or figure.layout.template == default:
        axis = {
            "gridcolor": _GRID,
            "linecolor": _INK,
            "zerolinecolor": "#c3c9d0",
            "automargin": True,
            "showline": True,
            "ticks": "outside",
        }
        figure.layout.template = go.layout.Template(
            layout={
                "colorway": [METHOD_COLOURS[i] for i in range(6)],
                "font": {"family": "DejaVu Sans, Verdana, sans-serif", "size": 13, "color": _INK},
                "plot_bgcolor": _PAPER,
                "xaxis": axis,
                "yaxis": axis,
                "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
                "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
                "hovermode": "closest",
            }
        )
    figure.layout.paper_bgcolor = _PAPER
    if figure.layout.height is None:
        figure.layout.height = 420
    spec = figure.to_dict()
    return {key: spec[key] for key in ("data", "layout", "frames") if spec.get(key)}


def _lean(value: Any) -> Any:
    """The same structure with doubles as singles: half the size, and enough for a screen."""
    if isinstance(value, Mapping):
        if set(value) >= {"dtype", "bdata"}:  # an array, in the form in which plotly sends it
            array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
            shape = [int(length) for length in str(value.get("shape", array.size)).split(",")]
            return _lean(array.reshape(shape))
        return {key: _lean(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.astype(np.float32) if value.dtype == np.float64 else value
    if isinstance(value, list | tuple):
        if len(value) > 2 and all(type(each) is float for each in value):
            return np.asarray(value, np.float32)
        return [_lean(each) for each in value]
    return value


def _numeric(value: Any) -> NDArray[Any] | None:
    """The value as an array of numbers (None counts as NaN), or None if it is not numeric."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind == "O" and all(
        each is None or isinstance(each, int | float | np.number) for each in array.ravel()
    ):
        array = array.astype(float)
    return array if array.dtype.kind in "iuf" else None


def _check_trace(trace: dict[str, Any], where: str) -> int:
    """Number of points of a trace; ValueError if one is not finite."""
    points = 0
    for key in ("x", "y", "z", "r", "theta", "values"):
        array = _numeric(trace.get(key))
        if array is not None and not np.all(np.isfinite(array)):
            raise ValueError(f"{where}: {key} of a trace has a number that is not finite")
        if trace.get(key) is not None:
            points = max(points, np.size(np.asarray(trace[key], dtype=object)))
    return points


def _fix_ranges(steps: list[list[dict[str, Any]]], layout: dict[str, Any]) -> None:
    """Give each axis the range of all frames, and each map of colours that of all its values."""
    ends: dict[str, list[float]] = {}
    grounded, unknown = set(), set()
    for trace in (trace for step in steps for trace in step):
        for letter in "xy":
            key = f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}"
            array = _numeric(trace.get(letter))
            if array is None or trace.get("type", "scatter") not in ("scatter", "scattergl", "bar"):
                unknown.add(key)
                continue
            error = trace.get(f"error_{letter}") or {}
            above = _numeric(error.get("array"))
            below = _numeric(error.get("arrayminus", error.get("array")))
            parts = [array, array + (0 if above is None else above)]
            parts += [array - (0 if below is None else below)]
            if trace.get("type") == "bar" and letter == ("x" if _lying(trace) else "y"):
                grounded.add(key)
            if trace.get("fill") == f"tozero{letter}":
                parts.append(np.zeros(1))
            ends.setdefault(key, []).extend(np.concatenate(parts).tolist())
    for key, values in ends.items():
        axis = layout.setdefault(key, {})
        logarithmic = axis.get("type") == "log"
        fixed = "range" in axis or "autorange" in axis
        if key in unknown or fixed or axis.get("type", "-") not in ("-", "linear", "log"):
            continue
        if logarithmic:
            values = [math.log10(value) for value in values if value > 0]
        elif key in grounded:
            values = [*values, 0.0]
        if not values:
            continue
        low, high = min(values), max(values)
        pad = 0.05 * (high - low) or 0.5
        stands = key in grounded and not logarithmic
        axis["range"] = [
            low if stands and low == 0 else low - pad,
            high if stands and high == 0 else high + pad,
        ]
    for i in range(len(steps[0])):
        maps = [step[i] for step in steps if step[i].get("type") in ("heatmap", "contour")]
        grids = [grid for grid in (_numeric(each.get("z")) for each in maps) if grid is not None]
        if not grids or any("zmin" in each or "coloraxis" in each for each in maps):
            continue
        low, high = min(float(g.min()) for g in grids), max(float(g.max()) for g in grids)
        for each in maps:
            each["zmin"], each["zmax"] = low, high


def _lying(trace: dict[str, Any]) -> bool:
    return trace.get("orientation") == "h"


def _plotly_block(spec: dict[str, Any], *, alt: str, bar: str, steps: str) -> HTML:
    """The block of one plotly figure; `steps` is the stack of frames as JSON, if there is a bar."""
    height = int(spec["layout"]["height"])
    figure = _script_json(spec)
    name = _stable_id("pk-plotly", figure, steps, bar, alt)
    script = ""
    if not os.environ.get("PAPERKIT_BOOK"):
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script>"
    move = f"var steps = {steps}; {_BAR_JS} move(root, steps.length, show);" if steps else ""
    block = (
        f'<div class="pk-figure pk-plotly{" pk-slider" if bar else ""}" id="{name}" role="group"'
        f' aria-label="{html.escape(alt)}" style="{_CARD}">'
        f'<div class="pk-plot" style="width:100%;height:{height}px"></div>{bar}'
        f"<noscript><p>{html.escape(alt)} (This figure needs JavaScript.)</p></noscript>{script}"
        f"<script>(function () {{ var root = document.getElementById({json.dumps(name)});"
        f" var spec = {figure}; {_PLOTLY_JS} {move} }})();</script></div>"
    )
    # What the page weighs: the script of plotly is loaded once and is not part of it.
    _check_weight(len(block) - len(script))
    return HTML(block, alt)


# ------------------------------------------------------------------------------------------ images


def image_slider(
    images: Iterable[Any],
    labels: Iterable[Any],
    *,
    name: str,
    alt: str,
    start: int = 0,
) -> HTML:
    """Show a stack of images with one slider, for what plotly cannot draw: grids of samples.

    Parameters
    ----------
    images : sequence
        All of one size: arrays of shape (H, W), (H, W, 3) or (H, W, 4), ``uint8`` or floats in
        [0, 1]; matplotlib figures (which are closed); or PIL images. At most 31. Small ones are
        enlarged without smoothing.
    labels : sequence
        What the slider shows at each step: text or numbers.
    name : str
        Name of what the slider changes, with its unit.
    alt : str
        What is seen and what moving the slider shows, in a sentence or two.
    start : int
        The step shown first.

    Returns
    -------
    HTML

    Raises
    ------
    ValueError
        If `alt` or `name` is empty, lengths or sizes differ, a pixel is not finite or out of range,
        an image has more than 400 kB or all together more than 1.2 MB.
    TypeError
        If something is not an image.
    """
    _check_alt(alt)
    kept = list(images)
    texts = _check_steps(kept, labels, name, start)
    pictures = [_picture(image, f"image {i}") for i, image in enumerate(kept)]
    return _image_block(pictures, texts, name=name, alt=alt, start=start, interval=None)


def animation(anim: Animation, *, alt: str) -> HTML:
    """Show a matplotlib animation with a slider and a button that plays it.

    Nothing moves until the reader asks for it. The figure of the animation is closed.

    Parameters
    ----------
    anim : matplotlib.animation.Animation
        At most 31 frames.
    alt : str
        What is seen and what happens, in a sentence or two.

    Returns
    -------
    HTML

    Raises
    ------
    TypeError
        If it is not an animation.
    ValueError
        If `alt` is empty, there are too many frames or they are too large.
    """
    from matplotlib import animation as mpl_animation
    from matplotlib import pyplot as plt

    _check_alt(alt)
    if not isinstance(anim, mpl_animation.Animation):
        raise TypeError(f"anim must be a matplotlib animation, got {anim!r}")

    class Keep(mpl_animation.AbstractMovieWriter):
        """Writer that keeps the frames as pictures."""

        def setup(self, fig: Any, outfile: Any, dpi: Any = None) -> None:
            super().setup(fig, outfile, dpi)
            self.pictures: list[Any] = []

        def grab_frame(self, **kwargs: Any) -> None:
            if len(self.pictures) == MAX_STEPS:
                raise ValueError(f"the animation has more than {MAX_STEPS} frames")
            self.pictures.append(_picture(self.fig, "frame", close=False))

        def finish(self) -> None:
            """Nothing is written."""

    writer = Keep()
    anim.save("frames", writer=writer)
    plt.close(writer.fig)
    interval = getattr(anim, "_interval", 200)
    texts = [f"{i + 1} of {len(writer.pictures)}" for i in range(len(writer.pictures))]
    return _image_block(
        writer.pictures, texts, name="frame", alt=alt, start=0, interval=int(interval)
    )


def _picture(image: Any, where: str, *, close: bool = True) -> Any:
    """A PIL image in RGB; errors as :func:`image_slider`."""
    from matplotlib.figure import Figure
    from PIL import Image

    if isinstance(image, Figure):
        from matplotlib import pyplot as plt

        stream = io.BytesIO()
        image.savefig(stream, format="png", dpi=100, facecolor=_PAPER)
        if close:
            plt.close(image)
        return Image.open(stream).convert("RGB")
    if isinstance(image, Image.Image):
        picture = image
    else:
        array = np.asarray(image)
        if array.dtype.kind not in "uifb" or array.ndim not in (2, 3):
            raise TypeError(f"{where}: not an image: {type(image).__name__} of shape {array.shape}")
        if array.ndim == 3 and array.shape[2] not in (3, 4):
            raise ValueError(f"{where}: shape must be (H, W), (H, W, 3) or (H, W, 4)")
        if array.dtype != np.uint8:
            if not np.all(np.isfinite(array)) or array.min() < 0 or array.max() > 1:
                raise ValueError(f"{where}: pixels must be uint8, or finite floats in [0, 1]")
            array = np.round(array.astype(np.float64) * 255).astype(np.uint8)
        picture = Image.fromarray(array)
    if picture.mode in ("RGBA", "LA", "P"):
        ground = Image.new("RGBA", picture.size, _PAPER)
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert("RGB")


def _image_block(
    pictures: list[Any], texts: list[str], *, name: str, alt: str, start: int, interval: int | None
) -> HTML:
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"images must have one size, got (width, height) {sorted(sizes)}")
    width, height = next(iter(sizes))
    # Images of a few pixels, such as samples of a small model, are enlarged by a whole factor.
    factor = max(1, math.ceil(256 / width))
    pixelated = ";image-rendering:pixelated" if factor > 1 else ""
    sources = [_webp(picture, f"image {i}") for i, picture in enumerate(pictures)]
    bar = _bar(texts, name, start, interval=interval)
    stack = _script_json(sources)
    kind = "pk-animation" if interval is not None else "pk-images"
    block_id = _stable_id(kind, stack, bar, alt)
    block = (
        f'<div class="pk-figure {kind} pk-slider" id="{block_id}" role="group"'
        f' aria-label="{html.escape(alt)}" style="{_CARD}">'
        f'<img class="pk-frame" src="{sources[start]}" alt="{html.escape(alt)}"'
        f' width="{width * factor}" height="{height * factor}"'
        f' style="display:block;margin:0 auto;max-width:100%;height:auto{pixelated}">{bar}'
        "<noscript><p>(Other steps need JavaScript.)</p></noscript>"
        f"<script>(function () {{ var root = document.getElementById({json.dumps(block_id)});"
        f" var steps = {stack}; {_IMAGE_JS} {_BAR_JS} move(root, steps.length, show);"
        " })();</script></div>"
    )
    _check_weight(len(block))
    return HTML(block, alt)


def _webp(picture: Any, where: str) -> str:
    """The picture as a data URI: lossless where that is not much larger, as for flat colours."""
    encoded = []
    for options in ({"lossless": True}, {"quality": 88}):
        stream = io.BytesIO()
        picture.save(stream, "WEBP", **options)
        encoded.append(stream.getvalue())
    exact, lossy = encoded
    best = exact if len(exact) <= max(1.2 * len(lossy), 8000) else lossy
    if len(best) > MAX_FRAME_BYTES:
        raise ValueError(
            f"{where} has {len(best):,} bytes; at most {MAX_FRAME_BYTES:,} are allowed"
        )
    return "data:image/webp;base64," + base64.b64encode(best).decode()


# ------------------------------------------------------------------------------------- shared parts

_CARD = (
    f"background:{_PAPER};color:{_INK};padding:.5rem;border-radius:.375rem;max-width:100%;"
    "box-sizing:border-box;margin:.5rem 0"
)

# Draws the figure as soon as plotly is there: the page may load it after this block.
_PLOTLY_JS = """
var plot = root.querySelector(".pk-plot"), ready = false;
var config = {responsive: true, displaylogo: false};
function draw(left) {
  if (!window.Plotly) {
    if (left > 0) { setTimeout(draw, 50, left - 1); }
    else { plot.textContent = root.getAttribute("aria-label"); }
    return;
  }
  Plotly.newPlot(plot, spec.data, spec.layout, config).then(function () {
    return spec.frames ? Plotly.addFrames(plot, spec.frames) : null;
  }).then(function () { ready = true; root.setAttribute("data-ready", "yes"); });
}
draw(1200);
function show(i) {
  spec.data = steps[i];
  if (ready) { Plotly.react(plot, spec.data, plot.layout, config); }
}
"""

_IMAGE_JS = """
var image = root.querySelector(".pk-frame"), words = image.alt;
function show(i, text) { image.src = steps[i]; image.alt = words + " " + text; }
root.setAttribute("data-ready", "yes");
"""

_BAR_JS = """
function move(root, n, show) {
  var range = root.querySelector("input[type=range]"), out = root.querySelector("output");
  var play = root.querySelector("button"), labels = JSON.parse(range.getAttribute("data-labels"));
  var timer = null;
  function go(i) {
    range.value = i;
    out.textContent = labels[i];
    range.setAttribute("aria-valuetext", labels[i]);
    root.setAttribute("data-step", i);
    show(i, "(" + range.getAttribute("data-name") + ": " + labels[i] + ")");
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    if (play) { play.textContent = "Play"; }
  }
  range.addEventListener("input", function () { stop(); go(Number(range.value)); });
  if (play) {
    play.addEventListener("click", function () {
      if (timer !== null) { stop(); return; }
      play.textContent = "Pause";
      if (Number(range.value) === n - 1) { go(0); }
      timer = setInterval(function () {
        if (!document.contains(root) || Number(range.value) === n - 1) { stop(); return; }
        go(Number(range.value) + 1);
      }, Number(play.getAttribute("data-interval")));
    });
  }
}
"""


def _bar(texts: list[str], name: str, start: int, *, interval: int | None = None) -> str:
    """Label, native range input and the current step's text; with a button where it can play."""
    button = ""
    if interval is not None:
        button = (
            f'<button type="button" class="pk-play" data-interval="{interval}"'
            f' style="min-width:6.5em;min-height:2.2em">Play</button>'
        )
    widest = max(len(text) for text in texts)
    return (
        '<div class="pk-slider-bar" style="display:flex;flex-wrap:wrap;gap:.3rem .7rem;'
        f'align-items:center;justify-content:center;margin-top:.4rem;font-size:1rem">{button}'
        '<label style="display:flex;flex:1 1 14rem;max-width:34rem;gap:.6rem;align-items:center;'
        f'margin:0"><span>{html.escape(name)}</span>'
        f'<input type="range" min="0" max="{len(texts) - 1}" step="1" value="{start}"'
        f' autocomplete="off" aria-valuetext="{html.escape(texts[start])}"'
        f' data-name="{html.escape(name)}" data-labels="{html.escape(json.dumps(texts))}"'
        f' style="flex:1 1 8rem;min-width:0;height:2rem;accent-color:{METHOD_COLOURS["blue"]}">'
        f"</label>"
        f'<output style="min-width:{min(widest, 24)}ch;font-variant-numeric:tabular-nums">'
        f"{html.escape(texts[start])}</output></div>"
    )


def _check_alt(alt: Any) -> None:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say what is seen, for someone who cannot see it; got {alt!r}")


def _check_steps(steps: Sequence[Any], labels: Iterable[Any], name: str, start: int) -> list[str]:
    """The labels as text; errors as :func:`slider` and :func:`image_slider`."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must say what the slider changes, got {name!r}")
    texts = [_label(label) for label in labels]
    if len(texts) != len(steps):
        raise ValueError(f"{len(steps)} steps need as many labels, got {len(texts)}")
    if not 2 <= len(steps) <= MAX_STEPS:
        raise ValueError(f"a slider has 2 to {MAX_STEPS} steps, got {len(steps)}")
    if not 0 <= start < len(steps):
        raise ValueError(f"start must be in 0 .. {len(steps) - 1}, got {start}")
    return texts


def _label(label: Any) -> str:
    if isinstance(label, float | np.floating):
        if not math.isfinite(label):
            raise ValueError(f"a label is {label}")
        return f"{label:.4g}"
    return str(label)


def _check_weight(size: int) -> None:
    if size > MAX_FIGURE_BYTES:
        raise ValueError(
            f"the figure has {size:,} bytes of HTML; at most {MAX_FIGURE_BYTES:,} are allowed: use"
            " fewer steps, points or pixels"
        )


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element."""
    from plotly.io.json import to_json_plotly

    text = str(to_json_plotly(value))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


_used: dict[str, int] = {}


def _stable_id(kind: str, *content: str) -> str:
    """An id that is the same in every build, and different for each block of a page."""
    digest = hashlib.sha256("\0".join(content).encode()).hexdigest()[:12]
    _used[digest] = _used.get(digest, 0) + 1
    again = f"-{_used[digest]}" if _used[digest] > 1 else ""
    return f"{kind}-{digest}{again}"
