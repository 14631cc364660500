"""Preference training on any causal language model, with a record of where the probability goes.

The gradient of every margin loss is a multiple of the gradient of the margin, so a learning rate means little across
losses and pairs. With plain gradient descent the step is therefore chosen by what it does: the first one raises the
mean margin by ``first_step_margin`` to first order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from paperkit import models
from paperkit.likelihood_displacement.losses import (
    LossKind,
    check_loss,
    loss_slope,
    preference_loss,
)
from paperkit.likelihood_displacement.pairs import TokenPair, _check_pairs


@dataclass(frozen=True)
class TrainingTrace:
    """What a training run did.

    Attributes
    ----------
    pairs
        DataFrame, one row a step and pair: ``step`` (0 is before training), ``pair``, ``log_chosen``,
        ``log_rejected`` (nats, sums over tokens), ``gain`` (margin minus reference margin).
    tokens
        DataFrame, one row a step: probabilities of the watched tokens as first response token at the first pair's
        prompt; no rows if none are watched.
    model
        The trained model.
    learning_rate
        The rate that was used.
    """

    pairs: pd.DataFrame
    tokens: pd.DataFrame
    model: Any
    learning_rate: float

    def mean(self) -> pd.DataFrame:
        """Means over the pairs, one row a step."""
        return self.pairs.drop(columns="pair").groupby("step").mean()

    def change(self) -> pd.DataFrame:
        """Last minus first step, one row a pair."""
        table = self.pairs.set_index(["step", "pair"])
        last = int(self.pairs["step"].max())
        return pd.DataFrame(table.loc[last] - table.loc[0])

    def largest_drop(self) -> pd.Series:
        """Largest fall of the preferred probability between any two steps, earlier minus later, by pair."""
        log_p = self.pairs.pivot_table(index="step", columns="pair", values="log_chosen")
        p = log_p.apply(np.exp)
        return (p.cummax() - p).max().rename("largest_drop")


def pair_logprobs(
    model: Any, pairs: Sequence[TokenPair], *, batch_size: int | None = None
) -> Tensor:
    """Log-probabilities of chosen and rejected responses, (N, 2), differentiable in the model's parameters."""
    device = next(model.parameters()).device
    if all(len(pair.chosen) == len(pair.rejected) == 1 for pair in pairs):
        return torch.stack([_single_token_logprobs(model, pair, device) for pair in pairs])
    rows = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    size = len(rows) if batch_size is None else 2 * batch_size
    values = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        length = max(len(prompt) + len(response) for prompt, response in part)
        ids = torch.zeros(len(part), length, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for b, (prompt, response) in enumerate(part):
            n = len(prompt) + len(response)
            ids[b, :n] = torch.tensor([*prompt, *response], device=device)
            mask[b, :n] = 1
        prompt_lengths = torch.tensor([len(prompt) for prompt, _ in part], device=device)
        values.append(models.sequence_logprobs(model, ids, prompt_lengths, mask))
    return torch.cat(values).reshape(-1, 2)


def _single_token_logprobs(model: Any, pair: TokenPair, device: Any) -> Tensor:
    """Both answers of a single-token pair from one pass over the prompt, (2,)."""
    hidden = model.base_model(
        input_ids=torch.tensor([list(pair.prompt)], device=device), use_cache=False
    ).last_hidden_state[0, -1]
    log_p = torch.log_softmax(model.get_output_embeddings()(hidden).float(), -1)
    if not torch.isfinite(log_p.detach()).all():
        raise FloatingPointError("the model's logits are not finite")
    return log_p[[pair.chosen[0], pair.rejected[0]]]


def trained_parameters(model: Any, train: str | int) -> list[nn.Parameter]:
    """The parameters that ``train`` names, after making the output head a copy of its own where it is tied.

    ``"all"``; ``"blocks"``, everything between input embeddings and head; ``"head"``; or a number k: the last k blocks.

    Raises
    ------
    ValueError
        Another name, or a number outside 1..number of blocks.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        model.config.tie_word_embeddings = False
    edges = {id(parameter) for module in (head, embedding) for parameter in module.parameters()}
    if train == "all":
        return list(model.parameters())
    if train == "blocks":
        return [parameter for parameter in model.parameters() if id(parameter) not in edges]
    if train == "head":
        return list(head.parameters())
    if isinstance(train, int) and not isinstance(train, bool):
        depth = model.config.num_hidden_layers
        if not 1 <= train <= depth:
            raise ValueError(f"train must be at most the {depth} blocks of the model; got {train}")
        blocks = max(
            (
                m
                for m in model.base_model.modules()
                if isinstance(m, nn.ModuleList) and len(m) == depth
            ),
            key=lambda m: sum(p.numel() for p in m.parameters()),
        )
        return [parameter for block in list(blocks)[-train:] for parameter in block.parameters()]
    raise ValueError(f"train must be 'all', 'blocks', 'head' or a number of blocks; got {train!r}")


def train_preferences(
    model: Any,
    pairs: Sequence[TokenPair],
    *,
    loss: LossKind | str = "dpo",
    beta: float = 0.1,
    delta: float = 1.0,
    sft: float = 0.0,
    n_steps: int,
    batch_size: int | None = None,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    first_step_margin: float = 0.6,
    train: str | int = "blocks",
    watch: Sequence[int] = (),
    record_every: int = 1,
    seed: int = 0,
    in_place: bool = False,
    callback: Callable[[int, Any], Any] | None = None,
) -> TrainingTrace:
    r"""Train a language model on preference pairs.

    Parameters
    ----------
    model
        Any transformers causal language model. It is copied first unless ``in_place``; the reference is the model as
        it comes in.
    pairs
        At least one pair.
    loss
        ``"dpo"``, ``"ipo"``, ``"hinge"``, or ``"cross_entropy"`` (raise the chosen response; the rejected one is
        ignored).
    sft
        Weight :math:`\lambda \ge 0` of an added :math:`-\ln \pi(y^+)`.
    batch_size
        Pairs a step, drawn in shuffled passes; ``None`` takes all pairs at every step.
    optimizer, learning_rate
        ``"sgd"``, ``"rmsprop"`` (the paper's) or ``"adamw"``. For ``"sgd"`` the rate may be left out; then the first
        step raises the mean margin by ``first_step_margin`` nats to first order.
    train
        See :func:`trained_parameters`.
    watch
        Token ids whose probability as first response token is recorded at the first pair's prompt.
    record_every
        Steps between records; the start and the end are always recorded.
    callback
        ``callback(step, model)`` at every record.

    Raises
    ------
    ValueError
        A bad setting, named, before any work.
    FloatingPointError
        A loss that is not finite; the message names the step.
    """
    _check_pairs(model, pairs)
    if loss != "cross_entropy":
        check_loss(loss, beta, delta)
    if not (np.isfinite(sft) and sft >= 0):
        raise ValueError(f"sft must be finite and not negative; got {sft!r}")
    for name, value in (
        ("n_steps", n_steps),
        ("record_every", record_every),
        ("batch_size", batch_size or 1),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if learning_rate is None and optimizer != "sgd":
        raise ValueError(f"optimizer {optimizer!r} needs a learning_rate")
    if not in_place:
        model = copy.deepcopy(model)
    parameters = trained_parameters(model, train)
    moving = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in moving)
    model.eval()
    evaluation_size = 32

    with torch.no_grad():
        reference = pair_logprobs(model, pairs, batch_size=evaluation_size)
    reference_margin = reference[:, 0] - reference[:, 1]

    def objective(rows: Sequence[int]) -> Tensor:
        log_p = pair_logprobs(model, [pairs[i] for i in rows])
        if loss == "cross_entropy":
            return -log_p[:, 0].mean()
        margin = log_p[:, 0] - log_p[:, 1]
        values = preference_loss(margin, reference_margin[list(rows)], loss, beta, delta=delta)  # type: ignore[arg-type]
        return values.mean() - sft * log_p[:, 0].mean()

    if learning_rate is None:
        slope = float(loss_slope(0.0, loss, beta, delta=delta)) if _only_margin(loss, sft) else None  # type: ignore[arg-type]
        learning_rate = _rate_for_margin(
            model, pairs, parameters, objective, first_step_margin, slope
        )

    records: list[pd.DataFrame] = []
    tokens: list[dict[str, float]] = []

    def record(step: int) -> None:
        if step == 0:
            log_p = reference.double()
        else:
            with torch.no_grad():
                log_p = pair_logprobs(model, pairs, batch_size=evaluation_size).double()
        gain = log_p[:, 0] - log_p[:, 1] - reference_margin
        records.append(
            pd.DataFrame(
                {
                    "step": step,
                    "pair": range(len(pairs)),
                    "log_chosen": log_p[:, 0].cpu().numpy(),
                    "log_rejected": log_p[:, 1].cpu().numpy(),
                    "gain": gain.cpu().numpy(),
                }
            )
        )
        if watch:
            p = first_token_probabilities(model, pairs[0].prompt)
            tokens.append({"step": step, **{str(token): float(p[token]) for token in watch}})
        if callback is not None:
            callback(step, model)

    order: list[int] = []

    def step(i: int, generator: torch.Generator) -> Tensor:
        if i % record_every == 0:
            record(i)
        if batch_size is None or batch_size >= len(pairs):
            return objective(range(len(pairs)))
        while len(order) < batch_size:
            order.extend(torch.randperm(len(pairs), generator=generator).tolist())
        rows = order[:batch_size]
        del order[:batch_size]
        return objective(rows)

    models.train(
        step,
        parameters,
        n_steps=n_steps,
        learning_rate=learning_rate,
        schedule="constant",
        optimizer=optimizer,
        clip_norm=None,
        seed=seed,
        every=n_steps,
    )
    record(n_steps)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return TrainingTrace(
        pd.concat(records, ignore_index=True), pd.DataFrame(tokens), model, learning_rate
    )


def _only_margin(loss: str, sft: float) -> bool:
    return loss != "cross_entropy" and sft == 0


def _rate_for_margin(
    model: Any,
    pairs: Sequence[TokenPair],
    parameters: list[nn.Parameter],
    objective: Any,
    wanted: float,
    loss_slope_at_start: float | None,
) -> float:
    """Learning rate at which one descent step raises the mean margin by ``wanted`` nats, to first order.

    A loss of the margin alone has the gradient ``loss_slope_at_start`` times the margin's, one backward pass.
    """
    if not (np.isfinite(wanted) and wanted > 0):
        raise ValueError(f"first_step_margin must be positive and finite; got {wanted!r}")
    everything = range(len(pairs))
    log_p = pair_logprobs(model, pairs)
    ascent = torch.autograd.grad((log_p[:, 0] - log_p[:, 1]).mean(), parameters, allow_unused=True)
    if loss_slope_at_start is None:
        descent = torch.autograd.grad(objective(everything), parameters, allow_unused=True)
    else:
        descent = tuple(None if a is None else loss_slope_at_start * a for a in ascent)
    slope = sum(
        -float((d.double() * a.double()).sum())
        for d, a in zip(descent, ascent, strict=True)
        if d is not None and a is not None
    )
    if slope <= 0:
        raise ValueError(
            "a first step on this loss does not raise the mean margin: give a learning_rate"
        )
    return wanted / slope


def first_token_probabilities(model: Any, prompt: Sequence[int]) -> np.ndarray:
    """Probability of every token as the first one of the response, (V,) float64."""
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(prompt)], device=device)).logits[0, -1]
    return torch.softmax(logits.double(), -1).cpu().numpy()
