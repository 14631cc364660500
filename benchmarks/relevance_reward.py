"""The reward of a training run, and a training step, against the way one writes them first.

*Reward*: the relevance of every second step in the stored logs of one QR and one R3 run. The peer encodes question
and answer of each row, one text at a time; ours encodes each distinct text once, in the batches of a training step.
*Step*: four questions, eight answers each, 16 tokens. The peer samples with ``generate`` and scores under policy and
reference by whole forward passes; ours samples from a shared prompt and runs only the trained blocks on the states
that it kept. Adapters, questions and number of tokens are the same. Writes ``benchmarks/results/relevance_reward.json``
and the stored result behind claims s1 and s3.
"""

import time

import numpy as np
import torch
from _record import row, save

from paperkit import data, models
from paperkit.models.text import pad_pairs
from paperkit.relevance_reward import Retriever, rl
from paperkit.relevance_reward import lm_experiments as lab
from paperkit.relevance_reward.policy import LanguageModelPolicy

SCRIPT = "benchmarks/relevance_reward.py"


def cpu(work):
    """Value and CPU seconds."""
    start = time.process_time()
    value = work()
    return value, time.process_time() - start


def one_at_a_time(encoder, queries, texts):
    values = []
    for query, text in zip(queries, texts, strict=True):
        a = encoder.encode([query], truncation_side="left")[0]
        b = encoder.encode([text], truncation_side="left")[0]
        values.append(float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)))
    return np.array(values)


def cached(encoder, table):
    retriever = Retriever(encoder)
    parts = [
        retriever.relevance(rows["query"].tolist(), rows["text"].tolist())
        for _, rows in table.groupby("step", sort=False)
    ]
    return np.concatenate(parts)


def rewards() -> dict:
    log = lab.rollouts()
    log = log[(log["seed"] == 0) & log["run"].isin(["qr", "r3"]) & (log["step"] % 2 == 0)]
    encoder = lab.minilm().encoder
    encoder.encode(["the first call pays for set-up"])
    ours = theirs = 0.0
    ratios = {}
    for run, table in log.groupby("run"):
        mine, seconds = cpu(lambda t=table: cached(encoder, t))
        plain, slow = cpu(lambda t=table: one_at_a_time(encoder, t["query"], t["text"]))
        error = float(np.abs(mine - plain).max())
        if error > 1e-4:
            raise SystemExit(f"rewards differ by {error:.1e}")
        ours, theirs = ours + seconds, theirs + slow
        ratios[run] = slow / seconds
    return {"ours": ours, "theirs": theirs, "rows": len(log), "by_run": ratios}


def step_peer(policy, prompts, seed):
    """One step with ``generate`` and whole forward passes; returns the number of response tokens."""
    drawn = models.generate(policy.lm, prompts, n_samples=8, max_new_tokens=16, seed=seed)
    heads = [policy.lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    pairs = [([*head, *tail], len(head)) for head, tails in zip(heads, drawn.token_ids, strict=True)
             for tail in tails]  # fmt: skip
    ids, lengths, mask = pad_pairs(pairs)
    logprobs = models.sequence_logprobs(policy.lm.model, ids, lengths, mask)
    with torch.no_grad(), policy.reference():
        models.sequence_logprobs(policy.lm.model, ids, lengths, mask)
    finish(policy, logprobs)
    return sum(len(ids) - start for ids, start in pairs)


def step_ours(policy, prompts, seed):
    rollout = policy.sample(
        prompts, 8, max_new_tokens=16, generator=torch.Generator().manual_seed(seed)
    )
    logprobs = policy.logprobs(rollout)
    with torch.no_grad(), policy.reference():
        policy.logprobs(rollout)
    finish(policy, logprobs)
    return int(rollout.response.sum())


def finish(policy, logprobs):
    advantages = torch.linspace(-1, 1, len(logprobs))
    torch.autograd.grad(rl.rloo_loss(logprobs, advantages), policy.parameters)


def steps(repetitions: int = 2) -> dict:
    policy = LanguageModelPolicy(lab.smollm2(), **lab.ADAPTER, seed=0)
    prompts = lab.chat(lab.trained_questions())
    step_ours(policy, prompts[:1], 9)
    rates = {"ours": [], "theirs": []}
    for seed in range(repetitions):
        for side, work in (("ours", step_ours), ("theirs", step_peer)):
            tokens, seconds = cpu(lambda w=work, s=seed: w(policy, prompts, s))
            rates[side].append(seconds / tokens)
    return {side: min(values) for side, values in rates.items()}


def main() -> dict:
    torch.set_num_threads(1)
    a, b = rewards(), steps()
    note = (
        f"{a['rows']} rewards of two runs: QR x{a['by_run']['qr']:.1f}, R3 x{a['by_run']['r3']:.1f}"
    )
    rows = [
        row("reward of a training run", "one text at a time", a["ours"], a["theirs"], "CPU s", note),
        row("token of an RLOO step", "generate and whole forward passes", 1e3 * b["ours"], 1e3 * b["theirs"],
            "CPU ms", f"{1 / b['ours']:.0f} against {1 / b['theirs']:.0f} tokens a second"),
    ]  # fmt: skip
    result = save("relevance_reward", rows, "torch", "transformers", "peft")
    data.save_stored(
        "relevance_reward",
        "benchmark",
        {"reward_ratio": rows[0]["ratio"], "step_ratio": rows[1]["ratio"], "rows": rows, "by_run": a["by_run"],
         "tokens_a_second": 1 / b["ours"]},
        script=SCRIPT, settings={"threads": 1}, seeds=[0, 1],
    )  # fmt: skip
    return result


if __name__ == "__main__":
    main()
