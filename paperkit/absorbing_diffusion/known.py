"""Languages whose answers are known: a table of all sequences, and a Markov chain.

Both give the exact conditional law of every clean token given the visible ones, ``p_0(v | x)``,
which is what a network is trained to find. A mask is id V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["MarkovLanguage", "TableModel", "TabularJoint", "total_variation"]

STATES = 200_000  # largest number of states that is enumerated
PATHS = 5_000_000  # largest number of transitions of one step


class TableModel:
    """A model that is a table: logits for every state and position.

    Such a model need not be consistent, which makes it a good test of statements that hold for
    every model.

    Parameters
    ----------
    logits : Tensor
        ``[(V + 1)^d, d, V]``; the states are numbers in base V + 1, first position first.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        if logits.ndim != 3:
            raise ValueError(f"logits must be [states, length, V], got {tuple(logits.shape)}")
        states, d, V = logits.shape
        if states != (V + 1) ** d:
            raise ValueError(f"need (V + 1)^d = {(V + 1) ** d} states, got {states}")
        self.logits, self.length, self.vocab_size = logits, d, V

    @classmethod
    def random(cls, vocab_size: int, length: int, seed: int, *, scale: float = 1.0) -> TableModel:
        """Return a table of normal logits in float64 with the given scale."""
        generator = torch.Generator().manual_seed(seed)
        shape = ((vocab_size + 1) ** length, length, vocab_size)
        return cls(scale * torch.randn(shape, generator=generator, dtype=torch.float64))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, length, V]`` of tokens ``[batch, length]``."""
        if x.ndim != 2 or x.shape[1] != self.length:
            raise ValueError(f"tokens must be [batch, {self.length}], got {tuple(x.shape)}")
        return self.logits[_index(x, self.vocab_size)]


def _index(x: torch.Tensor, V: int) -> torch.Tensor:
    powers = (V + 1) ** torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
    return (x * powers).sum(1)


def _states(d: int, base: int) -> np.ndarray:
    """All sequences of d digits, ``[base^d, d]``, last position fastest."""
    return np.stack(np.unravel_index(np.arange(base**d), (base,) * d), axis=1)


class TabularJoint:
    """A law over all sequences of d tokens, as a table.

    Parameters
    ----------
    probs : array-like
        ``[V, V, ..., V]`` with d axes, not negative, sum 1.

    Raises
    ------
    ValueError
        If an entry is negative or not finite, the sum is not 1, axes differ, or ``(V + 1)^d``
        exceeds 200,000.

    Notes
    -----
    Where the visible tokens have probability zero, the conditional law is not defined; it is taken
    as uniform.
    """

    def __init__(self, probs: Any) -> None:
        p = np.asarray(probs, dtype=np.float64)
        if p.ndim < 1 or len(set(p.shape)) != 1:
            raise ValueError(f"probs must have d axes of equal length, got shape {p.shape}")
        self.vocab_size, self.length = p.shape[0], p.ndim
        if (self.vocab_size + 1) ** self.length > STATES:
            raise ValueError(
                f"(V + 1)^d = {(self.vocab_size + 1) ** self.length:,} states; at most {STATES:,}"
                " are enumerated"
            )
        if not np.isfinite(p).all() or (p < 0).any():
            raise ValueError("probs must be finite and not negative")
        if abs(p.sum() - 1) > 1e-9:
            raise ValueError(f"probs must sum to 1, got {p.sum()!r}")
        self.probs = p / p.sum()
        marginal = self.probs
        for axis in range(self.length):  # index V on an axis: that token is summed out
            total = marginal.sum(axis=axis, keepdims=True)
            marginal = np.concatenate((marginal, total), axis=axis)
        self.visible_probability = marginal

    @classmethod
    def random(
        cls, vocab_size: int, length: int, rng: np.random.Generator, *, concentration: float = 0.5
    ) -> TabularJoint:
        """Draw a law from a symmetric Dirichlet distribution."""
        flat = rng.dirichlet(np.full(vocab_size**length, concentration))
        return cls(flat.reshape((vocab_size,) * length))

    def states(self) -> np.ndarray:
        """Return all noisy sequences, int64 ``[(V + 1)^d, d]``, last position fastest."""
        return _states(self.length, self.vocab_size + 1)

    def sequences(self) -> np.ndarray:
        """Return all clean sequences, int64 ``[V^d, d]``, last position fastest."""
        return _states(self.length, self.vocab_size)

    def conditional(self, x: Any) -> np.ndarray:
        """Return ``p_0(x_i = v | visible tokens)``, ``[batch, length, V]``.

        Parameters
        ----------
        x : array-like of int
            ``[batch, length]`` with ids 0..V. At a visible position all mass is on its token.
        """
        x = np.asarray(x)
        V, d = self.vocab_size, self.length
        if x.ndim != 2 or x.shape[1] != d or x.dtype.kind not in "iu":
            raise TypeError(f"x must be integers [batch, {d}], got {x.dtype} {x.shape}")
        if x.size and (x.min() < 0 or x.max() > V):
            raise ValueError(f"ids must lie in 0..{V}")
        c = np.empty((len(x), d, V))
        for i in range(d):
            for v in range(V):
                filled = x.copy()
                filled[:, i] = v
                c[:, i, v] = self.visible_probability[tuple(filled.T)]
            visible = x[:, i] < V
            c[visible, i] = np.eye(V)[x[visible, i]]
        total = c.sum(-1, keepdims=True)
        return np.where(total > 0, c / np.where(total > 0, total, 1.0), 1.0 / V)

    def noisy_marginal(self, sigma_bar: float) -> np.ndarray:
        """Return the law of the noisy sequence at a total noise, from the kernel.

        Parameters
        ----------
        sigma_bar : float
            Not negative.

        Returns
        -------
        numpy.ndarray
            ``[V + 1, ..., V + 1]`` with d axes.
        """
        if not sigma_bar >= 0:
            raise ValueError(f"sigma_bar must not be negative, got {sigma_bar!r}")
        V = self.vocab_size
        kernel = np.zeros((V, V + 1))  # a token stays, or becomes the mask
        kernel[:, :V] = np.exp(-sigma_bar) * np.eye(V)
        kernel[:, V] = -np.expm1(-sigma_bar)
        return self.through_kernel(kernel)

    def through_kernel(self, kernel: np.ndarray) -> np.ndarray:
        """Return the law after every token went through a kernel ``[V, W]`` on its own."""
        law = self.probs
        for axis in range(self.length):
            law = np.moveaxis(np.tensordot(law, kernel, axes=(axis, 0)), -1, axis)
        return law

    def log_prob(self, x: Any) -> np.ndarray:
        """Return ``log p_0(x)`` of clean sequences ``[batch, length]``; minus infinity where 0."""
        x = np.asarray(x)
        with np.errstate(divide="ignore"):
            return np.log(self.probs[tuple(x.T)])

    def as_model(self) -> TableModel:
        """Return the exact conditional law as a model."""
        with np.errstate(divide="ignore"):
            log_c = np.log(self.conditional(self.states()))
        return TableModel(torch.from_numpy(log_c))

    def permuted(self, order: Sequence[int]) -> TabularJoint:
        """Return the law of the sequence with its positions in another order."""
        return TabularJoint(np.transpose(self.probs, order))

    def sampler_law(
        self,
        unmask_probs: Any,
        model: Callable[[torch.Tensor], torch.Tensor] | None = None,
        prompt: Any = None,
    ) -> np.ndarray:
        """Return the exact law of what a sampler with N steps produces.

        Parameters
        ----------
        unmask_probs : array-like
            float ``[N]``: probability that a masked token is revealed in each step, the last 1.
        model : callable, optional
            Gives the logits; by default the exact conditional law.
        prompt : array-like of int, optional
            ``[length]`` with the mask where a token is free; by default all are.

        Returns
        -------
        numpy.ndarray
            ``[V, ..., V]`` with d axes.
        """
        rho = np.asarray(unmask_probs, dtype=np.float64)
        if rho.ndim != 1 or not len(rho) or (rho < 0).any() or (rho > 1).any() or rho[-1] != 1:
            raise ValueError("unmask_probs must be probabilities and end with 1")
        origin, target, product, revealed, kept = self._transitions(model)
        law = np.zeros((self.vocab_size + 1) ** self.length)
        start = np.full(self.length, self.vocab_size) if prompt is None else np.asarray(prompt)
        shape = (self.vocab_size + 1,) * self.length
        law[np.ravel_multi_index(tuple(start), shape)] = 1.0
        size = np.arange(self.length + 1)
        for r in rho:
            weight = product * (r**size)[revealed] * ((1 - r) ** size)[kept]
            law = np.bincount(target, law[origin] * weight, minlength=len(law))
        return law.reshape(shape)[(slice(self.vocab_size),) * self.length]

    def ordered_law(
        self,
        order: Sequence[int],
        model: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> np.ndarray:
        """Return the exact law of revealing one position after the other in a given order."""
        V, d = self.vocab_size, self.length
        if sorted(order) != list(range(d)):
            raise ValueError(f"order must hold 0..{d - 1} once each, got {list(order)}")
        x = self.sequences()
        law = np.ones(len(x))
        seen = np.full_like(x, V)
        for i in order:
            c = self._law_of(seen, model)
            law *= c[np.arange(len(x)), i, x[:, i]]
            seen[:, i] = x[:, i]
        return law.reshape((V,) * d)

    def _law_of(self, x: np.ndarray, model: Any) -> np.ndarray:
        if model is None:
            return self.conditional(x)
        return model(torch.from_numpy(x)).double().softmax(-1).numpy()

    def _transitions(self, model: Any) -> tuple[np.ndarray, ...]:
        """Every (state, next state) of a step with the product of c over what is revealed."""
        V, d = self.vocab_size, self.length
        if (2 * V + 1) ** d > PATHS:
            raise ValueError(f"(2V + 1)^d = {(2 * V + 1) ** d:,} transitions; at most {PATHS:,}")
        states = self.states()
        c = self._law_of(states, model)
        origin = np.arange(len(states))
        target = np.zeros(len(states), dtype=np.int64)
        product = np.ones(len(states))
        revealed = np.zeros(len(states), dtype=np.int64)
        kept = np.zeros(len(states), dtype=np.int64)
        for i in range(d):
            free = states[origin, i] == V
            fixed = ~free
            parts = [
                (
                    origin[fixed],
                    target[fixed] * (V + 1) + states[origin[fixed], i],
                    product[fixed],
                    revealed[fixed],
                    kept[fixed],
                ),
                (
                    origin[free],
                    target[free] * (V + 1) + V,
                    product[free],
                    revealed[free],
                    kept[free] + 1,
                ),
            ]
            for v in range(V):
                parts.append(
                    (
                        origin[free],
                        target[free] * (V + 1) + v,
                        product[free] * c[origin[free], i, v],
                        revealed[free] + 1,
                        kept[free],
                    )
                )
            origin, target, product, revealed, kept = (
                np.concatenate(column) for column in zip(*parts, strict=True)
            )
        return origin, target, product, revealed, kept


def total_variation(p: Any, q: Any) -> float:
    """Return half the sum of absolute differences of two laws."""
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)


class MarkovLanguage:
    """A first-order Markov chain as a language with exact conditional laws.

    It is a model too: called with masked tokens it returns the exact log conditional laws, by
    forward and backward messages in float64, ``O(d V^2)`` a sequence.

    Parameters
    ----------
    initial : array-like
        ``[V]``, law of the first token.
    transition : array-like
        ``[V, V]``, rows are laws of the next token.

    Raises
    ------
    ValueError
        If they are not laws or do not fit.
    """

    def __init__(self, initial: Any, transition: Any) -> None:
        first = torch.as_tensor(np.asarray(initial, dtype=np.float64))
        step = torch.as_tensor(np.asarray(transition, dtype=np.float64))
        V = len(first)
        if first.ndim != 1 or step.shape != (V, V):
            raise ValueError(f"need shapes [V] and [V, V], got {first.shape} and {step.shape}")
        for name, law in (("initial", first), ("transition", step)):
            if (law < 0).any() or (law.sum(-1) - 1).abs().max() > 1e-9:
                raise ValueError(f"{name} must hold laws: not negative, sum 1")
        self.initial, self.transition, self.vocab_size = first, step, V

    @classmethod
    def example(cls, vocab_size: int = 8, *, concentration: float = 0.3) -> MarkovLanguage:
        """Return the chain of this chapter: 8 tokens, rows from a Dirichlet law with .3."""
        rng = np.random.default_rng(1)
        rows = rng.dirichlet(np.full(vocab_size, concentration), size=vocab_size)
        return cls(rng.dirichlet(np.ones(vocab_size)), rows)

    def sample(
        self, n: int, length: int, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Draw sequences, int64 ``[n, length]``."""
        if n < 1 or length < 1:
            raise ValueError(f"n and length must be positive, got {n} and {length}")
        x = torch.empty((n, length), dtype=torch.int64)
        x[:, 0] = torch.multinomial(self.initial, n, replacement=True, generator=generator)
        for i in range(1, length):
            rows = self.transition[x[:, i - 1]]
            x[:, i] = torch.multinomial(rows, 1, generator=generator)[:, 0]
        return x

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``log p(x)`` of clean sequences ``[batch, length]``, float64 ``[batch]``."""
        return self.initial.log()[x[:, 0]] + self.transition.log()[x[:, :-1], x[:, 1:]].sum(1)

    def entropy_rate(self, length: int) -> float:
        """Return the exact entropy of sequences of this length, nats per token."""
        if length < 1:
            raise ValueError(f"length must be positive, got {length}")
        law = self.initial
        rows = torch.special.entr(self.transition).sum(1)
        total = torch.special.entr(law).sum()
        for _ in range(length - 1):
            total = total + law @ rows
            law = law @ self.transition
        return float(total / length)

    def conditional(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``p(x_i = v | visible tokens)``, float64 ``[batch, length, V]``.

        Parameters
        ----------
        x : Tensor
            int64 ``[batch, length]`` with ids 0..V, where V is the mask.
        """
        if x.ndim != 2 or x.is_floating_point():
            raise TypeError(f"tokens must be integers [batch, length], got {x.dtype}")
        V, (B, d) = self.vocab_size, x.shape
        if int(x.min()) < 0 or int(x.max()) > V:
            raise ValueError(f"ids must lie in 0..{V}")
        # a visible token allows itself, a mask allows everything
        allowed = torch.cat((torch.eye(V), torch.ones(1, V))).double()[x]  # (B, d, V)
        before = torch.empty(B, d, V, dtype=torch.float64)
        after = torch.ones(B, d, V, dtype=torch.float64)
        before[:, 0] = self.initial
        for i in range(1, d):
            message = (before[:, i - 1] * allowed[:, i - 1]) @ self.transition
            before[:, i] = message / message.sum(1, keepdim=True).clamp_min(1e-300)
        for i in range(d - 2, -1, -1):
            message = (after[:, i + 1] * allowed[:, i + 1]) @ self.transition.T
            after[:, i] = message / message.sum(1, keepdim=True).clamp_min(1e-300)
        joint = before * allowed * after
        total = joint.sum(-1, keepdim=True)
        return torch.where(total > 0, joint / total.clamp_min(1e-300), 1.0 / V)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log conditional laws, float64 ``[batch, length, V]``."""
        return self.conditional(x).log()
