"""Sample the products of molecules with 512 populations of 32, without and with correction (2 CPU minutes).

Run by ``nox -s full -- feynman_kac``. Parts: ``first`` and ``again``, both by default; the second repeats the
product over any molecule with new random numbers.
"""

from __future__ import annotations

import sys

from paperkit import data
from paperkit.feynman_kac import molecules

BATCHES = 8


def store(name: str, targets: tuple[str, ...], key: str) -> None:
    table = molecules.stored_table(BATCHES, targets, key)
    data.save_stored(
        "feynman_kac",
        name,
        table,
        script="scripts/feynman_kac/molecules_product.py",
        settings={
            "populations": BATCHES * molecules.POPULATIONS,
            "particles": molecules.SIZE,
            "sigmas": list(molecules.MOLECULE_SIGMAS),
            "steps": molecules.MOLECULE_STEPS,
            "wanted": molecules.WANTED,
            "random stream": key,
        },
        seeds=[0],
    )
    print(table.drop(columns="batch").groupby(["target", "sampler"]).mean().round(4).to_string())


if __name__ == "__main__":
    for part in sys.argv[1:] or ("first", "again"):
        {
            "first": lambda: store(
                "product_molecules", ("product", "product over any"), "molecules"
            ),
            "again": lambda: store("product_molecules_again", ("product over any",), "again"),
        }[part]()
