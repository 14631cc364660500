"""The reward of a training run, and a training step, against the way one writes them first.

*Reward*: the relevance of every second step in the stored logs of one QR and one R3 run. The peer encodes question
and answer of each row, one text at a time; ours encodes each distinct text once, in the batches of a training step.
*Step*: four questions, eight answers each, 16 tokens. The peer samples with ``generate`` and scores under policy and
reference by whole forward passes; ours reads a prompt once for its eight answers and runs only the trained blocks on
the states that it kept. Adapters, questions and number of tokens are the same, and so are the values.
The sides take turns; a ratio is that of their medians. Writes ``benchmarks/results/relevance_reward.json``
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
    return np.concatenate(parts), retriever.encoded


def rewards(repetitions: int = 3) -> dict:
    log = lab.rollouts()
    log = log[(log["seed"] == 0) & log["run"].isin(["qr", "r3"]) & (log["step"] % 2 == 0)]
    encoder = lab.minilm().encoder
    encoder.encode(["the first call pays for set-up"])
    ours = theirs = 0.0
    read = 0
    by_run = {}
    for run, table in log.groupby("run"):
        seconds, slow = [], []
        for _ in range(repetitions):
            (mine, n), took = cpu(lambda t=table: cached(encoder, t))
            seconds.append(took)
            plain, took = cpu(lambda t=table: one_at_a_time(encoder, t["query"], t["text"]))
            slow.append(took)
            error = float(np.abs(mine - plain).max())
            if error > 1e-4:
                raise SystemExit(f"rewards differ by {error:.1e}")
        read += n
        ours, theirs = ours + float(np.median(seconds)), theirs + float(np.median(slow))
        by_run[run] = float(np.median(slow) / np.median(seconds))
    return {
        "ours": ours, "theirs": theirs, "rows": len(log), "by_run": by_run,
        "fewer_texts": 2 * len(log) / read, "faster_text": theirs / ours * read / (2 * len(log)),
    }  # fmt: skip


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


def same_values(policy, prompts):
    """Log-probabilities by ours and by a whole forward pass, on the same answers."""
    rollout = policy.sample(
        prompts, 8, max_new_tokens=16, generator=torch.Generator().manual_seed(99)
    )
    heads = [policy.lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    pairs = [
        ([*heads[row // 8], *tokens[inside].tolist()], len(heads[row // 8]))
        for row, (tokens, inside) in enumerate(
            zip(rollout.token_ids, rollout.response, strict=True)
        )
    ]
    ids, lengths, mask = pad_pairs(pairs)
    with torch.no_grad():
        plain = models.sequence_logprobs(policy.lm.model, ids, lengths, mask)
        error = float((policy.logprobs(rollout) - plain).abs().max())
    if error > 1e-2:  # of sums of 16 logarithms
        raise SystemExit(f"log-probabilities differ by {error:.1e}")


def steps(repetitions: int = 5) -> dict:
    policy = LanguageModelPolicy(lab.smollm2(), **lab.ADAPTER, seed=0)
    prompts = lab.chat(lab.trained_questions())
    same_values(policy, prompts)
    rates = {"ours": [], "theirs": []}
    for seed in range(repetitions):
        for side, work in (("ours", step_ours), ("theirs", step_peer)):
            tokens, seconds = cpu(lambda w=work, s=seed: w(policy, prompts, s))
            rates[side].append(seconds / tokens)
    return {side: float(np.median(values)) for side, values in rates.items()}


def main() -> dict:
    torch.set_num_threads(1)
    a, b = rewards(), steps()
    note = (
        f"{a['rows']} rewards of two runs: QR x{a['by_run']['qr']:.1f}, R3 x{a['by_run']['r3']:.1f}; "
        f"{a['fewer_texts']:.1f} times fewer texts, each {a['faster_text']:.1f} times faster in a batch"
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
         "tokens_a_second": 1 / b["ours"], "fewer_texts": a["fewer_texts"], "faster_text": a["faster_text"]},
        script=SCRIPT, settings={"threads": 1, "repetitions": {"reward": 3, "step": 5}},
        seeds=[0, 1, 2, 3, 4],
    )  # fmt: skip
    return result


if __name__ == "__main__":
    main()
