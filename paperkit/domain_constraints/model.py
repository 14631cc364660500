"""The joint model of risk and testing, its posterior, and what it predicts.

The model (uniform or normal unobservable, scale ``sigma``)::

    Z ~ U(0, sigma)  or  N(0, sigma^2)
    r = X'beta_Y + Z,    Y ~ Bernoulli(sigmoid(r)),   seen where T = 1
    T ~ Bernoulli(sigmoid(alpha r + X'beta_Delta))

Priors: coefficients N(0, prior_scale^2), the free one of ``sigma`` and ``alpha`` half-normal with
the same scale. Constraints: ``beta_Delta = 0`` outside a named set (expertise); the implied
prevalence, averaged over everybody, observed with a small normal error (prevalence).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from paperkit.domain_constraints.cells import (
    Unobservable,
    _cell_rows,
    check_family,
    default_nodes,
    quadrature_nodes,
    row_gradients,
    row_hessians,
    row_positive,
    row_values,
)
from paperkit.domain_constraints.labels import DomainConstraints, SelectiveLabels
from paperkit.domain_constraints.laplace import NestedLaplace, nested_laplace
from paperkit.domain_constraints.nuts import (
    ApproximationWarning,
    quiet_arviz,
    ridge_nuts,
    run_settings,
    with_diagnostics,
)

if TYPE_CHECKING:
    import pymc
    import xarray

_LOWER, _UPPER = np.log(0.03), np.log(12.0)


class SelectionModel:
    """Bernoulli-sigmoid model of outcome and testing with ``Z`` integrated out.

    Parameters
    ----------
    data : SelectiveLabels
        What the analyst sees.
    unobservable : {"uniform", "normal"}
        Family of ``Z``.
    alpha : float or None
        Steepness of testing in risk; ``None`` estimates it.
    sigma : float or None
        Scale of ``Z``; ``None`` estimates it. Exactly one of the two is estimated: the data
        cannot tell both (the paper fixes one as well).
    prior_scale : float
        Standard deviation of every prior.
    constraints : DomainConstraints
        What the expert knows.
    n_nodes : int, optional
        Quadrature nodes.
    deviation_offset : array_like, shape (M,), optional
        Known part of ``beta_Delta``, added to the free entries.

    Raises
    ------
    ValueError
        A scale that is not positive, both or none of ``alpha`` and ``sigma`` given, unknown
        features, an impossible prevalence, fewer than four nodes.
    """

    def __init__(
        self,
        data: SelectiveLabels,
        *,
        unobservable: Unobservable = "uniform",
        alpha: float | None = 1.0,
        sigma: float | None = None,
        prior_scale: float = 3.0,
        constraints: DomainConstraints | None = None,
        n_nodes: int | None = None,
        deviation_offset: Any = None,
    ) -> None:
        if not isinstance(data, SelectiveLabels):
            raise TypeError("data must be SelectiveLabels; see SelectiveLabels.from_arrays")
        check_family(unobservable)
        for name, value in (("alpha", alpha), ("sigma", sigma), ("prior_scale", prior_scale)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if (alpha is None) == (sigma is None):
            raise ValueError(
                "fix exactly one of alpha and sigma: the data cannot identify both, and with "
                "both fixed there is no scale to estimate"
            )
        self.data = data
        self.unobservable: Unobservable = unobservable
        self.alpha = alpha
        self.sigma = sigma
        self.prior_scale = float(prior_scale)
        self.constraints = constraints or DomainConstraints()
        self.free = self.constraints.free_columns(data)
        self.weights, self.shares = self.constraints.targets(data)
        self.n_nodes = n_nodes or default_nodes(unobservable, alpha, sigma)
        self._x, self._w = quadrature_nodes(unobservable, self.n_nodes)
        m = len(data.names)
        offset = np.zeros(m) if deviation_offset is None else np.asarray(deviation_offset, float)
        if offset.shape != (m,) or not np.isfinite(offset).all():
            raise ValueError(f"deviation_offset must be {m} finite numbers")
        self.offset = offset
        self._d0 = data.X @ offset
        self._X = np.ascontiguousarray(data.X, dtype=float)
        self._XF = np.ascontiguousarray(self._X[:, self.free])
        self._counts = tuple(np.ascontiguousarray(c) for c in (data.n11, data.n10, data.n0))

    @property
    def n_parameters(self) -> int:
        """Length of the unconstrained parameter vector."""
        return self._X.shape[1] + len(self.free) + 1

    def _scales(self, t: float) -> tuple[float, float]:
        scale = float(np.exp(t))
        return (scale, self.sigma) if self.sigma is not None else (float(self.alpha), scale)  # type: ignore[arg-type]

    def logp_and_grad(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Log posterior density up to a constant, and its gradient.

        Parameters
        ----------
        theta : ndarray, shape (M + F + 1,)
            ``beta_Y``, the free entries of ``beta_Delta``, log of the free scale (its Jacobian
            is included).
        """
        m = self._X.shape[1]
        beta_y, beta_d, t = theta[:m], theta[m:-1], float(theta[-1])
        alpha, sigma = self._scales(t)
        a = self._X @ beta_y
        d = self._XF @ beta_d + self._d0
        loglik, rows, dsigma, dalpha = row_gradients(
            a, d, alpha, sigma, self._x, self._w, *self._counts
        )
        grad = np.empty_like(theta)
        row_a = rows[0]
        s2 = self.prior_scale**2
        scale = sigma if self.sigma is None else alpha
        dscale = dsigma if self.sigma is None else dalpha
        value = loglik - 0.5 * (theta[:-1] @ theta[:-1] + scale**2) / s2 + t
        if len(self.shares):
            off = (self.weights @ rows[2] - self.shares) / self.constraints.prevalence_sd**2
            pull = off @ self.weights  # (G,)
            value -= 0.5 * float(off @ (self.weights @ rows[2] - self.shares))
            row_a = row_a - pull * rows[3]
            if self.sigma is None:
                dscale -= float(pull @ rows[4])
        grad[:m] = self._X.T @ row_a - beta_y / s2
        grad[m:-1] = self._XF.T @ rows[1] - beta_d / s2
        grad[-1] = scale * dscale - scale**2 / s2 + 1.0
        return float(value), grad

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Second derivatives with respect to the coefficients, shape (M + F, M + F)."""
        m = self._X.shape[1]
        alpha, sigma = self._scales(float(theta[-1]))
        a = self._X @ theta[:m]
        d = self._XF @ theta[m:-1] + self._d0
        rows = row_hessians(a, d, alpha, sigma, self._x, self._w, *self._counts)
        aa = rows[0]
        jacobian = None
        if len(self.shares):
            p_y = self._p_positive(a, sigma)
            off = (self.weights @ p_y - self.shares) / self.constraints.prevalence_sd**2
            aa = aa - (off @ self.weights) * rows[4]
            jacobian = (self.weights * rows[3]) @ self._X  # (C, M)
        top = self._X.T @ (aa[:, None] * self._X)
        if jacobian is not None:
            top -= jacobian.T @ jacobian / self.constraints.prevalence_sd**2
        side = self._X.T @ (rows[1][:, None] * self._XF)
        corner = self._XF.T @ (rows[2][:, None] * self._XF)
        h = np.block([[top, side], [side.T, corner]])
        h[np.diag_indices_from(h)] -= 1.0 / self.prior_scale**2
        return h

    def logp(self, theta: np.ndarray) -> float:
        """Log posterior density up to the same constant as :meth:`logp_and_grad`."""
        m = self._X.shape[1]
        t = float(theta[-1])
        alpha, sigma = self._scales(t)
        d = self._XF @ theta[m:-1] + self._d0
        value, positive = row_values(
            self._X @ theta[:m], d, alpha, sigma, self._x, self._w, *self._counts
        )
        scale = sigma if self.sigma is None else alpha
        value += t - 0.5 * (theta[:-1] @ theta[:-1] + scale**2) / self.prior_scale**2
        if len(self.shares):
            gap = (self.weights @ positive - self.shares) / self.constraints.prevalence_sd
            value -= 0.5 * float(gap @ gap)
        return float(value)

    def _p_positive(self, a: np.ndarray, sigma: float) -> np.ndarray:
        return row_positive(np.ascontiguousarray(a), float(sigma), self._x, self._w)

    def start(self) -> np.ndarray:
        """Coefficients to start from, from the crude rates of the data."""
        x = np.zeros(self.n_parameters - 1)
        n = self.data.n_people
        rate = np.clip(self.data.n11.sum() / n, 0.01, 0.99)
        tested = np.clip((self.data.n11.sum() + self.data.n10.sum()) / n, 0.01, 0.99)
        x[0] = np.log(rate / (1 - rate)) - 0.5
        x[self._X.shape[1]] = np.log(tested / (1 - tested)) - x[0] - 0.5
        return x

    def fit(
        self,
        *,
        method: Literal["nested_laplace", "nuts", "pymc"] = "nested_laplace",
        draws: int = 1000,
        tune: int = 500,
        chains: int = 2,
        seed: int = 0,
        cores: int | None = None,
        progress: bool | None = None,
        straighten: bool = True,
    ) -> Any:
        """Sample the posterior.

        Parameters
        ----------
        method : {"nested_laplace", "nuts", "pymc"}
            ``nested_laplace``: fast, checked by the ``pareto_k`` of its importance weights (one
            chain of independent draws). ``nuts``: nutpie's No-U-Turn sampler on the compiled
            kernel. ``pymc``: nutpie on the readable PyMC model of :func:`pymc_model` (slow to
            compile).
        draws, tune, chains : int
            Draws kept per chain, warm-up draws and chains (the last two for NUTS).
        seed : int
            Seed of the sampler.
        cores : int, optional
            Chains that run side by side; default: the workers of :mod:`paperkit.profiles`. The
            draws do not depend on it.
        progress : bool, optional
            Show nutpie's progress bar; default: if somebody is watching.
        straighten : bool
            Let NUTS move along the curved ridge of modes over the scale (a change of variables,
            so the target is the same). Without it the thin surface of a known prevalence makes
            steps tiny and transitions diverge.

        Returns
        -------
        arviz.InferenceData
            ``posterior`` with ``beta_Y``, ``beta_Delta`` (masked entries are exactly 0),
            ``sigma``, ``alpha`` and ``prevalence``; its attributes name the model.

        Raises
        ------
        ValueError
            Unknown method, or fewer than one draw, chain or core.

        Warns
        -----
        ApproximationWarning
            ``pareto_k > 0.7``, ``r-hat > 1.01``, divergences, or quadrature too coarse.
        """
        if method not in ("nested_laplace", "nuts", "pymc"):
            raise ValueError(f"method must be nested_laplace, nuts or pymc, got {method!r}")
        run = run_settings(draws, tune, chains, cores, progress)
        if method == "nested_laplace":
            idata = self._fit_laplace(draws, seed)
        else:
            idata = (
                self._fit_nuts(straighten, seed, **run)
                if method == "nuts"
                else self._fit_pymc(seed, **run)
            )
        error = self._quadrature_error(idata)
        idata.posterior.attrs["quadrature_error"] = error
        if error > 0.02:
            warnings.warn(
                f"doubling the quadrature nodes changes the log likelihood by {error:.2g}: "
                "raise n_nodes",
                ApproximationWarning,
                stacklevel=2,
            )
        return idata

    def _laplace(self, draws: int, seed: int) -> NestedLaplace:
        return nested_laplace(
            lambda x, t: self._inner(x, t),
            lambda x, t: self.hessian(np.append(x, t)),
            self.start(),
            value=lambda x, t: self.logp(np.append(x, t)),
            lower=_LOWER,
            upper=_UPPER,
            draws=draws,
            rng=np.random.default_rng(seed),
        )

    def _fit_laplace(self, draws: int, seed: int) -> Any:
        result = self._laplace(draws, seed)
        idata = self._inference_data(result.theta[None], "nested_laplace")
        attrs = idata.posterior.attrs
        attrs["pareto_k"] = result.pareto_k
        attrs["n_eff"] = result.n_eff
        attrs["n_gradients"] = result.n_gradients
        if result.pareto_k > 0.7:
            warnings.warn(
                f"pareto_k is {result.pareto_k:.2f} > 0.7: check n_nodes, then use method='nuts'",
                ApproximationWarning,
                stacklevel=3,
            )
        return idata

    def _inner(self, x: Any, t: Any) -> Any:
        value, grad = self.logp_and_grad(np.append(x, t))
        return value, grad[:-1]

    def _fit_nuts(self, straighten: bool, seed: int, **run: Any) -> Any:
        rough = self._laplace(50, seed)
        trace = ridge_nuts(self.logp_and_grad, rough, straighten=straighten, seed=seed, **run)
        theta = trace.posterior["theta"].values
        return self._chains_data(theta, trace.sample_stats, "nuts")

    def _fit_pymc(self, seed: int, **run: Any) -> Any:
        import nutpie

        compiled = nutpie.compile_pymc_model(pymc_model(self))
        trace = nutpie.sample(compiled, seed=seed, **run)
        post = trace.posterior
        free_scale = post["sigma"] if self.sigma is None else post["alpha"]
        theta = np.concatenate(
            [
                post["beta_Y"].values,
                post["beta_Delta_free"].values,
                np.log(free_scale.values)[..., None],
            ],
            axis=-1,
        )
        return self._chains_data(theta, trace.sample_stats, "pymc")

    def _chains_data(self, theta: np.ndarray, sample_stats: Any, method: str) -> Any:
        idata = self._inference_data(theta, method)
        scale = "sigma" if self.sigma is None else "alpha"
        names = ["beta_Y", "beta_Delta_free", scale]
        return with_diagnostics(idata, sample_stats, names, stacklevel=5)

    def unpack(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Split parameter vectors of shape (..., M + F + 1) into named, full-length arrays."""
        theta = np.asarray(theta, float)
        m = self._X.shape[1]
        scale = np.exp(theta[..., -1])
        beta_d = np.zeros((*theta.shape[:-1], m))
        beta_d[..., self.free] = theta[..., m:-1]
        beta_d += self.offset
        fixed = np.ones_like(scale)
        return {
            "beta_Y": theta[..., :m],
            "beta_Delta": beta_d,
            "sigma": scale if self.sigma is None else fixed * self.sigma,
            "alpha": scale if self.sigma is not None else fixed * self.alpha,
        }

    def _inference_data(self, theta: np.ndarray, method: str) -> Any:
        parts: dict[str, Any] = self.unpack(theta)
        parts["beta_Delta_free"] = theta[..., self._X.shape[1] : -1]
        share = self.data.n / self.data.n.sum()
        a = parts["beta_Y"] @ self._X.T  # (C, S, G)
        prevalence = np.empty(theta.shape[:2])
        for c in range(theta.shape[0]):
            for s in range(theta.shape[1]):
                prevalence[c, s] = self._p_positive(a[c, s], float(parts["sigma"][c, s])) @ share
        parts["prevalence"] = prevalence
        names = list(self.data.names)
        idata = quiet_arviz().from_dict(
            posterior=parts,
            coords={"feature": names, "deviation": [names[j] for j in self.free]},
            dims={
                "beta_Y": ["feature"],
                "beta_Delta": ["feature"],
                "beta_Delta_free": ["deviation"],
            },
        )
        idata.posterior.attrs.update(
            method=method,
            unobservable=self.unobservable,
            n_nodes=self.n_nodes,
            n_people=self.data.n_people,
        )
        return idata

    def _quadrature_error(self, idata: Any) -> float:
        post = idata.posterior
        name = "sigma" if self.sigma is None else "alpha"
        flat = post.stack(draw_all=("chain", "draw"))
        order = int(np.argsort(flat[name].values)[int(0.975 * (flat.sizes["draw_all"] - 1))])
        a = self._X @ flat["beta_Y"].values[:, order]
        d = self._X @ flat["beta_Delta"].values[:, order]
        alpha, sigma = float(flat["alpha"][order]), float(flat["sigma"][order])
        both = [
            row_gradients(
                a,
                d,
                alpha,
                sigma,
                *quadrature_nodes(self.unobservable, n),
                *self._counts,
            )[0]
            for n in (self.n_nodes, 2 * self.n_nodes)
        ]
        return float(abs(both[0] - both[1]))


def pymc_model(model: SelectionModel) -> pymc.Model:
    """Write the same posterior in PyMC, to read, extend, or sample with any PyMC sampler.

    The likelihood is the sum over quadrature nodes in PyTensor expressions. Variables:
    ``beta_Y``, ``beta_Delta_free``, and ``sigma`` or ``alpha``.
    """
    import pymc as pm
    import pytensor.tensor as pt

    data = model.data
    coords = {"feature": list(data.names), "deviation": [data.names[j] for j in model.free]}
    with pm.Model(coords=coords) as written:
        x = pm.Data("x", data.X)
        n11, n10, n0 = (
            pm.Data(k, v) for k, v in (("n11", data.n11), ("n10", data.n10), ("n0", data.n0))
        )
        s = model.prior_scale
        beta_y = pm.Normal("beta_Y", 0.0, s, dims="feature")
        beta_d = pm.Normal("beta_Delta_free", 0.0, s, dims="deviation")
        sigma = pm.HalfNormal("sigma", s) if model.sigma is None else model.sigma
        alpha = pm.HalfNormal("alpha", s) if model.sigma is not None else model.alpha
        a = pt.dot(x, beta_y)
        d = pt.dot(x[:, model.free], beta_d) + model._d0
        r = a[:, None] + sigma * model._x[None, :]
        y = pt.sigmoid(r)
        t = pt.sigmoid(alpha * r + d[:, None])
        not_t = pt.sigmoid(-(alpha * r + d[:, None]))
        w = model._w

        def mix(cell):
            return pt.maximum(pt.dot(cell, w), 1e-300)

        pm.Potential(
            "loglik",
            pt.sum(
                n11 * pt.log(mix(t * y))
                + n10 * pt.log(mix(t * pt.sigmoid(-r)))
                + n0 * pt.log(mix(not_t))
            ),
        )
        if len(model.shares):
            implied = pt.dot(model.weights, pt.dot(y, w))
            gap = (implied - model.shares) / model.constraints.prevalence_sd
            pm.Potential("known_prevalence", -0.5 * pt.sum(gap**2))
    return written


def latent_pymc_model(model: SelectionModel) -> pymc.Model:
    """Write the model with one latent ``Z`` per person, the form that needs no integral.

    It is here as the peer of the benchmark: with N people it has N more parameters.
    """
    import pymc as pm
    import pytensor.tensor as pt

    data = model.data
    repeat = data.n.astype(int)
    rows = np.repeat(np.arange(len(repeat)), repeat)
    cells = np.concatenate(
        [
            np.repeat([2, 1, 0], [int(c11), int(c10), int(c0)])
            for c11, c10, c0 in zip(data.n11, data.n10, data.n0, strict=True)
        ]
    )
    tested, positive = (cells > 0).astype(float), (cells == 2).astype(float)
    with pm.Model() as written:
        s = model.prior_scale
        beta_y = pm.Normal("beta_Y", 0.0, s, shape=data.X.shape[1])
        beta_d = pm.Normal("beta_Delta_free", 0.0, s, shape=len(model.free))
        sigma = pm.HalfNormal("sigma", s) if model.sigma is None else model.sigma
        alpha = pm.HalfNormal("alpha", s) if model.sigma is not None else model.alpha
        if model.unobservable == "uniform":
            z = pm.Uniform("Z", 0.0, 1.0, shape=len(rows))
        else:
            z = pm.Normal("Z", 0.0, 1.0, shape=len(rows))
        r = pt.dot(data.X[rows], beta_y) + sigma * z
        score = alpha * r + pt.dot(data.X[rows][:, model.free], beta_d) + model._d0[rows]
        pm.Potential(
            "loglik",
            pt.sum(
                pt.switch(tested > 0, -pt.softplus(-score), -pt.softplus(score))
                + tested * pt.switch(positive > 0, -pt.softplus(-r), -pt.softplus(r))
            ),
        )
        if len(model.shares):
            a = pt.dot(data.X, beta_y)
            y = pt.dot(pt.sigmoid(a[:, None] + sigma * model._x[None, :]), model._w)
            gap = (pt.dot(model.weights, y) - model.shares) / model.constraints.prevalence_sd
            pm.Potential("known_prevalence", -0.5 * pt.sum(gap**2))
    return written


def predict(idata: Any, X: Any, *, max_draws: int = 400) -> xarray.Dataset:
    """Posterior predictions for people with features ``X``.

    Parameters
    ----------
    idata : arviz.InferenceData
        From :meth:`SelectionModel.fit`.
    X : array_like, shape (R, M)
        Feature rows in the order of the fit.
    max_draws : int
        Draws used, evenly spaced.

    Returns
    -------
    xarray.Dataset
        ``risk`` p(Y=1|X), ``risk_untested`` p(Y=1|X,T=0), ``risk_tested`` p(Y=1|X,T=1),
        ``p_tested`` p(T=1|X), each of dims ``(row, statistic)`` with statistic mean, 2.5 % and
        97.5 %. Ratios are taken draw by draw, then averaged.

    Raises
    ------
    ValueError
        ``X`` has the wrong number of columns or non-finite values.
    """
    import xarray as xr

    draws = predictive_draws(idata, X, max_draws=max_draws)
    statistics = ["mean", "low", "high"]
    out = {}
    for name, values in draws.items():
        table = np.stack([values.mean(0), *np.quantile(values, [0.025, 0.975], axis=0)], axis=1)
        out[name] = (("row", "statistic"), table)
    return xr.Dataset(out, coords={"statistic": statistics})


def predictive_draws(idata: Any, X: Any, *, max_draws: int = 400) -> dict[str, np.ndarray]:
    """Draw-by-draw version of :func:`predict`: a dict of arrays of shape (S, R)."""
    post = idata.posterior
    X = np.asarray(X, float)
    if X.ndim != 2 or X.shape[1] != post.sizes["feature"]:
        raise ValueError(f"X must have {post.sizes['feature']} columns, got shape {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError("X contains missing or infinite values")
    flat = post.stack(draw_all=("chain", "draw")).transpose("draw_all", ...)
    total = flat.sizes["draw_all"]
    use = np.linspace(0, total - 1, min(max_draws, total)).round().astype(int)
    x, w = quadrature_nodes(post.attrs["unobservable"], int(post.attrs["n_nodes"]))
    a = flat["beta_Y"].values[use] @ X.T
    d = flat["beta_Delta"].values[use] @ X.T
    alpha, sigma = flat["alpha"].values[use], flat["sigma"].values[use]
    out = {k: np.empty(a.shape) for k in ("risk", "risk_untested", "risk_tested", "p_tested")}
    for i in range(len(use)):
        p11, p10, p01, p00 = _cell_rows(a[i], d[i], float(alpha[i]), float(sigma[i]), x, w)
        out["risk"][i] = p11 + p01
        out["risk_untested"][i] = p01 / (p01 + p00)
        out["risk_tested"][i] = p11 / (p11 + p10)
        out["p_tested"][i] = p11 + p10
    return out


def replicate_counts(
    idata: Any, data: SelectiveLabels, *, seed: int = 0, max_draws: int = 400
) -> np.ndarray:
    """Posterior predictive counts of the observable cells.

    Returns
    -------
    ndarray of int, shape (S, 3, G)
        Tested and positive, tested and negative, untested, for each row of ``data``.
    """
    draws = predictive_draws(idata, data.X, max_draws=max_draws)
    p11 = draws["p_tested"] * draws["risk_tested"]
    p10 = draws["p_tested"] - p11
    p = np.stack([p11, p10, 1.0 - p11 - p10], axis=-1).clip(0.0, 1.0)
    p /= p.sum(-1, keepdims=True)
    rng = np.random.default_rng(seed)
    n = np.broadcast_to(data.n.astype(int), p.shape[:2])
    return np.moveaxis(rng.multinomial(n, p), -1, 1)


def predictive_p(observed: float, replicates: np.ndarray) -> float:
    """Two-sided posterior predictive p of one statistic."""
    replicates = np.asarray(replicates, float)
    n = len(replicates)
    low = (1 + (replicates <= observed).sum()) / (n + 1)
    high = (1 + (replicates >= observed).sum()) / (n + 1)
    return float(min(1.0, 2 * min(low, high)))
