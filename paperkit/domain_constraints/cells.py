"""Probabilities of the observable cells, with the unobservable integrated out.

A person with features ``X`` has risk score ``r = X'beta_Y + Z`` and is tested with probability
``sigmoid(alpha r + X'beta_Delta)``. Only three cells can be seen: tested and positive, tested and
negative, untested. Written with ``a = X'beta_Y`` and ``d = X'beta_Delta``, each probability is
a one-dimensional integral over ``Z``, done here by fixed nodes (any family, any ``alpha``) or in
closed form (uniform ``Z``, ``alpha = 1``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit

Unobservable = Literal["uniform", "normal"]

# exp(170)^4 is still a finite double, so products of two odds and their inverse stay finite
_MAX_EXPONENT = 170.0
# sums may be reordered, which lets the compiler use vector instructions
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_TINY = 1e-300


@dataclass(frozen=True)
class Cells:
    """Joint probabilities of testing and outcome for each person, shape (G,) each.

    ``p11`` tested and positive, ``p10`` tested and negative, ``p01`` untested and positive,
    ``p00`` untested and negative.
    """

    p11: np.ndarray
    p10: np.ndarray
    p01: np.ndarray
    p00: np.ndarray

    @property
    def untested(self) -> np.ndarray:
        """p(T=0), shape (G,)."""
        return self.p01 + self.p00

    @property
    def positive(self) -> np.ndarray:
        """p(Y=1), shape (G,)."""
        return self.p11 + self.p01


def check_family(unobservable: str) -> None:
    """Raise ValueError unless ``unobservable`` names a known family."""
    if unobservable not in ("uniform", "normal"):
        raise ValueError(f"unobservable must be 'uniform' or 'normal', got {unobservable!r}")


def quadrature_nodes(unobservable: Unobservable, n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for ``E[f(Z)]`` with ``Z = sigma * node``.

    Parameters
    ----------
    unobservable : {"uniform", "normal"}
        ``Z ~ U(0, sigma)``: Gauss-Legendre on [0, 1]. ``Z ~ N(0, sigma^2)``: an equally spaced
        grid on [-8.5, 8.5] weighted by the normal density. (Gauss-Hermite is far worse here: it
        puts its nodes too sparsely for the steep products of sigmoids that large ``alpha sigma``
        makes.)
    n_nodes : int
        At least 4.

    Returns
    -------
    nodes, weights : ndarray, shape (K,)
        The weights sum to 1.

    Raises
    ------
    ValueError
        Unknown family or fewer than four nodes.
    """
    check_family(unobservable)
    if n_nodes < 4:
        raise ValueError(f"n_nodes must be at least 4, got {n_nodes}")
    if unobservable == "uniform":
        x, w = np.polynomial.legendre.leggauss(n_nodes)
        return 0.5 * (x + 1.0), 0.5 * w
    x = np.linspace(-8.5, 8.5, n_nodes)
    w = np.exp(-0.5 * x**2)
    return x, w / w.sum()


def default_nodes(unobservable: str, alpha: float | None, sigma: float | None) -> int:
    """Return how many nodes keep the quadrature error far below the posterior's width.

    The integrand steepens with ``alpha * sigma``, so a family with a free ``alpha`` at a large
    fixed ``sigma`` gets more.
    """
    if unobservable == "uniform":
        return 16 if alpha is not None and abs(alpha) <= 1.5 else 48
    steep = max(abs(alpha or 1.0), 1.0) * (sigma or 1.0)
    if alpha is None:
        return 80 if steep <= 1.5 else 400
    return 80 if steep <= 2.5 else 160


@njit(cache=True, nogil=True)
def _clip(x):  # pragma: no cover - compiled
    return min(max(x, -_MAX_EXPONENT), _MAX_EXPONENT)


@njit(cache=True, nogil=True)
def _node_odds(scale, x):  # pragma: no cover - compiled
    """``exp(-scale x)`` at each node: the factor by which a node changes everybody's odds."""
    odds = np.empty(x.size)
    for k in range(x.size):
        odds[k] = np.exp(_clip(-scale * x[k]))
    return odds


@njit(cache=True, nogil=True, fastmath=_FAST)
def _cell_rows(a, d, alpha, sigma, x, w):  # pragma: no cover - compiled
    """Cells of each row, shape (4, G): p11, p10, p01, p00."""
    n_rows, n_nodes = a.size, x.size
    out = np.zeros((4, n_rows))
    ez = _node_odds(sigma, x)
    et = _node_odds(alpha * sigma, x)
    for g in range(n_rows):
        ea = np.exp(_clip(-a[g]))
        eb = np.exp(_clip(-(alpha * a[g] + d[g])))
        for k in range(n_nodes):
            ey = ea * ez[k]
            es = eb * et[k]
            inverse = 1.0 / ((1.0 + ey) * (1.0 + es))
            y = (1.0 + es) * inverse
            t = (1.0 + ey) * inverse
            not_y = ey * y
            not_t = es * t
            out[0, g] += w[k] * t * y
            out[1, g] += w[k] * t * not_y
            out[2, g] += w[k] * not_t * y
            out[3, g] += w[k] * not_t * not_y
    return out


@njit(cache=True, nogil=True, fastmath=_FAST)
def row_values(a, d, alpha, sigma, x, w, n11, n10, n0):  # pragma: no cover - compiled
    """Log likelihood, and p(Y=1) of each row, without derivatives."""
    n_rows, n_nodes = a.size, x.size
    positive = np.zeros(n_rows)
    ez = _node_odds(sigma, x)
    et = _node_odds(alpha * sigma, x)
    loglik = 0.0
    for g in range(n_rows):
        ea = np.exp(_clip(-a[g]))
        eb = np.exp(_clip(-(alpha * a[g] + d[g])))
        p11 = 0.0
        p10 = 0.0
        p0 = 0.0
        py = 0.0
        for k in range(n_nodes):
            ey = ea * ez[k]
            es = eb * et[k]
            both = w[k] / ((1.0 + ey) * (1.0 + es))
            p11 += both
            p10 += ey * both
            p0 += es * (1.0 + ey) * both
            py += (1.0 + es) * both
        if n11[g] > 0.0:
            loglik += n11[g] * np.log(max(p11, _TINY))
        if n10[g] > 0.0:
            loglik += n10[g] * np.log(max(p10, _TINY))
        if n0[g] > 0.0:
            loglik += n0[g] * np.log(max(p0, _TINY))
        positive[g] = py
    return loglik, positive


@njit(cache=True, nogil=True, fastmath=_FAST)
def row_positive(a, sigma, x, w):  # pragma: no cover - compiled
    """p(Y=1) of each row."""
    ez = _node_odds(sigma, x)
    out = np.zeros(a.size)
    for g in range(a.size):
        ea = np.exp(_clip(-a[g]))
        total = 0.0
        for k in range(x.size):
            total += w[k] / (1.0 + ea * ez[k])
        out[g] = total
    return out


@njit(cache=True, nogil=True, fastmath=_FAST)
def row_gradients(a, d, alpha, sigma, x, w, n11, n10, n0):  # pragma: no cover - compiled
    """Log likelihood and first derivatives in one pass over rows and nodes.

    Only ``2 G + 2 K`` exponentials are taken, because ``exp(-(a + sigma x))`` factorises.

    Returns
    -------
    loglik : float
    rows : (5, G)
        d loglik/da, d loglik/dd, p(Y=1), d p(Y=1)/da, d p(Y=1)/d sigma.
    dsigma, dalpha : float
        Derivatives of the log likelihood.
    """
    n_rows, n_nodes = a.size, x.size
    rows = np.zeros((5, n_rows))
    ez = _node_odds(sigma, x)
    et = _node_odds(alpha * sigma, x)
    loglik = 0.0
    dsigma = 0.0
    dalpha = 0.0
    for g in range(n_rows):
        ea = np.exp(_clip(-a[g]))
        eb = np.exp(_clip(-(alpha * a[g] + d[g])))
        p11 = 0.0
        p10 = 0.0
        p0 = 0.0
        p11a = 0.0
        p1a = 0.0
        p11d = 0.0
        p1d = 0.0
        p11s = 0.0
        p1s = 0.0
        p11r = 0.0
        p1r = 0.0
        py = 0.0
        pya = 0.0
        pys = 0.0
        for k in range(n_nodes):
            ey = ea * ez[k]
            es = eb * et[k]
            inverse = 1.0 / ((1.0 + ey) * (1.0 + es))
            y = (1.0 + es) * inverse
            t = (1.0 + ey) * inverse
            not_y = ey * y
            not_t = es * t
            wt = w[k] * t
            y1 = y * not_y
            p11 += wt * y
            p10 += wt * not_y
            p0 += w[k] * not_t
            py += w[k] * y
            t1 = wt * not_t
            f11a = alpha * t1 * y + wt * y1
            f1a = alpha * t1
            p11a += f11a
            p1a += f1a
            p11d += t1 * y
            p1d += t1
            p11s += x[k] * f11a
            p1s += x[k] * f1a
            r = a[g] + sigma * x[k]
            p11r += r * t1 * y
            p1r += r * t1
            pya += w[k] * y1
            pys += w[k] * x[k] * y1
        p11 = max(p11, _TINY)
        p10 = max(p10, _TINY)
        p0 = max(p0, _TINY)
        if n11[g] > 0.0:
            loglik += n11[g] * np.log(p11)
        if n10[g] > 0.0:
            loglik += n10[g] * np.log(p10)
        if n0[g] > 0.0:
            loglik += n0[g] * np.log(p0)
        u11 = n11[g] / p11
        u10 = n10[g] / p10
        u0 = n0[g] / p0
        rows[0, g] = u11 * p11a + u10 * (p1a - p11a) - u0 * p1a
        rows[1, g] = u11 * p11d + u10 * (p1d - p11d) - u0 * p1d
        dsigma += u11 * p11s + u10 * (p1s - p11s) - u0 * p1s
        dalpha += u11 * p11r + u10 * (p1r - p11r) - u0 * p1r
        rows[2, g] = py
        rows[3, g] = pya
        rows[4, g] = pys
    return loglik, rows, dsigma, dalpha


@njit(cache=True, nogil=True, fastmath=_FAST)
def row_hessians(a, d, alpha, sigma, x, w, n11, n10, n0):  # pragma: no cover - compiled
    """Second derivatives of the log likelihood by row: (5, G) = aa, ad, dd, pY_a, pY_aa."""
    n_rows, n_nodes = a.size, x.size
    out = np.zeros((5, n_rows))
    ez = _node_odds(sigma, x)
    et = _node_odds(alpha * sigma, x)
    p = np.empty(3)
    pa = np.empty(3)
    pd = np.empty(3)
    paa = np.empty(3)
    pad = np.empty(3)
    pdd = np.empty(3)
    for g in range(n_rows):
        ea = np.exp(_clip(-a[g]))
        eb = np.exp(_clip(-(alpha * a[g] + d[g])))
        p[:] = 0.0
        pa[:] = 0.0
        pd[:] = 0.0
        paa[:] = 0.0
        pad[:] = 0.0
        pdd[:] = 0.0
        for k in range(n_nodes):
            ey = ea * ez[k]
            es = eb * et[k]
            inverse = 1.0 / ((1.0 + ey) * (1.0 + es))
            y = (1.0 + es) * inverse
            t = (1.0 + ey) * inverse
            not_y = ey * y
            not_t = es * t
            y1 = y * not_y
            y2 = y1 * (not_y - y)
            t1 = t * not_t
            t2 = t1 * (not_t - t)
            p[0] += w[k] * t * y
            p[1] += w[k] * t * not_y
            p[2] += w[k] * not_t
            pa[0] += w[k] * (alpha * t1 * y + t * y1)
            pa[2] += w[k] * alpha * t1
            pd[0] += w[k] * t1 * y
            pd[2] += w[k] * t1
            paa[0] += w[k] * (alpha * alpha * t2 * y + 2.0 * alpha * t1 * y1 + t * y2)
            paa[2] += w[k] * alpha * alpha * t2
            pad[0] += w[k] * (alpha * t2 * y + t1 * y1)
            pad[2] += w[k] * alpha * t2
            pdd[0] += w[k] * t2 * y
            pdd[2] += w[k] * t2
            out[3, g] += w[k] * y1
            out[4, g] += w[k] * y2
        # slot 2 holds derivatives of p(T=1) so far: p10 = p(T=1) - p11 and p0 = 1 - p(T=1)
        pa[1] = pa[2] - pa[0]
        pd[1] = pd[2] - pd[0]
        paa[1] = paa[2] - paa[0]
        pad[1] = pad[2] - pad[0]
        pdd[1] = pdd[2] - pdd[0]
        pa[2] = -pa[2]
        pd[2] = -pd[2]
        paa[2] = -paa[2]
        pad[2] = -pad[2]
        pdd[2] = -pdd[2]
        for c in range(3):
            n = n11[g] if c == 0 else (n10[g] if c == 1 else n0[g])
            q = max(p[c], _TINY)
            out[0, g] += n * (paa[c] / q - (pa[c] / q) ** 2)
            out[1, g] += n * (pad[c] / q - (pa[c] / q) * (pd[c] / q))
            out[2, g] += n * (pdd[c] / q - (pd[c] / q) ** 2)
    return out


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _closed_form(a: np.ndarray, d: np.ndarray, sigma: float) -> Cells:
    b = a + d
    p_y = (_softplus(a + sigma) - _softplus(a)) / sigma
    p_t0 = (_softplus(-b) - _softplus(-b - sigma)) / sigma
    p_t1 = (_softplus(b + sigma) - _softplus(b)) / sigma
    q_a = (_softplus(-a) - _softplus(-a - sigma)) / sigma
    # p(T=1) - p(Y=1), from the side that does not cancel
    gap = np.where(a > 0, q_a - p_t0, p_t1 - p_y)
    p10 = gap / -np.expm1(-d)
    p01 = gap / np.expm1(d)
    p11 = p_y - p01
    return Cells(p11, p10, p01, p_t0 - p01)


def cell_probabilities(
    a: Any,
    d: Any,
    sigma: float,
    *,
    alpha: float = 1.0,
    unobservable: Unobservable = "uniform",
    n_nodes: int | None = None,
    method: Literal["quadrature", "closed_form"] = "quadrature",
) -> Cells:
    """Joint probabilities of testing and outcome with ``Z`` integrated out.

    Parameters
    ----------
    a, d : array_like, broadcast to shape (G,)
        ``X'beta_Y`` and ``X'beta_Delta`` (log-odds).
    sigma : float
        Scale of ``Z``, positive.
    alpha : float
        Steepness with which testing follows risk, nonzero.
    unobservable : {"uniform", "normal"}
        ``U(0, sigma)`` or ``N(0, sigma^2)``.
    n_nodes : int, optional
        Quadrature nodes; chosen from ``alpha * sigma`` if not given.
    method : {"quadrature", "closed_form"}
        The closed form (uniform, ``alpha = 1``) follows from partial fractions:
        ``p01 = [p(T=1) - p(Y=1)] / (e^d - 1)``. It is singular, removably, at ``d = 0`` and
        loses digits near it; quadrature has no such point and is the default.

    Returns
    -------
    Cells

    Raises
    ------
    ValueError
        Non-finite input, ``sigma <= 0``, ``alpha == 0``, unknown family, or a closed form asked
        for where there is none.

    Examples
    --------
    >>> cells = cell_probabilities(-2.0, 1.0, 2.0)
    >>> float(cells.p11.round(6)[0])
    0.156884
    """
    check_family(unobservable)
    a, d = np.broadcast_arrays(
        np.atleast_1d(np.asarray(a, float)), np.atleast_1d(np.asarray(d, float))
    )
    if not (np.isfinite(a).all() and np.isfinite(d).all()):
        raise ValueError("a and d must be finite")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    if alpha == 0 or not np.isfinite(alpha):
        raise ValueError(f"alpha must be finite and nonzero, got {alpha}")
    if method == "closed_form":
        if unobservable != "uniform" or alpha != 1:
            raise ValueError("method='closed_form' needs unobservable='uniform' and alpha=1")
        return _closed_form(a, d, float(sigma))
    if method != "quadrature":
        raise ValueError(f"method must be 'quadrature' or 'closed_form', got {method!r}")
    if n_nodes is None:
        steep = max(abs(alpha), 1.0) * sigma
        few, many, limit = (32, 96, 10) if unobservable == "uniform" else (80, 256, 5)
        n_nodes = few if steep <= limit else many
    x, w = quadrature_nodes(unobservable, n_nodes)
    rows = _cell_rows(
        np.ascontiguousarray(a), np.ascontiguousarray(d), float(alpha), float(sigma), x, w
    )
    return Cells(*rows)
