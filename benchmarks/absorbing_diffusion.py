"""Sampling in rounds against the uncached sampler and against the cached sampler of the authors' design.

All on one random network of 0.53 M parameters, 8 texts of 64 tokens, CPU seconds of one thread, the best of
two. The peer follows the published algorithm as we know it: in every step draw, with the step's transition
probabilities, whether each masked token stays or becomes which token; keep the network's output, and call the
network again for the texts of the batch that have changed. It is written here by us.
Writes ``benchmarks/results/absorbing_diffusion.json`` and the stored result behind claims c6a and c6b.
"""

from __future__ import annotations

import torch
from _record import cpu_seconds, row, save

from paperkit import data
from paperkit.absorbing_diffusion import (
    LogLinearSchedule,
    MaskedTransformer,
    TransformerConfig,
    sample,
    unmask_probabilities,
)

SCRIPT = "benchmarks/absorbing_diffusion.py"
BATCH, LENGTH, VOCABULARY = 8, 64, 1024


@torch.no_grad()
def peer_sample(model, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Cached sampler with an eager call after each change and a draw over V + 1 symbols a step."""
    x = torch.full((BATCH, LENGTH), VOCABULARY)
    kept = torch.zeros(BATCH, LENGTH, VOCABULARY + 1)
    changed = torch.ones(BATCH, dtype=torch.bool)
    for n, rho in enumerate(unmask_probabilities(LogLinearSchedule(), steps), start=1):
        if bool(changed.any()):
            kept[changed, :, :VOCABULARY] = model(x[changed]).softmax(-1)
        masked = x == VOCABULARY
        law = kept[masked] * rho
        law[:, -1] = 0.0 if n == steps else 1.0 - rho
        race = torch.rand(law.shape, generator=generator).clamp_min_(1e-10).log_().neg_()
        before = x.clone()
        x[masked] = (law / race).argmax(-1)
        changed = (x != before).any(1)
    return x


def best(work) -> float:
    return min(cpu_seconds(work)[1] for _ in range(2))


def main() -> None:
    torch.set_num_threads(1)
    config = TransformerConfig(vocab_size=VOCABULARY, width=96, depth=3, heads=4)
    model = MaskedTransformer(config).eval()
    schedule = LogLinearSchedule()

    def run(cache: str, steps: int) -> None:
        g = torch.Generator().manual_seed(0)
        sample(model, (BATCH, LENGTH), steps, schedule, cache=cache, generator=g)

    run("rounds", 16)
    rows, table = [], []
    for steps in (16, 64, 256):
        ours = best(lambda n=steps: run("rounds", n))
        by_rows = best(lambda n=steps: run("rows", n))
        uncached = best(lambda n=steps: run("none", n))
        peer = best(lambda n=steps: peer_sample(model, n, torch.Generator().manual_seed(0)))
        path = f"sampler in rounds, N = {steps}"
        rows.append(row(path, "network called in every step", ours, uncached, "CPU s"))
        rows.append(row(path, "cached sampler of the authors' design", ours, peer, "CPU s"))
        rows.append(row(path, "our row cache, step by step", ours, by_rows, "CPU s"))
        table.append(
            {"steps": steps, "rounds": ours, "rows": by_rows, "none": uncached, "peer": peer}
        )
    save("absorbing_diffusion", rows, "torch")
    data.save_stored(
        "absorbing_diffusion",
        "speed",
        {"table": table},
        script=SCRIPT,
        settings={"batch": BATCH, "length": LENGTH, "config": config.as_dict()},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
