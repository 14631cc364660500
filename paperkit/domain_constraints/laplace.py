"""Nested Laplace approximation, corrected by importance sampling.

Given one scale parameter the posterior of the coefficients is close to Gaussian; over the scale
it is a curved ridge, on which gradient-based samplers crawl. So: find the mode and curvature for
each value of the scale on a grid, integrate the coefficients out by Laplace's formula, draw the
scale from that curve and the coefficients from a heavy-tailed version of each Gaussian, and
weight the draws by the exact posterior. Pareto-smoothed importance sampling reports, with the
shape ``khat`` of the weights' tail, whether the correction can be trusted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import gammaln

_DEGREES = 7.0
_UNIFORM_SHARE = 0.02


@dataclass(frozen=True)
class NestedLaplace:
    """Draws from a nested Laplace approximation after importance resampling.

    Attributes
    ----------
    theta : ndarray, shape (S, D + 1)
        Draws; the last column is the grid parameter.
    pareto_k : float
        Shape of the tail of the importance weights. Below 0.7 the draws can be trusted.
    n_eff : float
        ``1 / sum(w^2)`` of the normalised weights.
    n_gradients : int
        Evaluations of the log density with its gradient (the draws need the value only).
    grid, log_marginal : ndarray
        Grid of the scale parameter and the Laplace log marginal there.
    modes : ndarray, shape (K, D)
        Mode of ``x`` at each grid point.
    root : ndarray, shape (D, D)
        ``root @ root.T`` is the inverse curvature at the best grid point.
    """

    theta: np.ndarray
    pareto_k: float
    n_eff: float
    n_gradients: int
    grid: np.ndarray
    log_marginal: np.ndarray
    modes: np.ndarray
    root: np.ndarray


def _inner_mode(
    logp_and_grad: Any, hessian: Any, x: Any, t: Any, counter: Any, max_steps: Any = 60
) -> Any:
    value, gradient = logp_and_grad(x, t)
    counter[0] += 1
    h = hessian(x, t)
    for _ in range(max_steps):
        precision = -h
        shift = 0.0
        floor = 1e-8 * max(1.0, np.abs(np.diag(precision)).max())
        while True:
            try:
                factor = np.linalg.cholesky(precision + shift * np.eye(len(x)))
                break
            except np.linalg.LinAlgError:
                shift = max(10 * shift, floor)
        step = np.linalg.solve(factor.T, np.linalg.solve(factor, gradient))
        if gradient @ step < 1e-5:  # .003 sd from the mode, enough for a proposal
            break
        size = 1.0
        while size > 1e-6:
            new_value, new_gradient = logp_and_grad(x + size * step, t)
            counter[0] += 1
            if np.isfinite(new_value) and new_value >= value:
                break
            size *= 0.5
        else:
            break
        gain = new_value - value
        x, value, gradient = x + size * step, new_value, new_gradient
        h = hessian(x, t)
        if gain < 1e-9:
            break
    return x, value, h


def nested_laplace(
    logp_and_grad: Callable[[np.ndarray, float], tuple[float, np.ndarray]],
    hessian: Callable[[np.ndarray, float], np.ndarray],
    start: np.ndarray,
    *,
    value: Callable[[np.ndarray, float], float] | None = None,
    lower: float,
    upper: float,
    draws: int = 1000,
    rng: np.random.Generator,
    n_coarse: int = 13,
    n_fine: int = 19,
    oversample: int = 1,
) -> NestedLaplace:
    """Sample ``p(x, t)`` by nested Laplace and importance resampling.

    Parameters
    ----------
    logp_and_grad : callable
        ``(x, t) -> (log density, gradient with respect to x)``, ``x`` of shape (D,).
    hessian : callable
        ``(x, t) -> (D, D)`` matrix of second derivatives with respect to ``x``.
    start : ndarray, shape (D,)
        Starting point.
    value : callable, optional
        ``(x, t) -> log density`` alone, if that is cheaper.
    lower, upper : float
        Range of the grid parameter ``t``; it must hold practically all of the mass.
    draws : int
        Draws returned, resampled from ``oversample * draws`` proposals.
    rng : numpy.random.Generator
        Source of randomness.
    n_coarse, n_fine : int
        Grid points over the whole range, then over the part that carries mass.

    Returns
    -------
    NestedLaplace
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from arviz import psislw

    counter = [0]

    def walk(grid: Any, first: Any, x0: Any) -> Any:
        modes: list[Any] = [None] * len(grid)
        modes[first] = _inner_mode(logp_and_grad, hessian, x0, grid[first], counter)
        for order in (range(first, len(grid)), range(first, -1, -1)):
            before = x = modes[first][0]
            for i in order[1:]:
                modes[i] = _inner_mode(logp_and_grad, hessian, 2 * x - before, grid[i], counter)
                before, x = x, modes[i][0]
        return modes

    def log_marginal(modes: Any) -> Any:
        out = np.empty(len(modes))
        for i, (_, value, h) in enumerate(modes):
            eig = np.maximum(np.linalg.eigvalsh(-h), 1e-6)
            out[i] = value - 0.5 * np.log(eig).sum()
        return out

    coarse = np.linspace(lower, upper, n_coarse)
    modes = walk(coarse, n_coarse // 2, np.asarray(start, float))
    lev = log_marginal(modes)
    top = lev.max()
    keep = np.flatnonzero(lev > top - 12.0)
    lo = coarse[max(keep[0] - 1, 0)]
    hi = coarse[min(keep[-1] + 1, n_coarse - 1)]
    grid = np.linspace(lo, hi, n_fine)
    best = int(np.argmax(lev))
    first = int(np.argmin(np.abs(grid - coarse[best])))
    modes = walk(grid, first, modes[best][0])
    lev = log_marginal(modes)

    # a proposal for t: the interpolated marginal, slightly widened, mixed with a uniform
    edges = np.linspace(lo, hi, 1001)
    centres = 0.5 * (edges[1:] + edges[:-1])
    curve = CubicSpline(grid, lev)(centres)
    mass = np.exp(0.9 * (curve - curve.max()))
    mass = (1 - _UNIFORM_SHARE) * mass / mass.sum() + _UNIFORM_SHARE / len(mass)
    n_proposals = draws * oversample
    # stratified uniforms: one per equal slice of the distribution function
    u = (np.arange(n_proposals) + rng.random(n_proposals)) / n_proposals
    cell = np.minimum(np.searchsorted(np.cumsum(mass), u), len(mass) - 1)
    width = edges[1] - edges[0]
    t = edges[cell] + width * rng.random(n_proposals)
    log_q = np.log(mass[cell] / width)

    points = np.array([m[0] for m in modes])
    dim = points.shape[1]
    centre = CubicSpline(grid, points)(t)
    nearest = np.argmin(np.abs(t[:, None] - grid[None, :]), axis=1)
    roots, log_dets = [], []
    for _, _, h in modes:
        eig, vec = np.linalg.eigh(-h)
        eig = np.maximum(eig, 1e-3)
        roots.append(vec / np.sqrt(eig))
        log_dets.append(np.log(eig).sum())
    normal = rng.standard_normal((n_proposals, dim))
    chi = rng.chisquare(_DEGREES, n_proposals) / _DEGREES
    z = normal / np.sqrt(chi)[:, None]
    x = centre + np.einsum("sij,sj->si", np.array(roots)[nearest], z)
    log_q += (
        gammaln(0.5 * (_DEGREES + dim))
        - gammaln(0.5 * _DEGREES)
        - 0.5 * dim * np.log(_DEGREES * np.pi)
        + 0.5 * np.array(log_dets)[nearest]
        - 0.5 * (_DEGREES + dim) * np.log1p((z**2).sum(1) / _DEGREES)
    )
    density = value or (lambda xi, ti: logp_and_grad(xi, ti)[0])
    log_p = np.array([density(xi, ti) for xi, ti in zip(x, t, strict=True)])
    log_w = np.where(np.isfinite(log_p), log_p - log_q, -np.inf)
    floor = log_w[np.isfinite(log_w)].max() - 700.0
    smoothed, pareto_k = psislw(np.maximum(log_w, floor))
    weight = np.exp(smoothed - smoothed.max())
    weight /= weight.sum()
    n_eff = float(1.0 / (weight**2).sum())
    # systematic resampling keeps the noise of this step below that of the draws
    positions = (np.arange(draws) + rng.random()) / draws
    chosen = np.minimum(np.searchsorted(np.cumsum(weight), positions), n_proposals - 1)
    theta = np.column_stack([x, t])[rng.permutation(chosen)]
    best = int(np.argmax(lev))
    return NestedLaplace(theta, float(pareto_k), n_eff, counter[0], grid, lev, points, roots[best])
