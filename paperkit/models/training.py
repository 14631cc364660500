"""One training loop that can be interrupted, and small checkpoints with a record of their making."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paperkit import profiles

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
SCHEDULES = ("cosine", "linear", "onecycle", "constant")
RECORD_KEYS = ("script", "seed", "settings", "steps")


@dataclass(frozen=True)
class History:
    """What a training run leaves behind, apart from the trained parameters.

    Attributes
    ----------
    losses : ndarray, shape (n_steps,)
        Loss of each step, before its update.
    learning_rates : ndarray, shape (n_steps,)
        Learning rate of each step.
    ema : list of Tensor or None
        Exponential moving averages of the parameters, in their order.
    """

    losses: np.ndarray
    learning_rates: np.ndarray
    ema: list[torch.Tensor] | None

    def copy_ema_to(self, parameters: Iterable[torch.Tensor]) -> None:
        """Overwrite ``parameters`` with their moving averages.

        Raises
        ------
        ValueError
            If the run kept no averages, or their number differs from that of ``parameters``.
        """
        targets = list(parameters)
        if self.ema is None:
            raise ValueError("this run kept no moving averages (ema_decay was None)")
        if len(targets) != len(self.ema):
            raise ValueError(f"{len(self.ema)} averages, but {len(targets)} parameters")
        with torch.no_grad():
            for target, average in zip(targets, self.ema, strict=True):
                target.copy_(average)


def train(
    step: Callable[[int, torch.Generator], torch.Tensor],
    parameters: Iterable[torch.Tensor],
    *,
    n_steps: int,
    learning_rate: float,
    schedule: str = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    ema_decay: float | None = None,
    seed: int,
    resume: str | os.PathLike[str] | None = None,
    every: int = 100,
    callback: Callable[[int, float], Any] | None = None,
) -> History:
    """Minimise a stochastic loss.

    Parameters
    ----------
    step : callable
        ``step(i, generator) -> loss``: the differentiable scalar loss of step i. Take every random
        number from ``generator`` (on the parameters' device); dropout inside a module is seeded
        too.
    parameters : iterable of Tensor
        Leaf tensors that require a gradient, updated in place.
    n_steps : int
        Updates.
    learning_rate : float
        Highest learning rate.
    schedule : {"cosine", "linear", "onecycle", "constant"}
        Falling to zero along a half cosine or a line, without warm-up; up and down in one cycle
        (``torch.optim.lr_scheduler.OneCycleLR``); or constant.
    optimizer : {"adamw", "rmsprop", "sgd"}
        From ``torch.optim``, with its defaults.
    weight_decay : float
        As the optimiser understands it.
    clip_norm : float or None
        Largest norm of the whole gradient; ``None`` leaves it alone.
    ema_decay : float, optional
        Keep exponential moving averages of the parameters (``diffusers.training_utils.EMAModel``).
    seed : int
        Seed of ``generator`` and of dropout. The global random state is left as it was.
    resume : path, optional
        A safetensors file that holds the state of the run. It is written every ``every`` steps, by
        an atomic rename; if it exists, the run goes on from there. A resumed run equals an
        uninterrupted one bit for bit.
    every : int
        How often ``callback`` is called and ``resume`` is written; both also after the last step.
    callback : callable, optional
        ``callback(i, loss)`` after step i.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If a setting is out of range, there is nothing to train, or ``resume`` belongs to another
        run (the message lists what differs).
    FloatingPointError
        If a loss or gradient norm is not finite. The message has the step; the parameters are those
        before it.
    """
    targets = list(parameters)
    settings = {
        "n_steps": n_steps,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "ema_decay": ema_decay,
        "seed": seed,
        "shapes": [list(p.shape) for p in targets],
    }
    _check_settings(targets, settings, every)
    update = OPTIMIZERS[optimizer](targets, lr=learning_rate, weight_decay=weight_decay)
    rates = _schedule(schedule, update, n_steps, learning_rate)
    averages: Any = None
    if ema_decay is not None:
        from diffusers.training_utils import EMAModel

        averages = EMAModel(targets, decay=ema_decay)
    generator = torch.Generator(device=targets[0].device).manual_seed(seed)
    run = _Run(targets, update, rates, averages, generator, settings)
    # dropout draws from the global generators: seed them, and give them back afterwards
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        path = None if resume is None else Path(resume)
        if path is not None and path.exists():
            run.load(path)
        for i in _progress(range(len(run.losses), n_steps)):
            update.zero_grad(set_to_none=True)
            loss = step(i, generator)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                raise TypeError(f"step must return a scalar tensor, got {loss!r} at step {i}")
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {i}")
            loss.reshape(()).backward()
            if clip_norm is not None:
                norm = float(torch.nn.utils.clip_grad_norm_(targets, clip_norm))
                if not math.isfinite(norm):
                    raise FloatingPointError(f"the gradient norm is {norm} at step {i}")
            run.losses.append(value)
            run.learning_rates.append(float(update.param_groups[0]["lr"]))
            update.step()
            rates.step()
            if averages is not None:
                averages.step(targets)
            if (i + 1) % every == 0 or i + 1 == n_steps:
                if callback is not None:
                    callback(i, value)
                if path is not None:
                    run.save(path)
    update.zero_grad(set_to_none=True)
    ema = None if averages is None else [a.detach().clone() for a in averages.shadow_params]
    return History(np.array(run.losses), np.array(run.learning_rates), ema)


def _check_settings(targets: list[torch.Tensor], settings: dict[str, Any], every: int) -> None:
    if not targets:
        raise ValueError("parameters is empty: there is nothing to train")
    for k, p in enumerate(targets):
        if not (isinstance(p, torch.Tensor) and p.requires_grad and p.is_leaf):
            raise ValueError(f"parameters[{k}] is not a leaf tensor that requires a gradient")
    for name, count in (("n_steps", settings["n_steps"]), ("every", every)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")
    if not 0 < settings["learning_rate"] < math.inf:
        raise ValueError(f"learning_rate must be positive, got {settings['learning_rate']!r}")
    for name, allowed in (("schedule", SCHEDULES), ("optimizer", tuple(OPTIMIZERS))):
        if settings[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {settings[name]!r}")
    if not 0 <= settings["weight_decay"] < math.inf:
        raise ValueError(f"weight_decay must not be negative, got {settings['weight_decay']!r}")
    if settings["clip_norm"] is not None and not settings["clip_norm"] > 0:
        raise ValueError(f"clip_norm must be positive or None, got {settings['clip_norm']!r}")
    if settings["ema_decay"] is not None and not 0 < settings["ema_decay"] < 1:
        raise ValueError(f"ema_decay must lie in (0, 1), got {settings['ema_decay']!r}")


def _schedule(
    name: str, update: torch.optim.Optimizer, n_steps: int, learning_rate: float
) -> torch.optim.lr_scheduler.LRScheduler:
    if name == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            update,
            max_lr=learning_rate,
            total_steps=n_steps,
            cycle_momentum="betas" in update.defaults,  # else it would switch momentum on
        )
    from transformers import get_scheduler

    return get_scheduler(name, update, num_warmup_steps=0, num_training_steps=n_steps)


def _progress(steps: range) -> Iterable[int]:
    if not profiles.current().interactive:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc="training", initial=steps.start, total=steps.stop)


@dataclass
class _Run:
    """The whole state of a training run, which one file holds."""

    targets: list[torch.Tensor]
    update: torch.optim.Optimizer
    rates: torch.optim.lr_scheduler.LRScheduler
    averages: Any
    generator: torch.Generator
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.losses: list[float] = []
        self.learning_rates: list[float] = []

    def save(self, path: Path) -> None:
        tensors = {f"parameter.{k}": p for k, p in enumerate(self.targets)}
        state = self.update.state_dict()
        scalars: dict[str, Any] = {}
        for k, entries in state["state"].items():
            for name, value in entries.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{k}.{name}"] = value
                else:
                    scalars[f"{k}.{name}"] = value
        tensors["generator"] = self.generator.get_state()
        tensors["global_generator"] = torch.get_rng_state()
        if self.targets[0].is_cuda:
            tensors["device_generator"] = torch.cuda.get_rng_state(self.targets[0].device)
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["learning_rates"] = torch.tensor(self.learning_rates, dtype=torch.float64)
        metadata = {
            "settings": self.settings,
            "groups": state["param_groups"],
            "scalars": scalars,
            "schedule": {k: v for k, v in self.rates.state_dict().items() if k != "lr_lambdas"},
        }
        if self.averages is not None:
            tensors |= {f"ema.{k}": p for k, p in enumerate(self.averages.shadow_params)}
            metadata["ema_steps"] = self.averages.optimization_step
        _write(path, tensors, {"training": json.dumps(metadata)})

    def load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("training", "null"))
            if metadata is None:
                raise ValueError(f"{path.name} is not a file that train wrote")
            differing = [
                f"{name}: {metadata['settings'].get(name)!r} there, {value!r} here"
                for name, value in self.settings.items()
                if metadata["settings"].get(name) != value
            ]
            if differing:
                raise ValueError(f"{path.name} belongs to another run ({'; '.join(differing)})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, k, key = name.split(".", 2)
                state.setdefault(int(k), {})[key] = value
        for name, value in metadata["scalars"].items():
            k, key = name.split(".", 1)
            state.setdefault(int(k), {})[key] = value
        self.update.load_state_dict({"state": state, "param_groups": metadata["groups"]})
        saved = metadata["schedule"]
        self.rates.load_state_dict(
            saved | ({"lr_lambdas": [None]} if hasattr(self.rates, "lr_lambdas") else {})
        )
        with torch.no_grad():
            for k, p in enumerate(self.targets):
                p.copy_(tensors[f"parameter.{k}"])
            if self.averages is not None:
                for k, average in enumerate(self.averages.shadow_params):
                    average.copy_(tensors[f"ema.{k}"])
                self.averages.optimization_step = metadata["ema_steps"]
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["global_generator"])
        if "device_generator" in tensors:
            torch.cuda.set_rng_state(tensors["device_generator"], self.targets[0].device)
        self.losses = tensors["losses"].tolist()
        self.learning_rates = tensors["learning_rates"].tolist()


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file beside ``path`` and rename it: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # clone: safetensors refuses tensors that share memory (tied weights)
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        save_file(plain, temporary, metadata=metadata)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def save_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    *,
    record: Mapping[str, Any],
) -> None:
    """Write trained tensors with the record of how they were made, as one safetensors file.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``. An existing file is replaced by an atomic rename.
    tensors : mapping of str to Tensor
        For example ``model.state_dict()``; in half precision where size matters.
    record : mapping
        At least ``script``, ``seed``, ``settings`` and ``steps``; add ``data_sha256`` where data
        was read. Anything that JSON can hold.

    Raises
    ------
    ValueError
        If the record is incomplete or not JSON, there is no tensor, a tensor is not finite, or the
        suffix is another.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {target.name!r}")
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        raise ValueError(f"record lacks {', '.join(missing)}")
    if not tensors:
        raise ValueError("tensors is empty")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"tensors[{name!r}] is not a tensor but {type(tensor).__name__}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"tensors[{name!r}] holds values that are not finite")
    try:
        text = json.dumps(dict(record), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"record is not JSON: {error}") from error
    _write(target, tensors, {"record": text})


def load_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU; floating-point tensors as float32, others as they were.
    record : dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a checkpoint with a record.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint {source.name!r} in {source.parent}")
    try:
        with safe_open(source, framework="pt") as file:
            text = (file.metadata() or {}).get("record")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own type for a broken header
        raise ValueError(f"{source.name} is not a safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{source.name} has no record: it was not written by save_checkpoint")
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    return tensors, json.loads(text)
