"""Sample the products of molecules with 512 populations of 32, without and with correction (2 CPU minutes).

Run by ``nox -s full -- feynman_kac``.
"""

from __future__ import annotations

from paperkit import data
from paperkit.feynman_kac import molecules

BATCHES = 8


def main() -> None:
    table = molecules.stored_table(BATCHES)
    data.save_stored(
        "feynman_kac",
        "product_molecules",
        table,
        script="scripts/feynman_kac/molecules_product.py",
        settings={
            "populations": BATCHES * molecules.POPULATIONS,
            "particles": molecules.SIZE,
            "sigmas": list(molecules.MOLECULE_SIGMAS),
            "steps": molecules.MOLECULE_STEPS,
            "wanted": molecules.WANTED,
        },
        seeds=[0],
    )
    print(table.drop(columns="batch").groupby(["target", "sampler"]).mean().round(4).to_string())


if __name__ == "__main__":
    main()
