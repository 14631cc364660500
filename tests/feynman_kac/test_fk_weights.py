"""The closed weight rate against automatic differentiation, and what it must do in special cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit.feynman_kac import (
    Composition,
    GaussianMixture,
    annealed,
    composed_prior,
    experiments,
    guided,
    log_weight_rate,
    product,
    sample,
    sigma_schedule,
    tilted,
)
from paperkit.feynman_kac.particles import ParticleDenoiser, double_well


@pytest.mark.parametrize("exponents", experiments.IDENTITY_EXPONENTS)
@pytest.mark.parametrize("process", ["exploding", "preserving"])
@pytest.mark.parametrize("d", [1, 3])
def test_closed_rate_is_the_general_one(exponents, process, d):
    for noise in (0.0, 0.5, 1.7):
        for reward in (False, True):
            error = experiments.weight_identity(exponents, noise, reward, process, d=d)
            assert error < 1e-9


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-2, 3), min_size=1, max_size=3),
    st.floats(0, 2),
    st.booleans(),
)
def test_closed_rate_for_random_exponents(exponents, noise, reward):
    assert experiments.weight_identity(tuple(exponents), noise, reward, "exploding") < 1e-8


def test_rows_of_the_table():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 3, dtype=torch.float64, generator=g)
    beta = 2.5
    rate = log_weight_rate(a[None], [beta])
    torch.testing.assert_close(rate, beta * (beta - 1) / 2 * (a**2).sum(-1))
    rate = log_weight_rate(torch.stack([a, b]), [1 - beta, beta])
    torch.testing.assert_close(rate, beta * (beta - 1) / 2 * ((a - b) ** 2).sum(-1))
    rate = log_weight_rate(torch.stack([a, b]), [1.0, 1.0], divergence=4.0, noise_variance=3.0)
    torch.testing.assert_close(rate, 4.0 + 3.0 * (a * b).sum(-1))


def test_nothing_to_weigh():
    g = torch.Generator().manual_seed(0)
    s = torch.randn(1, 5, 2, 2, dtype=torch.float64, generator=g)
    assert torch.equal(log_weight_rate(s, [1.0]), torch.zeros(5, dtype=torch.float64))
    same = s.expand(2, -1, -1, -1)
    assert log_weight_rate(same, [-1.0, 2.0]).abs().max() < 1e-12


def test_order_of_experts_does_not_matter():
    g = torch.Generator().manual_seed(0)
    s = torch.randn(3, 5, 2, dtype=torch.float64, generator=g)
    order = [2, 0, 1]
    beta = [0.7, 1.4, -1.0]
    torch.testing.assert_close(
        log_weight_rate(s, beta), log_weight_rate(s[order], [beta[i] for i in order])
    )


def test_rate_of_four_particles_has_their_symmetries():
    torch.manual_seed(0)
    model = ParticleDenoiser(double_well, 2.0, width=16, layers=2)
    torch.nn.init.normal_(model.leave.weight)
    z = torch.randn(6, 3, 2, dtype=torch.float64)
    world = annealed(model, 2.0)

    def rate(points):
        with torch.no_grad():
            return log_weight_rate(world.scores(points, 0.8), [2.0])

    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    swapped = double_well.relative(double_well.positions(z)[:, [2, 0, 3, 1]])
    torch.testing.assert_close(rate(z @ turn), rate(z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rate(swapped), rate(z), rtol=1e-4, atol=1e-5)


def test_constructors():
    def d(y, sigma):
        return y

    assert annealed(d, 2.0).exponents == [2.0]
    assert guided(d, d, 3.0).exponents == [-2.0, 3.0]
    assert product(d, d).exponents == [1.0, 1.0]
    assert product(d, d, exponents=[1, -1]).exponents == [1, -1]
    assert tilted(d, lambda y: y.sum(-1), lambda s: 1.0).reward is not None


def test_exponent_one_is_the_plain_sampler():
    mix = GaussianMixture([1.0], [[0.0]], [[1.0]])
    runs = [
        sample(
            annealed(mix.denoise, 1.0),
            (2, 50, 1),
            sigma_schedule(20, 5.0, 0.1),
            correct=correct,
            generator=torch.Generator().manual_seed(0),
        )
        for correct in (False, True)
    ]
    assert torch.equal(runs[0].particles, runs[1].particles)
    assert torch.equal(runs[1].log_weights, torch.zeros(2, 50, dtype=torch.float64))
    assert torch.equal(runs[1].log_z_ratio, torch.zeros(2, dtype=torch.float64))


def test_reward_of_the_sampler_by_quadrature():
    """A Gaussian tilted by a quadratic reward is a Gaussian whose moments are known."""
    mix = GaussianMixture([1.0], [[0.0]], [[1.0]])

    def reward(y):
        return -((y[:, 0] - 1.0) ** 2)

    world = tilted(mix.denoise, reward, lambda s: 0.8 / (1 + s), log_densities=[mix.log_prob])
    low = 0.02
    result = sample(
        world,
        (16, 1000, 1),
        sigma_schedule(300, 8.0, low),
        generator=torch.Generator().manual_seed(0),
    )
    strength, variance = 0.8 / (1 + low), 1 + low**2
    precision = 1 / variance + 2 * strength
    means = result.mean(lambda x: x[..., 0])
    assert abs(means.mean() - 2 * strength / precision) < 5 * means.std() / 4
    second = result.mean(lambda x: x[..., 0] ** 2) - means**2
    assert abs(second.mean() - 1 / precision) < 0.02
    grid = torch.linspace(-9, 9, 9001, dtype=torch.float64)[:, None]
    log_z = torch.logsumexp(world.log_density(grid, low), 0) + torch.log(grid[1] - grid[0])
    assert abs(result.log_z_ratio.mean() - log_z) < 0.03


def test_exponents_that_change_on_the_way():
    """The path of targets may take another way; its end is what counts."""
    mix = experiments.CONDITIONAL

    def exponent(sigma):
        return 1.0 + 1.0 / (1.0 + sigma)

    world = annealed(mix.denoise, exponent, log_densities=[mix.log_prob])
    low = 0.05
    result = sample(
        world,
        (32, 1000, 1),
        sigma_schedule(300, 10.0, low),
        generator=torch.Generator().manual_seed(0),
    )
    grid = torch.linspace(-9, 9, 9001, dtype=torch.float64)[:, None]
    level = world.log_density(grid, low)
    log_z = torch.logsumexp(level, 0) + torch.log(grid[1] - grid[0])
    density = torch.softmax(level, 0)
    wanted = float(density[grid[:, 0] > 0].sum())
    share = result.mean(lambda x: (x[..., 0] > 0).double())
    assert abs(share.mean() - wanted) < 5 * share.std() / 32**0.5
    assert abs(result.log_z_ratio.mean() - log_z) < 0.1


def test_composed_prior():
    mean, variance = composed_prior([2.0], [0.5], [3.0], 10.0)
    assert float(mean) == pytest.approx(0.5)
    assert float(variance) == pytest.approx(103 / 2)
    mean, variance = composed_prior([-6.5, 7.5], [0.0, 1.0], [1.0, 1.0], 10.0)
    assert float(mean) == pytest.approx(7.5)
    with pytest.raises(ValueError, match="cannot be normalised"):
        composed_prior([1.0, -1.0], [0.0, 0.0], [1.0, 1.0], 10.0)
    with pytest.raises(ValueError, match="2 exponents, 1 means"):
        composed_prior([1.0, -1.0], [0.0], [1.0, 1.0], 10.0)
    with pytest.raises(ValueError, match="positive"):
        composed_prior([1.0], [0.0], [1.0], 0.0)


def ok(y, sigma):
    return y


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([ok], [1.0, 2.0]), ValueError, "1 denoisers, but 2 exponents"),
        (([], []), ValueError, "empty"),
        ((ok, [1.0]), TypeError, "sequence"),
        ((["x"], [1.0]), TypeError, r"denoisers\[0\]"),
        (([ok], [float("nan")]), ValueError, "finite"),
        (([ok], ["2"]), TypeError, "number"),
        (([ok], [lambda s: 1.0]), ValueError, "log_densities"),
        (([ok], [1.0], lambda y: y), ValueError, "go together"),
        (([ok], [1.0], None, lambda s: 1.0), ValueError, "go together"),
        (([ok], [1.0], "r", lambda s: 1.0), TypeError, "reward must be callable"),
        (([ok], [1.0], None, None, [ok, ok]), ValueError, "2 log_densities"),
        (([ok], [1.0], None, None, ["x"]), TypeError, r"log_densities\[0\]"),
    ],
)
def test_bad_compositions(arguments, error, words):
    with pytest.raises(error, match=words):
        Composition(*arguments)


def test_bad_rates():
    s = torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match="2 scores, but 1"):
        log_weight_rate(s, [1.0])
    with pytest.raises(ValueError, match="reward_gradient"):
        log_weight_rate(s, [1.0, 1.0], reward_weight=1.0)
    with pytest.raises(ValueError, match="needs reward"):
        log_weight_rate(s, [1.0, 1.0], reward_slope=1.0)
    with pytest.raises(ValueError, match="log_densities"):
        annealed(ok, 2.0).log_density(torch.zeros(1, 1), 1.0)
