"""Style, and interactive figures that need nothing from outside."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.animation import FuncAnimation
from PIL import Image

from paperkit import claims, plotting

ALT = "A curve that rises from left to right."
X = np.linspace(0, 1, 11)


@pytest.fixture(autouse=True)
def inside_the_book(monkeypatch):
    monkeypatch.setenv("PAPERKIT_BOOK", "1")
    monkeypatch.setattr(plotting, "_used", {})
    with mpl.rc_context():
        mpl.use("agg")
        yield
    plt.close("all")


def curves(n=4):
    return [go.Scatter(x=X, y=k * X) for k in range(n)]


def wave():
    fig, ax = plt.subplots(figsize=(3, 2))
    (line,) = ax.plot(X, X)
    return FuncAnimation(fig, lambda i: line.set_ydata(i * X), frames=5, interval=120)


MAKERS = {
    "interactive": lambda **o: plotting.interactive(go.Figure(curves(2)), **o),
    "slider": lambda **o: plotting.slider(curves(), range(4), name="slope", **o),
    "image_slider": lambda **o: plotting.image_slider(
        [np.full((4, 6), k / 4) for k in range(4)], range(4), name="grey", **o
    ),
    "animation": lambda **o: plotting.animation(wave(), **o),
}


class Page(HTMLParser):
    """Tags with attributes, the text of scripts, and whether every tag is closed."""

    EMPTY = {"img", "input", "br", "meta", "link"}  # noqa: RUF012

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.scripts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def addresses(text):
    """Everything that a browser could load from elsewhere."""
    found = re.findall(r"""<[^>]*\s(?:src|href)=["']([^"']+)""", text)
    return [each for each in found if not each.startswith("data:")] + re.findall(r"\w+://", text)


# --------------------------------------------------------------------------- all kinds of figures


@pytest.mark.parametrize("kind", MAKERS)
def test_figures_load_nothing(kind):
    figure = MAKERS[kind](alt=ALT)
    assert addresses(figure._repr_html_()) == []
    assert "<link" not in figure.html


@pytest.mark.parametrize("kind", MAKERS)
def test_figures_are_well_formed_and_named(kind):
    figure = MAKERS[kind](alt='What "is" seen & <said>')
    page = Page(figure.html)
    assert page.open == []
    root = page.tags[0][1]
    assert root["role"] == "group"
    assert root["aria-label"] == 'What "is" seen & <said>'
    assert "pk-figure" in root["class"]
    assert ("pk-plotly" in root["class"]) == (kind in ("interactive", "slider"))
    assert page.all("noscript")
    assert repr(figure) == '<figure: What "is" seen & <said>>'
    for image in page.all("img"):
        assert image["alt"]
        assert int(image["width"]) > 0
    for field in page.all("input"):
        # A name for every control: each input stands inside its label.
        assert field["type"] == "range"
        assert field["aria-valuetext"]
    assert len(page.all("label")) == len(page.all("input"))


@pytest.mark.parametrize("kind", MAKERS)
def test_ids_are_the_same_in_every_build_and_unique_on_a_page(kind, monkeypatch):
    first = MAKERS[kind](alt=ALT)
    again = MAKERS[kind](alt=ALT)
    ids = [Page(figure.html).tags[0][1]["id"] for figure in (first, again)]
    assert ids[1] == ids[0] + "-2"
    monkeypatch.setattr(plotting, "_used", {})  # as in the next build
    assert MAKERS[kind](alt=ALT).html == first.html
    assert Page(MAKERS[kind](alt="Another figure.").html).tags[0][1]["id"] != ids[0]


@pytest.mark.filterwarnings("ignore:Animation was deleted")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("alt", ["", "  ", None])
def test_a_figure_without_alt_is_refused(kind, alt):
    with pytest.raises(ValueError, match="alt"):
        MAKERS[kind](alt=alt)


@pytest.mark.parametrize("kind", ["interactive", "slider"])
def test_outside_the_book_plotly_comes_along(kind, monkeypatch):
    inside = MAKERS[kind](alt=ALT)
    assert "Plotly.newPlot" in inside.html
    assert len(inside.html) < 20_000
    monkeypatch.delenv("PAPERKIT_BOOK")
    outside = MAKERS[kind](alt=ALT)
    from plotly.offline import get_plotlyjs

    assert get_plotlyjs() in outside.html


@pytest.mark.parametrize("kind", MAKERS)
def test_html_is_the_only_rich_form(kind):
    figure = MAKERS[kind](alt=ALT)
    forms = [name for name in dir(figure) if name.startswith("_repr_")]
    assert forms == ["_repr_html_"]


# ---------------------------------------------------------------------------------------- plotly


def spec_of(figure):
    script = next(s for s in Page(figure.html).scripts if "var spec" in s)
    return json.JSONDecoder().raw_decode(script.split("var spec = ")[1])[0]


def steps_of(figure):
    script = next(s for s in Page(figure.html).scripts if "var steps" in s)
    return json.JSONDecoder().raw_decode(script.split("var steps = ")[1])[0]


def decoded(array):
    return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])


def test_numbers_are_sent_in_single_precision():
    source = go.Figure(go.Scatter(x=X, y=[0.1, 0.2, 0.3]))
    spec = spec_of(plotting.interactive(source, alt=ALT))
    assert spec["data"][0]["x"]["dtype"] == spec["data"][0]["y"]["dtype"] == "f4"
    assert decoded(spec["data"][0]["x"]) == pytest.approx(X)
    assert source.data[0].x.dtype == np.float64


def test_grids_keep_their_shape():
    z = np.arange(6.0).reshape(2, 3)
    spec = spec_of(plotting.interactive(go.Figure(go.Heatmap(z=z)), alt=ALT))
    assert spec["data"][0]["z"]["shape"] == "2, 3"
    assert decoded(spec["data"][0]["z"]).tolist() == z.ravel().tolist()


def test_the_book_s_template_replaces_only_the_default():
    spec = spec_of(plotting.interactive(go.Figure(curves(1)), alt=ALT))
    assert spec["layout"]["template"]["layout"]["colorway"][0] == plotting.METHOD_COLOURS[0]
    own = go.Figure(curves(1), layout={"template": "plotly_dark", "height": 300})
    spec = spec_of(plotting.interactive(own, alt=ALT))
    assert spec["layout"]["template"]["layout"]["colorway"][0] != plotting.METHOD_COLOURS[0]
    assert spec["layout"]["height"] == 300


def test_frames_of_a_plotly_figure_survive():
    source = go.Figure(curves(1), frames=[go.Frame(data=curves(1), name="a")])
    spec = spec_of(plotting.interactive(source, alt=ALT))
    assert spec["frames"][0]["name"] == "a"


def test_a_script_cannot_be_ended_from_inside():
    figure = go.Figure(go.Scatter(x=["</script><b>"], y=[1]))
    made = plotting.interactive(figure, alt=ALT)
    assert Page(made.html).open == []
    assert spec_of(made)["data"][0]["x"] == ["</script><b>"]


def test_interactive_refuses():
    for wrong in (None, {}, curves(1), plt.figure()):
        with pytest.raises(TypeError, match="plotly"):
            plotting.interactive(wrong, alt=ALT)
    huge = go.Figure(go.Scatter(y=np.random.default_rng(0).normal(size=400_000)))
    with pytest.raises(ValueError, match="bytes"):
        plotting.interactive(huge, alt=ALT)


def test_slider_steps():
    figure = plotting.slider(
        curves(), [0.0, 1 / 3, 2 / 3, 1.0], name="slope (1/s)", alt=ALT, start=2
    )
    steps = steps_of(figure)
    assert [decoded(step[0]["y"])[-1] for step in steps] == [0, 1, 2, 3]
    assert decoded(spec_of(figure)["data"][0]["y"])[-1] == 2
    field = Page(figure.html).all("input")[0]
    assert (field["min"], field["max"], field["value"]) == ("0", "3", "2")
    assert json.loads(field["data-labels"]) == ["0", "0.3333", "0.6667", "1"]
    assert field["aria-valuetext"] == "0.6667"
    assert "<output" in figure.html


def test_slider_fixes_the_axes():
    spec = spec_of(plotting.slider(curves(), range(4), name="k", alt=ALT))
    assert spec["layout"]["yaxis"]["range"] == pytest.approx([-0.15, 3.15])
    assert spec["layout"]["xaxis"]["range"] == pytest.approx([-0.05, 1.05])


def axis(frames, letter="y", layout=None):
    made = plotting.slider(frames, range(len(frames)), name="k", alt=ALT, layout=layout)
    return spec_of(made)["layout"].get(f"{letter}axis", {})


def test_slider_axes_of_other_kinds():
    bars = [go.Bar(x=["a", "b"], y=[1, k]) for k in (2, 5)]
    assert axis(bars)["range"] == pytest.approx([0, 5.25])
    assert "range" not in axis(bars, "x")
    lying = [go.Bar(y=["a", "b"], x=[-1, k], orientation="h") for k in (2, 5)]
    assert axis(lying, "x")["range"] == pytest.approx([-1.3, 5.3])
    filled = [go.Scatter(x=[0, 1], y=[5, 6], fill="tozeroy")] * 2
    assert axis(filled)["range"][0] < 0
    error = [go.Scatter(x=[0, 1], y=[5, 6], error_y={"array": [1, 4], "arrayminus": [3, 0]})] * 2
    assert axis(error)["range"] == pytest.approx([2 - 0.4, 10 + 0.4])
    log = {"yaxis": {"type": "log"}}
    power = [go.Scatter(x=[0, 1], y=[1, 100])] * 2
    assert axis(power, layout=log)["range"] == pytest.approx([-0.1, 2.1])
    assert axis(power, layout={"yaxis": {"range": [7, 9]}})["range"] == [7, 9]
    assert axis(power, layout=go.Layout(yaxis_title="height (m)"))["title"]["text"] == "height (m)"
    flat = [go.Scatter(x=[0, 1], y=[2, 2])] * 2
    assert axis(flat)["range"] == [1.5, 2.5]
    second = [[go.Scatter(x=[0], y=[1]), go.Scatter(x=[0], y=[50], yaxis="y2")]] * 2
    assert axis(second)["range"] == [0.5, 1.5]


def test_slider_fixes_the_colours_of_maps():
    maps = [go.Heatmap(z=[[0, k], [1, 1]]) for k in (2, 8)]
    steps = steps_of(plotting.slider(maps, "ab", name="k", alt=ALT))
    assert {(step[0]["zmin"], step[0]["zmax"]) for step in steps} == {(0, 8)}


@pytest.mark.parametrize(
    ("frames", "labels", "options", "message"),
    [
        (curves(3), range(4), {}, "3 steps"),
        (curves(1), range(1), {}, "2 to 31"),
        (curves(32), range(32), {}, "2 to 31"),
        ([], [], {}, "2 to 31"),
        (curves(3), range(3), {"name": " "}, "name"),
        (curves(3), range(3), {"start": 3}, "start"),
        (curves(3), range(3), {"start": -1}, "start"),
        (curves(2), [0.0, np.nan], {}, "label"),
        ([curves(1), curves(2)], "ab", {}, "same number"),
        ([[], []], "ab", {}, "same number"),
        ([go.Scatter(x=[0, 1], y=[0, np.nan])] * 2, "ab", {}, "not finite"),
        ([go.Scatter(x=X, y=np.full(11, np.inf))] * 2, "ab", {}, "not finite"),
        ([go.Scatter(x=[0, 1], y=[0, None])] * 2, "ab", {}, "not finite"),
        ([go.Heatmap(z=[[np.inf, 1.0]])] * 2, "ab", {}, "not finite"),
        ([go.Scatter(y=np.zeros(40_000))] * 2, "ab", {}, "points"),
    ],
)
def test_slider_refuses(frames, labels, options, message):
    with pytest.raises(ValueError, match=message):
        plotting.slider(frames, labels, **({"name": "k", "alt": ALT} | options))


# ---------------------------------------------------------------------------------------- images


def pictures_of(figure):
    found = []
    for source in steps_of(figure):
        kind, data = source.split(",", 1)
        assert kind == "data:image/webp;base64"
        found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    return found


def test_pixels_arrive_unchanged():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    kinds = [
        colour,
        colour / 255,
        Image.fromarray(colour),
        np.dstack([colour, np.full((5, 7), 255, np.uint8)]),
    ]
    figure = plotting.image_slider(kinds, range(4), name="k", alt=ALT)
    for picture in pictures_of(figure):
        assert np.array_equal(picture, colour)
    grey = pictures_of(plotting.image_slider([np.eye(3), np.eye(3) > 0], "ab", name="k", alt=ALT))
    assert np.array_equal(grey[0][..., 0], np.eye(3) * 255)
    assert np.array_equal(grey[0], grey[1])


def test_transparent_images_get_a_white_ground():
    clear = np.zeros((3, 3, 4))
    assert pictures_of(plotting.image_slider([clear] * 2, "ab", name="k", alt=ALT))[0].min() == 255


def test_small_images_are_enlarged_by_a_whole_factor():
    page = Page(plotting.image_slider([np.zeros((10, 20))] * 2, "ab", name="k", alt=ALT).html)
    image = page.all("img")[0]
    assert (image["width"], image["height"]) == ("260", "130")
    assert "pixelated" in image["style"]
    page = Page(plotting.image_slider([np.zeros((10, 500))] * 2, "ab", name="k", alt=ALT).html)
    assert page.all("img")[0]["width"] == "500"
    assert "pixelated" not in page.all("img")[0]["style"]


def test_matplotlib_figures_are_rendered_and_closed():
    figures = [plt.figure(figsize=(2, 1)) for _ in range(2)]
    made = plotting.image_slider(figures, "ab", name="k", alt=ALT)
    assert pictures_of(made)[0].shape == (100, 200, 3)
    assert plt.get_fignums() == []


def test_photographs_are_compressed_with_loss():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :400] / 400
    photo = np.clip(np.sin(9 * x) * np.cos(7 * y) / 2 + 0.5 + rng.normal(0, 0.02, x.shape), 0, 1)
    made = plotting.image_slider([photo] * 2, "ab", name="k", alt=ALT)
    assert len(made.html) < 150_000
    assert np.abs(pictures_of(made)[0][..., 0] / 255 - photo).mean() < 0.02


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([np.zeros((3, 3)), np.zeros((3, 4))], ValueError, "one size"),
        ([np.zeros((3, 3)), np.full((3, 3), np.nan)], ValueError, "image 1"),
        ([np.full((3, 3), 1.5)] * 2, ValueError, r"\[0, 1\]"),
        ([np.full((3, 3), -0.1)] * 2, ValueError, r"\[0, 1\]"),
        ([np.full((3, 3), 200)] * 2, ValueError, "uint8"),
        ([np.zeros((3, 3, 2))] * 2, ValueError, "shape"),
        ([np.zeros(3)] * 2, TypeError, "not an image"),
        (["a.png"] * 2, TypeError, "not an image"),
        ([None] * 2, TypeError, "not an image"),
        ([np.zeros((3, 3))], ValueError, "labels"),
    ],
)
def test_image_slider_refuses(images, error, message):
    with pytest.raises(error, match=message):
        plotting.image_slider(images, "ab", name="k", alt=ALT)


def test_images_that_are_too_large():
    noise = np.random.default_rng(0).random((800, 900, 3))
    with pytest.raises(ValueError, match="400,000 are allowed"):
        plotting.image_slider([noise] * 2, "ab", name="k", alt=ALT)
    medium = np.random.default_rng(0).random((400, 400, 3))
    with pytest.raises(ValueError, match="HTML"):
        plotting.image_slider([medium] * 31, range(31), name="k", alt=ALT)


def test_animation():
    figure = plotting.animation(wave(), alt=ALT)
    assert len(steps_of(figure)) == 5
    assert len(set(steps_of(figure))) == 5
    button = Page(figure.html).all("button")[0]
    assert button["data-interval"] == "120"
    assert button["type"] == "button"
    assert plt.get_fignums() == []
    assert "pk-animation" in figure.html


def test_animation_refuses():
    with pytest.raises(TypeError, match="animation"):
        plotting.animation(plt.figure(), alt=ALT)
    fig, _ = plt.subplots(figsize=(1, 1))
    with pytest.raises(ValueError, match="31"):
        plotting.animation(FuncAnimation(fig, lambda i: None, frames=32), alt=ALT)


# ----------------------------------------------------------------------------------------- static


def test_colours_by_name_role_and_position():
    colours = plotting.METHOD_COLOURS
    assert colours["method"] == colours["blue"] == colours[0] == colours[6]
    assert colours["truth"] == colours["black"]
    assert len({colours[i] for i in range(6)}) == 6
    with pytest.raises(KeyError, match="vermillion"):
        colours["red"]
    assert all(re.fullmatch("#[0-9A-Fa-f]{6}", colour) for colour in colours.values())


def test_colours_differ_for_readers_with_colour_blindness():
    # Simulation of dichromacy by Viénot, Brettel and Mollon (1999), in linear RGB.
    matrices = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    from skimage.color import rgb2lab

    colours = [plotting.METHOD_COLOURS[i] for i in range(6)]
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in matrices.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[None])[0]
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 100 * np.eye(6)
        assert distance.min() > 8


def test_style_applies_and_is_repeatable():
    plotting.use_style()
    first = dict(mpl.rcParams)
    plotting.use_style()
    assert dict(mpl.rcParams) == first
    assert mpl.rcParams["axes.prop_cycle"].by_key()["color"][0] == plotting.METHOD_COLOURS["blue"]
    assert mpl.rcParams["figure.facecolor"] == "#ffffff"


def test_band():
    _, ax = plt.subplots()
    single = [claims.wilson(k, 10, level=0.9) for k in (1, 5, 9)]
    line = plotting.band(ax, [1, 2, 3], single, label="a", colour="#123456")
    assert line.get_ydata().tolist() == [0.1, 0.5, 0.9]
    assert line.get_color() == "#123456"
    area = ax.collections[0].get_paths()[0].vertices
    assert area[:, 1].min() == pytest.approx(single[0].low)
    assert area[:, 1].max() == pytest.approx(single[2].high)
    many = claims.wilson([1, 5, 9], 10, level=0.9)
    again = plotting.band(ax, [1, 2, 3], many, label="b")
    assert again.get_ydata().tolist() == line.get_ydata().tolist()
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]


def test_band_refuses():
    _, ax = plt.subplots()
    one = claims.wilson(1, 2, z=1)
    with pytest.raises(ValueError, match="length"):
        plotting.band(ax, [1, 2], [one], label="a")
    with pytest.raises(ValueError, match="finite"):
        plotting.band(ax, [1], [claims.Interval(0.0, 0.0, float("inf"), 0.9, 3, "x")], label="a")
    assert not ax.lines
