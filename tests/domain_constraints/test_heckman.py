import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from paperkit import domain_constraints as dc
from paperkit.domain_constraints import experiments as ex


def test_map_round_trip_and_likelihood():
    beta_y, beta_d = np.array([-1.0, 0.5]), np.array([0.7, 0.0])
    beta_t, rho = dc.heckman_from_general(beta_y, beta_d, 0.8, 1.7)
    alpha, back = dc.general_from_heckman(beta_y, beta_t, 1.7, rho)
    assert alpha == pytest.approx(0.8, abs=1e-12)
    np.testing.assert_allclose(back, beta_d, atol=1e-12)
    assert abs(rho) < 1.7
    assert ex.heckman_map_error(seed=1) < 1e-9


def test_likelihood_against_integration():
    # integrate the bivariate normal density of (Y, u) over u > 0
    beta_y, beta_t, sigma, rho, y = 0.4, 0.3, 1.5, 0.9, 1.1
    one = np.ones((1, 1))
    value = dc.heckman_loglik([beta_y], [beta_t], sigma, rho, one, one, [y], [1])[0]
    mean = beta_t + rho / sigma**2 * (y - beta_y)
    sd = np.sqrt(1 - rho**2 / sigma**2)
    exact, _ = quad(lambda u: norm.pdf(u, mean, sd), 0, 20)
    assert value == pytest.approx(np.log(exact * norm.pdf(y, beta_y, sigma)), abs=1e-8)


def test_no_covariance_is_two_regressions():
    sim = dc.simulate_heckman(0)
    beta_y, beta_t = sim.truth["beta_Y"], sim.truth["beta_T"]
    both = dc.heckman_loglik(beta_y, beta_t, 2.0, 0.0, sim.X, sim.X, sim.outcome, sim.tested)
    on = sim.tested == 1
    score = sim.X @ beta_t
    np.testing.assert_allclose(
        both[on], norm.logpdf(sim.outcome[on], (sim.X @ beta_y)[on], 2.0) + norm.logcdf(score[on])
    )
    np.testing.assert_allclose(both[~on], norm.logcdf(-score[~on]))


def test_gradient():
    sim = dc.simulate_heckman(1, n=120)
    model = dc.HeckmanModel(
        sim.X, sim.tested, sim.outcome, mean_outcome=sim.prevalence, deviation_features=[1]
    )
    theta = np.append(np.random.default_rng(0).normal(0, 0.5, 8), -0.5)
    value, grad = model.logp_and_grad(theta)
    assert np.isfinite(value)
    for i, e in enumerate(np.eye(9) * 1e-6):
        slope = (model.logp_and_grad(theta + e)[0] - model.logp_and_grad(theta - e)[0]) / 2e-6
        assert grad[i] == pytest.approx(slope, rel=1e-4, abs=1e-2)


def test_nuts_agrees_with_nested_laplace_in_a_heckman_model():
    sim = dc.simulate_heckman(3, n=300)
    model = dc.HeckmanModel(
        sim.X, sim.tested, sim.outcome, mean_outcome=sim.prevalence, deviation_features=[1]
    )
    nuts = model.fit(method="nuts", draws=600, tune=400, seed=3).posterior
    fast = model.fit(draws=4000, seed=3).posterior
    assert nuts.attrs["divergences"] == 0
    assert nuts.attrs["r_hat"] < 1.05
    for name in ("beta_Y", "beta_Delta_free", "sigma"):
        mean, sd = fast[name].mean(("chain", "draw")), fast[name].std(("chain", "draw"))
        assert float((np.abs(nuts[name].mean(("chain", "draw")) - mean) / sd).max()) < 0.25
    with pytest.raises(ValueError, match="method"):
        model.fit(method="pymc")
    with pytest.raises(ValueError, match="draws"):
        model.fit(draws=0)


def test_mroz_reproduces_the_published_fit():
    largest, table = ex.mroz_difference()
    assert largest < 1.5e-3
    assert len(table) == 7
    data = dc.load_mroz()
    fit = dc.fit_heckman_mle(data.X_outcome, data.X_selection, data.wage, data.working)
    assert fit.loglik == pytest.approx(-1581.258, abs=0.01)


def test_posterior_covers_the_truth_and_uses_the_mean():
    sim = dc.simulate_heckman(2)
    idata = dc.HeckmanModel(
        sim.X, sim.tested, sim.outcome, mean_outcome=sim.prevalence, deviation_features=[1]
    ).fit(draws=500)
    post = idata.posterior
    # the intercept is tied to the mean outcome of these people, not to its expectation
    gap = (post["beta_Y"].mean(("chain", "draw")) - sim.truth["beta_Y"]).values[1:]
    assert np.abs(gap / post["beta_Y"].std(("chain", "draw")).values[1:]).max() < 4
    implied = post["beta_Y"].values @ sim.X.mean(0)
    assert implied.mean() == pytest.approx(sim.prevalence, abs=0.01)
    assert (post["beta_Delta"].values[..., 2:] == 0).all()
    assert float((post["beta_Y"].values @ sim.X.mean(0)).std()) < 0.004


def test_mills_ratio_is_nearly_collinear_on_a_short_range():
    assert dc.mills_condition_number(0.3) > 20 * dc.mills_condition_number(3.0)


def test_bad_input():
    X, t, y = np.ones((3, 1)), np.array([1, 1, 0]), np.array([0.1, 0.2, np.nan])
    with pytest.raises(ValueError, match="must be below sigma"):
        dc.general_from_heckman([0.0], [0.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="untested person"):
        dc.HeckmanModel(X, t, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="missing for a tested"):
        dc.HeckmanModel(X, t, [0.1, np.nan, np.nan])
    with pytest.raises(ValueError, match="deviation_features"):
        dc.HeckmanModel(X, t, y, deviation_features=[4])
    with pytest.raises(ValueError, match="intercept"):
        dc.HeckmanModel(X * 2, t, y)
    with pytest.raises(ValueError, match="half_range"):
        dc.mills_condition_number(0.0)
