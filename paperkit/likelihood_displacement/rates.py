r"""The exact displacement at the first step of training, without taking it.

Gradient flow on a pair's margin moves the preferred log-probability at the rate

.. math:: \frac{d}{ds} \ln \pi(y^+) = |G^+|^2 - \langle G^+, G^- \rangle ,
   \qquad G^\pm = \nabla_\theta \ln \pi(y^\pm | x).

It is negative exactly if the first step displaces. A gradient of a linear map summed over positions,
:math:`\sum_t \delta_t x_t^\top`, has inner products that need no gradient matrix:
:math:`\sum_{t,t'} \langle x_t, x'_{t'} \rangle \langle \delta_t, \delta'_{t'} \rangle`. So one batched backward pass,
without weight gradients, gives all inner products of a batch, split by layer.

Derived here (the paper trains and looks); the inner-product identity is the one used for per-sample gradient norms
(Goodfellow 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from paperkit.likelihood_displacement.pairs import TokenPair, _check_pairs

GROUPS: tuple[str, ...] = ("head", "blocks", "embedding")


class _GradientRecorder:
    """Collects what the gradient Gram matrix of a batch needs while a model runs forwards and backwards."""

    def __init__(self, base: nn.Module, embedding: nn.Module) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.deltas: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self.handles: list[Any] = []
        self.embedding = embedding
        for name, module in base.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if not own or module is embedding:
                continue
            linear = isinstance(module, (nn.Linear, Conv1D))
            norm = not linear and set(own) <= {"weight", "bias"} and own["weight"].ndim == 1
            if not linear and not norm:
                if isinstance(module, nn.Embedding):
                    continue  # learned positions: held fixed, like the input embeddings of other groups
                raise ValueError(
                    f"cannot split gradients at {name} ({type(module).__name__}): only linear maps, "
                    "normalisations and embeddings are known"
                )
            self.modules[name] = module
            self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs[name] = args[0].detach()
            output.register_hook(lambda grad: self.deltas.__setitem__(name, grad.detach()))

        return hook

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def gram(self) -> Tensor:
        """Inner products (B, B) of the rows' gradients with respect to every recorded parameter, float64."""
        total: Tensor | None = None
        for name, module in self.modules.items():
            x, delta = self.inputs[name], self.deltas[name]  # (B, L, in), (B, L, out)
            if isinstance(module, (nn.Linear, Conv1D)):
                part = _linear_gram(x, delta)
                if module.bias is not None:
                    part = part + _gram(delta.sum(1))
            else:
                weight = module.weight
                plain: dict[str, Tensor] = {"weight": torch.ones_like(weight)}
                has_bias = getattr(module, "bias", None) is not None
                if has_bias:
                    plain["bias"] = torch.zeros_like(weight)
                with torch.no_grad():
                    unit = functional_call(module, plain, (x,))
                part = _gram((unit * delta).sum(1))
                if has_bias:
                    part = part + _gram(delta.sum(1))
            total = part if total is None else total + part
        assert total is not None
        return total


def _gram(rows: Tensor) -> Tensor:
    flat = rows.reshape(len(rows), -1).double()
    return flat @ flat.T


def _linear_gram(x: Tensor, delta: Tensor) -> Tensor:
    """Inner products of ``sum_t delta_t x_t^T`` between the rows of a batch, (B, B) float64."""
    B, L = x.shape[:2]
    inner_x = x.reshape(B * L, -1) @ x.reshape(B * L, -1).T
    inner_delta = delta.reshape(B * L, -1) @ delta.reshape(B * L, -1).T
    return (inner_x.double() * inner_delta.double()).reshape(B, L, B, L).sum((1, 3))


def _gradient_grams(
    model: Any, input_ids: Tensor, attention_mask: Tensor, objective: Any
) -> dict[str, Tensor]:
    """Gradient inner products of ``objective(hidden) -> (B,)`` over the rows of a batch, by parameter group.

    ``objective`` returns the objectives and, for the head, its inputs (B, L, d) and logit gradients (B, L, V).
    """
    base, embedding = model.base_model, model.get_input_embeddings()
    recorder = _GradientRecorder(base, embedding)
    training = model.training
    model.eval()
    try:
        inputs = embedding(input_ids).detach().requires_grad_(True)
        with torch.enable_grad():
            hidden = base(
                inputs_embeds=inputs, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
            values, head = objective(hidden)
            (input_grad,) = torch.autograd.grad(values.sum(), inputs)
    finally:
        recorder.close()
        model.train(training)
    B, L = input_ids.shape
    same = (input_ids.reshape(-1, 1) == input_ids.reshape(1, -1)).double()
    flat = input_grad.reshape(B * L, -1)
    embed = ((flat @ flat.T).double() * same).reshape(B, L, B, L).sum((1, 3))
    return {"blocks": recorder.gram(), "embedding": embed, "head": _linear_gram(*head)}


def displacement_rates(
    model: Any, pairs: Sequence[TokenPair], *, groups: Sequence[str] = ("head", "blocks")
) -> pd.DataFrame:
    """First-order displacement of each pair, exactly, split by parameter group.

    Parameters
    ----------
    model
        A transformers causal language model with a linear output head. Tied input and output embeddings are treated as
        two separate copies.
    groups
        The groups that would be trained, out of ``"head"`` (unembeddings), ``"blocks"`` (everything between the
        embeddings) and ``"embedding"`` (input embeddings).

    Returns
    -------
    DataFrame, one row a pair: ``gpp``, ``gpm``, ``gmm`` (inner products of the gradients of the two log-probabilities
    over the groups), ``rate_<group>``, ``rate`` (their sum, per unit of rescaled time) and ``relative``
    = 1 - gpm / gpp.

    Raises
    ------
    ValueError
        No pairs, an unknown group, or a layer whose gradients cannot be split.
    """
    _check_groups(groups)
    _check_pairs(model, pairs)
    head_weight = model.get_output_embeddings().weight
    device = head_weight.device
    rows = []
    for pair in pairs:
        sides = (pair.chosen, pair.rejected)
        lengths = [len(pair.prompt) + len(side) - 1 for side in sides]  # the last token is not fed
        ids = torch.zeros(2, max(lengths), dtype=torch.long, device=device)
        attention = torch.zeros_like(ids)
        for b, side in enumerate(sides):
            ids[b, : lengths[b]] = torch.tensor([*pair.prompt, *side[:-1]], device=device)
            attention[b, : lengths[b]] = 1
        first = len(pair.prompt) - 1

        def objective(
            hidden: Tensor, pair: TokenPair = pair, first: int = first
        ) -> tuple[Tensor, Any]:
            values, xs, deltas = [], [], []
            longest = max(len(pair.chosen), len(pair.rejected))
            for b, side in enumerate((pair.chosen, pair.rejected)):
                h = hidden[b, first : first + len(side)]  # (n, d)
                log_p = torch.log_softmax(h @ head_weight.detach().T, dim=-1)
                target = torch.tensor(side, device=h.device)
                values.append(log_p[torch.arange(len(side)), target].sum())
                residual = -log_p.detach().exp()
                residual[torch.arange(len(side)), target] += 1
                padding = (0, 0, 0, longest - len(side))
                xs.append(nn.functional.pad(h.detach(), padding))
                deltas.append(nn.functional.pad(residual, padding))
            return torch.stack(values), (torch.stack(xs), torch.stack(deltas))

        grams = _gradient_grams(model, ids, attention, objective)
        row: dict[str, float] = {}
        total = torch.zeros(2, 2, dtype=torch.float64)
        for group in groups:
            gram = grams[group].cpu()
            total += gram
            row[f"rate_{group}"] = float(gram[0, 0] - gram[0, 1])
        row |= {"gpp": float(total[0, 0]), "gpm": float(total[0, 1]), "gmm": float(total[1, 1])}
        row["rate"] = row["gpp"] - row["gpm"]
        row["relative"] = row["rate"] / row["gpp"]
        rows.append(row)
    return pd.DataFrame(rows)


def _check_groups(groups: Sequence[str]) -> None:
    unknown = [group for group in groups if group not in GROUPS]
    if not groups or unknown:
        raise ValueError(f"groups must be some of {', '.join(GROUPS)}; got {list(groups)}")


def token_rates(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> dict[str, np.ndarray]:
    r"""Rates of single-token preferences at one prompt, for every ordered pair out of M answer tokens.

    With :math:`K_{zz'} = \langle \nabla \langle W_z, h \rangle, \nabla \langle W_{z'}, h \rangle \rangle` over the
    blocks' parameters and :math:`\bar W = \sum_z p_z W_z` over the whole vocabulary,

    .. math:: \frac{d \ln p_c}{ds} = K_{ca} - K_{cb} - K_{\bar W a} + K_{\bar W b}
       \quad \text{(blocks)}, \qquad |h|^2 ([c=a] - [c=b] - (p_a - p_b)) \quad \text{(head)}.

    Parameters
    ----------
    prompt
        Token ids; the answer is the next token.
    tokens
        M different token ids.

    Returns
    -------
    dict with ``blocks`` and ``head`` (M, M, M): entry ``[a, b, c]`` is the rate of token c's log-probability when a is
    preferred to b (0 where a = b); ``probabilities`` (M,); ``hidden`` (d,), the final state.

    Raises
    ------
    ValueError
        An empty prompt, fewer than two tokens, repeated tokens or ids outside the vocabulary.
    """
    tokens = [int(token) for token in tokens]
    head_weight = model.get_output_embeddings().weight.detach()
    if len(prompt) == 0:
        raise ValueError("prompt is empty")
    if len(tokens) < 2 or len(set(tokens)) != len(tokens):
        raise ValueError(f"tokens must be at least two different ids; got {tokens}")
    if not all(0 <= token < len(head_weight) for token in (*tokens, *prompt)):
        raise ValueError(f"a token id lies outside the vocabulary of {len(head_weight)}")
    M, device = len(tokens), head_weight.device
    ids = torch.tensor([list(prompt)] * (M + 1), device=device)
    kept: dict[str, Tensor] = {}

    def objective(hidden: Tensor) -> tuple[Tensor, Any]:
        h = hidden[:, -1]  # (M + 1, d), equal rows
        p = torch.softmax(h[0].detach() @ head_weight.T, dim=-1)
        directions = torch.cat([head_weight[tokens], (p @ head_weight)[None]])
        kept["h"], kept["p"] = h[0].detach(), p[tokens]
        values = (directions * h).sum(1)
        empty = torch.zeros(M + 1, 1, 1, device=device)
        return values, (empty, empty)

    K = _gradient_grams(model, ids, torch.ones_like(ids), objective)["blocks"].cpu().numpy()
    p, h = kept["p"].double().cpu().numpy(), kept["h"].double().cpu().numpy()
    centred = K[:M, :M] - K[M, :M]  # [c, z] = K_cz - K_bar,z
    blocks = centred.T[:, None, :] - centred.T[None, :, :]  # [a, b, c]
    eye = np.eye(M)
    indicator = eye[:, None, :] - eye[None, :, :]
    head = (h @ h) * (indicator - (p[:, None] - p[None, :])[:, :, None])
    return {"blocks": blocks, "head": head, "probabilities": p, "hidden": h}
