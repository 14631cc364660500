import warnings

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from paperkit.domain_constraints import (
    ApproximationWarning,
    DomainConstraints,
    SelectionModel,
    SelectiveLabels,
    predict,
    predictive_p,
    pymc_model,
    replicate_counts,
    simulate_bernoulli_sigmoid,
)
from paperkit.domain_constraints import experiments as ex


@pytest.fixture(scope="module")
def small():
    return simulate_bernoulli_sigmoid(3, n=400, m=3)


def models(sim):
    both = DomainConstraints(prevalence=sim.prevalence, deviation_features=[1])
    for family in ("uniform", "normal"):
        for scale in ({"alpha": 1.2}, {"alpha": None, "sigma": 1.5}):
            for known in (DomainConstraints(), both):
                yield SelectionModel(sim.labels(), unobservable=family, constraints=known, **scale)


@pytest.mark.parametrize("m", [2, 8])
def test_gradient_and_hessian(m):
    sim = simulate_bernoulli_sigmoid(1, n=150, m=m)
    rng = np.random.default_rng(0)
    for model in models(sim):
        theta = np.append(model.start(), 0.3) + 0.2 * rng.standard_normal(model.n_parameters)
        value, grad = model.logp_and_grad(theta)
        assert model.logp(theta) == pytest.approx(value, rel=1e-12)
        h = model.hessian(theta)
        for i, e in enumerate(np.eye(len(theta)) * 1e-5):
            up, down = model.logp_and_grad(theta + e), model.logp_and_grad(theta - e)
            assert grad[i] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-5, abs=1e-4)
            if i < len(theta) - 1:
                slope = (up[1] - down[1])[:-1] / 2e-5
                np.testing.assert_allclose(h[i], slope, rtol=1e-4, atol=1e-3)


def test_density_equals_pymc(small):
    for model in models(small):
        theta = np.append(model.start(), 0.2)
        m = model.data.X.shape[1]
        written = pymc_model(model)
        name = "sigma_log__" if model.sigma is None else "alpha_log__"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logp = written.compile_logp(mode="FAST_COMPILE")
        gaps = []
        for shift in (0.0, 0.15):
            t = theta + shift
            point = {"beta_Y": t[:m], "beta_Delta_free": t[m:-1], name: t[-1]}
            gaps.append(float(logp(point)) - model.logp(t))
        # equal up to the normalising constants of the priors
        assert gaps[0] == pytest.approx(gaps[1], abs=1e-7)


def test_likelihood_against_integration_row_by_row():
    sim = simulate_bernoulli_sigmoid(5, n=60, m=3)
    model = SelectionModel(sim.labels())
    theta = np.array([-1.0, 0.4, -0.3, 1.0, 0.5, 0.1, np.log(1.7)])

    def row(x, tested, y):
        a, d = x @ theta[:3], x @ theta[3:6]

        def cell(z):
            t = expit(a + z + d)
            return t * (expit(a + z) if y == 1 else expit(-a - z)) if tested else 1 - t

        return np.log(quad(cell, 0, 1.7, epsabs=1e-13)[0] / 1.7)

    exact = sum(row(*r) for r in zip(sim.X, sim.tested, sim.outcome_full, strict=True))
    prior = -0.5 * (theta[:-1] @ theta[:-1] + 1.7**2) / 9 + theta[-1]
    assert model.logp(theta) == pytest.approx(exact + prior, rel=1e-9)


def test_grouping_order_and_scale_do_not_matter():
    assert ex.grouping_error(seed=0) < 1e-10
    sim = simulate_bernoulli_sigmoid(2, n=200, m=3)
    theta = np.array([-1.0, 0.4, -0.3, 1.0, 0.5, 0.1, 0.2])
    base = SelectionModel(sim.labels()).logp(theta)
    order = np.random.default_rng(0).permutation(200)
    moved = SelectiveLabels.from_arrays(sim.X[order], sim.tested[order], sim.outcome[order])
    assert SelectionModel(moved).logp(theta) == pytest.approx(base, rel=1e-12)
    twice = SelectiveLabels.from_arrays(
        *(np.concatenate([v, v]) for v in (sim.X, sim.tested, sim.outcome))
    )
    prior = -0.5 * (theta[:-1] @ theta[:-1] + np.exp(0.4)) / 9 + 0.2
    assert SelectionModel(twice).logp(theta) - prior == pytest.approx(2 * (base - prior))


def test_hidden_outcomes_are_never_seen(small):
    changed = np.where(small.tested == 0, 1 - small.outcome_full, small.outcome_full)
    masked = np.where(small.tested == 1, changed, np.nan)
    one = SelectionModel(small.labels()).fit(draws=50, seed=1)
    data = SelectiveLabels.from_arrays(small.X, small.tested, masked)
    two = SelectionModel(data).fit(draws=50, seed=1)
    np.testing.assert_array_equal(one.posterior["beta_Y"], two.posterior["beta_Y"])


def test_prevalence_and_expertise_bind(small):
    pi = small.prevalence
    fits = {
        sd: SelectionModel(
            small.labels(), constraints=DomainConstraints(prevalence=pi, prevalence_sd=sd)
        ).fit(seed=0)
        for sd in (0.001, 100.0)
    }
    assert float(fits[0.001].posterior["prevalence"].mean()) == pytest.approx(pi, abs=0.003)
    free = SelectionModel(small.labels()).fit(seed=0)
    np.testing.assert_allclose(
        fits[100.0].posterior["beta_Y"].mean(("chain", "draw")),
        free.posterior["beta_Y"].mean(("chain", "draw")),
        atol=0.02,
    )
    expert = SelectionModel(small.labels(), constraints=DomainConstraints(deviation_features=[1]))
    assert expert.n_parameters == SelectionModel(small.labels()).n_parameters - 1
    assert (expert.fit(draws=50).posterior["beta_Delta"].values[..., 2] == 0).all()


def test_penalty_is_a_normal_log_density(small):
    known = DomainConstraints(prevalence=small.prevalence, prevalence_sd=0.01)
    free, tied = SelectionModel(small.labels()), SelectionModel(small.labels(), constraints=known)
    theta = np.append(free.start(), 0.1)
    p = free._p_positive(free.data.X @ theta[:3], np.exp(0.1))
    implied = p @ free.data.n / free.data.n.sum()
    expected = -0.5 * ((implied - small.prevalence) / 0.01) ** 2
    assert tied.logp(theta) - free.logp(theta) == pytest.approx(expected, rel=1e-9)


def test_nested_laplace_equals_grid():
    assert ex.grid_difference(seed=4) < 0.1
    data = ex.intercept_only_labels()
    grid = ex.grid_moments(ex.intercept_grid(data))
    fitted = ex.draws_moments(SelectionModel(data).fit(draws=4000, seed=5))
    np.testing.assert_allclose(fitted["sd"], grid["sd"], rtol=0.1)
    # with the prevalence known, the ridge is cut
    tied = SelectionModel(data, constraints=DomainConstraints(prevalence=0.2))
    cut = ex.grid_moments(ex.intercept_grid(data, prevalence=0.2, prevalence_sd=0.01))
    assert cut["sd"]["beta_Delta"] < grid["sd"]["beta_Delta"]
    assert float(tied.fit(draws=500).posterior["prevalence"].std()) < 0.004


def test_nuts_agrees_and_reports():
    out = ex.nuts_comparison(seed=11, n=300, draws=400, tune=400)
    assert out["difference"] < 0.25
    assert out["sd_ratio"] < 0.2
    assert out["divergences"] == 0
    assert out["nuts"].posterior.attrs["r_hat"] < 1.05
    assert out["fast"].posterior.attrs["pareto_k"] < 0.7


def test_cores_follow_the_machine_and_change_no_draw(small, monkeypatch):
    from paperkit.domain_constraints.nuts import run_settings

    monkeypatch.setenv("PAPERKIT_WORKERS", "3")
    assert run_settings(10, 10, 2, None, None)["cores"] == 2
    assert run_settings(10, 10, 4, None, None)["cores"] == 3
    assert run_settings(10, 10, 4, 1, True) == {
        "draws": 10,
        "tune": 10,
        "chains": 4,
        "cores": 1,
        "progress_bar": True,
    }
    assert run_settings(10, 10, 2, None, None)["progress_bar"] is False  # nobody watches a test
    with pytest.raises(ValueError, match="cores"):
        run_settings(10, 10, 2, 0, None)
    model = SelectionModel(small.labels())
    one, two = (
        model.fit(method="nuts", draws=30, tune=60, seed=1, cores=c).posterior["beta_Y"]
        for c in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_recovery_in_a_large_population():
    sim = simulate_bernoulli_sigmoid(21, n=20_000, m=3)
    known = DomainConstraints(prevalence=sim.prevalence, deviation_features=[1])
    post = SelectionModel(sim.labels(), constraints=known).fit(draws=400, seed=0).posterior
    for name in ("beta_Y", "beta_Delta"):
        mean = post[name].mean(("chain", "draw")).values
        sd = np.maximum(post[name].std(("chain", "draw")).values, 1e-12)
        gap = np.abs(mean - sim.truth[name])
        assert (gap[sd > 1e-9] / sd[sd > 1e-9] < 3.5).all()


def test_predictions_match_the_truth_at_the_truth(small):
    idata = SelectionModel(small.labels()).fit(draws=50)
    out = predict(idata, small.X[:7])
    assert out.risk.shape == (7, 3)
    assert (out.risk.sel(statistic="low") <= out.risk.sel(statistic="high")).all()
    counts = replicate_counts(idata, small.labels(), max_draws=20)
    assert (counts.sum(1) == small.labels().n).all()
    with pytest.raises(ValueError, match="columns"):
        predict(idata, small.X[:, :2])
    with pytest.raises(ValueError, match="missing"):
        predict(idata, np.full((2, 3), np.nan))


def test_predictive_p_is_two_sided():
    draws = np.arange(1000)
    assert predictive_p(500, draws) > 0.9
    assert predictive_p(-1, draws) < 0.01
    assert predictive_p(2000, draws) < 0.01


def test_bad_settings(small):
    data = small.labels()
    for change, message in [
        ({"sigma": 1.0}, "exactly one"),
        ({"alpha": None}, "exactly one"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"alpha": None, "sigma": 0.0}, "sigma must be positive"),
        ({"prior_scale": 0.0}, "prior_scale"),
        ({"unobservable": "t"}, "unobservable"),
        ({"n_nodes": 2}, "n_nodes"),
        ({"deviation_offset": [1.0]}, "deviation_offset"),
    ]:
        with pytest.raises(ValueError, match=message):
            SelectionModel(data, **change)
    with pytest.raises(TypeError, match="SelectiveLabels"):
        SelectionModel(small.X)
    with pytest.raises(ValueError, match="method"):
        SelectionModel(data).fit(method="vi")
    with pytest.raises(ValueError, match="draws"):
        SelectionModel(data).fit(draws=0)


def test_coarse_quadrature_warns(small):
    model = SelectionModel(small.labels(), unobservable="normal", n_nodes=8)
    with pytest.warns(ApproximationWarning, match="quadrature"):
        model.fit(draws=100)
