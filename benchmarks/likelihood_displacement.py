"""CHES of a preference set in SmolLM2: shared beginnings computed once against a loop over single responses.

The peer follows the same definition in the way one writes it first: for every response one forward pass over prompt
and response with all hidden states and logits, then a sum over the positions that predict the response. Both sides use
the processor's threads as the environment sets them; values must agree to 1e-4 of the largest. Writes
``benchmarks/results/likelihood_displacement.json`` and the stored result behind claim a5h.
"""

import time

import numpy as np
import torch
from _record import row, save

from paperkit import data
from paperkit.likelihood_displacement import TokenPair, ches_score, experiments, score_pairs

SCRIPT = "benchmarks/likelihood_displacement.py"
REPETITIONS = 3


def loop(model, pairs: list[TokenPair]) -> np.ndarray:
    """ln-CHES one response at a time."""
    sums: dict[str, list[np.ndarray]] = {"chosen": [], "rejected": []}
    for pair in pairs:
        for side in ("chosen", "rejected"):
            response = getattr(pair, side)
            ids = torch.tensor([[*pair.prompt, *response]])
            with torch.no_grad():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            first = len(pair.prompt) - 1
            sums[side].append(states[first : first + len(response)].double().sum(0).numpy())
    lengths = [np.array([len(getattr(p, side)) for p in pairs]) for side in sums]
    stacked = [np.stack(sums[side]) for side in sums]
    return ches_score(*stacked, *lengths, length_normalize=True)


def best(work, repetitions: int) -> tuple[np.ndarray, float, float]:
    """Value, least wall seconds and least CPU seconds."""
    wall, cpu, value = [], [], None
    for _ in range(repetitions):
        start, start_cpu = time.perf_counter(), time.process_time()
        value = work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return value, min(wall), min(cpu)


def main() -> None:
    lm = experiments.smollm2()
    short = experiments.authored_pairs(lm.tokenizer)
    text = [token for pair in short for token in (*pair.prompt[4:], *pair.chosen)]
    long = [  # every prompt behind a text of its own
        TokenPair((*text[60 * i : 60 * i + 256], *p.prompt), p.chosen, p.rejected)
        for i, p in enumerate(short[:4])
    ]
    score_pairs(lm.model, short[:2]), loop(lm.model, short[:2])  # the first call pays for set-up
    rows, ratios = [], []
    for name, pairs in (
        ("24 authored pairs", short),
        ("4 pairs, each behind 256 tokens of its own", long),
    ):
        ours, our_wall, our_cpu = best(
            lambda p=pairs: score_pairs(lm.model, p)["ln_ches"].to_numpy(), REPETITIONS
        )
        theirs, their_wall, their_cpu = best(lambda p=pairs: loop(lm.model, p), REPETITIONS)
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if error > 1e-4:
            raise SystemExit(f"{name}: values differ by {error:.1e}")
        note = f"{torch.get_num_threads()} thread(s), values agree to {error:.1e}"
        peer = "one response at a time, with logits"
        rows.append(row(f"ln-CHES, {name}", peer, our_cpu, their_cpu, "CPU s", note))
        ratios.append({"set": name, "cpu": their_cpu / our_cpu, "wall": their_wall / our_wall})
    save("likelihood_displacement", rows, "torch", "transformers")
    data.save_stored(
        "likelihood_displacement",
        "benchmark",
        {"ratio": ratios[0]["cpu"], "note": rows[0]["note"] + ", CPU time", "rows": ratios},
        script=SCRIPT,
        settings={"repetitions": REPETITIONS},
        seeds=[],
    )
    print(ratios)


if __name__ == "__main__":
    main()
