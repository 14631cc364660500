"""Register the tables of chapter likelihood_displacement, which were written for this book.

    python scripts/likelihood_displacement/register_tables.py

They were written and frozen before any model scored them: statements.csv (24 statements a person may or may not
agree with), pairs.csv (24 prompts with two answers each, at three levels of similarity) and requests.csv (24 mild
requests that a careful assistant declines).
"""

from paperkit import data

for stem in ("statements", "pairs", "requests"):
    data.register(
        f"likelihood_displacement/{stem}",
        data.FOLDER / "likelihood_displacement" / f"{stem}.csv",
        source="Written for this book",
        version="1",
        licence="CC-BY-4.0",
        script="scripts/likelihood_displacement/register_tables.py",
    )
