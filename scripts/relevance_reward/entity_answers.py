"""Let SmolLM2 tell about sixty countries and twenty things, for the preliminary study (about 5 CPU minutes).

    python scripts/relevance_reward/entity_answers.py [--batches N]

Run by ``nox -s full -- relevance_reward``. Three answers for a country and two for a thing, cut at 80 tokens; an answer
keeps its whole sentences only. Finished batches wait in build/relevance_reward and are not sampled again; with
--batches a call stops after so many, and the next one goes on.
"""

from __future__ import annotations

import argparse
import re

import pandas as pd

from paperkit import data, profiles
from paperkit.models import chat_prompt, generate, load_language_model

SEED = 0
SETTINGS = {
    "prompt": "Please tell me about {entity}.",
    "system": None,
    "temperature": 0.7,
    "top_p": 1.0,
    "max_new_tokens": 80,
    "samples": {"country": 3, "thing": 2},
    "model": "SmolLM2-135M-Instruct, 4-bit weights",
}
BATCH = 10  # entities in one call


def whole_sentences(text: str) -> str:
    """Return the text up to its last full stop, without lists and line breaks."""
    text = " ".join(text.split())
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=100, help="how many to sample in this call")
    left = parser.parse_args().batches
    entities = data.table("relevance_reward/entities")
    folder = profiles.project_root() / "build" / "relevance_reward" / "entity_answers"
    folder.mkdir(parents=True, exist_ok=True)
    lm = None
    parts = []
    for kind, group in entities.groupby("kind", sort=False):
        for start in range(0, len(group), BATCH):
            some = group.iloc[start : start + BATCH]
            file = folder / f"{kind}_{start}.parquet"
            if not file.exists():
                if left == 0:
                    return
                left -= 1
                lm = lm or load_language_model()
                prompts = [
                    chat_prompt(lm.tokenizer, SETTINGS["prompt"].format(entity=e), system=None)
                    for e in some.entity
                ]
                n = SETTINGS["samples"][kind]
                out = generate(
                    lm,
                    prompts,
                    n_samples=n,
                    max_new_tokens=SETTINGS["max_new_tokens"],
                    temperature=SETTINGS["temperature"],
                    top_p=SETTINGS["top_p"],
                    seed=SEED + start,
                )
                rows = [
                    {
                        "entity": entity,
                        "kind": kind,
                        "sample": i,
                        "answer": whole_sentences(text),
                        "finished": bool(out.finished[e, i]),
                    }
                    for e, entity in enumerate(some.entity)
                    for i, text in enumerate(out.texts[e])
                ]
                pd.DataFrame(rows).to_parquet(file)
                print(file.name, flush=True)
            parts.append(pd.read_parquet(file))
    answers = pd.concat(parts, ignore_index=True)
    answers = answers[answers.answer != ""].reset_index(drop=True)
    data.save_stored(
        "relevance_reward",
        "entity_answers",
        answers,
        script="scripts/relevance_reward/entity_answers.py",
        settings=SETTINGS,
        seeds=[SEED],
    )


if __name__ == "__main__":
    main()
