"""Multiple-choice scores of employment rows: the usual way of asking against the prefix tree.

The usual way is what evaluation software does: one prompt at a time, every prompt (row and answer order) from its
first token, logits over the whole vocabulary at every position, and for a verbalised number the whole prompt again for
the second digit. Ours scores a contiguous stretch of the sorted prompts, as the scripts of this book do.

If ``folktexts`` is installed its querying function is timed too; without it that line is skipped, and says so.
"""

import numpy as np
import torch
from _record import cpu_seconds, row, save

from paperkit import data
from paperkit.models import load_language_model
from paperkit.risk_scores import LMRiskScorer, load_task
from paperkit.risk_scores.scoring import LETTER_TOKENS, LocalBackend, letter_logits, read_choices

OURS, THEIRS = 192, 32  # rows; those of the usual way are among ours


def usual(lm, prompts: list[str], tokens: list[int]) -> np.ndarray:
    """One forward pass a prompt, the whole vocabulary everywhere."""
    table = []
    for prompt in prompts:
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            logits = lm.model(input_ids=ids).logits
        table.append(logits[0, -1].double().log_softmax(-1)[tokens].numpy())
    return np.array(table)


def main() -> dict:
    torch.set_num_threads(1)
    lm = load_language_model("smollm2-135m")
    backend = LocalBackend(lm)
    tokens = [backend.token_id(token) for token in LETTER_TOKENS]
    task = load_task("employment")
    scorer = LMRiskScorer(task.task, backend)
    order = np.argsort(task.prompts(), kind="stable")
    start = len(order) // 3
    rows = order[start : start + OURS]
    picked = np.linspace(0, OURS - 1, THEIRS).astype(int)
    X = task.X.iloc[rows]
    texts = [scorer.prompts(X.iloc[picked]), scorer.prompts(X.iloc[picked], (1, 0))]

    scorer.score_details(X.iloc[:4])  # the probe of the tree is not timed
    ours, tree = cpu_seconds(lambda: scorer.score_details(X))
    tables, loop = cpu_seconds(lambda: [usual(lm, text, tokens) for text in texts])
    theirs = read_choices(*tables, order="mean_probability")
    difference = float(np.abs(theirs.score.to_numpy() - ours.score.to_numpy()[picked]).max())
    if difference > 1e-4:
        raise AssertionError(f"the two ways differ by {difference:.1e}")
    note = f"{OURS} and {THEIRS} rows; scores equal to {difference:.0e}"
    lines = [
        row(
            "multiple choice, both orders",
            "one prompt at a time",
            tree / OURS,
            loop / THEIRS,
            "CPU s/row",
            note,
        )
    ]
    try:
        from folktexts.llm_utils import query_model_batch
    except ImportError:
        print("folktexts is not installed: its querying function is not timed")
    else:
        batches, seconds = cpu_seconds(
            lambda: [query_model_batch(text[:16], lm.model, lm.tokenizer, 600) for text in texts]
        )
        found = [letter_logits(np.log(b[:, tokens].astype(float)))[0] for b in batches]
        gap = np.abs(found[0] - ours.logit_order1.to_numpy()[picked[:16]]).max()
        text = f"its batches of 16, half precision; logits equal to {gap:.0e}"
        lines.append(
            row(
                "multiple choice, both orders",
                "folktexts 0.7.1",
                tree / OURS,
                seconds / 16,
                "CPU s/row",
                text,
            )
        )
    plan = backend.scorer.plan([*task.prompts(), *task.prompts(order=(1, 0))])
    people = len(task.y)
    lines.append(
        row(
            "tokens of the whole task",
            "every prompt from its first token",
            plan.computed_tokens / people,
            plan.sequence_tokens / people,
            "tokens/row",
            f"{people} rows, counted",
        )
    )
    result = save("risk_scores", lines, "torch", "transformers")
    data.save_stored(
        "risk_scores",
        "speed",
        {
            "ratio": lines[0]["ratio"],
            "tree": tree / OURS,
            "usual": loop / THEIRS,
            "rows": f"{THEIRS} and {OURS} rows",
        },
        script="benchmarks/risk_scores.py",
        settings={"ours": OURS, "theirs": THEIRS},
        seeds=[0],
    )
    return result


if __name__ == "__main__":
    main()
