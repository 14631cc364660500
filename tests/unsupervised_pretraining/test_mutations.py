"""Break the method on purpose: each mutation must turn the claim it belongs to red.

Every case first measures the intact method at a reduced size (the claim holds), then the mutant with
the same seed (the claim fails), both through the functions that the notebooks call.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import claims, data
from paperkit.unsupervised_pretraining import (
    contrastive,
    contrastive_excess,
    counterexamples,
    experiments,
    factor,
    images,
    mixture,
    real,
    theory,
)

LEDGER = claims.chapter("unsupervised_pretraining")


def held(claim, found):
    if isinstance(found, claims.Interval):
        return LEDGER.judge(claim, found.estimate, interval=found).held
    return LEDGER.judge(claim, found).held


def rng():
    return np.random.default_rng(11)


def both(claim, measure, mutate, monkeypatch):
    """The claim holds, and no longer does after ``mutate(monkeypatch)``."""
    assert held(claim, measure()) is True
    mutate(monkeypatch)
    assert held(claim, measure()) is False


M_VALUES = [1000, 10_000, 100_000]


def joint_slope():
    task, draws = experiments.base_task(), rng()
    terms = experiments.chain(task, M_VALUES, 60, draws)
    return experiments.slope(M_VALUES, terms["hellinger_xz"], draws)


def test_chain_without_rotation_alignment(monkeypatch):
    both(
        "c1-slope-joint",
        joint_slope,
        lambda patch: patch.setattr(theory, "align", lambda loadings, reference: loadings),
        monkeypatch,
    )


def law_distance():
    task, draws = experiments.base_task(), rng()
    terms = experiments.chain(task, M_VALUES, 60, draws)
    return experiments.hellinger_deviation(task, terms, M_VALUES, draws)


def test_likelihood_that_forgets_the_noise_of_x(monkeypatch):
    fit = factor.fit_ppca
    both(
        "c1-hellinger",
        law_distance,
        lambda patch: patch.setattr(factor, "fit_ppca", lambda S, r: fit(S, r, 1e-9)),
        monkeypatch,
    )


def kappa():
    task, draws = experiments.base_task(), rng()
    return experiments.kappa_ratio(
        task, experiments.chain(task, [10_000, 100_000], 40, draws), [10_000, 100_000]
    )


def test_informativeness_without_rotation_alignment(monkeypatch):
    both(
        "c1-kappa",
        kappa,
        lambda patch: patch.setattr(theory, "align", lambda loadings, reference: loadings),
        monkeypatch,
    )


def m_slope():
    draws = rng()
    found = experiments.pretraining_term(experiments.base_task(), M_VALUES, 200, draws)
    return experiments.slope(M_VALUES, found, draws)


def random_subspaces(task, m, n_draws, rng, **_):
    return np.linalg.qr(rng.standard_normal((n_draws, task.dimension, task.n_factors)))[0]


def labelled_rows_only(task, m, n_draws, rng, **_):
    moments = factor.sample_second_moments(task.covariance, 100, n_draws, rng)
    return np.linalg.eigh(moments)[1][..., -task.n_factors :]


@pytest.mark.parametrize("mutant", [random_subspaces, labelled_rows_only])
def test_pretraining_that_ignores_the_unlabelled_rows(mutant, monkeypatch):
    both(
        "c2-slope-m",
        m_slope,
        lambda patch: patch.setattr(factor, "pretraining_draws", mutant),
        monkeypatch,
    )


def head_constant():
    task, draws, n_values = experiments.base_task(), rng(), [30, 100, 300]
    found = experiments.head_term(task, n_values, 2000, draws)
    return experiments.worst_deviation(found, task.law(np.inf, n_values), draws)


def test_risk_that_forgets_the_covariance_of_x(monkeypatch):
    def plain(task, weights, loss="squared", clip=None):
        return ((weights - task.optimal_weights) ** 2).sum(axis=-1)

    both(
        "c2-constant-n",
        head_constant,
        lambda patch: patch.setattr(factor, "excess_risk", plain),
        monkeypatch,
    )


def all_of_x(task, n_values, n_draws, rng):
    everything = np.broadcast_to(np.eye(task.dimension), (n_draws, task.dimension, task.dimension))
    return np.stack(
        [
            factor.downstream_excess(
                task, n, n_draws, rng, methods=("pretrained",), subspaces=everything
            )["pretrained"]
            for n in n_values
        ],
        axis=1,
    )


def test_a_head_on_all_of_x_does_not_grow_with_the_factors(monkeypatch):
    both(
        "c5-head",
        lambda: experiments.complexity_head(2000, rng())[0],
        lambda patch: patch.setattr(experiments, "head_term", all_of_x),
        monkeypatch,
    )


def additive_law():
    task, draws = experiments.base_task(), rng()
    found = experiments.both_terms(task, [300, 3000, 100_000], [30, 300], 500, draws)
    law = task.law(np.array([300, 3000, 100_000])[:, None], np.array([30, 300]))
    return experiments.worst_deviation(found.reshape(500, -1), law.ravel(), draws)


def ruled_out_directions():
    draws = rng()
    found, law = experiments.complexity_phi(200, draws)
    return experiments.worst_deviation(found, law, draws)


@pytest.mark.parametrize(
    ("claim", "measure"), [("c2-law", additive_law), ("c5-phi", ruled_out_directions)]
)
def test_twice_the_unlabelled_rows_that_were_declared(claim, measure, monkeypatch):
    found = factor.pretraining_draws
    both(
        claim,
        measure,
        lambda patch: patch.setattr(
            factor, "pretraining_draws", lambda task, m, *rest, **kept: found(task, 2 * m, *rest)
        ),
        monkeypatch,
    )


def test_a_representation_that_keeps_all_of_x(monkeypatch):
    def everything(task, m, n_draws, rng, **_):
        return np.broadcast_to(np.eye(task.dimension), (n_draws, task.dimension, task.dimension))

    both(
        "c5-psi",
        lambda: experiments.complexity_psi(500, rng())[0],
        lambda patch: patch.setattr(factor, "pretraining_draws", everything),
        monkeypatch,
    )


def gain():
    draws = rng()
    frame = experiments.against_baselines(experiments.base_task(), 100_000, [50, 100], 60, draws)
    return experiments.smallest_gain(frame, draws)


def test_no_gain_without_unlabelled_rows(monkeypatch):
    both(
        "c3-gain",
        gain,
        lambda patch: patch.setattr(factor, "pretraining_draws", random_subspaces),
        monkeypatch,
    )


def test_no_gain_gap_in_a_large_dimension(monkeypatch):
    task = experiments.base_task

    def larger(patch):
        patch.setattr(experiments, "base_task", lambda dimension: task(dimension=40))

    both("c3-control", lambda: experiments.advantage_without_gap(400, rng()), larger, monkeypatch)


def test_crossover_with_the_wrong_price_of_a_direction(monkeypatch):
    def mutate(patch):
        wrong = property(lambda task: float((task.coefficients**2 / (1 + task.signal)).sum()))
        patch.setattr(factor.FactorTask, "head_variance", wrong)

    def few_labels():
        return experiments.crossover_deviation(500, rng(), n=400)[0]

    assert held("c4-few-labels", few_labels()) is True
    both("c4-crossover", lambda: experiments.crossover_deviation(60, rng())[0], mutate, monkeypatch)
    assert held("c4-few-labels", few_labels()) is False


def test_rank_growth_vanishes_at_fixed_head_norm(monkeypatch):
    both(
        "c5-rank",
        lambda: experiments.complexity_rank(200, rng())[0],
        lambda patch: patch.setattr(
            experiments, "rank_coefficients", lambda r: np.full(r, 0.5 / np.sqrt(r))
        ),
        monkeypatch,
    )


def envelope():
    draws, m_values = rng(), [800, 8000, 80_000]
    found = experiments.worst_signal(m_values, 80, 12, draws)
    return experiments.envelope_slope(m_values, found, draws)


def test_fixed_signal_has_no_root_rate(monkeypatch):
    both(
        "c6-slope",
        envelope,
        lambda patch: patch.setattr(
            experiments, "signal_grid", lambda m, dimension: np.full(12, 2.0)
        ),
        monkeypatch,
    )


def leading_direction(rows, *_, **__):
    return np.linalg.eigh(rows.T @ rows)[1][:, -1]


@pytest.mark.parametrize(
    ("claim", "mutate"),
    [
        (
            "c7-constant",
            lambda patch: patch.setattr(mixture, "fit_symmetric_mixture", leading_direction),
        ),
        (
            "c7-exchange",
            lambda patch: patch.setattr(
                experiments,
                "labelled_means",
                lambda s, n, d, noise, *rest, clean=experiments.labelled_means: clean(
                    s, n, d, 0.0, *rest
                ),
            ),
        ),
    ],
    ids=["principal direction in place of the maximum", "labels that nobody flipped"],
)
def test_two_components(claim, mutate, monkeypatch):
    def constant():
        return experiments.mixture_constants(200, rng())[0]

    def exchange():
        return experiments.exchange_rates(150, rng())[0]

    both(claim, constant if claim == "c7-constant" else exchange, mutate, monkeypatch)


def component_slope():
    draws, m_values = rng(), [1000, 3000, 10_000]
    found = experiments.component_regret(4, m_values, 12, draws)
    return experiments.slope(m_values, found, draws)


def test_components_that_start_together_never_split(monkeypatch):
    both(
        "c7-components",
        component_slope,
        lambda patch: patch.setattr(
            experiments, "start_means", lambda task: np.tile(task.means.mean(0), (4, 1))
        ),
        monkeypatch,
    )


def needed_kappa():
    m_values = [400, 3200]
    found = experiments.worst_separation(m_values, 20, 40, rng())
    return experiments.kappa_normalised(m_values, 20, found)


def test_bound_without_kappa_grows(monkeypatch):
    both(
        "c8-kappa",
        needed_kappa,
        lambda patch: patch.setattr(mixture, "tanh_information", lambda s: 1.0),
        monkeypatch,
    )


def voting():
    table = experiments.voting_table((2, 4), (100, 400, 1600))
    return float((table["ratio"] / experiments.voting_constant() - 1).abs().max())


def test_ties_counted_as_right(monkeypatch):
    real_binom = mixture.stats.binom

    class NoTies:
        cdf = staticmethod(real_binom.cdf)

        @staticmethod
        def pmf(k, n, p):
            # The tie term is the only call in which p is an array.
            return real_binom.pmf(k, n, p) * (0.0 if np.ndim(p) else 1.0)

    class Patched:
        binom = NoTies
        norm = mixture.stats.norm

    both("c9-constant", voting, lambda patch: patch.setattr(mixture, "stats", Patched), monkeypatch)


def contrastive_slope():
    draws, m_values = rng(), [2000, 10_000]
    found = experiments.linear_contrastive(m_values, 60, draws)
    return experiments.slope(m_values, found, draws)


def test_shuffled_signs_teach_nothing(monkeypatch):
    sample = contrastive.sample_pairs

    def shuffled(weights, m, rng):
        X, X_pair, sign = sample(weights, m, rng)
        return X, X_pair, rng.permutation(sign)

    both(
        "c10-slope",
        contrastive_slope,
        lambda patch: patch.setattr(contrastive, "sample_pairs", shuffled),
        monkeypatch,
    )
    found = experiments.linear_contrastive([2000], 5, rng())
    assert (found > 10 * contrastive_excess(1.0, 10, [0.5, 0.5], 2000)).all()


def pair_constant():
    draws = rng()
    ratio = experiments.linear_contrastive([5000], 80, draws)[:, 0]
    return experiments.mean_interval(ratio / contrastive_excess(1.0, 10, [0.5, 0.5], 5000), draws)


def test_pairs_without_their_likelihood(monkeypatch):
    """The spectral start of the fit has the right rate, but not the constant of the maximum."""

    def start(X, X_pair, sign, rank, **_):
        cross = (X * sign[:, None]).T @ X_pair
        return np.linalg.eigh(cross + cross.T)[1][:, ::-1][:, :rank].T

    both(
        "c10-constant",
        pair_constant,
        lambda patch: patch.setattr(contrastive, "fit_linear_encoder", start),
        monkeypatch,
    )


def test_informative_world_is_not_flat():
    """The claim of no help must fail where the unlabelled law does know the representation."""

    def ratio(signal):
        draws = rng()
        large, small = (
            counterexamples.broken_invariance_excess(m, signal, 10, 400, draws)
            for m in (10**6, 1000)
        )
        return experiments.ratio_of_means(large, small, draws)

    assert held("c11-invariance", ratio([3.0, 3.0])) is True
    assert held("c11-invariance", ratio([6.0, 1.0])) is False


def test_a_halfspace_that_the_data_do_show(monkeypatch):
    """A slightly longer first axis gives the hyperplane away, and the excess falls."""
    sample = counterexamples.sample_second_moments

    def longer(covariance, *rest):
        return sample(covariance + 0.1 * np.diag(np.eye(len(covariance))[0]), *rest)

    def ratio():
        draws = rng()
        large, small = (
            counterexamples.halfspace_excess(m, 10, 0.1, 1000, draws) for m in (10**6, 1000)
        )
        return experiments.ratio_of_means(large, small, draws)

    both(
        "c11-halfspace",
        ratio,
        lambda patch: patch.setattr(counterexamples, "sample_second_moments", longer),
        monkeypatch,
    )


def test_the_right_noise_model_has_another_limit():
    found = experiments.wrong_noise(6.0, [20_000], 12, rng())
    for model, expected in (("equal", True), ("right", False)):
        ratio = experiments.mean_interval(found[model][:, 0] / found["limit"], rng())
        assert held("c13-limit", ratio) is expected


def test_two_squares_at_a_tiny_tilt_stay_unknown():
    assert held("c11-control", counterexamples.two_squares_excess(1000, 0.3)) is True
    assert held("c11-control", counterexamples.two_squares_excess(1000, 0.003)) is False


def test_floored_likelihood_recovers():
    erm = counterexamples.coin_excess(1000, 0.01, rule="erm")
    plain = counterexamples.coin_excess(1000, 0.01)
    floored = counterexamples.coin_excess(1000, 0.01, likelihood_floor=0.01)
    assert held("c12-gap", plain - erm) is True
    assert held("c12-gap", floored - erm) is False


def right_model():
    draws, m_values = rng(), [500, 4000]
    found = experiments.wrong_noise(3.0, m_values, 25, draws)
    return experiments.slope(m_values, found["right"], draws)


def test_principal_components_in_place_of_factor_analysis(monkeypatch):
    both(
        "c13-right-model",
        right_model,
        lambda patch: patch.setattr(
            experiments, "factor_analysis_subspaces", experiments.ppca_subspaces
        ),
        monkeypatch,
    )


def test_diagonal_covariance_loses_the_penguins():
    draws = rng()
    seeds = range(20)
    tied = experiments.penguin_curves(seeds, m_values=(160,))
    diagonal = experiments.penguin_curves(seeds, m_values=(160,), covariance="diag")
    assert held("c14-gain", experiments.penguin_gain(tied, draws)) is True
    assert held("c14-gain", experiments.penguin_gain(diagonal, draws)) is False


def test_one_factor_is_not_five():
    draws = rng()

    def difference(**settings):
        frame = experiments.bfi_curves(range(8), n_values=(50,), m_values=(1436,), **settings)
        return experiments.bfi_difference(frame, ("factors", 1436), ("ridge", 0), 50, draws)

    assert held("c15-gain-50", difference(n_label_draws=4)) is True
    assert held("c15-gain-50", difference(n_factors=1)) is False


def test_a_random_encoder_is_no_pretraining():
    """An encoder that was never trained turns the rows of the contrastive digits red."""
    table = data.stored("unsupervised_pretraining", "digits")
    splits = data.stored_record("unsupervised_pretraining", "digits")["seeds"]
    X, _ = real.load_digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = {1297: images.encode(images.ConvEncoder(), X)}
    probes = pd.concat([experiments.probe_table(features, k, (50, 100, 450)) for k in splits])
    untrained = probes[probes.m == 1297].assign(method="contrastive m=1297").drop(columns="m")
    mutant = pd.concat([table[table.method != "contrastive m=1297"], untrained])

    def gain(rows, n):
        return experiments.digits_difference(rows, "contrastive m=1297", "pixels", n)

    for claim, n in (("c16-gain-50", 50), ("c16-gain-100", 100)):
        assert held(claim, gain(table, n)) is True
        assert held(claim, gain(mutant, n)) is False
    assert held("c16-parity", abs(gain(table, 450).estimate)) is True
    assert held("c16-parity", abs(gain(mutant, 450).estimate)) is False
    first = probes[(probes.split == splits[0]) & (probes.n < 450)]
    assert held("c16-replicate", experiments.replicate_error(first, table)) is False
    # The pixels are reproduced, so it is the encoder that differs.
    assert experiments.replicate_error(first[first.m == 0], table) < 0.005


def test_real_procedures_never_see_test_rows(monkeypatch):
    """Scrambling the test rows' measurements must not change what was fitted."""
    X, y = real.load_penguins()
    rng_ = np.random.default_rng(0)
    fitted = []
    original = real.mixture_predictions

    def spy(unlabelled, labelled, names, X_test, **settings):
        fitted.append({tuple(row) for row in np.vstack([unlabelled, labelled])})
        fitted.append({tuple(row) for row in X_test})
        return original(unlabelled, labelled, names, X_test, **settings)

    monkeypatch.setattr(real, "mixture_predictions", spy)
    real.penguin_split(rng_)
    seen, test = fitted
    assert not seen & test
    assert len(test) + len(seen) <= len(X)
    assert len(y) == 342
