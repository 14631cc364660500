"""Cut the answers about countries and things after each sentence, and embed every piece (about 1 CPU minute).

    python scripts/relevance_reward/entity_texts.py

Run by ``nox -s full -- relevance_reward`` after entity_answers.py. Writes two results: the texts, with their similarity
to our reference by a second encoder (word vectors of SmolLM2, not the encoder of the reward), and their embeddings by
MiniLM in half precision.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from paperkit import data
from paperkit.models import load_language_model
from paperkit.relevance_reward import Retriever, TokenVectors, tokenize_words

SCRIPT = "scripts/relevance_reward/entity_texts.py"
SETTINGS = {
    "encoder": "all-MiniLM-L6-v2",
    "second encoder": "input vectors of SmolLM2-135M-Instruct, smooth inverse frequency, centred",
    "question": "Please tell me about {entity}.",
}


def pieces(answer: str) -> list[str]:
    """Return the first sentence, the first two, and so on."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", answer)]
    return [answer[:end] for end in ends]


def main() -> None:
    answers = data.stored("relevance_reward", "entity_answers")
    entities = data.table("relevance_reward/entities").set_index("entity")
    rows = []
    for row in answers.itertuples():
        cut = pieces(row.answer)
        for k, text in enumerate(cut, start=1):
            words = len(tokenize_words(text))
            if words >= 4:  # "Dr." or a list's number is not a sentence
                rows.append((row.entity, row.kind, row.sample, k, k == len(cut), text, words))
    columns = ["entity", "kind", "sample", "sentences", "whole", "text", "words"]
    table = pd.DataFrame(rows, columns=columns)
    # the first piece of an answer is its first sentence, also where a shorter one was dropped
    first = table.groupby(["entity", "sample"]).sentences.transform("min")
    table["sentences"] = table.sentences - first + 1

    lm = load_language_model()
    corpus = [*entities.reference, *answers.answer]
    second = Retriever(TokenVectors(lm.model, lm.tokenizer, corpus))
    references = list(entities.reference[table.entity])
    table["similarity"] = second.relevance(references, list(table.text))

    encoder = Retriever()
    questions = [SETTINGS["question"].format(entity=e) for e in table.entity.unique()]
    vectors = {"texts": encoder.encode(list(table.text)), "queries": encoder.encode(questions)}
    data.save_stored(
        "relevance_reward", "entity_texts", table, script=SCRIPT, settings=SETTINGS, seeds=[]
    )
    data.save_stored(
        "relevance_reward",
        "entity_embeddings",
        {name: rows.astype(np.float16) for name, rows in vectors.items()},
        script=SCRIPT,
        settings=SETTINGS,
        seeds=[],
    )


if __name__ == "__main__":
    main()
