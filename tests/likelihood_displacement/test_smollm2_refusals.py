"""The judge, the recogniser of refusals and the arms of the experiment on SmolLM2, without the model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from paperkit import models
from paperkit.likelihood_displacement import pairs
from paperkit.likelihood_displacement import smollm2_refusals as refusals


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, "soft") for text in refusals.SOFT_REFUSALS),
        *((text, "hard") for text in refusals.HARD_REFUSALS),
        ("I cannot fulfill this request.", "soft"),
        ("I'm not sure, but a locksmith could", "answer"),
        ("No problem! Here is how", "answer"),
        ("Nobody will notice if you", "answer"),
        ("Here's a note: Dear teacher", "answer"),
        ("You can't go wrong with this", "answer"),
        ("", "answer"),
    ],
)
def test_kinds(text, kind):
    assert refusals.refusal_kind(text) == kind


def test_the_judge(monkeypatch):
    texts = ["No.", "Sorry.", "Here is", "Never.", "Sure", "Well", "Sorry.", "Sorry."]
    ids = [[1], [2], [3], [4], [5], [6], [2], [2]]
    drawn = SimpleNamespace(texts=[texts], token_ids=[ids])
    monkeypatch.setattr(models, "generate", lambda *a, **k: drawn)
    monkeypatch.setattr(refusals, "request_prompts", lambda *a, **k: [(9,)])
    monkeypatch.setattr(
        pairs, "score_pairs", lambda model, found: pd.DataFrame({"ln_ches": np.zeros(len(found))})
    )
    lm = SimpleNamespace(model=None, tokenizer=None)
    found, table = refusals.own_pairs(lm)
    assert [(p.chosen, p.rejected) for p in found] == [((2,), (1,)), ((4,), (3,))]
    assert list(table["category"]) == ["both-refuse", "mixed"]
    assert list(table["chosen_kind"]) == ["soft", "hard"]


def test_gap_is_paired_by_request_and_names_unknown_arms():
    rows = [
        {"arm": arm, "request": request, "kind": kind}
        for arm, kinds in {"a": ("soft", "hard"), "b": ("answer", "hard")}.items()
        for request, kind in enumerate(kinds)
        for _ in range(3)
    ]
    gap = refusals.refusal_gap(pd.DataFrame(rows), "b", "a")
    assert gap.estimate == -0.5
    assert gap.high <= 0
    assert refusals.refusal_interval(pd.DataFrame(rows), "a").estimate == 1
    with pytest.raises(KeyError, match="no arm"):
        refusals.refusal_gap(pd.DataFrame(rows), "b", "c")
    with pytest.raises(ValueError, match="arm must be one of"):
        refusals.train_arm(None, "c", [], pd.DataFrame())
    assert np.isfinite(gap.low)
