"""NUTS through nutpie, started from and moving along the ridge that nested Laplace has found.

Over the scale parameter the posterior is a curved ridge. With ``x = mode(t) + root z`` the
sampler sees a straight one; the change of variables has a constant Jacobian, so the target is
the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from paperkit import profiles
from paperkit.domain_constraints.laplace import NestedLaplace


class ApproximationWarning(UserWarning):
    """The diagnostics of a fit say that its draws should not be trusted as they are."""


def quiet_arviz() -> Any:
    """Import arviz without the notice about its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def run_settings(
    draws: int, tune: int, chains: int, cores: int | None, progress: bool | None
) -> dict[str, Any]:
    """Check the length of a run; ``cores`` and ``progress`` left out follow the profile.

    Raises
    ------
    ValueError
        A number below 1.
    """
    if min(draws, tune, chains, 1 if cores is None else cores) < 1:
        raise ValueError("draws, tune, chains and cores must be at least 1")
    profile = profiles.current()
    return {
        "draws": draws,
        "tune": tune,
        "chains": chains,
        "cores": min(chains, profile.workers if cores is None else cores),
        "progress_bar": profile.interactive if progress is None else progress,
    }


def ridge_nuts(
    logp_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]],
    rough: NestedLaplace,
    *,
    straighten: bool = True,
    seed: int = 0,
    **run: Any,
) -> Any:
    """Sample a density whose last parameter is the scale of ``rough``.

    Parameters
    ----------
    logp_and_grad : callable
        ``theta -> (log density, gradient)``, theta of shape (D + 1,).
    rough : NestedLaplace
        Its modes and curvature give the change of variables and the starting points.
    straighten : bool
        Follow the curve of modes; else only the scaling at the best of them is used.
    **run
        ``draws``, ``tune``, ``chains``, ``cores``, ``progress_bar`` of ``nutpie.sample``.

    Returns
    -------
    arviz.InferenceData
        With ``theta`` in ``posterior``.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    k = rough.modes.shape[1] + 1
    curve = CubicSpline(rough.grid, rough.modes)
    slope = curve.derivative()
    best = int(np.argmax(rough.log_marginal))
    low, high = rough.grid[0], rough.grid[-1]

    def to_theta(v: np.ndarray) -> np.ndarray:
        t = v[-1]
        at = curve(min(max(t, low), high)) if straighten else rough.modes[best]
        return np.append(at + rough.root @ v[:-1], t)

    def logp(v: np.ndarray) -> tuple[float, np.ndarray]:
        v = np.asarray(v, float)
        value, grad = logp_and_grad(to_theta(v))
        out = np.append(rough.root.T @ grad[:-1], grad[-1])
        if straighten and low < v[-1] < high:
            out[-1] += slope(v[-1]) @ grad[:-1]
        return value, out

    def make_logp() -> Any:
        return logp

    def make_expand(*_args: Any, **_kwargs: Any) -> Any:
        return lambda v, **_k: {"theta": to_theta(np.asarray(v, float))}

    def initial(chain_seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, int(chain_seed) % 2**32])
        start = 0.3 * rng.standard_normal(k)
        start[-1] += rough.grid[best]
        return start

    compiled = from_pyfunc(
        k,
        make_logp,
        make_expand,
        [np.dtype("float64")],
        [(k,)],
        ["theta"],
        make_initial_point_fn=initial,
    )
    return nutpie.sample(
        compiled,
        seed=seed,
        low_rank_modified_mass_matrix=straighten,
        target_accept=0.95,
        **run,
    )


def with_diagnostics(
    idata: Any, sample_stats: Any, names: Sequence[str], *, stacklevel: int = 3
) -> Any:
    """Add sampler statistics, largest ``r_hat`` over ``names`` and ``divergences``; warn if bad.

    Warns
    -----
    ApproximationWarning
        ``r-hat > 1.01`` or a divergent transition.
    """
    az = quiet_arviz()
    idata.add_groups({"sample_stats": sample_stats})
    rhat = float("nan")
    if idata.posterior.sizes["chain"] > 1:
        rhat = max(float(az.rhat(idata.posterior[[name]])[name].max()) for name in names)
    divergences = int(idata.sample_stats["diverging"].sum())
    idata.posterior.attrs["r_hat"] = rhat
    idata.posterior.attrs["divergences"] = divergences
    if rhat > 1.01 or divergences:
        warnings.warn(
            f"NUTS: r-hat {rhat:.3f}, {divergences} divergences; run longer chains",
            ApproximationWarning,
            stacklevel=stacklevel,
        )
    return idata
