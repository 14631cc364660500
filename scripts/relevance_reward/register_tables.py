"""Register the tables of chapter relevance_reward, which were written for this book.

    python scripts/relevance_reward/register_tables.py

They were written before any model scored them: prompts.csv (open and closed questions with our own answers, a pattern
of accepted answers for the closed ones, and a fixed split), world.csv (sixteen of the open questions with three
sentences each, the actions of the sentence world) and entities.csv (countries and things that a model is asked to tell
about, with one reference each).
"""

from paperkit import data

for stem in ("prompts", "world", "entities"):
    data.register(
        f"relevance_reward/{stem}",
        data.FOLDER / "relevance_reward" / f"{stem}.csv",
        source="Written for this book",
        version="1",
        licence="CC-BY-4.0",
        script="scripts/relevance_reward/register_tables.py",
    )
