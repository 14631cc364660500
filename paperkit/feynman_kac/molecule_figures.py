"""The figures of the notebook about molecules; each takes what was measured.

Drawing only.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from paperkit.plotting import HTML
from paperkit.plotting import METHOD_COLOURS as COLOURS

from . import molecules

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def planes(runs: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """LogP and polar surface of sampled molecules: one panel for each title and table."""
    import matplotlib.pyplot as plt

    models = molecules.load_molecule_models()
    edges = models.edges["logP"][1], models.edges["TPSA"][1]
    columns = 2
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.4, 3.1 * rows), sharex=True, sharey=True, squeeze=False
    )
    for ax, (title, table) in zip(axes.flat, runs, strict=True):
        ax.scatter(*models.examples.T, s=5, color=COLOURS["muted"], alpha=0.35, linewidths=0)
        ax.scatter(
            table["logP"], table["TPSA"], s=6, color=COLOURS["method"], alpha=0.6, linewidths=0
        )
        ax.axvline(edges[0], color=COLOURS["baseline"], lw=1)
        ax.axhline(edges[1], color=COLOURS["baseline"], lw=1)
        ax.set(title=title, xlim=(-2.5, 6.5), ylim=(0, 150))
        share = f"{100 * table['both'].mean():.0f} % in the corner"
        ax.text(0.98, 0.97, share, transform=ax.transAxes, ha="right", va="top", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("logP")
    for ax in axes[:, 0]:
        ax.set_ylabel("TPSA (Å²)")
    return figure


def shares(table: pd.DataFrame) -> Figure:
    """Molecules with both properties, and different ones, for each sampler; 95 % over populations."""
    import matplotlib.pyplot as plt

    bars = list(dict.fromkeys(zip(table["target"], table["sampler"], strict=True)))
    figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.3), sharex=True, sharey=True)
    panels = (("both", "both properties"), ("distinct", "different, with both"))
    for ax, (column, title) in zip(axes, panels, strict=True):
        for place, (target, sampler) in enumerate(bars):
            made = molecules.mean_share(table, target, sampler, column)
            role = "method" if sampler == "corrected" else "baseline"
            if len(molecules.TARGETS[target][0]) < 2:
                role = "muted"
            ax.barh(place, made.estimate, color=COLOURS[role])
            ax.plot([made.low, made.high], [place, place], color=COLOURS["black"], lw=1.6)
        ax.set(title=title, xlabel="share of 32")
    names = [
        f"{target}, {sampler}" if len(molecules.TARGETS[target][0]) > 1 else target
        for target, sampler in bars
    ]
    axes[0].set_yticks(range(len(bars)), names)
    axes[0].invert_yaxis()
    return figure


def chosen_molecules(table: pd.DataFrame, n: int = 8) -> pd.DataFrame:
    """The first success of each population, different molecules, at most n."""
    rows = table[table["both"]].drop_duplicates("population").drop_duplicates("smiles")
    return rows.head(n)


def drawn(table: pd.DataFrame, *, alt: str, width: int = 200, height: int = 150) -> HTML:
    """Draw the molecules of some rows, each with its logP and TPSA below it.

    Parameters
    ----------
    table : DataFrame
        With ``smiles``, ``logP`` and ``TPSA``.
    alt : str
        What is seen.
    width, height : int
        Of one drawing, in pixels.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say what is seen")
    cards = []
    for _, row in table.iterrows():
        source = base64.b64encode(_svg(str(row["smiles"]), width, height).encode()).decode()
        caption = f"logP {row['logP']:.1f}, TPSA {row['TPSA']:.0f} Å²"
        name = html.escape(f"Molecule {row['smiles']}")
        cards.append(
            '<figure style="margin:0;text-align:center;font-size:.85rem">'
            f'<img src="data:image/svg+xml;base64,{source}" alt="{name}" width="{width}"'
            f' height="{height}" style="max-width:100%;height:auto;background:none">'
            f'<figcaption style="color:{COLOURS["black"]}">{caption}</figcaption></figure>'
        )
    style = (
        f"background:#ffffff;color:{COLOURS['black']};padding:.5rem;border-radius:.375rem;"
        "margin:.5rem 0;display:grid;gap:.5rem;"
        "grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr))"
    )
    block = (
        '<div class="pk-figure" data-ready="yes" role="group"'  # nothing to wait for
        f' aria-label="{html.escape(alt)}" style="{style}">{"".join(cards)}</div>'
    )
    return HTML(block, alt)


def _svg(smiles: str, width: int, height: int) -> str:
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"RDKit does not read {smiles!r}")
    canvas: Any = rdMolDraw2D.MolDraw2DSVG(width, height)
    canvas.drawOptions().clearBackground = False
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    text: str = canvas.GetDrawingText()
    return text[text.index("<svg") :]
