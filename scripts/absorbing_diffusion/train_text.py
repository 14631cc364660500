"""Train the three text models on the King James Bible, all on the same batches.

``python scripts/absorbing_diffusion/train_text.py`` trains RADD, the time-conditioned twin and the
left-to-right model in turn, a slice each, so that at any moment they have seen the same tokens to
within a slice. The state of a run lies in ``build/absorbing_diffusion`` and is taken up again.
The learning rate is constant for ``--steps`` updates and falls to zero over ``--cooldown`` more.
Several processes may run at once: each takes the kind that is furthest behind and free.
At the end, or earlier with ``--export``, the checkpoints (half precision) and the learning curves
that the book shows are written.

Other sizes and a GPU: ``--size 768 12 12 --length 1024 --batch 512 --device cuda --name large`` has the
shape of the paper's small model (width, blocks, heads). Networks of another size have a name of
their own and are kept in the build folder; the book does not read them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paperkit import data, models, profiles
from paperkit.absorbing_diffusion.losses import any_order_loss, autoregressive_loss
from paperkit.absorbing_diffusion.networks import NETWORKS, TransformerConfig
from paperkit.absorbing_diffusion.text import load_kjv

SCRIPT = "scripts/absorbing_diffusion/train_text.py"
BUILD = Path(__file__).resolve().parents[2] / "build" / "absorbing_diffusion"
CONFIG = TransformerConfig(
    vocab_size=1024, width=96, depth=3, heads=4, rotary_base=100.0, neighbours=16.0
)
BATCH, LENGTH = 64, 64
RATE, DECAY = 3e-3, 0.05
HORIZON = 10**6  # the constant phase has no end of its own
EASY = 250  # updates with at most half of a sequence masked


class Pause(Exception):
    """The slice is over; the state is on disk."""


@dataclass(frozen=True)
class Plan:
    """What is trained, and where."""

    config: TransformerConfig = CONFIG
    batch: int = BATCH
    length: int = LENGTH
    device: str = "cpu"
    name: str = ""


def batch(tokens: torch.Tensor, step: int, seed: int, size: int) -> torch.Tensor:
    """Windows of step `step`: each epoch goes once through all, in an order of its own."""
    n = len(tokens) // size
    epoch, k = divmod(step, n)
    order = torch.randperm(
        len(tokens), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch)
    )
    return tokens[order[k * size : (k + 1) * size].to(tokens.device)]


def loss(kind: str, model, x: torch.Tensor, step: int, seed: int) -> torch.Tensor:
    """The training loss in nats a token; the masks depend on step and seed alone."""
    if kind == "ar":
        return autoregressive_loss(model, x).mean() / x.shape[1]
    masks = torch.Generator(x.device).manual_seed(7_000_003 * (seed + 1) + step)
    count = None
    if step < EASY:
        count = torch.randint(1, x.shape[1] // 2 + 1, (len(x),), generator=masks, device=x.device)
    each = any_order_loss(model, x, count=count, normalized=kind != "time", generator=masks)
    return each.mean() / x.shape[1]


@torch.no_grad()
def validate(kind: str, model, tokens: torch.Tensor) -> float:
    """Nats a token on the first validation windows, always with the same masks."""
    model.eval()
    if kind == "ar":
        nats = torch.cat([autoregressive_loss(model, x) for x in tokens.split(64)])
    else:
        masks = torch.Generator(tokens.device).manual_seed(5)
        nats = torch.cat([any_order_loss(model, x, generator=masks) for x in tokens.split(64)])
    model.train()
    return float(nats.mean() / tokens.shape[1])


class Run:
    """One kind and seed: its files, and how to go on with it."""

    def __init__(self, kind: str, seed: int, plan: Plan) -> None:
        self.kind, self.seed, self.plan = kind, seed, plan
        stem = f"{plan.name}-{kind}-{seed}".lstrip("-")
        self.state = BUILD / f"{stem}.safetensors"
        self.cooling = BUILD / f"{stem}-cooldown.safetensors"
        self.curve_file = BUILD / f"{stem}.json"
        self.lock_file = BUILD / f"{stem}.lock"

    def network(self) -> torch.nn.Module:
        """Return the network before training."""
        return NETWORKS[self.kind](self.plan.config, seed=self.seed).to(self.plan.device)

    def curve(self) -> list[dict]:
        """Return what was measured after each slice."""
        if not self.curve_file.exists():
            return []
        return json.loads(self.curve_file.read_text())

    def steps(self) -> int:
        """Return the updates of the slices that are done."""
        curve = self.curve()
        return curve[-1]["step"] if curve else 0

    def train(self, until: int, constant: int, cooldown: int, every: int, tokens, check) -> None:
        """Go on to update `until`."""
        model = self.network()
        began = time.process_time()
        curve = self.curve()
        so_far = curve[-1]["cpu_seconds"] if curve else 0.0
        phases = [(self.state, 0, HORIZON, min(until, constant), "constant")]
        if until > constant:
            phases.append((self.cooling, constant, cooldown, until, "linear"))
        for file, first, n_steps, stop, schedule in phases:
            if schedule == "linear" and not file.exists():
                self.load(model, self.state)

            def step(i, _, first=first, stop=stop):
                if first + i >= stop:
                    raise Pause
                x = batch(tokens, first + i, self.seed, self.plan.batch)
                return loss(self.kind, model, x, first + i, self.seed)

            with contextlib.suppress(Pause):
                models.train(
                    step,
                    model.parameters(),
                    n_steps=n_steps,
                    learning_rate=RATE,
                    schedule=schedule,
                    weight_decay=DECAY,
                    seed=self.seed,
                    resume=file,
                    every=every,
                )
        curve.append(
            {
                "step": until,
                "tokens": until * self.plan.batch * self.plan.length,
                "nats_per_token": validate(self.kind, model, check),
                "cpu_seconds": round(so_far + time.process_time() - began, 1),
                "cooldown": until > constant,
            }
        )
        self.curve_file.write_text(json.dumps(curve))

    @staticmethod
    def load(model, file: Path) -> None:
        """Copy the parameters of a written state into a network."""
        from safetensors import safe_open

        with safe_open(file, framework="pt") as stored, torch.no_grad():
            for k, p in enumerate(model.parameters()):
                p.copy_(stored.get_tensor(f"parameter.{k}"))

    def export(self, steps: int, digest: str) -> None:
        """Write the checkpoint that the book reads, and register it."""
        model = self.network()
        curve = self.curve()
        self.load(model, self.cooling if curve[-1]["cooldown"] else self.state)
        name = f"kjv_{self.kind}" + (f"_{self.seed}" if self.seed else "")
        file = Path(data.FOLDER) / "absorbing_diffusion" / f"{name}.safetensors"
        settings = {"config": CONFIG.as_dict(), "batch": BATCH, "length": LENGTH}
        settings |= {"learning_rate": RATE, "weight_decay": DECAY, "easy_steps": EASY}
        settings |= {"kind": self.kind, "constant_steps": steps}
        models.save_checkpoint(
            file,
            {name: p.half() for name, p in model.state_dict().items()},
            record={
                "script": SCRIPT,
                "seed": self.seed,
                "settings": settings,
                "steps": curve[-1]["step"],
                "data_sha256": digest,
            },
        )
        data.register(
            f"absorbing_diffusion/{name}",
            file,
            source="trained by the authors of this book on the King James Bible",
            version=f"{curve[-1]['tokens']:,} tokens, seed {self.seed}",
            licence="MIT",
            script=SCRIPT,
        )


def export(runs: list[Run], steps: int, seed: int) -> None:
    """Write all checkpoints and the learning curves."""
    digest = data.sources().set_index("name").loc["absorbing_diffusion/kjv", "sha256"]
    for run in runs:
        run.export(steps, digest)
    data.save_stored(
        "absorbing_diffusion",
        "text_curves" + (f"_{seed}" if seed else ""),
        {run.kind: run.curve() for run in runs},
        script=SCRIPT,
        settings={"config": CONFIG.as_dict(), "batch": BATCH, "constant_steps": steps},
        seeds=[seed],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000, help="updates at the constant rate")
    parser.add_argument("--cooldown", type=int, default=1000, help="updates of falling rate")
    parser.add_argument("--slice", type=int, default=200, help="updates before the next kind")
    parser.add_argument("--every", type=int, default=100, help="updates between written states")
    parser.add_argument("--size", type=int, nargs=3, metavar=("WIDTH", "BLOCKS", "HEADS"))
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a window")
    parser.add_argument("--batch", type=int, default=BATCH, help="windows of an update")
    parser.add_argument("--device", default=profiles.current().device)
    parser.add_argument("--name", default="", help="of a network of another size")
    parser.add_argument("--export", action="store_true", help="write checkpoints and curves")
    chosen = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    if (chosen.size or chosen.length != LENGTH or chosen.batch != BATCH) and not chosen.name:
        parser.error("a network of another size, length or batch needs a --name")
    width, depth, heads = chosen.size or (CONFIG.width, CONFIG.depth, CONFIG.heads)
    config = replace(CONFIG, width=width, depth=depth, heads=heads)
    plan = Plan(config, chosen.batch, chosen.length, chosen.device, chosen.name)
    runs = [Run(kind, chosen.seed, plan) for kind in chosen.kinds]
    if chosen.export:
        export(runs, chosen.steps, chosen.seed)
        return
    tokens = load_kjv("train", length=plan.length).tensor().to(plan.device)
    check = load_kjv("validation", length=plan.length).tensor()[::6].to(plan.device)
    total = chosen.steps + chosen.cooldown
    while True:
        open_runs = sorted((r for r in runs if r.steps() < total), key=lambda r: r.steps())
        if not open_runs:
            if not plan.name:
                export(runs, chosen.steps, chosen.seed)
            return
        for run in open_runs:
            if run.steps() >= open_runs[0].steps() + chosen.slice:
                continue
            with run.lock_file.open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                here = run.steps()
                edge = chosen.steps if here < chosen.steps else total
                until = min(here + chosen.slice, edge)
                run.train(until, chosen.steps, chosen.cooldown, chosen.every, tokens, check)
                print(json.dumps({"kind": run.kind, **run.curve()[-1]}), flush=True)
                break
        else:
            time.sleep(5)


if __name__ == "__main__":
    main()
