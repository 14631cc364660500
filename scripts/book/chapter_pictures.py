"""Draw the nine pictures of the landing page, and the sheet that shows them together.

Run ``python scripts/book/chapter_pictures.py``. Every curve is computed from a small version of
what it shows. The drawings use classes (``pkv-...``) that ``css/pictures.css`` styles for light and
dark; the sheet, which is for the README, carries the same rules inside.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "book" / "_static"
WIDTH, HEIGHT = 320, 150

# The sheet stands outside the book's pages and brings the colours that book.css gives them.
SHEET_COLOURS = """
  .paper { fill: #ffffff; } .frame { fill: none; stroke: #d8dce2; } .title { fill: #1c2430; }
  svg { --pkv-ink: #36475c; --pkv-accent: #b2401f; --pkv-second: #1f5fa8; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #15191f; } .frame { stroke: #363d47; } .title { fill: #e4e8ee; }
    svg { --pkv-ink: #b4c0ce; --pkv-accent: #f08a63; --pkv-second: #86b7f3; }
  }
  .title { font: 600 15px "Source Sans 3", "Segoe UI", Helvetica, Arial, sans-serif; }
"""


def line(x, y, css: str, *, close: bool = False) -> str:
    """A polyline through the points."""
    points = " L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<path class="{css}" d="M{points}{" Z" if close else ""}"/>'


def dot(x: float, y: float, r: float, css: str) -> str:
    """A disc, or a ring if the class has no fill."""
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'


def label(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    """A short word beside a curve."""
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def concept_erasing() -> str:
    """A mixture of three components before and after the middle one is removed."""
    x = np.linspace(12, 308, 160)
    bumps = [
        h * np.exp(-0.5 * ((x - m) / s) ** 2)
        for m, s, h in ((75, 23, 78), (160, 21, 96), (247, 25, 70))
    ]
    base, before, after = 128.0, sum(bumps), bumps[0] + bumps[2] + 0.03 * bumps[1]
    area = line(
        np.r_[x, x[::-1]], np.r_[base - after, np.full_like(x, base)], "pkv-wash", close=True
    )
    return (
        area
        + line([8, 312], [base, base], "pkv-axis")
        + line(x, base - before, "pkv-soft pkv-dash")
        + line(x, base - after, "pkv-second")
        + line([150, 170], [71, 91], "pkv-accent")
        + line([150, 170], [91, 71], "pkv-accent")
        + label(75, 144, "kept", anchor="middle")
        + label(160, 144, "erased", "pkv-text-accent", "middle")
        + label(247, 144, "kept", anchor="middle")
    )


def feynman_kac() -> str:
    """Weighted particles that are resampled three times on the way to a density with two peaks."""
    rng = np.random.default_rng(3)
    n, steps, dx = 16, 48, 250 / 48
    y = np.clip(rng.normal(0, 0.9, n), -1.7, 1.7)
    out, weight = "", np.zeros(n)
    score = lambda v: np.clip(-(v**2 - 1) * v * 2.4, -4, 4)  # noqa: E731
    start = y.copy()
    paths = [[v] for v in y]
    began = [0] * n
    for step in range(1, steps + 1):
        y = y + 0.02 * score(y) + 0.16 * rng.normal(size=n)
        weight += -0.10 * (y**2 - 1) ** 2
        for path, value in zip(paths, y, strict=True):
            path.append(value)
        if step in (12, 24, 36):
            p = np.exp(weight - weight.max())
            keep = np.floor(np.cumsum(p / p.sum()) * n + rng.uniform()).astype(int)
            counts = np.diff(np.r_[0, np.clip(keep, 0, n)])
            parents = np.repeat(np.arange(n), np.maximum(counts, 0))
            parents = np.r_[parents, rng.integers(0, n, max(0, n - len(parents)))][:n]
            for i, path in enumerate(paths):
                dead = i not in parents
                xs = 22 + dx * (began[i] + np.arange(len(path)))
                ys = 75 - 32 * np.array(path)
                out += line(xs, ys, "pkv-soft")
                if dead:
                    out += dot(xs[-1], ys[-1], 2.2, "pkv-hollow")
            y, weight = y[parents], np.zeros(n)
            paths, began = [[v] for v in y], [step] * n
    for i, path in enumerate(paths):
        xs = 22 + dx * (began[i] + np.arange(len(path)))
        ys = 75 - 32 * np.array(path)
        out += line(xs, ys, "pkv-second") + dot(xs[-1], ys[-1], 2.6, "pkv-fill-second")
    out += "".join(dot(22, 75 - 32 * v, 2.0, "pkv-fill") for v in start)
    grid = np.linspace(-2, 2, 90)
    density = np.exp(-2.6 * (grid**2 - 1) ** 2)
    return (
        out
        + line(278 + 32 * density, 75 - 32 * grid, "pkv-accent")
        + line([278, 278], [8, 142], "pkv-axis")
    )


def absorbing_diffusion() -> str:
    """Six stages of one sequence; each reveals a few more tokens, in random order."""
    rng = np.random.default_rng(11)
    columns, rows, size, gap = 16, 6, 14.5, 3.6
    reveal = 0.4 + rng.permutation(columns) * 4.6 / columns
    out = ""
    for row in range(rows):
        for column in range(columns):
            x, y = 16 + column * (size + gap), 17 + row * (size + gap + 2)
            age = row - reveal[column]
            css = "pkv-wash" if age < 0 else "pkv-fill-accent" if age < 1 else "pkv-fill-second"
            out += (
                f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{size}" height="{size}" rx="2.5"/>'
            )
    return out


def relevance_reward() -> str:
    """A question, a short answer that follows it, a long one that does not; projections matter."""
    origin, scale = np.array([36.0, 122.0]), 1.0
    unit = np.array([np.cos(0.42), -np.sin(0.42)])
    question, short = 268 * unit, 128 * np.array([np.cos(0.30), -np.sin(0.30)])
    long = 112 * np.array([np.cos(1.36), -np.sin(1.36)])

    def arrow(v, css, head) -> str:
        tip = origin + scale * v
        d = v / np.linalg.norm(v)
        side = np.array([-d[1], d[0]])
        base = tip - 9 * d
        corners = np.array([tip, base + 4.5 * side, base - 4.5 * side])
        return line([origin[0], base[0]], [origin[1], base[1]], css) + line(
            corners[:, 0], corners[:, 1], head, close=True
        )

    out = ""
    for v, css in ((short, "pkv-second pkv-dash"), (long, "pkv-soft pkv-dash")):
        foot, tip = origin + (v @ unit) * unit, origin + v
        out += line([tip[0], foot[0]], [tip[1], foot[1]], css)
    out += arrow(question, "pkv-ink", "pkv-fill") + arrow(long, "pkv-accent", "pkv-fill-accent")
    out += arrow(short, "pkv-second", "pkv-fill-second")
    return (
        out
        + label(206, 30, "question", anchor="middle")
        + label(168, 92, "short, on topic", "pkv-text-second")
        + label(68, 18, "long, off topic", "pkv-text-accent")
    )


def likelihood_displacement() -> str:
    """Gradient flow of the margin on the hidden state, with answers that make both of them fall."""
    vectors = np.array([[1.2, 0.12], [1.2, -0.25], [-0.2, 2.0], [0.3, 0.0]])
    h = np.array([2.2, 0.35])
    history = []
    for _ in range(118):
        z = vectors @ h
        p = np.exp(z - z.max())
        history.append(p / p.sum())
        h = h + 0.05 * (vectors[0] - vectors[1])
    p = np.array(history)
    x = np.linspace(26, 226, len(p))
    y = 128 - 112 * p / 0.8
    return (
        line([26, 26, 232], [10, 128, 128], "pkv-axis")
        + line(x, y[:, 1], "pkv-soft")
        + line(x, y[:, 0], "pkv-second")
        + line(x, y[:, 2], "pkv-accent")
        + label(234, y[-1, 2] + 4, "opposite", "pkv-text-accent")
        + label(234, y[-1, 0] + 4, "preferred", "pkv-text-second")
        + label(234, 132, "dispreferred")
        + label(128, 145, "training", anchor="middle")
    )


def risk_scores() -> str:
    """The reliability diagram of an over-confident score, with Wilson intervals."""
    x0, y0, side = 95.0, 132.0, 122.0
    score = np.linspace(0.06, 0.94, 9)
    log_odds = np.log(score / (1 - score))
    observed = 1 / (1 + np.exp(-0.42 * log_odds - 0.05))
    half = 1.96 * np.sqrt(
        observed * (1 - observed) / np.array([260, 150, 90, 60, 50, 60, 90, 150, 260])
    )
    grid = np.linspace(0.02, 0.98, 60)
    curve = 1 / (1 + np.exp(-0.42 * np.log(grid / (1 - grid)) - 0.05))
    out = line([x0, x0, x0 + side], [y0 - side, y0, y0], "pkv-axis")
    out += line([x0, x0 + side], [y0, y0 - side], "pkv-soft pkv-dash")
    out += line(x0 + side * grid, y0 - side * curve, "pkv-accent")
    for s, o, h in zip(score, observed, half, strict=True):
        out += line([x0 + side * s] * 2, [y0 - side * (o - h), y0 - side * (o + h)], "pkv-ink")
        out += dot(x0 + side * s, y0 - side * o, 3, "pkv-fill")
    return (
        out
        + label(x0 + side / 2, 147, "score", anchor="middle")
        + label(x0 - 7, y0 - side / 2, "observed", anchor="end")
        + label(x0 + side + 6, y0 - side + 10, "calibrated")
        + label(x0 + side + 6, y0 - side * 0.70, "measured", "pkv-text-accent")
    )


def domain_constraints() -> str:
    """People by risk: tested with a positive or a negative result, or never tested."""
    rng = np.random.default_rng(5)
    risk = np.sort(rng.normal(0, 1, 92))
    tested = rng.uniform(size=92) < 1 / (1 + np.exp(-2.2 * (risk - 0.55)))
    positive = rng.uniform(size=92) < 1 / (1 + np.exp(-1.8 * (risk - 0.6)))
    out, stacks = line([14, 306], [124, 124], "pkv-axis"), {}
    for r, t, p in zip(risk, tested, positive, strict=True):
        column = int(np.clip(np.round((r + 2.6) / 5.2 * 25), 0, 25))
        stacks[column] = stacks.get(column, 0) + 1
        x, y = 22 + column * 11, 126 - 9.8 * stacks[column]
        css, size = (
            ("pkv-hollow", 3.5) if not t else ("pkv-fill-accent" if p else "pkv-fill-second", 4.0)
        )
        out += dot(x, y, size, css)
    return (
        out
        + label(160, 142, "risk", anchor="middle")
        + label(306, 54, "never tested", anchor="end")
        + label(306, 22, "ill", "pkv-text-accent", "end")
        + label(306, 38, "healthy", "pkv-text-second", "end")
    )


def unsupervised_pretraining() -> str:
    """Excess risk with d features from labels alone, and with r learned ones and a floor."""
    d, r, floor = 40, 3, 0.006
    labels_only = np.geomspace(d + 6, 3000, 80)
    pretrained = np.geomspace(r + 4, 3000, 80)
    fx = lambda n: 30 + 210 * (np.log(n) - np.log(6)) / (np.log(3000) - np.log(6))  # noqa: E731
    fy = lambda v: 12 + 116 * (np.log(4) - np.log(v)) / (np.log(4) - np.log(0.004))  # noqa: E731
    y1 = np.clip(fy(d / (labels_only - d - 1)), 8, 128)
    y2 = np.clip(fy(r / (pretrained - r - 1) + floor), 8, 128)
    return (
        line([30, 30, 244], [8, 128, 128], "pkv-axis")
        + line(fx(labels_only), y1, "pkv-second")
        + line(fx(pretrained), y2, "pkv-accent")
        + line([30, 240], [fy(floor)] * 2, "pkv-soft pkv-dash")
        + label(150, 44, "labels alone", "pkv-text-second")
        + label(38, 112, "pretrained", "pkv-text-accent")
        + label(247, fy(floor) + 4, "set by m")
        + label(136, 145, "labels n", anchor="middle")
        + label(36, 18, "excess risk")
    )


def information_acquisition() -> str:
    """A principal, three experts, two joint recommendations, and the state they look at."""
    experts = [(160, 30), (160, 75), (160, 120)]
    out = '<rect class="pkv-wash-accent" x="142" y="12" width="36" height="81" rx="18"/>'
    for x, y in experts:
        out += line([74, x - 12], [75, y], "pkv-ink") + line(
            [x + 12, 252], [y, 75], "pkv-soft pkv-dash"
        )
    for (x, y), css in zip(
        experts, ("pkv-fill-accent", "pkv-fill-accent", "pkv-hollow"), strict=True
    ):
        out += dot(x, y, 10, css)
    out += '<rect class="pkv-fill" x="44" y="60" width="30" height="30" rx="5"/>'
    star = [(13 if k % 2 == 0 else 5.6, np.pi * k / 5 - np.pi / 2) for k in range(10)]
    out += line(
        [265 + a * np.cos(t) for a, t in star],
        [75 + a * np.sin(t) for a, t in star],
        "pkv-fill-second",
        close=True,
    )
    return (
        out
        + label(59, 107, "principal", anchor="middle")
        + label(184, 24, "work", "pkv-text-accent")
        + label(184, 134, "idle")
        + label(265, 107, "state", "pkv-text-second", "middle")
    )


DRAWINGS: list[Callable[[], str]] = [
    concept_erasing,
    feynman_kac,
    absorbing_diffusion,
    relevance_reward,
    likelihood_displacement,
    risk_scores,
    domain_constraints,
    unsupervised_pretraining,
    information_acquisition,
]


def sheet(drawings: dict[str, str], titles: dict[str, str]) -> str:
    """All nine on one sheet, for places where the page's style does not reach."""
    column, row, pad = WIDTH + 28, HEIGHT + 62, 20
    width, height = 3 * column + 2 * pad - 8, 3 * row + 2 * pad - 8
    body = f'<rect class="paper" width="{width}" height="{height}"/>'
    for i, (name, drawing) in enumerate(drawings.items()):
        x, y = pad + (i % 3) * column, pad + (i // 3) * row
        body += (
            f'<g transform="translate({x} {y})">'
            f'<rect class="frame" width="{column - 8}" height="{row - 8}" rx="8"/>'
            f'<g class="pkv" transform="translate(10 12)">{drawing}</g>'
            f'<text class="title" x="{(column - 8) / 2}" y="{HEIGHT + 40}" text-anchor="middle">'
            f"{escape(titles[name])}</text></g>"
        )
    style = SHEET_COLOURS + (STATIC / "css" / "pictures.css").read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="The nine chapters of the book"><style>{style}</style>{body}</svg>\n'
    )


def main() -> None:
    """Write the nine drawings and the sheet."""
    parts = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    titles = {c["name"]: c["title"] for part in parts for c in part["chapters"]}
    drawings = {draw.__name__: draw() for draw in DRAWINGS}
    if list(drawings) != list(titles):
        raise SystemExit(
            "the drawings and book/chapters.yml do not name the same chapters in the same order"
        )
    for name, drawing in drawings.items():
        (STATIC / "chapters" / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" class="pkv" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}">{drawing}</svg>\n',
            encoding="utf-8",
        )
    (STATIC / "nine_papers.svg").write_text(sheet(drawings, titles), encoding="utf-8")


if __name__ == "__main__":
    main()
