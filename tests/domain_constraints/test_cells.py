import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit

from paperkit.domain_constraints import cell_probabilities, quadrature_nodes
from paperkit.domain_constraints import experiments as ex


@settings(max_examples=150, deadline=None)
@given(
    a=st.floats(-30, 30),
    d=st.floats(-20, 20),
    sigma=st.floats(1e-3, 20),
    family=st.sampled_from(["uniform", "normal"]),
)
def test_cells_are_a_distribution(a, d, sigma, family):
    cells = cell_probabilities(a, d, sigma, unobservable=family)
    parts = np.array([cells.p11, cells.p10, cells.p01, cells.p00])
    assert (parts > 0).all()
    assert parts.sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(a=st.floats(-8, 4), d=st.floats(-6, 6), sigma=st.floats(0.05, 8))
def test_closed_form_equals_quadrature(a, d, sigma):
    if abs(d) < 1e-3:
        d = 1e-3
    one = cell_probabilities(a, d, sigma, n_nodes=32)
    two = cell_probabilities(a, d, sigma, method="closed_form")
    for cell in ("p11", "p10", "p01", "p00"):
        assert getattr(one, cell)[0] == pytest.approx(getattr(two, cell)[0], rel=2e-7, abs=1e-12)


@pytest.mark.parametrize("family", ["uniform", "normal"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_cells_against_adaptive_integration(family, alpha):
    a, d, sigma = -1.3, 0.7, 2.5

    def density(z):
        if family == "uniform":
            return 1 / sigma
        return np.exp(-0.5 * (z / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))

    low, high = (0, sigma) if family == "uniform" else (-9 * sigma, 9 * sigma)

    def exact(cell):
        value, _ = quad(
            lambda z: density(z) * cell(expit(a + z), expit(alpha * (a + z) + d)),
            low,
            high,
            points=[-a],
            epsabs=1e-13,
        )
        return value

    cells = cell_probabilities(a, d, sigma, alpha=alpha, unobservable=family, n_nodes=96)
    assert cells.p11[0] == pytest.approx(exact(lambda y, t: t * y), rel=1e-8)
    assert cells.p10[0] == pytest.approx(exact(lambda y, t: t * (1 - y)), rel=1e-8)
    assert cells.p01[0] == pytest.approx(exact(lambda y, t: (1 - t) * y), rel=1e-8)


def test_known_values():
    cells = cell_probabilities(-2.0, 1.0, 2.0)
    assert cells.p11[0] == pytest.approx(0.1568844151, abs=1e-10)
    assert cells.p10[0] == pytest.approx(0.3431155849, abs=1e-10)
    assert cells.untested[0] == pytest.approx(0.5, abs=1e-12)
    assert cells.positive[0] == pytest.approx(0.2831095848, abs=1e-10)


def test_continuous_at_zero_deviation():
    values = [cell_probabilities(-1.0, d, 2.0).p11[0] for d in (0, 1e-12, -1e-12, 1e-6, -1e-6)]
    assert np.ptp(values) < 1e-6


def test_odds_identity_holds_at_alpha_one_only():
    assert ex.odds_identity_error() < 1e-8
    assert ex.odds_identity_error(alpha=1.3) > 0.1


def test_nodes_integrate_moments():
    x, w = quadrature_nodes("uniform", 16)
    assert w.sum() == pytest.approx(1)
    assert w @ x**3 == pytest.approx(1 / 4)
    x, w = quadrature_nodes("normal", 80)
    assert w @ x**2 == pytest.approx(1, abs=1e-10)
    assert w @ x**4 == pytest.approx(3, abs=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"alpha": 0.0}, "alpha must be finite and nonzero"),
        ({"unobservable": "cauchy"}, "unobservable must be"),
        ({"n_nodes": 3}, "n_nodes must be at least 4"),
        ({"method": "closed_form", "alpha": 2.0}, "closed_form"),
        ({"method": "closed_form", "unobservable": "normal"}, "closed_form"),
        ({"method": "series"}, "method must be"),
        ({"a": np.nan}, "finite"),
    ],
)
def test_bad_input(change, message):
    settings_ = {"a": 0.0, "d": 1.0, "sigma": 1.0} | change
    a, d = settings_.pop("a"), settings_.pop("d")
    with pytest.raises(ValueError, match=message):
        cell_probabilities(a, d, **settings_)
