"""Simulation and resampling against closed forms and quadrature, and refusals."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from paperkit.feynman_kac import (
    Composition,
    DegeneracyWarning,
    GaussianMixture,
    KernelDensity,
    annealed,
    effective_sample_size,
    experiments,
    guided,
    resample_indices,
    sample,
    sigma_schedule,
    stack_denoisers,
    stack_mixtures,
)

LEVELS = sigma_schedule(20, 5.0, 0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(y, sigma):
    return y / (1 + sigma[:, None] ** 2)


# ------------------------------------------------------------------------------- closed forms


def test_uncorrected_variances():
    table = experiments.variance_table()
    assert ((table["measured"] / table["closed form"] - 1).abs() < 0.05).all()
    assert ((table["measured"] / table["wanted"] - 1).abs() > 0.15).all()


def test_corrected_variance():
    values = experiments.corrected_variances(2**0.5, 2000)
    assert abs(values.mean() - 0.5) < 5 * values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean() / 0.5 - 1) < 0.05


def test_without_noise_a_gaussian_collapses():
    result = experiments.gaussian_run(2.0, 0.0, "ode", size=100, correct=False, sigma_min=0.001)
    assert float(result.particles.var()) < 0.02


def test_equal_covariances():
    found = experiments.equal_covariances()
    assert found["spread"] < 1e-10
    assert found["mean"] == pytest.approx(3.0, abs=0.06)
    assert found["variance"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("d", [1, 3])
def test_normalising_constant_of_an_annealed_gaussian(d):
    mix = GaussianMixture([1.0], [[0.0] * d], [[0.7] * d])
    world = annealed(mix.denoise, 1.5, log_densities=[mix.log_prob])
    low, beta = 0.02, 1.5
    result = sample(world, (16, 500, d), sigma_schedule(800, 10.0, low), generator=seeded())
    v = 0.7 + low**2
    exact = d * (1 - beta) / 2 * math.log(2 * math.pi * v) - d / 2 * math.log(beta)
    ratio = torch.exp(result.log_z_ratio - exact)
    assert abs(float(ratio.mean()) - 1) < max(0.05, 4 * float(ratio.std()) / 4)
    assert abs(float(ratio.mean()) - 1) < 0.3


def test_normalising_constant_is_unbiased():
    """The mean of Z over many small populations is Z (the mean of log Z is not log Z)."""
    world = experiments.line("guidance 2")
    truth = world.expectations()["log Z"]
    result = experiments.run_line("guidance 2", "tiny", populations=200, size=40, steps=400)
    ratio = torch.exp(result.log_z_ratio - truth)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 200**0.5


def test_growth_of_the_variance_with_dimension():
    for d in (1, 16):
        ratio = experiments.measured_growth(d) / experiments.stationary_growth(1.5, 1.0, d)
        assert 0.85 < ratio < 1.15


def test_against_a_variance_preserving_simulation():
    """Independent code: Euler-Maruyama of dx = (x/2 + S) dtau + dW with the paper's weight."""
    models, beta = (experiments.UNCONDITIONAL, experiments.CONDITIONAL), (-1.0, 2.0)
    horizon, steps, n = 5.0, 500, 10000
    times = np.geomspace(horizon, 0.002, steps + 1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    log_w = np.zeros(n)
    for now, then in itertools.pairwise(times):
        h, a = now - then, math.exp(-now / 2)
        s = []
        for m in models:
            y = torch.from_numpy(x / a)[:, None]
            s.append(m.score(y, math.sqrt(1 / a**2 - 1))[:, 0].numpy() / a)
        total = beta[0] * s[0] + beta[1] * s[1]
        log_w += h * 0.5 * (total**2 - beta[0] * s[0] ** 2 - beta[1] * s[1] ** 2)
        x = x + h * (x / 2 + total) + math.sqrt(h) * rng.normal(size=n)
        w = np.exp(log_w - log_w.max())
        if w.sum() ** 2 / (w**2).sum() < n / 2:
            points = (np.arange(n) + rng.random()) / n
            x, log_w = x[np.searchsorted(np.cumsum(w) / w.sum(), points)], np.zeros(n)
    w = np.exp(log_w - log_w.max())
    theirs = float((w * (x > 0.75)).sum() / w.sum())
    ours = experiments.line_run("guidance 2").mean(lambda y: (y[..., 0] > 0.75).double())
    assert abs(float(ours.mean()) - theirs) < 0.04


def test_expectations_and_constants():
    table = experiments.expectation_table(("guidance 2", "geometric 1/2"))
    assert experiments.largest_z(table, ("mean", "tail", "log Z")) < 5


@pytest.mark.parametrize(
    ("how", "scheme"),
    [(how, s) for how in ("every", "ess") for s in ("systematic", "stratified", "multinomial")]
    # the scheme draws nothing in these
    + [("birth_death", "systematic"), (None, "systematic")],
)
def test_every_resampling_reaches_the_target(how, scheme):
    result = experiments.run_line(
        "guidance 2", "how", size=400, steps=200, resample=how, scheme=scheme
    )
    tail = result.mean(lambda y: (y[..., 0] > 0.75).double())
    truth = experiments.line("guidance 2").expectations()["tail"]
    assert abs(float(tail.mean()) - truth) < 5 * float(tail.std()) / 32**0.5
    if how == "birth_death":
        assert (result.log_weights == 0).all()
        assert (result.n_resampled > 0).all()
    if how == "every":
        assert (result.n_resampled == 200).all()
    if how is None:
        assert (result.n_resampled == 0).all()
        assert (result.n_unique_ancestors == 400).all()


def test_active_interval():
    everything = experiments.run_line("guidance 2", "a", size=50, steps=30)
    nothing = experiments.run_line(
        "guidance 2", "a", size=50, steps=30, active=(50.0, 60.0), resample="every"
    )
    assert (nothing.n_resampled == 0).all()
    first = nothing.log_weights
    assert first.std() < everything.log_weights.std() or (everything.n_resampled > 0).any()
    half = experiments.run_line(
        "guidance 2", "a", size=50, steps=30, active=(1.0, math.inf), resample="every"
    )
    levels = sigma_schedule(30, experiments.SIGMA_MAX, experiments.SIGMA_MIN)[:-1]
    assert (half.n_resampled == int((levels >= 1.0).sum())).all()


# --------------------------------------------------------------------------------- resampling


def test_counts_of_systematic_resampling():
    logw = torch.randn(40, 17, dtype=torch.float64, generator=seeded())
    chosen = resample_indices(logw, "systematic", seeded(1))
    expected = 17 * torch.softmax(logw, -1)
    counts = torch.stack([torch.bincount(row, minlength=17) for row in chosen])
    assert (counts >= expected.floor() - 1e-9).all()
    assert (counts <= expected.ceil() + 1e-9).all()


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "multinomial"])
def test_counts_are_unbiased(scheme):
    logw = torch.randn(9, dtype=torch.float64, generator=seeded()).expand(20000, -1)
    chosen = resample_indices(logw, scheme, seeded(1))
    counts = torch.bincount(chosen.ravel(), minlength=9) / 20000
    expected = 9 * torch.softmax(logw[0], -1)
    assert (counts - expected).abs().max() < 0.06


def test_extreme_weights():
    logw = torch.full((3, 8), -1e9, dtype=torch.float64)
    logw[0, 7], logw[1, 0], logw[2, 3] = 0.0, 0.0, 0.0
    for scheme in ("systematic", "stratified", "multinomial"):
        chosen = resample_indices(logw, scheme, seeded())
        assert (chosen == torch.tensor([[7], [0], [3]])).all()
    same = resample_indices(torch.zeros(4, 6), "systematic", seeded())
    assert (same == torch.arange(6)).all()
    never = torch.tensor([0.0, -math.inf, 0.0])
    assert 1 not in resample_indices(never, "multinomial", seeded(), n=500)
    assert resample_indices(never, n=5).shape == (5,)


def test_populations_have_their_own_random_numbers():
    logw = torch.randn(1, 50, dtype=torch.float64, generator=seeded()).expand(2, -1)
    chosen = resample_indices(logw, "systematic", seeded(1))
    assert not torch.equal(chosen[0], chosen[1])


def test_effective_sample_size():
    assert float(effective_sample_size(torch.zeros(10))) == pytest.approx(10)
    assert float(effective_sample_size(torch.tensor([0.0, -1e9]))) == pytest.approx(1)
    assert effective_sample_size(torch.zeros(3, 5)).shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.tensor([0.0, float("nan")]),), "NaN"),
        ((torch.tensor([0.0, float("inf")]),), "NaN or"),
        ((torch.tensor([-float("inf")] * 2),), "zero weights"),
        ((torch.zeros(2), "best"), "scheme"),
        ((torch.zeros(2, 2, 2),), "shape"),
    ],
)
def test_bad_weights(arguments, words):
    with pytest.raises(ValueError, match=words):
        resample_indices(*arguments)


# --------------------------------------------------------------------------------- the sampler


def test_same_seed_same_numbers():
    runs = [
        sample(annealed(normal, 2.0), (2, 30, 2), LEVELS, generator=seeded(3)) for _ in range(2)
    ]
    assert torch.equal(runs[0].particles, runs[1].particles)
    assert torch.equal(runs[0].ancestors, runs[1].ancestors)


def test_batches_do_not_matter():
    runs = [
        sample(annealed(normal, 2.0), (2, 30, 2), LEVELS, generator=seeded(3), batch_size=b)
        for b in (None, 7)
    ]
    torch.testing.assert_close(runs[0].particles, runs[1].particles)
    torch.testing.assert_close(runs[0].log_weights, runs[1].log_weights)


def test_result_of_a_run():
    result = sample(
        annealed(lambda y, s: y / (1 + s[:, None, None] ** 2), 2.0),
        (3, 40, 2, 2),
        LEVELS,
        generator=seeded(),
        dtype=torch.float32,
        initial=(torch.zeros(2, 2), torch.full((2, 2), 12.0)),
        noise="tempered_noise",
    )
    assert result.particles.shape == (3, 40, 2, 2)
    assert result.particles.dtype == torch.float32
    assert result.log_weights.dtype == torch.float64
    assert result.ess.shape == (20, 3)
    assert (result.ess >= 1).all()
    assert (result.ess <= 40 + 1e-9).all()
    assert result.mean().shape == (3, 2, 2)
    assert result.resample(5, seeded()).shape == (3, 5, 2, 2)
    assert (result.n_unique_ancestors <= 40).all()
    wide = result.mean(lambda x: x.flatten(2).square().sum(-1))
    torch.testing.assert_close(
        wide,
        (torch.softmax(result.log_weights, -1) * result.particles.flatten(2).square().sum(-1)).sum(
            1
        ),
    )


def test_populations_in_a_batch_are_like_runs_of_their_own():
    def tails(runs):
        return torch.cat([r.mean(lambda y: (y[..., 0] > 0.75).double()) for r in runs])

    batch = tails([experiments.run_line("guidance 2", "b", populations=40, size=100, steps=60)])
    single = tails(
        [
            experiments.run_line("guidance 2", "s", populations=1, size=100, steps=60, seed=i)
            for i in range(40)
        ]
    )
    gap = float(batch.mean() - single.mean())
    assert abs(gap) < 5 * float((batch.var() / 40 + single.var() / 40).sqrt())


def test_start_from_particles():
    start = torch.randn(2, 10, 1, dtype=torch.float64, generator=seeded())
    kept = start.clone()
    result = sample(annealed(normal, 1.0), (2, 10, 1), LEVELS, initial=start, generator=seeded())
    assert torch.equal(start, kept)
    assert result.particles.shape == start.shape


def test_poor_populations_are_announced():
    with pytest.warns(DegeneracyWarning, match="ancestors"):
        sample(annealed(normal, 8.0), (1, 100, 40), LEVELS, generator=seeded(), resample="every")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(annealed(normal, 1.0), (1, 100, 1), LEVELS, generator=seeded())


def broken(y, sigma):
    return torch.where(sigma[:, None] < 1, float("nan"), y)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"sigmas": torch.tensor([1.0, 2.0])}, ValueError, "fall"),
        ({"sigmas": torch.tensor([1.0, 0.0])}, ValueError, "positive"),
        ({"sigmas": torch.tensor([1.0])}, ValueError, "two levels"),
        ({"sigmas": [1.0, 0.5]}, TypeError, "tensor"),
        ({"shape": (2, 1, 1)}, ValueError, "two particles"),
        ({"shape": (2,)}, ValueError, "populations"),
        ({"shape": (2, 3.0, 1)}, ValueError, "populations"),
        ({"shape": (0, 3, 1)}, ValueError, "at least 1"),
        ({"ess_threshold": 0.0}, ValueError, "ess_threshold"),
        ({"ess_threshold": 1.5}, ValueError, "ess_threshold"),
        ({"noise": -1.0}, ValueError, "at least 0"),
        ({"noise": "loud"}, ValueError, "noise must be"),
        ({"noise": None}, TypeError, "noise"),
        ({"resample": "never"}, ValueError, "resample"),
        ({"scheme": "best"}, ValueError, "scheme"),
        ({"composition": normal}, TypeError, "Composition"),
        ({"composition": annealed(normal, -1.0)}, ValueError, "cannot be normalised"),
        ({"composition": annealed(broken, 2.0)}, ValueError, r"not finite at step 9, sigma = 0\.8"),
        ({"composition": annealed(lambda y, s: y[:, :0], 2.0)}, ValueError, "returned shape"),
        (
            {"composition": guided(normal, normal, 2.0), "noise": "tempered_noise"},
            ValueError,
            "one",
        ),
        ({"initial": torch.zeros(1, 2, 3)}, ValueError, "expected"),
        ({"initial": torch.full((2, 10, 1), float("nan"))}, ValueError, "finite"),
        ({"initial": 3.0}, TypeError, "pair"),
        ({"initial": (0.0, -1.0)}, ValueError, "positive"),
        ({"initial": (torch.zeros(7), 1.0)}, ValueError, "mean of initial"),
    ],
)
def test_bad_settings(changes, error, words):
    settings = {"composition": annealed(normal, 2.0), "shape": (2, 10, 1), "sigmas": LEVELS}
    settings |= changes
    with pytest.raises(error, match=words):
        sample(**settings, generator=seeded())


def test_reward_of_the_wrong_shape():
    world = Composition([normal], [1.0], lambda y: y, lambda s: 1.0)
    with pytest.raises(ValueError, match="reward must return"):
        sample(world, (2, 10, 1), LEVELS, generator=seeded())


def test_schedules():
    for kind in ("log", "karras", "linear"):
        levels = sigma_schedule(10, 5.0, 0.1, kind)
        assert len(levels) == 11
        assert float(levels[0]) == pytest.approx(5.0)
        assert float(levels[-1]) == pytest.approx(0.1)
        assert (levels.diff() < 0).all()
    for bad in ((0, 5.0, 0.1), (5, 0.1, 5.0), (5, 5.0, 0.0), (5, 5.0, 0.1, "cosine")):
        with pytest.raises(ValueError, match=r"n_steps|sigma_max|kind"):
            sigma_schedule(*bad)
    with pytest.raises(ValueError, match="rho"):
        sigma_schedule(5, 5.0, 0.1, "karras", 0.0)


# ------------------------------------------------------------------------------ analytic models


def test_kernel_density():
    data = torch.randn(30, 3, dtype=torch.float64, generator=seeded())
    model = KernelDensity(data, 0.4)
    same = GaussianMixture([1 / 30] * 30, data, torch.full((30, 3), 0.16))
    y = torch.randn(11, 3, dtype=torch.float64, generator=seeded(1))
    for sigma in (0.1, 2.0):
        level = torch.full((11,), sigma, dtype=torch.float64)
        torch.testing.assert_close(model.log_prob(y, sigma), same.log_prob(y, sigma))
        torch.testing.assert_close(model.denoise(y, level), same.denoise(y, level))
        torch.testing.assert_close(model.score(y, level), same.score(y, level))
    drawn = model.sample(20000, seeded(2), sigma=0.5)
    wanted = data.var(0, correction=0) + 0.16 + 0.25
    assert (drawn.var(0) / wanted - 1).abs().max() < 0.05
    for bad in ((data[0], 0.4), (data * float("nan"), 0.4), (data, 0.0)):
        with pytest.raises(ValueError, match=r"shape|finite|positive"):
            KernelDensity(*bad)
    with pytest.raises(ValueError, match="y must have shape"):
        model.log_prob(y[:, :2])
    with pytest.raises(ValueError, match="n must be"):
        model.sample(-1, seeded())


def test_stacked_denoisers():
    models = (experiments.UNCONDITIONAL, experiments.CONDITIONAL)
    y = torch.randn(20, 1, dtype=torch.float64, generator=seeded())
    level = torch.full((20,), 0.7, dtype=torch.float64)
    joint = stack_mixtures(*models)(y, level)
    for one, model in zip(joint, models, strict=True):
        torch.testing.assert_close(one, model.denoise(y, level))

    calls = []

    def network(points, sigma, label):
        calls.append(len(points))
        return points * label[:, None] / (1 + sigma[:, None] ** 2)

    stack = stack_denoisers(network, [2, 5])
    torch.testing.assert_close(
        stack(y, level), torch.stack([y * 2, y * 5]) / (1 + level[:, None] ** 2)
    )
    assert calls == [40]
    result = sample(
        Composition(stack, [0.5, 0.5]), (2, 5, 1), LEVELS, generator=seeded(), active=(9, 9)
    )
    assert result.particles.shape == (2, 5, 1)
    assert calls == [40] + 20 * [20]
    for bad in ([], [torch.zeros(2), torch.zeros(3)]):
        with pytest.raises(ValueError, match=r"empty|differ"):
            stack_denoisers(network, bad)
    with pytest.raises(TypeError, match="callable"):
        stack_denoisers(None, [1])
    with pytest.raises(ValueError, match="dimension"):
        stack_mixtures(models[0], GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]]))


def test_no_call_more_than_without_correction():
    assert experiments.extra_calls() == 0
