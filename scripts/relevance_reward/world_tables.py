"""Similarity of every answer of the sentence worlds to its question (about 3 CPU minutes).

    python scripts/relevance_reward/world_tables.py

Run by ``nox -s full -- relevance_reward``. Sixteen questions, three kinds of off-topic sentence, 155 answers each; two
similarities by MiniLM.
"""

from __future__ import annotations

import pandas as pd

from paperkit import data
from paperkit.relevance_reward import Retriever
from paperkit.relevance_reward.world import OFF_TOPIC, load_worlds


def main() -> None:
    retriever = Retriever()
    parts = []
    for off_topic in OFF_TOPIC:
        for world in load_worlds(off_topic):
            texts = world.texts
            queries = [world.prompt] * len(texts)
            parts.append(
                pd.DataFrame(
                    {
                        "query": queries,
                        "response": texts,
                        "cosine": retriever.relevance(queries, texts, similarity="cosine"),
                        "dot": retriever.relevance(queries, texts, similarity="dot"),
                    }
                ).astype({"cosine": "float32", "dot": "float32"})
            )
        print(off_topic, flush=True)
    table = pd.concat(parts).drop_duplicates(["query", "response"]).reset_index(drop=True)
    data.save_stored(
        "relevance_reward",
        "world_relevance",
        table,
        script="scripts/relevance_reward/world_tables.py",
        settings={"encoder": "all-MiniLM-L6-v2", "off_topic": list(OFF_TOPIC)},
        seeds=[],
    )


if __name__ == "__main__":
    main()
