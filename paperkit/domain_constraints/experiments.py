"""One function for each measurement of the chapter: settings in, records or intervals out.

Notebook, script, mutation test and the run over fresh seeds call these same functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from paperkit import claims, profiles
from paperkit.domain_constraints.cells import cell_probabilities
from paperkit.domain_constraints.heckman import (
    HeckmanModel,
    fit_heckman_mle,
    general_loglik,
    heckman_from_general,
    heckman_loglik,
)
from paperkit.domain_constraints.labels import DomainConstraints, SelectiveLabels
from paperkit.domain_constraints.model import (
    SelectionModel,
    predict,
    predictive_p,
    replicate_counts,
)
from paperkit.domain_constraints.rivals import (
    logistic_tested_only,
    logistic_untested_negative,
    parameter_report,
    reallocation,
)
from paperkit.domain_constraints.simulate import simulate_bernoulli_sigmoid, simulate_heckman
from paperkit.domain_constraints.tables import (
    AGE_BINS,
    Study,
    load_free_light_chain,
    load_mroz,
    load_wilms,
)

CONSTRAINT_NAMES = {"u": "none", "p": "prevalence", "e": "expertise", "b": "both"}

#: Greene's maximum likelihood fit of the wage equation, sigma and correlation.
MROZ_PUBLISHED = (-1.963, 0.0279, -0.0001, 0.4570, 0.4465, 3.108, -0.132)


def mean_interval(values: Iterable[float], *, seed: int = 0) -> claims.Interval:
    """Mean over sets or policies with a bootstrap interval."""
    return claims.bootstrap(np.mean, np.asarray(list(values), float), rng=seed)


def median_interval(values: Iterable[float], *, seed: int = 0) -> claims.Interval:
    """Median over sets with a percentile bootstrap interval."""
    array = np.asarray(list(values), float)
    return claims.bootstrap(np.median, array, method="percentile", rng=seed)


def constraint_set(
    name: str,
    prevalence: float | None,
    features: Sequence[str | int],
    *,
    prevalence_sd: float = 0.0022,
) -> DomainConstraints:
    """Return the constraints called u, p, e or b."""
    if name not in CONSTRAINT_NAMES:
        raise ValueError(f"constraint must be one of u, p, e, b, got {name!r}")
    return DomainConstraints(
        prevalence=prevalence if name in "pb" else None,
        prevalence_sd=prevalence_sd,
        deviation_features=list(features) if name in "eb" else None,
    )


# ---- notebook 1: known answers -----------------------------------------------------------------


def selection_bias(*, seed: int, n: int = 5000, independent_testing: bool = False) -> dict:
    """One population: bias of the tested-only classifier, and how the two groups differ.

    Returns
    -------
    dict
        ``bias`` mean predicted minus true risk of the untested; ``z_gap`` difference of mean Z in
        standard deviations; ``auc`` of predicting testing from X on the other half.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    sim = simulate_bernoulli_sigmoid(seed, n, independent_testing=independent_testing)
    out = sim.tested == 0
    risk = logistic_tested_only(sim.labels()).risk(sim.X)
    half = np.arange(n) % 2 == 0
    policy = LogisticRegression(C=np.inf, max_iter=1000).fit(sim.X[half, 1:], sim.tested[half])
    auc = roc_auc_score(sim.tested[~half], policy.decision_function(sim.X[~half, 1:]))
    z = sim.z / sim.z.std()
    return {
        "bias": float(risk[out].mean() - sim.outcome_full[out].mean()),
        "z_gap": float(z[~out].mean() - z[out].mean()),
        "auc": float(auc),
    }


def odds_identity_error(*, alpha: float = 1.0, seed: int = 0) -> float:
    """Largest relative error of ``p10 / p01 = exp(d)`` over both families and 500 points."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for family in ("uniform", "normal"):
        a, d = rng.normal(-1, 2, 500), rng.normal(1, 2, 500)
        cells = cell_probabilities(
            a,
            d,
            2.0,
            alpha=alpha,
            unobservable=family,
            n_nodes=96,
        )
        worst = max(worst, float(np.abs(cells.p10 / cells.p01 / np.exp(d) - 1).max()))
    return worst


def intercept_only_labels(n11: int = 30, n10: int = 70, n0: int = 400) -> SelectiveLabels:
    """Return a population of people who all look the same to the analyst."""
    a, b, c = (np.array([float(count)]) for count in (n11, n10, n0))
    inverse = np.zeros(n11 + n10 + n0, int)
    return SelectiveLabels(np.ones((1, 1)), a, b, c, ("intercept",), inverse)


def intercept_grid(
    data: SelectiveLabels,
    *,
    prevalence: float | None = None,
    prevalence_sd: float = 0.0022,
    prior_scale: float = 3.0,
    points: int = 90,
) -> dict[str, np.ndarray]:
    """Posterior of the intercept-only model by brute force on a grid.

    Returns
    -------
    dict
        Axes ``beta_Y``, ``beta_Delta``, ``log_sigma``, normalised ``mass`` of shape
        (points, points, points), and the implied ``prevalence`` of shape (points, points).
    """
    b = np.linspace(-8.0, 3.0, points)
    d = np.linspace(-3.0, 2.0, points)
    t = np.linspace(np.log(0.01), np.log(14.0), points)
    mass = np.empty((points, points, points))
    implied = np.empty((points, points))
    bb, dd = (v.ravel() for v in np.meshgrid(b, d, indexing="ij"))
    n11, n10, n0 = (float(c[0]) for c in (data.n11, data.n10, data.n0))
    for k, tk in enumerate(t):
        sigma = float(np.exp(tk))
        cells = cell_probabilities(bb, dd, sigma, n_nodes=24)
        value = (
            n11 * np.log(cells.p11)
            + n10 * np.log(cells.p10)
            + n0 * np.log(cells.untested)
            - 0.5 * (bb**2 + dd**2 + sigma**2) / prior_scale**2
            + tk
        )
        implied[:, k] = cells.positive.reshape(points, points)[:, 0]
        if prevalence is not None:
            value = value - 0.5 * ((cells.positive - prevalence) / prevalence_sd) ** 2
        mass[:, :, k] = value.reshape(points, points)
    mass = np.exp(mass - mass.max())
    return {
        "beta_Y": b,
        "beta_Delta": d,
        "log_sigma": t,
        "mass": mass / mass.sum(),
        "prevalence": implied,
    }


def grid_moments(grid: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean and standard deviation of each parameter of :func:`intercept_grid`."""
    axes = {
        "beta_Y": (grid["beta_Y"], (1, 2)),
        "beta_Delta": (grid["beta_Delta"], (0, 2)),
        "sigma": (np.exp(grid["log_sigma"]), (0, 1)),
    }
    rows = {}
    for name, (axis, rest) in axes.items():
        p = grid["mass"].sum(rest)
        mean = p @ axis
        rows[name] = {"mean": mean, "sd": np.sqrt(p @ (axis - mean) ** 2)}
    p = grid["mass"].sum(1)
    mean = (p * grid["prevalence"]).sum()
    rows["prevalence"] = {
        "mean": mean,
        "sd": np.sqrt((p * (grid["prevalence"] - mean) ** 2).sum()),
    }
    return pd.DataFrame(rows).T


def draws_moments(idata: Any) -> pd.DataFrame:
    """Mean and standard deviation of the same parameters from posterior draws."""
    post = idata.posterior
    columns = {
        "beta_Y": post["beta_Y"].values[..., 0],
        "beta_Delta": post["beta_Delta"].values[..., 0],
        "sigma": post["sigma"].values,
        "prevalence": post["prevalence"].values,
    }
    return pd.DataFrame({k: {"mean": v.mean(), "sd": v.std()} for k, v in columns.items()}).T


def grid_difference(*, seed: int, draws: int = 4000) -> float:
    """Largest difference of posterior means, nested Laplace against the grid, in grid sds."""
    data = intercept_only_labels()
    fitted = draws_moments(SelectionModel(data).fit(draws=draws, seed=seed))
    exact = grid_moments(intercept_grid(data))
    gap = ((fitted["mean"] - exact["mean"]).abs() / exact["sd"]).drop("prevalence")
    return float(gap.max())


def gaussian_total_variance_error(*, seed: int, cases: int = 200, dim: int = 6) -> float:
    """Largest error of the law of total variance in Gaussian posteriors, relative.

    Fixing coordinate ``c`` leaves ``Var(u) - Cov(u, c)^2 / Var(c)``, computed here from the
    precision matrix, an independent route.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(cases):
        root = rng.standard_normal((dim, dim + 4))
        cov = root @ root.T / dim
        conditional = conditional_variances(cov)
        explained = cov[1:, 0] ** 2 / cov[0, 0]
        worst = max(
            worst,
            float(np.abs((np.diag(cov)[1:] - conditional - explained) / np.diag(cov)[1:]).max()),
        )
    return worst


def conditional_variances(cov: np.ndarray) -> np.ndarray:
    """Variances of coordinates 1.. of a Gaussian given coordinate 0, via the precision matrix."""
    precision = np.linalg.inv(cov)
    return np.diag(np.linalg.inv(precision[1:, 1:])).copy()


def mixture_variance_ratio(*, at: float = 0.0) -> float:
    """``Var(u | c = at) / Var(u)`` in a mixture of a common narrow and a rare wide component.

    With c near 0 the wide component is more likely than on the whole, so u is more uncertain.
    """
    weights = np.array([0.9, 0.1])
    c_mean, c_sd = np.array([2.0, 0.0]), np.array([0.5, 0.5])
    u_sd = np.array([1.0, 4.0])
    posterior = weights / c_sd * np.exp(-0.5 * ((at - c_mean) / c_sd) ** 2)
    posterior /= posterior.sum()
    return float(posterior @ u_sd**2 / (weights @ u_sd**2))


def model_total_variance(
    *, seed: int, n: int = 300, values: int = 8, at_mode: bool = False
) -> pd.Series:
    """Average conditional variance over variance, minus 1, by parameter, in the real model.

    The deviation of column 1 is fixed at equally probable values of its posterior and the model
    refitted at each.

    Parameters
    ----------
    at_mode : bool
        Use the one value at the posterior mean instead of the average (what the proposition does
        not say).
    """
    sim = simulate_bernoulli_sigmoid(seed, n)
    data = sim.labels()
    free = SelectionModel(data, constraints=DomainConstraints(deviation_features=[1]))
    whole = free.fit(draws=16000, seed=seed).posterior
    beta = whole["beta_Delta"].values[0, :, 1]
    points = (
        np.array([beta.mean()])
        if at_mode
        else np.quantile(beta, (np.arange(values) + 0.5) / values)
    )
    kept: list[dict[str, float]] = []
    for i, value in enumerate(points):
        offset = np.zeros(len(data.names))
        offset[1] = value
        fixed = SelectionModel(
            data,
            constraints=DomainConstraints(deviation_features=[]),
            deviation_offset=offset,
        )
        kept.append(_variances(fixed.fit(draws=4000, seed=seed + 1 + i).posterior))
    conditional = pd.DataFrame(kept).mean()
    return conditional / pd.Series(_variances(whole)) - 1.0


def _variances(post: Any) -> dict[str, float]:
    out = {f"beta_Y[{j}]": float(v) for j, v in enumerate(post["beta_Y"].values[0].var(0))}
    out["beta_Delta[0]"] = float(post["beta_Delta"].values[0, :, 0].var())
    out["log sigma"] = float(np.log(post["sigma"].values).var())
    return out


# ---- Heckman -----------------------------------------------------------------------------------


def heckman_map_error(*, seed: int, cases: int = 100) -> float:
    """Largest difference per person of the general and the Heckman log likelihood."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(cases):
        n, m = 40, 4
        X = np.column_stack([np.ones(n), rng.standard_normal((n, m - 1))])
        beta_y, beta_d = rng.standard_normal(m), rng.standard_normal(m)
        alpha, sigma = rng.uniform(0.1, 2.0), rng.uniform(0.3, 3.0)
        beta_t, rho = heckman_from_general(beta_y, beta_d, alpha, sigma)
        y = X @ beta_y + sigma * rng.standard_normal(n)
        tested = rng.random(n) < 0.5
        one = general_loglik(beta_y, beta_d, alpha, sigma, X, y, tested)
        two = heckman_loglik(beta_y, beta_t, sigma, rho, X, X, y, tested)
        worst = max(worst, float(np.abs(one - two).max()))
    return worst


def mroz_difference() -> tuple[float, pd.DataFrame]:
    """Fit the Mroz data and compare with the published values.

    Returns
    -------
    largest : float
        Largest absolute difference over seven numbers.
    table : DataFrame
        ``ours`` and ``published``, indexed by name.
    """
    data = load_mroz()
    fit = fit_heckman_mle(data.X_outcome, data.X_selection, data.wage, data.working)
    names = ["constant", "experience", "experience^2", "education", "city", "sigma", "correlation"]
    ours = [*fit.beta_Y, fit.sigma, fit.correlation]
    table = pd.DataFrame({"ours": ours, "published": MROZ_PUBLISHED}, index=names)
    return float((table["ours"] - table["published"]).abs().max()), table


def heckman_fit(*, seed: int, constraint: str, n: int = 500) -> dict:
    """One Heckman population under one constraint: report of widths and errors."""
    sim = simulate_heckman(seed, n)
    idata = HeckmanModel(
        sim.X,
        sim.tested,
        sim.outcome,
        mean_outcome=sim.prevalence if constraint in "pb" else None,
        deviation_features=[1] if constraint in "eb" else None,
    ).fit(seed=seed)
    return {
        "set": seed,
        "constraint": constraint,
        **parameter_report(idata, sim.truth),
        **_posterior_summary(idata),
    }


# ---- synthetic populations ---------------------------------------------------------------------


def _posterior_summary(idata: Any) -> dict[str, float]:
    post = idata.posterior
    out: dict[str, float] = {"pareto_k": float(post.attrs.get("pareto_k", np.nan))}
    for name in ("beta_Y", "beta_Delta"):
        values = post[name].values.reshape(-1, post.sizes["feature"])
        for j in range(values.shape[1]):
            out[f"mean_{name}_{j}"] = float(values[:, j].mean())
            out[f"sd_{name}_{j}"] = float(values[:, j].std())
    for name in ("sigma", "alpha"):
        out[f"mean_{name}"] = float(post[name].values.mean())
        out[f"sd_{name}"] = float(post[name].values.std())
    low, high = np.quantile(post["sigma"].values, [0.025, 0.975])
    out["sigma_low"], out["sigma_high"] = float(low), float(high)
    return out


def replicate_difference(record: Mapping[str, float], stored: Mapping[str, float]) -> float:
    """Largest difference of a posterior mean from a stored one, in stored sds."""
    names = [k[5:] for k in stored if k.startswith("mean_") and stored["sd_" + k[5:]] > 1e-9]
    return float(
        max(abs(record["mean_" + k] - stored["mean_" + k]) / stored["sd_" + k] for k in names)
    )


def synthetic_fit(
    *,
    seed: int,
    constraint: str,
    n: int = 5000,
    unobservable: str = "uniform",
    fixed: str = "alpha",
    deviation_features: Sequence[int] = (1,),
    prevalence: str = "true",
    prior_scale: float = 3.0,
    draws: int = 500,
    n_nodes: int | None = None,
    with_risk: bool = True,
    risk_draws: int = 100,
) -> dict:
    """Fit one synthetic population under one constraint.

    Parameters
    ----------
    seed : int
        Population.
    constraint : {"u", "p", "e", "b", "subgroups"}
        ``subgroups``: the prevalences of people below and above the mean of column 1.
    fixed : {"alpha", "sigma"}
        Which scale is known, at its true value.
    deviation_features : sequence of int
        Expertise set; (1,) is right.
    prevalence : {"true", "tested"}
        Source of the prevalence; ``tested`` is the mistake of taking it from tested people.
    draws, n_nodes : int
        Posterior draws and quadrature nodes.
    with_risk : bool
        Also compare the risk of untested and tested people with the truth.

    Returns
    -------
    dict
        :func:`parameter_report`, posterior means and sds, ``rmse_untested``, ``rmse_tested`` and
        ``untested_risk``.
    """
    sim = simulate_bernoulli_sigmoid(seed, n, unobservable=unobservable)  # type: ignore[arg-type]
    data = sim.labels()
    if prevalence == "tested":
        share = float(sim.outcome_full[sim.tested == 1].mean())
    elif prevalence == "true":
        share = sim.prevalence
    else:
        raise ValueError(f"prevalence must be 'true' or 'tested', got {prevalence!r}")
    if constraint == "subgroups":
        low = sim.X[:, 1] <= 0
        groups: dict[str | int, tuple[float, float, float]] = {
            1: (0.0, sim.outcome_full[low].mean(), sim.outcome_full[~low].mean())
        }
        known = DomainConstraints(subgroup_prevalence=groups)
    else:
        known = constraint_set(constraint, share, deviation_features)
    idata = SelectionModel(
        data,
        unobservable=unobservable,  # type: ignore[arg-type]
        alpha=sim.truth["alpha"] if fixed == "alpha" else None,
        sigma=sim.truth["sigma"] if fixed == "sigma" else None,
        constraints=known,
        prior_scale=prior_scale,
        n_nodes=n_nodes,
    ).fit(seed=seed, draws=draws)
    record = {
        "set": seed,
        "constraint": constraint,
        **parameter_report(idata, sim.truth),
        **_posterior_summary(idata),
    }
    if with_risk:
        risk = predict(idata, sim.X, max_draws=risk_draws).sel(statistic="mean")
        off, on = sim.tested == 0, sim.tested == 1
        record["rmse_untested"] = _rmse(risk.risk_untested.values[off], sim.true_risk_untested())
        record["rmse_tested"] = _rmse(risk.risk_tested.values[on], sim.true_risk_tested())
        record["untested_risk"] = float(risk.risk_untested.values[off].mean())
        record["true_untested_risk"] = float(sim.true_risk_untested().mean())
    return record


def synthetic_rivals(*, seed: int, n: int = 5000) -> dict:
    """RMSE of the untested people's risk for the simpler rivals on one population."""
    sim = simulate_bernoulli_sigmoid(seed, n)
    data, off = sim.labels(), sim.tested == 0
    truth = sim.true_risk_untested()
    models = {
        "tested_only": logistic_tested_only(data),
        "recentred": logistic_tested_only(data, recentre_to=sim.prevalence),
        "negative": logistic_untested_negative(data),
    }
    record: dict[str, float] = {"set": seed}
    for name, model in models.items():
        record[name] = _rmse(model.risk(sim.X[off]), truth)
    return record


def _rmse(one: Any, two: Any) -> float:
    return float(np.sqrt(np.mean((np.asarray(one) - np.asarray(two)) ** 2)))


def synthetic_sets(
    seeds: Sequence[int], *, constraints: Sequence[str] = ("u", "p", "e", "b"), **settings: Any
) -> pd.DataFrame:
    """Run :func:`synthetic_fit` for every set and constraint through ``paperkit.sweeps``."""
    from paperkit.sweeps import sweep

    cases = [{"constraint": c, **settings} for c in constraints]
    return sweep(synthetic_fit, cases, seeds=seeds, description="synthetic populations")


def paired_ratio(table: pd.DataFrame, column: str, one: str, two: str) -> np.ndarray:
    """``column`` under constraint ``one`` over that under ``two``, set by set."""
    wide = table.pivot(index="set", columns="constraint", values=column)
    return (wide[one] / wide[two]).to_numpy()


def prior_shift(table_low: pd.DataFrame, table_high: pd.DataFrame) -> np.ndarray:
    """How far the untested risk moves between two prior scales, b over u, set by set."""
    low = table_low.pivot(index="set", columns="constraint", values="untested_risk")
    high = table_high.pivot(index="set", columns="constraint", values="untested_risk")
    moved = (high - low).abs()
    return (moved["b"] / moved["u"]).to_numpy()


def predictive_check(
    idata: Any, data: SelectiveLabels, *, bins: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Posterior predictive check of the visible cells by feature.

    Each feature is cut at its quantiles; in each part the observed share of each visible cell is
    set against what populations drawn from the fit would show.

    Parameters
    ----------
    bins : int
        Parts per feature, fewer if the feature has fewer values.

    Returns
    -------
    DataFrame
        Columns ``feature, bin, cell, observed, mean, low, high`` (shares; 95 % interval of the
        replicates) and ``inside``, whether the observed share lies in the interval.
    """
    replicates = replicate_counts(idata, data, seed=seed)  # (S, 3, G)
    observed = np.stack([data.n11, data.n10, data.n0])
    cells = ("tested, positive", "tested, negative", "untested")
    rows = []
    for j, feature in enumerate(data.names[1:], start=1):
        x = data.X[:, j]
        edges = np.unique(np.quantile(x, np.arange(1, bins) / bins))
        part = np.searchsorted(edges, x, side="right")
        for b in np.unique(part):
            total = data.n[part == b].sum()
            for c, cell in enumerate(cells):
                shares = replicates[:, c, part == b].sum(1) / total
                low, high = np.quantile(shares, [0.025, 0.975])
                seen = observed[c, part == b].sum() / total
                rows.append(
                    {
                        "feature": feature,
                        "bin": int(b),
                        "cell": cell,
                        "observed": float(seen),
                        "mean": float(shares.mean()),
                        "low": float(low),
                        "high": float(high),
                        "inside": bool(low <= seen <= high),
                    }
                )
    return pd.DataFrame(rows)


def nuts_comparison(*, seed: int, n: int = 1000, draws: int = 800, tune: int = 500) -> dict:
    """NUTS against nested Laplace on one population with both constraints.

    Returns
    -------
    dict
        ``difference`` of posterior means in sds (largest), ``sd_ratio`` (largest departure from
        1), ``r_hat``, ``divergences``, ``ess``, and the two ``InferenceData``.
    """
    import arviz as az

    sim = simulate_bernoulli_sigmoid(seed, n)
    model = SelectionModel(sim.labels(), constraints=constraint_set("b", sim.prevalence, [1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nuts = model.fit(method="nuts", draws=draws, tune=tune, seed=seed)
    fast = model.fit(draws=4000, seed=seed)
    gaps, ratios = [], []
    for name in ("beta_Y", "beta_Delta_free"):
        one = nuts.posterior[name].values.reshape(-1, nuts.posterior[name].shape[-1])
        two = fast.posterior[name].values.reshape(-1, one.shape[-1])
        gaps.append((np.abs(one.mean(0) - two.mean(0)) / two.std(0)).max())
        ratios.append(np.abs(one.std(0) / two.std(0) - 1).max())
    one, two = (np.log(i.posterior["sigma"].values.ravel()) for i in (nuts, fast))
    gaps.append(abs(one.mean() - two.mean()) / two.std())
    ratios.append(abs(one.std() / two.std() - 1))
    names = ["beta_Y", "beta_Delta_free", "sigma"]
    ess = az.ess(nuts.posterior[names])
    return {
        "difference": float(max(gaps)),
        "sd_ratio": float(max(ratios)),
        "r_hat": float(nuts.posterior.attrs["r_hat"]),
        "divergences": int(nuts.posterior.attrs["divergences"]),
        "ess": float(min(float(ess[v].min()) for v in names)),
        "nuts": nuts,
        "fast": fast,
    }


def gradients_per_effective_draw(
    *, seed: int, n: int = 1000, draws: int = 300, tune: int = 300
) -> float:
    """Gradient evaluations per effective draw (smallest bulk ESS) of plain NUTS, no constraint."""
    import arviz as az

    sim = simulate_bernoulli_sigmoid(seed, n)
    model = SelectionModel(sim.labels())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        idata = model.fit(
            method="nuts", draws=draws, tune=tune, chains=1, seed=seed, straighten=False
        )
    names = ["beta_Y", "beta_Delta_free", "sigma"]
    ess = az.ess(idata.posterior[names])
    fewest = min(float(ess[v].min()) for v in names)
    return float(idata.sample_stats["n_steps"].values.sum() / fewest)


def sbc_ranks(
    *, seed: int, n: int = 300, m: int = 3, draws: int = 99, fit_prior_scale: float = 1.0
) -> dict:
    """One simulation of simulation-based calibration: ranks of the true parameters.

    Parameters are drawn from the model's prior with scale 1; each rank is uniform on 0..draws if
    the posterior is right.
    """
    sim = simulate_bernoulli_sigmoid(seed, n, m, prior_scale=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            data = sim.labels()
        except ValueError:  # nobody was tested
            return {"set": seed}
        post = (
            SelectionModel(data, prior_scale=fit_prior_scale).fit(draws=1000, seed=seed).posterior
        )
    use = np.linspace(0, 999, draws).round().astype(int)
    record: dict[str, float] = {"set": seed, "pareto_k": post.attrs["pareto_k"]}
    for j in range(m):
        record[f"beta_Y_{j}"] = int(
            (post["beta_Y"].values[0, use, j] < sim.truth["beta_Y"][j]).sum()
        )
        record[f"beta_Delta_{j}"] = int(
            (post["beta_Delta"].values[0, use, j] < sim.truth["beta_Delta"][j]).sum()
        )
    record["sigma"] = int((post["sigma"].values[0, use] < sim.truth["sigma"]).sum())
    return record


def sbc_p_value(ranks: pd.DataFrame, *, draws: int = 99, seed: int = 0) -> tuple[float, pd.Series]:
    """Smallest Holm-adjusted Kolmogorov-Smirnov p of the ranks, and the raw p by parameter.

    Ranks are spread uniformly within their cell, which makes the test exact.
    """
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    names = [c for c in ranks.columns if c.startswith("beta_") or c == "sigma"]
    rng = np.random.default_rng(seed)
    p = {}
    for name in names:
        r = ranks[name].dropna().to_numpy(float)
        p[name] = float(stats.kstest((r + rng.random(len(r))) / (draws + 1), "uniform").pvalue)
    raw = pd.Series(p)
    return float(multipletests(raw.to_numpy(), method="holm")[1].min()), raw


# ---- real people: free light chain -------------------------------------------------------------

EXPERTISE = ("male", "age65")


def untested_cell_error(study: Study, risk: np.ndarray, *, by_sex: bool = False) -> float:
    """Mean absolute error of the mean risk over age bins (and sex) of untested people."""
    table = untested_calibration(study, {"risk": risk}, by_sex=by_sex)
    return float((table["risk"] - table["truth"]).abs().mean())


def untested_calibration(
    study: Study, risks: Mapping[str, np.ndarray], *, by_sex: bool = False
) -> pd.DataFrame:
    """Real rate and mean inferred risks of untested people by age bin (and sex).

    Parameters
    ----------
    risks : mapping of name to array, shape (N,)
    """
    off = study.tested == 0
    keys = ["age_bin", "male"] if by_sex else ["age_bin"]
    frame = study.people.loc[off, keys].copy()
    frame["truth"] = study.hidden_outcome[off]
    for name, risk in risks.items():
        frame[name] = np.asarray(risk)[off]
    grouped = frame.groupby(keys)
    table = grouped.mean()
    table["n"] = grouped.size()
    table["positives"] = grouped["truth"].sum()
    return table


def light_chain_fits(
    study: Study,
    constraints: Sequence[str] = ("u", "p", "e", "b"),
    *,
    prevalence_factor: float = 1.0,
    prevalence_sd: float = 0.0022,
    seed: int = 0,
    **settings: Any,
) -> dict:
    """Posterior of the free light chain study under each constraint.

    Returns
    -------
    dict
        Constraint to InferenceData.
    """
    data = study.labels()
    out = {}
    for name in constraints:
        known = constraint_set(
            name,
            study.prevalence * prevalence_factor,
            EXPERTISE,
            prevalence_sd=prevalence_sd,
        )
        out[name] = SelectionModel(data, constraints=known, **settings).fit(seed=seed)
    return out


def people_risk(idata: Any, study: Study, data: SelectiveLabels | None = None) -> Any:
    """Posterior mean predictions for every person, computed once per distinct row."""
    data = data or study.labels()
    table = predict(idata, data.X).sel(statistic="mean")
    return table.isel(row=data.inverse)


def light_chain_record(
    *,
    seed: int,
    policy: str | Mapping[str, float] = "strong",
    constraints: Sequence[str] = ("u", "p", "e", "b"),
    k: int = 400,
    **settings: Any,
) -> dict:
    """Everything measured on one testing policy draw.

    Returns
    -------
    dict
        ``bin_*`` age-bin error, ``cell_*`` age-bin x sex error, ``auc_*`` and ``mean_*`` risk of
        the untested for u, p, e, b, tested_only, recentred, negative; ``delta_*`` posterior mean
        and interval of the deviations; ``added_*``, ``dropped`` positives after moving ``k``
        tests; ``p_tested_gap`` men minus women at equal risk.
    """
    from sklearn.metrics import roc_auc_score

    study = load_free_light_chain(seed, policy)
    data, off = study.labels(), study.tested == 0
    y = study.hidden_outcome
    fits = light_chain_fits(study, constraints, seed=seed, **settings)
    predictions = {name: people_risk(idata, study, data) for name, idata in fits.items()}
    risks = {name: p["risk_untested"].values for name, p in predictions.items()}
    risks["tested_only"] = logistic_tested_only(data).risk(study.X)
    risks["recentred"] = logistic_tested_only(data, recentre_to=study.prevalence).risk(study.X)
    risks["negative"] = logistic_untested_negative(data).risk(study.X)
    record: dict[str, float] = {
        "set": seed,
        "true_mean": float(y[off].mean()),
        "test_rate": float(study.tested.mean()),
    }
    for name, risk in risks.items():
        record[f"bin_{name}"] = untested_cell_error(study, risk)
        record[f"cell_{name}"] = untested_cell_error(study, risk, by_sex=True)
        record[f"mean_{name}"] = float(risk[off].mean())
        record[f"auc_{name}"] = float(roc_auc_score(y[off], risk[off]))
    for name, idata in fits.items():
        post = idata.posterior["beta_Delta"].values.reshape(-1, len(data.names))
        low, high = np.quantile(post, [0.025, 0.975], axis=0)
        for j, feature in enumerate(data.names):
            record[f"delta_{name}_{feature}"] = float(post[:, j].mean())
            record[f"delta_{name}_{feature}_low"] = float(low[j])
            record[f"delta_{name}_{feature}_high"] = float(high[j])
        record[f"pareto_k_{name}"] = float(idata.posterior.attrs["pareto_k"])
    if "b" in fits:
        tested_risk = predictions["b"]["risk_tested"].values
        for name in risks:
            moved = reallocation(tested_risk, risks[name], study.tested, k, seed=seed)
            record[f"added_{name}"] = float(y[moved.added].sum())
            if name == "b":
                record["dropped"] = float(y[moved.dropped].sum())
        by_test = reallocation(
            tested_risk, predictions["b"]["p_tested"].values, study.tested, k, seed=seed
        )
        record["added_by_p_tested"] = float(y[by_test.added].sum())
        record["random"] = k * float(y[off].mean())
        record["p_tested_gap"] = equal_risk_gap(fits["b"], data)
    return record


def equal_risk_gap(idata: Any, data: SelectiveLabels) -> float:
    """p(tested) of men minus women of equal risk, averaged over men, within each age group.

    Women's curve of p(tested) against risk is interpolated at each man's risk, where women of
    such risk exist.
    """
    table = predict(idata, data.X).sel(statistic="mean")
    male = data.X[:, data.column("male")] == 1
    old = data.X[:, data.column("age65")] == 1
    gaps, weights = [], []
    for group in (old, ~old):
        women, men = group & ~male, group & male
        order = np.argsort(table.risk.values[women])
        risk = table.risk.values[women][order]
        tested = table.p_tested.values[women][order]
        inside = (table.risk.values[men] >= risk[0]) & (table.risk.values[men] <= risk[-1])
        gap = table.p_tested.values[men] - np.interp(table.risk.values[men], risk, tested)
        gaps.append(gap[inside])
        weights.append(data.n[men][inside])
    return float(np.average(np.concatenate(gaps), weights=np.concatenate(weights)))


def light_chain_policies(seeds: Sequence[int], **settings: Any) -> pd.DataFrame:
    """:func:`light_chain_record` for several policy draws through ``paperkit.sweeps``."""
    from paperkit.sweeps import sweep

    return sweep(light_chain_record, [settings], seeds=seeds, description="policies")


def step_record(*, seed: int, policy: str | Mapping[str, float] = "step") -> dict:
    """Deviation by age bin under the step policy, and the size of its jump at 65.

    Returns
    -------
    dict
        ``delta_<bin>`` posterior means relative to ages 50-54, with ``_low`` and ``_high``, and
        ``jump``: rise from 60-64 to 65-69 minus rise from 55-59 to 60-64.
    """
    study = load_free_light_chain(seed, policy, features="bins")
    data = study.labels()
    known = constraint_set("b", study.prevalence, list(AGE_BINS[1:]))
    post = SelectionModel(data, constraints=known).fit(seed=seed).posterior["beta_Delta"]
    record: dict[str, float] = {"set": seed}
    for name in AGE_BINS[1:]:
        values = post.sel(feature=name).values.ravel()
        record[f"delta_{name}"] = float(values.mean())
        record[f"delta_{name}_low"], record[f"delta_{name}_high"] = (
            float(v) for v in np.quantile(values, [0.025, 0.975])
        )
    rise = record["delta_65-69"] - record["delta_60-64"]
    record["jump"] = rise - (record["delta_60-64"] - record["delta_55-59"])
    return record


def prevalence_sensitivity(
    *, seed: int, factor: float = 1.0, prevalence_sd: float = 0.0022, policy: str = "strong"
) -> dict:
    """Error by age of the both-constraints fit when the assumed prevalence is scaled."""
    study = load_free_light_chain(seed, policy)
    idata = light_chain_fits(
        study, ["b"], prevalence_factor=factor, prevalence_sd=prevalence_sd, seed=seed
    )["b"]
    risk = people_risk(idata, study)["risk_untested"].values
    table = untested_calibration(study, {"risk": risk})
    return {
        "set": seed,
        "factor": factor,
        "bin": untested_cell_error(study, risk),
        "mean": float(risk[study.tested == 0].mean()),
        **{f"risk_{AGE_BINS[i]}": float(v) for i, v in enumerate(table["risk"])},
    }


# ---- real people, real decisions: Wilms' tumour ------------------------------------------------


def wilms_record(
    *,
    sigma: float,
    constraint: str,
    seed: int = 0,
    prevalence_factor: float = 1.0,
    all_deviations: bool = False,
) -> dict:
    """Fit the Wilms' tumour data with normal ``Z`` of known ``sigma``, ``alpha`` estimated.

    Returns
    -------
    dict
        ``error`` mean absolute error over stages of p(Y=1 | T=0), ``risk_1`` .. ``risk_4``,
        implied ``prevalence``, ``alpha`` mean and sd, ``check_p`` posterior predictive p of the
        number of positives among the selected.
    """
    study = load_wilms()
    data = study.labels()
    known = constraint_set(
        constraint,
        study.prevalence * prevalence_factor,
        data.names if all_deviations else [],
        prevalence_sd=float(1 / np.sqrt(2e6)),
    )
    idata = SelectionModel(
        data, unobservable="normal", alpha=None, sigma=sigma, constraints=known
    ).fit(seed=seed)
    stages = wilms_truth(study)
    X = np.column_stack([np.ones(4), np.eye(4)[:, 1:]])
    risk = predict(idata, X).risk_untested
    mean = risk.sel(statistic="mean").values
    counts = replicate_counts(idata, data, seed=seed, max_draws=1000)
    record: dict[str, float] = {
        "sigma": sigma,
        "constraint": constraint,  # type: ignore[dict-item]
        "error": float(np.abs(mean - stages["risk"].to_numpy()).mean()),
        "prevalence": float(idata.posterior["prevalence"].values.mean()),
        "alpha": float(idata.posterior["alpha"].values.mean()),
        "alpha_sd": float(idata.posterior["alpha"].values.std()),
        "p11": float((counts[:, 0].sum(1) / data.n_people).mean()),
        "check_p": predictive_p(float(data.n11.sum()), counts[:, 0].sum(1)),
        "pareto_k": float(idata.posterior.attrs["pareto_k"]),
    }
    for i in range(4):
        record[f"risk_{i + 1}"] = float(mean[i])
        record[f"risk_{i + 1}_low"] = float(risk.sel(statistic="low").values[i])
        record[f"risk_{i + 1}_high"] = float(risk.sel(statistic="high").values[i])
    return record


def wilms_truth(study: Study | None = None) -> pd.DataFrame:
    """Real rate of unfavourable histology among patients not flagged, by stage."""
    study = study or load_wilms()
    off = study.tested == 0
    grouped = pd.Series(study.hidden_outcome[off]).groupby(study.people["stage"].to_numpy()[off])
    return pd.DataFrame({"risk": grouped.mean(), "n": grouped.size()})


def wilms_fits(
    *,
    sigmas: Sequence[float] = (2.0, 4.0, 6.0, 8.0),
    constraints: Sequence[str] = ("u", "p", "e", "b"),
    seed: int = 0,
    **settings: Any,
) -> pd.DataFrame:
    """:func:`wilms_record` over a grid of ``sigma`` and constraints."""
    return pd.DataFrame(
        [
            wilms_record(sigma=s, constraint=c, seed=seed, **settings)
            for s in sigmas
            for c in constraints
        ]
    )


# ---- work --------------------------------------------------------------------------------------


def grouping_error(*, seed: int, cases: int = 20) -> float:
    """Largest relative difference of grouped and ungrouped log posterior densities."""
    study = load_free_light_chain(0)
    one = SelectionModel(study.labels())
    two = SelectionModel(study.labels(group=False))
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(cases):
        theta = rng.standard_normal(one.n_parameters)
        a, b = one.logp(theta), two.logp(theta)
        worst = max(worst, abs(a - b) / abs(a))
    return worst


# ---- the rows of the ledger that depend on PAPERKIT_SEED ------------------------------------------

Rows = dict[str, claims.Interval]


def bias_rows() -> Rows:
    """Rows c1a to c1c: tested and untested people differ."""
    table = pd.DataFrame([selection_bias(seed=s) for s in profiles.seeds(24, "dc", "bias")])
    return {
        "c1a-bias": mean_interval(table["bias"]),
        "c1b-unobserved": mean_interval(table["z_gap"]),
        "c1c-observed": mean_interval(table["auc"]),
    }


def known_answer_rows() -> Rows:
    """Rows whose answer is a formula, a grid or another computation of the same number."""
    first = {key: profiles.seeds(1, "dc", key)[0] for key in ("odds", "grid", "map", "gauss")}
    values = {
        "c2a-odds": odds_identity_error(seed=first["odds"]),
        "c2b-grid": grid_difference(seed=first["grid"]),
        "c7a-gaussian": gaussian_total_variance_error(seed=first["gauss"]),
        "c7b-model": float(model_total_variance(seed=first["gauss"]).max()),
        "c8a-map": heckman_map_error(seed=first["map"]),
        "c19b-lossless": grouping_error(seed=profiles.seeds(1, "dc", "group")[0]),
    }
    return {claim: claims.Interval.exact(value) for claim, value in values.items()}


def nuts_rows(check: Mapping[str, Any] | None = None) -> Rows:
    """Rows c2c to c2e and c2l from :func:`nuts_comparison`."""
    check = check or nuts_comparison(seed=profiles.seeds(1, "dc", "nuts")[0])
    keys = {
        "c2c-nuts": "difference",
        "c2d-rhat": "r_hat",
        "c2e-divergences": "divergences",
        "c2l-ess": "ess",
    }
    return {claim: claims.Interval.exact(check[key]) for claim, key in keys.items()}


def live_synthetic(seeds: Sequence[int], *, few: int = 6) -> dict[str, pd.DataFrame]:
    """Fit the populations of 1,000 people that notebook 2 fits in each build.

    Parameters
    ----------
    seeds : sequence of int
        Populations.
    few : int
        How many of them are fitted for the side studies of prior and source.

    Returns
    -------
    dict
        ``right`` no constraint, prevalence and both; ``wrong`` both, with a wrong expertise set;
        ``subgroups`` two prevalences; ``prior 1.5`` and ``prior 6`` other prior scales (no
        constraint and both); ``tested`` the prevalence taken from tested people.
    """
    small = {"n": 1000}
    tables = {
        "right": synthetic_sets(seeds, constraints="upb", **small),
        "wrong": synthetic_sets(
            seeds, constraints="b", deviation_features=(2, 3, 4), with_risk=False, **small
        ),
        "subgroups": synthetic_sets(seeds, constraints=["subgroups"], with_risk=False, **small),
        "tested": synthetic_sets(seeds[:few], constraints="p", prevalence="tested", **small),
    }
    for scale in (1.5, 6.0):
        tables[f"prior {scale:g}"] = synthetic_sets(
            seeds[:few], constraints="ub", prior_scale=scale, **small
        )
    return tables


def synthetic_rows(tables: Mapping[str, pd.DataFrame]) -> Rows:
    """Rows of notebook 2 that are measured in each build, from :func:`live_synthetic`."""
    right = tables["right"]
    split = pd.concat([right[right.constraint == "p"], tables["subgroups"]])
    error = paired_ratio(right, "rmse_untested", "b", "u")
    width = paired_ratio(right, "width_beta_Y", "b", "u")
    groups = paired_ratio(split, "width_beta_Y", "subgroups", "p")
    moved = prior_shift(tables["prior 1.5"], tables["prior 6"])
    return {
        "c2j-live": median_interval(error),
        "c6b-live": median_interval(100 * (width - 1)),
        "c6c-prior": median_interval(moved),
        "c6d-wrong-expertise": mean_interval(tables["wrong"]["cover_beta_Y"]),
        "c15b-subgroups": median_interval(100 * (groups - 1)),
    }


def calibration_rows(runs: pd.DataFrame) -> Rows:
    """Rows on the risk of untested people, from :func:`light_chain_policies`."""
    gaps = {
        "c10b-tested-only": runs.bin_b - 0.5 * runs.bin_tested_only,
        "c10c-mean": (runs.mean_b - runs.true_mean).abs(),
        "c10d-auc": runs.auc_b - runs.auc_tested_only,
        "c10e-negative-ranks": runs.auc_b - runs.auc_negative,
        "c10f-negative-bins": runs.bin_b - runs.bin_negative,
        "c17a-recentred": runs.cell_recentred - runs.cell_b,
    }
    return {claim: mean_interval(values) for claim, values in gaps.items()}


def thirty_policies_rows(seeds: Sequence[int] | None = None) -> Rows:
    """Rows c10a and c12b, which ask for thirty draws of the policy."""
    runs = light_chain_policies(seeds or profiles.seeds(30, "dc", "thirty"), constraints="ub")
    return {
        "c10a-bins": mean_interval(runs.bin_b - 0.6 * runs.bin_u),
        "c12b-random": mean_interval(runs.added_b - 1.7 * runs.random),
    }


def policy_rows(runs: pd.DataFrame) -> Rows:
    """Rows on the inferred testing policy, from :func:`light_chain_policies`."""
    values = {
        "c11a-age": int((runs.delta_b_age65_low > 0).sum()),
        "c11b-size": runs.delta_b_age65.mean(),
        "c11c-intercept": abs(runs.delta_b_intercept.mean()),
        "c11d-intercept-u": abs(runs.delta_u_intercept.mean()),
        "c13a-men": int((runs.delta_b_male_high < 0).sum()),
    }
    return {claim: claims.Interval.exact(float(value)) for claim, value in values.items()}


def swap_rows(runs: pd.DataFrame) -> Rows:
    """Rows on moving tests, from :func:`light_chain_policies`."""
    gaps = {
        "c12a-swap": runs.added_b - runs.dropped,
        "c12c-tested-only": runs.added_b - runs.added_tested_only,
        "c12d-not-by-test": runs.added_b - runs.added_by_p_tested,
        "c13b-equal-risk": runs.p_tested_gap,
    }
    return {claim: mean_interval(values) for claim, values in gaps.items()}


def mild_policy_interval(seeds: Sequence[int]) -> claims.Interval:
    """Row c17b: recentred classifier against joint model under the mild policy."""
    mild = light_chain_policies(seeds, policy="mild", constraints="b")
    return mean_interval(mild.cell_recentred - mild.cell_b)


def wrong_prevalence_interval(seeds: Sequence[int], *, factor: float = 1.5) -> claims.Interval:
    """Row c18: how much a scaled prevalence adds to the error by age."""
    pairs = [
        [prevalence_sensitivity(seed=s, factor=f)["bin"] for f in (factor, 1.0)] for s in seeds
    ]
    return mean_interval(np.subtract(*np.array(pairs).T))


def wilms_rows(table: pd.DataFrame) -> Rows:
    """Rows of the Wilms' tumour study, from :func:`wilms_fits`."""
    wide = table.pivot(index="sigma", columns="constraint")
    fits = wide.loc[[4.0, 6.0, 8.0]]
    miss = (fits["prevalence"] - load_wilms().prevalence).abs()
    values = {
        "c14a-error": fits["error"]["b"].max(),
        "c14b-vs-u": (fits["error"]["b"] / fits["error"]["u"]).max(),
        "c14c-expertise": miss["e"].max(),
        "c14d-unconstrained": miss["u"].min(),
        "c14e-check": wide["check_p"]["b"][2.0],
        "c14f-check-ok": fits["check_p"]["b"].min(),
    }
    return {claim: claims.Interval.exact(float(value)) for claim, value in values.items()}


def _light_chain_rows() -> Rows:
    seeds, some = profiles.seeds(10, "dc", "policies"), profiles.seeds(5, "dc", "step")
    runs = light_chain_policies(seeds)
    jumps = [step_record(seed=s)["jump"] for s in some]
    return {
        **calibration_rows(runs),
        **policy_rows(runs),
        **swap_rows(runs),
        "c11e-step": mean_interval(jumps),
        "c17b-mild": mild_policy_interval(seeds),
    }


Measured = dict[str, tuple[float, claims.Interval]]


def stochastic_claims() -> Measured:
    """Every row that depends on ``PAPERKIT_SEED``, but for those of the two functions below."""
    return _measured(
        bias_rows(),
        known_answer_rows(),
        nuts_rows(),
        synthetic_rows(live_synthetic(profiles.seeds(16, "dc", "synthetic"))),
        _light_chain_rows(),
        wilms_rows(wilms_fits(constraints="ueb", seed=profiles.seeds(1, "dc", "wilms")[0])),
    )


def revised_claims() -> Measured:
    """Rows c10a and c12b, which ask for more policies since ten left their signs open at times."""
    return _measured(thirty_policies_rows())


def wrong_prevalence_claims() -> Measured:
    """Row c18, which asks for twenty policies for the same reason."""
    seeds = profiles.seeds(20, "dc", "wrong prevalence")
    return _measured({"c18-wrong-prevalence": wrong_prevalence_interval(seeds)})


def _measured(*parts: Rows) -> Measured:
    return {claim: (i.estimate, i) for rows in parts for claim, i in rows.items()}
