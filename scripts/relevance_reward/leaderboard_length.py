"""How win rates of AlpacaEval go with length (seconds).

    pip install --no-deps --target FOLDER alpaca-eval==0.6.6
    python scripts/relevance_reward/leaderboard_length.py FOLDER

The tables are licensed CC BY-NC 4.0 and are not part of this project: they are read from a package that the user
installs, and only rank correlations and eight averages are kept.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from paperkit import data

TABLES = {
    "AlpacaEval 2": "data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv",
    "AlpacaEval 1": "data_AlpacaEval/alpaca_eval_gpt4_leaderboard.csv",
}
PEOPLE = "evaluators/evaluators_leaderboard.csv"


def installed() -> Path | None:
    """Return the folder that holds the package, without importing it."""
    spec = find_spec("alpaca_eval")
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where alpaca-eval is installed")
    folder = parser.parse_args().folder or installed()
    if folder is None:
        print("alpaca-eval is not installed: the stored result stays")
        return
    boards = folder / "alpaca_eval" / "leaderboards"
    found = {}
    for version, file in TABLES.items():
        table = pd.read_csv(boards / file).rename(columns={"length_controlled_winrate": "lc"})
        table = table.dropna(subset=["avg_length", "win_rate", "lc"])
        group = pd.qcut(table.avg_length, 8, labels=False)
        means = table.groupby(group)[["avg_length", "win_rate", "lc"]].mean()
        found[version] = {
            "models": len(table),
            "raw": spearmanr(table.win_rate, table.avg_length).statistic,
            "controlled": spearmanr(table.lc, table.avg_length).statistic,
            "length": means.avg_length.tolist(),
            "win_rate": means.win_rate.tolist(),
            "controlled_rate": means.lc.tolist(),
        }
    people = pd.read_csv(boards / PEOPLE, index_col=0)
    found["people"] = {
        "prefer_longer": people.loc["humans", "Proba. prefer longer"],
        "agreement": people.loc["humans", "Human agreement"],
        "longest_agrees": people.loc["longest", "Human agreement"],
    }
    data.save_stored(
        "relevance_reward",
        "leaderboard_length",
        found,
        script="scripts/relevance_reward/leaderboard_length.py",
        settings={"package": "alpaca-eval 0.6.6", "tables": TABLES},
        seeds=[],
    )


if __name__ == "__main__":
    main()
