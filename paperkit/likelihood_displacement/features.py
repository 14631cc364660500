r"""The model that can be solved: a softmax over free features.

``UnconstrainedFeatures`` is a language model reduced to one position: logits :math:`W h`, with the unembedding rows
:math:`W_z` and the hidden vector :math:`h` as the only parameters. One preference pair of single tokens,
:math:`y^+ = a`, :math:`y^- = b`, has the margin :math:`u = \langle W_a - W_b, h \rangle`. Gradient flow on any loss
:math:`\ell(u)` moves along :math:`\nabla u`; with the rescaled time :math:`ds = -\ell'(u) dt` the curve
:math:`\theta(s)` is the same for every loss. Per unit of :math:`s`, for every token :math:`z`,

.. math:: \frac{d}{ds} \ln p_z = \langle W_z - \bar W, D \rangle + |h|^2 ([z=a] - [z=b] - (p_a - p_b)),
   \qquad D = W_a - W_b, \quad \bar W = \sum_z p_z W_z .

``MultiTokenFeatures`` is the same for responses of several tokens: one free vector a prefix.

Source: Razin et al. 2025, Theorems 1 to 3. The closed form of the flow, the split by trained parameters and the
multi-token formula with its coefficients are derived here and checked against automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import log_softmax, softmax

from paperkit.likelihood_displacement.losses import LossKind, check_loss, loss_slope

Train = Literal["both", "head", "hidden"]


def _check_train(train: str) -> None:
    if train not in ("both", "head", "hidden"):
        raise ValueError(f"train must be 'both', 'head' or 'hidden'; got {train!r}")


@dataclass(frozen=True)
class UnconstrainedFeatures:
    """A softmax model with free unembeddings and one free hidden vector.

    Parameters
    ----------
    W : array (V, d)
        Unembedding rows, one a token.
    h : array (d,)
        The hidden vector of the prompt.

    Raises
    ------
    ValueError
        Shapes that do not fit, fewer than three tokens, values that are not finite.
    """

    W: np.ndarray
    h: np.ndarray

    def __post_init__(self) -> None:
        W, h = np.array(self.W, dtype=float), np.array(self.h, dtype=float)
        if W.ndim != 2 or h.ndim != 1 or W.shape[1] != h.shape[0]:
            raise ValueError(f"W must be (V, d) and h (d,); got {W.shape} and {h.shape}")
        if W.shape[0] < 3:
            raise ValueError(
                f"W needs at least three rows (two preferences and another token); got {W.shape[0]}"
            )
        if not (np.isfinite(W).all() and np.isfinite(h).all()):
            raise ValueError("W and h must be finite")
        object.__setattr__(self, "W", W)
        object.__setattr__(self, "h", h)

    def _check_pair(self, a: int, b: int) -> None:
        for name, token in (("a", a), ("b", b)):
            if not 0 <= token < len(self.W):
                raise ValueError(f"{name} must be a token in 0..{len(self.W) - 1}; got {token}")
        if a == b:
            raise ValueError(f"the preferred and the dispreferred token are the same: {a}")

    def log_probs(self) -> np.ndarray:
        """Log-probabilities of all tokens, (V,)."""
        return log_softmax(self.W @ self.h)

    def rescaled(self, c: float) -> UnconstrainedFeatures:
        """The same probabilities from ``c W`` and ``h / c``: same policy, other geometry (c > 0)."""
        if not (np.isfinite(c) and c > 0):
            raise ValueError(f"c must be positive and finite; got {c!r}")
        return UnconstrainedFeatures(c * self.W, self.h / c)

    def rates(self, a: int, b: int, *, train: Train = "both") -> np.ndarray:
        r""":math:`d \ln p_z / ds` at :math:`s = 0` for every token, (V,), per unit of rescaled time.

        ``train`` says which parameters move: ``"both"``, only the unembeddings (``"head"``) or only ``h``
        (``"hidden"``).
        """
        self._check_pair(a, b)
        _check_train(train)
        p = np.exp(self.log_probs())
        rate = np.zeros(len(p))
        if train != "head":
            rate += (self.W - p @ self.W) @ (self.W[a] - self.W[b])
        if train != "hidden":
            indicator = np.zeros(len(p))
            indicator[a], indicator[b] = 1.0, -1.0
            rate += (self.h @ self.h) * (indicator - (p[a] - p[b]))
        return rate

    def theorem1_terms(self, a: int, b: int) -> dict[str, float]:
        r"""The three terms of Theorem 1, whose sum is ``rates(a, b)[a]``.

        ``norms`` is never negative; ``alignment`` :math:`= -(1 - p_a + p_b) \langle W_a, W_b \rangle`; ``others``
        :math:`= -\sum_{z \ne a, b} p_z \langle W_z, W_a - W_b \rangle`.
        """
        self._check_pair(a, b)
        p = np.exp(self.log_probs())
        gap = 1.0 - p[a] + p[b]
        rest = np.ones(len(p), dtype=bool)
        rest[[a, b]] = False
        Wa, Wb = self.W[a], self.W[b]
        return {
            "norms": float((1 - p[a]) * Wa @ Wa + p[b] * Wb @ Wb + gap * self.h @ self.h),
            "alignment": float(-gap * Wa @ Wb),
            "others": float(-(p[rest] @ (self.W[rest] @ (Wa - Wb)))),
        }

    def flow(
        self, a: int, b: int, s: np.ndarray | Sequence[float], *, train: Train = "both"
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Gradient flow in closed form at the rescaled times ``s`` (S,): ``W`` (S, V, d) and ``h`` (S, d).

        With both trained, :math:`h(s) = h_0 \cosh rs + D_0 \sinh(rs)/r` and
        :math:`D(s) = D_0 \cosh rs + r h_0 \sinh rs`, :math:`r = \sqrt 2`; :math:`W_a + W_b` and
        :math:`|D|^2 - 2|h|^2` are conserved.

        Raises
        ------
        ValueError
            As :meth:`rates`; or an ``s`` that is negative or not finite.
        """
        self._check_pair(a, b)
        _check_train(train)
        s = np.atleast_1d(np.asarray(s, dtype=float))[:, None]  # (S, 1)
        if not (np.isfinite(s).all() and (s >= 0).all()):
            raise ValueError("s must be finite and not negative")
        Wa, Wb, h0 = self.W[a], self.W[b], self.h
        D0 = Wa - Wb
        W = np.repeat(self.W[None], len(s), axis=0)  # (S, V, d)
        if train == "hidden":
            return W, h0 + s * D0
        if train == "head":
            W[:, a], W[:, b] = Wa + s * h0, Wb - s * h0
            return W, np.repeat(h0[None], len(s), axis=0)
        r = np.sqrt(2.0)
        h = h0 * np.cosh(r * s) + D0 * np.sinh(r * s) / r
        D = D0 * np.cosh(r * s) + r * h0 * np.sinh(r * s)
        W[:, a], W[:, b] = (Wa + Wb + D) / 2, (Wa + Wb - D) / 2
        return W, h

    def path(
        self, a: int, b: int, s: np.ndarray | Sequence[float], *, train: Train = "both"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (S, V) and margin (S,) along :meth:`flow`."""
        W, h = self.flow(a, b, s, train=train)
        log_p = log_softmax(np.einsum("svd,sd->sv", W, h), axis=1)
        return log_p, log_p[:, a] - log_p[:, b]

    def train_in_time(
        self,
        a: int,
        b: int,
        t: np.ndarray | Sequence[float],
        *,
        loss: LossKind = "dpo",
        beta: float = 0.1,
        delta: float = 1.0,
        sft: float = 0.0,
        train: Train = "both",
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Gradient flow in ordinary time on :math:`\ell(u) - \lambda \ln p_a`, by an adaptive solver.

        Parameters
        ----------
        t : array (T,)
            Increasing times, the first one 0.
        loss, beta, delta
            As in :func:`~paperkit.likelihood_displacement.losses.preference_loss`.
        sft
            :math:`\lambda \ge 0`, the weight of the added cross-entropy term.

        Returns
        -------
        Log-probabilities (T, V) and margin (T,).
        """
        self._check_pair(a, b)
        _check_train(train)
        check_loss(loss, beta, delta)
        t = np.asarray(t, dtype=float)
        if t.ndim != 1 or len(t) < 2 or t[0] != 0 or not (np.diff(t) > 0).all():
            raise ValueError("t must be increasing, start at 0 and hold at least two times")
        if not (np.isfinite(sft) and sft >= 0):
            raise ValueError(f"sft must be finite and not negative; got {sft!r}")
        V, d = self.W.shape
        reference = float((self.W[a] - self.W[b]) @ self.h)
        move_W, move_h = train != "hidden", train != "head"

        def velocity(_: float, state: np.ndarray) -> np.ndarray:
            W, h = state[: V * d].reshape(V, d), state[V * d :]
            D = W[a] - W[b]
            speed = -float(loss_slope(D @ h - reference, loss, beta, delta=delta))
            residual = -sft * softmax(W @ h)  # d(loss)/d(logits), with the sign of a descent step
            residual[a] += sft + speed
            residual[b] -= speed
            dW = np.outer(residual, h) if move_W else np.zeros_like(W)
            dh = residual @ W if move_h else np.zeros_like(h)
            return np.concatenate([dW.ravel(), dh])

        start = np.concatenate([self.W.ravel(), self.h])
        solution = solve_ivp(
            velocity, (0.0, t[-1]), start, t_eval=t, method="DOP853", rtol=1e-11, atol=1e-13
        )
        if not solution.success:
            raise FloatingPointError(f"the flow could not be integrated: {solution.message}")
        states = solution.y.T
        W, h = states[:, : V * d].reshape(-1, V, d), states[:, V * d :]
        log_p = log_softmax(np.einsum("tvd,td->tv", W, h), axis=1)
        return log_p, log_p[:, a] - log_p[:, b]


@dataclass(frozen=True)
class MultiTokenFeatures:
    """Free unembeddings ``W`` (V, d) and one free vector (d,) for every prefix of the responses.

    ``hidden`` maps a prefix, a tuple of token ids (the empty tuple is the prompt alone), to its vector.
    """

    W: np.ndarray
    hidden: Mapping[tuple[int, ...], np.ndarray]

    def _states(self, response: Sequence[int], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Hidden vectors (n, d) and residuals ``onehot - softmax`` (n, V) where ``response`` is predicted."""
        response = tuple(int(token) for token in response)
        if not response:
            raise ValueError(f"{name} is empty")
        if not all(0 <= token < len(self.W) for token in response):
            raise ValueError(f"{name} holds a token outside 0..{len(self.W) - 1}: {response}")
        prefixes = [response[:k] for k in range(len(response))]
        missing = [prefix for prefix in prefixes if prefix not in self.hidden]
        if missing:
            raise ValueError(f"hidden has no vector for the prefix {missing[0]} of {name}")
        h = np.array([self.hidden[prefix] for prefix in prefixes], dtype=float)
        if h.shape[1] != self.W.shape[1]:
            raise ValueError(
                f"hidden vectors have {h.shape[1]} entries, W has {self.W.shape[1]} columns"
            )
        return h, np.eye(len(self.W))[list(response)] - softmax(h @ self.W.T, axis=1)

    def log_prob(self, response: Sequence[int]) -> float:
        """Sum of the log-probabilities of the response's tokens, in nats."""
        h, _ = self._states(response, "response")
        return float(log_softmax(h @ self.W.T, axis=1)[np.arange(len(h)), list(response)].sum())

    def rate(self, chosen: Sequence[int], rejected: Sequence[int]) -> dict[str, float]:
        r""":math:`d \ln \pi(y^+) / ds` of gradient flow on the pair's margin, split into its parts.

        ``hidden`` :math:`= \sum_k |W^\top g_k^+|^2`; ``shared`` is what the prefixes common to both responses take
        away; ``head`` :math:`= \sum_{kk'} \langle g_k^+, g_{k'}^+ \rangle \langle h_k^+, h_{k'}^+ \rangle -
        \sum_{kk'} \langle g_k^+, g_{k'}^- \rangle \langle h_k^+, h_{k'}^- \rangle`; ``total`` is their sum
        (Theorem 3; the coefficients are exact here, the CHES score sets them to 1).

        Raises
        ------
        ValueError
            Empty or identical responses, an unknown token, or a prefix without a vector.
        """
        h_plus, g_plus = self._states(chosen, "chosen")
        h_minus, g_minus = self._states(rejected, "rejected")
        if tuple(chosen) == tuple(rejected):
            raise ValueError("chosen and rejected are the same response")
        common = 0
        for k in range(min(len(h_plus), len(h_minus))):
            if tuple(chosen[:k]) != tuple(rejected[:k]):
                break
            common = k + 1
        back_plus, back_minus = g_plus @ self.W, g_minus @ self.W  # (n, d)
        parts = {
            "hidden": float((back_plus**2).sum()),
            "shared": -float((back_plus[:common] * back_minus[:common]).sum()),
            "head": float(
                ((g_plus @ g_plus.T) * (h_plus @ h_plus.T)).sum()
                - ((g_plus @ g_minus.T) * (h_plus @ h_minus.T)).sum()
            ),
        }
        return {**parts, "total": sum(parts.values())}

    def alignment_coefficients(self, chosen: Sequence[int], rejected: Sequence[int]) -> np.ndarray:
        r""":math:`\alpha^{+-}_{kk'} = \langle g_k^+, g_{k'}^- \rangle \in [-2, 2]`, (n+, n-): CHES takes them as 1."""
        _, g_plus = self._states(chosen, "chosen")
        _, g_minus = self._states(rejected, "rejected")
        return g_plus @ g_minus.T


def canonical_instance() -> tuple[UnconstrainedFeatures, tuple[str, ...]]:
    """Five tokens, three dimensions: the smallest world in which preferring No over Never teaches Yes.

    No and Never share a direction (the negation); Yes and Sure point away from it. The numbers are ours.
    """
    tokens = ("No", "Never", "Yes", "Sure", "The")
    W = np.array([[2, 0, 0.5], [2, -0.6, 0.5], [-1.5, 3, 0.5], [-1.5, 1.5, 0.5], [0, 0, 1]])
    return UnconstrainedFeatures(W, np.array([0.45, -0.1, 0.2])), tokens


def rate_map(cosines: np.ndarray, norms: np.ndarray) -> np.ndarray:
    r"""Initial rate of :math:`\ln p(y^+)` by cosine of the preferences and :math:`|h|`, (len(norms), len(cosines)).

    The world: two unit preferences at the given cosine, a third token that points along :math:`W_a - W_b`, and a
    hidden vector of the given norm on the preferences' bisector.
    """
    table = np.empty((len(norms), len(cosines)))
    for j, cosine in enumerate(np.asarray(cosines, dtype=float)):
        if not -1 < cosine < 1:
            raise ValueError(f"cosines must lie strictly between -1 and 1; got {cosine}")
        half = np.arccos(cosine) / 2
        W = np.array([[np.cos(half), np.sin(half)], [np.cos(half), -np.sin(half)], [0.0, 2.0]])
        for i, norm in enumerate(np.asarray(norms, dtype=float)):
            features = UnconstrainedFeatures(W, np.array([norm, 0.0]))
            table[i, j] = features.rates(0, 1)[0]
    return table
