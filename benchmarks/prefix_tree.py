"""Score descriptions of people with SmolLM2: the packed prefix tree against plain forward passes.

The prompts have the structure of a survey question: a shared introduction, seven lines of attributes
whose first lines take few values, a question, and the two answers in both orders. The peers are what
one writes first: a loop of one forward pass a prompt, and right-padded batches, both with logits at
every position.
"""

import numpy as np
import torch
from _record import cpu_seconds, row, save

from paperkit import models

INTRODUCTION = (
    "The lines below describe one person who took part in a household survey. Read them, then "
    "answer the question that follows with the letter of one answer.\n\n"
)
ATTRIBUTES = {
    "Sex": ["female", "male"],
    "Marital status": ["married", "not married"],
    "Citizenship": ["citizen", "not a citizen"],
    "Language at home": ["English", "another language"],
    "Highest degree": ["none", "high school", "bachelor", "graduate school"],
    "Hours of work in a usual week": [f"{h} hours" for h in range(10, 61, 5)],
    "Age": [f"{a} years" for a in range(18, 80)],
}
QUESTION = "\nQuestion: did this person earn more than 50,000 dollars last year?\n"
N_PEOPLE = 32
BATCH = 16


def make_prompts(n: int, seed: int = 0) -> list[str]:
    """Return 2 n prompts: n random people, the two answers in both orders."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(n):
        lines = [f"- {name}: {rng.choice(values)}\n" for name, values in ATTRIBUTES.items()]
        person = INTRODUCTION + "".join(lines) + QUESTION
        prompts += [
            f"{person}A. {first}\nB. {second}\nAnswer:"
            for first, second in (("No", "Yes"), ("Yes", "No"))
        ]
    return prompts


def loop(lm: models.LanguageModel, ids: list[list[int]], tokens: list[int]) -> np.ndarray:
    """Score one prompt at a time."""
    rows = []
    with torch.no_grad():
        for prompt in ids:
            logits = lm.model(input_ids=torch.tensor([prompt])).logits[0, -1]
            rows.append(logits.double().log_softmax(-1)[tokens].numpy())
    return np.array(rows)


def padded(lm: models.LanguageModel, ids: list[list[int]], tokens: list[int]) -> np.ndarray:
    """Score right-padded batches of prompts of similar length."""
    result = np.empty((len(ids), len(tokens)))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            chunk = order[start : start + BATCH]
            batch, _, mask = models.pad_pairs([(ids[i], 1) for i in chunk])
            logits = lm.model(input_ids=batch, attention_mask=mask).logits
            last = logits[torch.arange(len(chunk)), mask.sum(1) - 1]
            result[chunk] = last.double().log_softmax(-1)[:, tokens].numpy()
    return result


def main() -> dict:
    """Measure, print, and write ``results/prefix_tree.json``."""
    torch.set_num_threads(1)
    lm = models.load_language_model()
    prompts = make_prompts(N_PEOPLE)
    ids = [lm.tokenizer(p)["input_ids"] for p in prompts]
    tokens = [lm.tokenizer(letter)["input_ids"][0] for letter in (" A", " B")]
    scorer = models.PrefixTreeScorer(lm)
    loop(lm, ids[:1], tokens)  # warm up the kernels
    first, tree_before = cpu_seconds(lambda: scorer.next_token_logprobs(prompts, tokens))
    by_loop, loop_seconds = cpu_seconds(lambda: loop(lm, ids, tokens))
    by_batch, batch_seconds = cpu_seconds(lambda: padded(lm, ids, tokens))
    _, tree_after = cpu_seconds(lambda: scorer.next_token_logprobs(prompts, tokens))
    tree_seconds = (tree_before + tree_after) / 2
    gap = max(np.abs(first - by_loop).max(), np.abs(first - by_batch).max())
    if gap > 1e-3:
        raise AssertionError(f"the methods differ by {gap:.2g} nats")
    counts, n = scorer.counts, len(prompts)
    note = f"{n} prompts, {n / tree_seconds:.1f} prompts a second; values agree to {gap:.0e} nats"
    name = "next-token scores, SmolLM2, packed prefix tree"
    rows = [
        row(
            name,
            "one forward pass a prompt",
            tree_seconds / n,
            loop_seconds / n,
            "s a prompt",
            note,
        ),
        row(
            name,
            f"right-padded batches of {BATCH}",
            tree_seconds / n,
            batch_seconds / n,
            "s a prompt",
        ),
        row(
            name,
            "tokens computed by the loop",
            counts.computed_tokens / n,
            counts.sequence_tokens / n,
            "tokens a prompt",
            "a count, the same on every machine",
        ),
    ]
    return save("prefix_tree", rows, "torch", "transformers")


if __name__ == "__main__":
    main()
