"""RLOO on SmolLM2 under several rewards (about two CPU minutes a run).

    python scripts/relevance_reward/rl_runs.py                 # all runs, then the stored results
    python scripts/relevance_reward/rl_runs.py qr:0 r3:0       # these runs alone
    python scripts/relevance_reward/rl_runs.py --export        # store what is finished
    python scripts/relevance_reward/rl_runs.py --restore       # take stored runs for finished, to add others to them

Run by ``nox -s full -- relevance_reward``. The warm start is made once. A run can be interrupted: its state lies in
``build/relevance_reward/rl`` and is taken up again. Finished runs are not repeated.

The stored runs ``qr`` and ``r3`` and seed 0 of ``qr_shuffled`` and ``qr_cold`` were made with an earlier sampler, which
drew from the same distribution by other random numbers; made anew they say other sentences. The others came later, by
``--restore``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from paperkit import data, models, profiles
from paperkit.relevance_reward import lm_experiments as lab

SCRIPT = "scripts/relevance_reward/rl_runs.py"
STORE = profiles.project_root() / "build" / "relevance_reward" / "rl"


def planned() -> list[tuple[str, int]]:
    return [(name, seed) for seed in lab.run_seeds() for name in lab.RUNS]


def restore() -> None:
    """Lay the stored warm start and runs where finished ones lie; what is there already stays."""
    table = data.stored("relevance_reward", "rl_rollouts")
    STORE.mkdir(parents=True, exist_ok=True)
    keep_adapter("adapter_warm", STORE / "warm.safetensors")
    data.stored("relevance_reward", "warm_start").to_parquet(STORE / "warm.parquet")
    for record in data.stored("relevance_reward", "rl_runs")["runs"]:
        name, seed = record["run"], record["seed"]
        folder = STORE / f"{name}-{seed}"
        if (folder / "done.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        rows = table[(table["run"] == name) & (table["seed"] == seed)]
        rows.drop(columns=["run", "seed"]).to_parquet(folder / "rollouts.parquet")
        if name in ("qr", "r3") and seed == 0:
            keep_adapter(f"adapter_{name}", folder / "adapter.safetensors")
        (STORE / f"scale-{lab.RUNS[name][0]}.json").write_text(json.dumps(record["scale"]))
        (folder / "done.json").write_text(json.dumps(record))


def keep_adapter(name: str, path: Path) -> None:
    tensors = {k: torch.as_tensor(v) for k, v in data.stored("relevance_reward", name).items()}
    record = {"script": SCRIPT, "seed": lab.WARM["seed"], "settings": lab.RUN | lab.ADAPTER,
              "steps": 0, "restored": name}  # fmt: skip
    models.save_checkpoint(path, tensors, record=record)


def warm_start() -> dict[str, torch.Tensor]:
    """The adapter of the warm start, made on the first call."""
    STORE.mkdir(parents=True, exist_ok=True)
    path = STORE / "warm.safetensors"
    with (STORE / "warm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            policy, table = lab.train_warm_start()
            record = {"script": SCRIPT, "seed": lab.WARM["seed"], "settings": lab.WARM | lab.ADAPTER,
                      "steps": len(table) - 1}  # fmt: skip
            half = {name: tensor.half() for name, tensor in policy.adapter().items()}
            print(table.to_string())
            table.to_parquet(STORE / "warm.parquet")
            models.save_checkpoint(path, half, record=record)
    return models.load_checkpoint(path)[0]


def run(name: str, seed: int) -> None:
    folder = STORE / f"{name}-{seed}"
    done = folder / "done.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process is at it
        start = lab.starting_policy(warm_start() if lab.RUNS[name][1] else None)
        scale_file = STORE / f"scale-{lab.RUNS[name][0]}.json"
        if scale_file.exists():
            scale = json.loads(scale_file.read_text())
        else:
            scale = 1.0 if lab.RUNS[name][0] == "qr" else lab.reward_scale(start, name)
            scale_file.write_text(json.dumps(scale))
        before = lab.copy_logprobs(start, lab.trained_questions())
        clock = time.process_time()

        def show(step: int, rows: pd.DataFrame) -> None:
            means = rows[["qr", "r3", "words", "exact", "restates", "log_ratio"]].mean().round(3)
            print(
                name,
                seed,
                step,
                means.to_dict(),
                f"{time.process_time() - clock:.0f} s",
                flush=True,
            )

        policy, table = lab.rl_run(name, seed, start, scale=scale, store=folder, callback=show)
        table.to_parquet(folder / "rollouts.parquet")
        models.save_checkpoint(
            folder / "adapter.safetensors",
            {k: t.half() for k, t in policy.adapter().items()},
            record={"script": SCRIPT, "seed": seed, "steps": int(table["step"].max()),
                    "settings": lab.RUN | lab.ADAPTER | {"reward": name, "scale": scale}},
        )  # fmt: skip
        after = lab.copy_logprobs(policy, lab.trained_questions())
        record = {"run": name, "seed": seed, "scale": scale, "cpu_seconds": time.process_time() - clock,
                  "log_copy_before": before.tolist(), "log_copy_after": after.tolist()}  # fmt: skip
        done.write_text(json.dumps(record))


def export() -> None:
    finished = [
        STORE / f"{n}-{s}" for n, s in planned() if (STORE / f"{n}-{s}" / "done.json").exists()
    ]
    records = [json.loads((folder / "done.json").read_text()) for folder in finished]
    tables = [
        pd.read_parquet(folder / "rollouts.parquet").assign(run=r["run"], seed=r["seed"])
        for folder, r in zip(finished, records, strict=True)
    ]
    settings: dict[str, Any] = {
        "model": "SmolLM2-135M-Instruct, 4-bit weights", "warm_start": lab.WARM, "run": lab.RUN,
        "adapter": lab.ADAPTER, "temperature": 1.0,
    }  # fmt: skip
    seeds = sorted({r["seed"] for r in records})
    keep = {"script": SCRIPT, "settings": settings, "seeds": seeds}
    data.save_stored(
        "relevance_reward", "rl_rollouts", pd.concat(tables, ignore_index=True), **keep
    )
    data.save_stored("relevance_reward", "rl_runs", {"runs": records}, **keep)
    data.save_stored(
        "relevance_reward", "warm_start", pd.read_parquet(STORE / "warm.parquet"), **keep
    )
    shipped = {
        "warm": "warm.safetensors",
        "qr": "qr-0/adapter.safetensors",
        "r3": "r3-0/adapter.safetensors",
    }
    for name, file in shipped.items():
        tensors = {k: t.half() for k, t in models.load_checkpoint(STORE / file)[0].items()}
        data.save_stored("relevance_reward", f"adapter_{name}", tensors, **keep)
    print(f"stored {len(finished)} of {len(planned())} runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", help="name:seed")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--restore", action="store_true")
    options = parser.parse_args()
    if options.restore:
        restore()
        return
    if options.export:
        export()
        return
    chosen = [(n, int(s)) for n, s in (each.split(":") for each in options.runs)]
    warm_start()
    for name, seed in chosen or planned():
        run(name, seed)
    if not chosen:
        export()


if __name__ == "__main__":
    main()
