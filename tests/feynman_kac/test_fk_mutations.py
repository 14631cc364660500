"""Break the method on purpose: each break must turn a claim red."""

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import claims, data
from paperkit.feynman_kac import composition, cooling, experiments, sampler, studies
from paperkit.feynman_kac.experiments import Interval

RIGHT = composition.log_weight_rate


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("feynman_kac")


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Runs are kept by setting and seed; a break must not meet those of the right method."""
    for kept in (experiments._line_runs, experiments._path):
        kept.cache_clear()
    yield
    for kept in (experiments._line_runs, experiments._path):
        kept.cache_clear()


def held(ledger, row, made):
    if isinstance(made, Interval):
        return ledger.judge(row, made.estimate, interval=made).held
    return ledger.judge(row, made).held


def scale_weight(monkeypatch, factor):
    monkeypatch.setattr(sampler, "log_weight_rate", lambda *a, **o: factor * RIGHT(*a, **o))


# ------------------------------------------------------------------------------------- the weight


@pytest.mark.parametrize("term", ["square of the sum", "sum of squares", "divergence", "reward"])
def test_a_term_is_dropped(ledger, monkeypatch, term):
    def broken(scores, exponents, **options):
        beta = torch.as_tensor(exponents, dtype=torch.float64)
        total = torch.tensordot(beta, scores.double(), dims=1).square().sum(-1)
        squares = torch.tensordot(beta, scores.double().square().sum(-1), dims=1)
        half = 0.5 * options.get("noise_variance", 1.0)
        if term == "divergence":
            options["divergence"] = 0.0
        if term == "reward":
            options["reward_slope"] = 0.0
        g = RIGHT(scores, exponents, **options)
        if term == "square of the sum":
            g = g - half * total
        if term == "sum of squares":
            g = g + half * squares
        return g

    right = max(
        experiments.weight_identity((0.7, 1.4), 1.0, True, process)
        for process in ("exploding", "preserving")
    )
    assert held(ledger, "f0-weight-identity", right)
    monkeypatch.setattr(composition, "log_weight_rate", broken)
    wrong = max(
        experiments.weight_identity((0.7, 1.4), 1.0, True, process)
        for process in ("exploding", "preserving")
    )
    assert not held(ledger, "f0-weight-identity", wrong)


@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
def test_the_weight_is_scaled(ledger, monkeypatch, factor):
    assert held(ledger, "f2a-half-the-distance", experiments.distance_ratio(("guidance 3",)))
    experiments._line_runs.cache_clear()
    scale_weight(monkeypatch, factor)
    assert not held(ledger, "f2a-half-the-distance", experiments.distance_ratio(("guidance 3",)))
    table = experiments.expectation_table(("guidance 2",))
    assert not held(ledger, "f2b-expectations", experiments.largest_z(table, ("mean", "tail")))
    assert not held(ledger, "f2c-normalising-constants", experiments.largest_z(table, ("log Z",)))


def test_weights_are_not_renewed_after_resampling(ledger, monkeypatch):
    monkeypatch.setattr(
        sampler, "_renewed", lambda log_weights, chosen: log_weights.gather(-1, chosen)
    )
    table = experiments.expectation_table(("guidance 3",))
    assert not held(ledger, "f2b-expectations", experiments.largest_z(table, ("mean", "tail")))


def test_the_start_is_not_tempered(ledger, monkeypatch):
    """Invisible in the distance, visible in the normalising constant where nothing is known of it."""
    right = experiments.step_error_gain("annealing 2", populations=32)
    assert held(ledger, "f4b-steps-annealing-2", right)
    plain = experiments.Line(
        composition.Composition(
            experiments.line("annealing 2").composition.denoisers, [2.0], log_densities=None
        ),
        (torch.zeros(()), torch.tensor(experiments.SIGMA_MAX**2)),
    )
    truth = experiments.line("annealing 2").expectations()
    monkeypatch.setattr(experiments, "line", lambda target: plain)
    monkeypatch.setattr(experiments.Line, "expectations", lambda self: truth)
    wrong = experiments.step_error_gain("annealing 2", populations=32)
    assert not held(ledger, "f4b-steps-annealing-2", wrong)


# -------------------------------------------------------------------------------- the heuristic


def test_a_heuristic_that_is_exact_would_not_be_blamed(ledger, monkeypatch):
    assert held(ledger, "f1a-guidance-2", experiments.heuristic_distance((2,)))
    assert held(ledger, "f1b-guidance-3-and-4", experiments.heuristic_distance((3,)))
    one = experiments.GaussianMixture([1.0], [[-0.5]], [[0.3]])
    two = experiments.GaussianMixture([1.0], [[0.0]], [[0.3]])
    worlds = {f"guidance {b}": ((one, two), (1.0 - b, float(b))) for b in (2, 3)}
    monkeypatch.setattr(experiments, "TARGETS", worlds)
    experiments.line.cache_clear()
    experiments._line_runs.cache_clear()
    try:
        assert not held(ledger, "f1a-guidance-2", experiments.heuristic_distance((2,)))
        assert not held(ledger, "f1b-guidance-3-and-4", experiments.heuristic_distance((3,)))
    finally:
        experiments.line.cache_clear()


def test_an_error_of_the_step_would_be_seen_as_one(ledger, monkeypatch):
    """With the weights on, the error falls with the steps and the ratio leaves its interval."""
    right = experiments.run_line

    def corrected(*arguments, **options):
        return right(*arguments, **{**options, "correct": True})

    monkeypatch.setattr(experiments, "run_line", corrected)
    ratio = experiments.step_ratio(fine=400, coarse=15)
    assert not held(ledger, "f1c-not-discretisation", ratio)


def test_weights_off(ledger, monkeypatch):
    scale_weight(monkeypatch, 0.0)
    assert not held(ledger, "f1d-intermediate", experiments.intermediate_gain())
    errors = {size: experiments.tail_errors("guidance 2", size) for size in (32, 512)}
    assert not held(ledger, "f3f-live-replicate", experiments.size_ratio(errors))
    assert not held(ledger, "f4a-steps-guidance-3", experiments.step_error_gain("guidance 3"))
    assert not held(ledger, "f4c-distance-at-200", experiments.distance_at_200())
    assert not held(ledger, "f5b-weights-repair-it", experiments.variance_z(size=1000))


def test_unequal_weights_where_they_must_be_equal(ledger, monkeypatch):
    assert held(ledger, "f1e-equal-covariances", experiments.equal_covariances()["spread"])

    def conditional_only(scores, exponents, **options):
        return RIGHT(scores[1:], exponents[1:], **options)

    monkeypatch.setattr(sampler, "log_weight_rate", conditional_only)
    assert not held(ledger, "f1e-equal-covariances", experiments.equal_covariances()["spread"])


# ------------------------------------------------------------------------------------- the noise


def test_drift_that_does_not_know_the_noise(ledger, monkeypatch):
    """The drift of the target score with the noise of another sampler."""
    table = experiments.variance_table()
    assert held(
        ledger, "f5a-closed-form", (table["measured"] / table["closed form"] - 1).abs().max()
    )
    right = sampler._move

    def move(composition_, y, sigma, after, zeta, correct, batch_size):
        return right(composition_, y, sigma, after, 1.0, correct, batch_size)

    monkeypatch.setattr(sampler, "_move", move)
    table = experiments.variance_table()
    assert not held(
        ledger, "f5a-closed-form", (table["measured"] / table["closed form"] - 1).abs().max()
    )


def test_noise_makes_the_flow_usable(ledger, monkeypatch):
    assert held(ledger, "f5d-ode-collapses", experiments.collapse_ratio())
    collapsed = experiments.distance("annealing 2", correct=True, noise=0.0)
    assert not held(ledger, "f5e-ode-guidance", collapsed)
    right = experiments.run_line

    def noisy(*arguments, **options):
        return right(*arguments, **{**options, "noise": 1.0})

    experiments._line_runs.cache_clear()
    monkeypatch.setattr(experiments, "run_line", noisy)
    assert not held(ledger, "f5d-ode-collapses", experiments.collapse_ratio())


def test_a_sampler_that_does_not_profit_from_particles(ledger):
    """The trend of tempered noise, with the two sizes exchanged."""
    assert not held(ledger, "f5c-tempered-noise", experiments.tempered_trend(few=1000, many=100))


def test_growth_of_a_wrong_weight(ledger, monkeypatch):
    scale_weight(monkeypatch, 0.5)
    assert not held(ledger, "f8d-dimension-law", experiments.growth_ratio((2,)))


# ---------------------------------------------------------------------------------- judge and calls


def test_a_judge_with_the_wrong_power(ledger, monkeypatch):
    assert held(ledger, "f8e-exact-sampler", experiments.rejection_z())
    right = studies.exact_guided

    def wrong(conditional, unconditional, share, scale, *rest):
        return right(conditional, unconditional, share, 1.0, *rest)  # keeps everything

    monkeypatch.setattr(studies, "exact_guided", wrong)
    assert not held(ledger, "f8e-exact-sampler", experiments.rejection_z())


def test_scores_computed_twice(ledger, monkeypatch):
    assert held(ledger, "f10a-calls", experiments.extra_calls())
    right = sampler._move

    def twice(composition_, y, sigma, after, zeta, correct, batch_size):
        if correct:
            composition_.scores(y, sigma)
        return right(composition_, y, sigma, after, zeta, correct, batch_size)

    monkeypatch.setattr(sampler, "_move", twice)
    assert not held(ledger, "f10a-calls", experiments.extra_calls())


# ----------------------------------------------------------------------------------- stored runs


def test_forty_modes_without_weights(ledger, monkeypatch):
    """With the weights off, every sampler of the table is the uncorrected one."""
    scale_weight(monkeypatch, 0.0)
    rows = [
        {"method": method, "seed": seed, **studies.forty_run(method, seed, size=500, steps=60)}
        for method in ("target score, no weights", "target score, birth-death")
        for seed in range(3)
    ]
    gain = studies.paired_gain(
        pd.DataFrame(rows),
        "total variation",
        "target score, no weights",
        "target score, birth-death",
    )
    assert not held(ledger, "f6b-birth-death", gain)


def test_forty_modes_stored(ledger, monkeypatch):
    table = data.stored("feynman_kac", "forty_modes")
    plain = "target score, no weights"
    for row, better in (
        ("f6a-systematic", "target score, every step"),
        ("f6b-birth-death", "target score, birth-death"),
    ):
        gain = studies.paired_gain(table, "total variation", plain, better)
        assert held(ledger, row, gain)
        swapped = studies.paired_gain(table, "total variation", better, plain)
        assert not held(ledger, row, swapped)
    assert held(ledger, "f6e-replicate", studies.forty_replicate(table))
    monkeypatch.setattr(studies, "FORTY_BETA", 2.0)
    assert not held(ledger, "f6e-replicate", studies.forty_replicate(table))


def test_four_particles_stored(ledger):
    table = data.stored("feynman_kac", "four_particles")
    pair = "target score, plain", "target score, corrected"
    assert held(ledger, "f7b-distances", studies.paired_gain(table, "distances", *pair))
    assert not held(ledger, "f7b-distances", studies.paired_gain(table, "distances", *pair[::-1]))
    # a model of another temperature would not pass the gate
    wrong = [
        cooling.four.energy_distance(part, torch.full((len(part),), 1 / len(part)), 2)
        for part in cooling.four.system.reference(1).split(1000)
    ]
    assert held(ledger, "f7a-own-error", studies.mean_of(table, "energies", "model at T=2"))
    assert not held(ledger, "f7a-own-error", experiments.mean_interval(wrong))


def test_thirteen_particles_stored(ledger):
    """The gate is missed by the model, and would not be by the chains themselves."""
    table = data.stored("feynman_kac", "thirteen_particles")
    gate = "f7d-lennard-jones-own-error"
    assert not held(ledger, gate, studies.mean_of(table, "energies", cooling.OWN))
    equal = torch.full((500,), 1 / 500)
    right = [
        cooling.thirteen.energy_distance(part, equal, 2)
        for part in cooling.thirteen.system.reference(2).split(500)
    ]
    assert held(ledger, gate, experiments.mean_interval(right))


def test_thirteen_particles_without_weights(monkeypatch):
    """The live piece: one short corrected run is the plain run as soon as the weights are off."""

    def run(method):
        return cooling.thirteen.run(method, 0, size=40, steps=15)["distances"]

    plain, corrected = "target score, plain", "target score, corrected"
    assert run(plain) != run(corrected)
    scale_weight(monkeypatch, 0.0)
    assert run(plain) == run(corrected)


def test_models_exchanged_in_guidance(ledger):
    """Unconditional and conditional swapped: nothing is close to exact guidance any more."""
    stored = data.stored("feynman_kac", "guided_kernel")
    plain = stored[(stored["d"] == 4) & ~stored["correct"] & (stored["seed"] < 3)]
    swapped = pd.DataFrame(
        [
            {
                "seed": seed,
                "correct": True,
                "d": 4,
                **studies.guided_digits_run(4, True, seed, size=128, steps=60, swap=True),
            }
            for seed in range(3)
        ]
    )
    table = pd.concat([plain, swapped])
    for row, column in (("f8a-membership", "membership"), ("f8b-shift", "shift")):
        assert held(ledger, row, studies.kernel_gain(stored, 4, column))
        assert not held(ledger, row, studies.kernel_gain(table, 4, column))


def test_learned_images_stored(ledger):
    """The negative row would flip if the two samplers were exchanged."""
    table = data.stored("feynman_kac", "guided_images")
    pair = "guidance 2", "guidance 2, corrected from 1 on"
    assert not held(
        ledger, "f8g-learned-images", studies.paired_gain(table, "Frechet distance", *pair)
    )
    swapped = studies.paired_gain(table, "Frechet distance", *pair[::-1])
    assert held(ledger, "f8g-learned-images", swapped)


def test_particles_stored(ledger):
    table = data.stored("feynman_kac", "particles")
    assert held(ledger, "f3a-more-particles", studies.most_particles_ratio(table))
    reversed_ = table.assign(
        particles=table["particles"].map({32: 512, 512: 32}).fillna(table["particles"])
    )
    assert not held(ledger, "f3a-more-particles", studies.most_particles_ratio(reversed_))
    flat = table.assign(error=np.where(table["particles"] > 32, 0.05, table["error"]))
    for row, target in (
        ("f3b-slope-guidance-2", "guidance 2"),
        ("f3c-slope-geometric", "geometric 1/2"),
    ):
        good = experiments.size_slope(studies.particle_errors(table, target))
        bad = experiments.size_slope(studies.particle_errors(flat, target))
        assert held(ledger, row, good)
        assert not held(ledger, row, bad)


def test_a_slow_correction_would_fail(ledger):
    speed = data.stored("feynman_kac", "speed")
    assert held(ledger, "f10b-time", speed["time ratio"])
    assert not held(ledger, "f10b-time", speed["divergence ratio"])
