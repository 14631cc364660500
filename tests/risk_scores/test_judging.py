"""Measures of scores, against closed forms, counting and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score

from paperkit.risk_scores import (
    auc,
    auc_p_value,
    brier_decomposition,
    claimed_uncertainty,
    confidence_gap,
    ece_null,
    evaluate,
    expected_calibration_error,
    polarise,
    reliability,
    squeeze_factor,
    temper,
    uncertainty_gap,
)
from paperkit.risk_scores.judging import assign_bins, uncertainty_from_moments
from paperkit.risk_scores.polarisation import tuning_objective

scores = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 0.1, 0.3, 0.31, 0.9])), min_size=2))
def test_auc_counts_pairs(pairs):
    y = np.array([a for a, _ in pairs], dtype=int)
    s = np.array([b for _, b in pairs])
    if len(set(y)) < 2:
        assert np.isnan(auc(y, s))
        return
    high, low = s[y == 1][:, None], s[y == 0][None]
    assert auc(y, s) == pytest.approx(np.mean((high > low) + 0.5 * (high == low)), abs=1e-12)
    assert auc(y, s) == pytest.approx(roc_auc_score(y, s), abs=1e-12)


def test_auc_p_value_is_the_permutation_test():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    s = np.round(0.8 * rng.random(120) + 0.1 * y, 1)
    observed = abs(auc(y, s) - 0.5)
    draws = [abs(auc(rng.permutation(y), s) - 0.5) >= observed - 1e-12 for _ in range(4000)]
    assert auc_p_value(y, s) == pytest.approx(np.mean(draws), abs=0.025)
    assert auc_p_value(y, np.full(120, 0.3)) == 1
    with pytest.raises(ValueError, match="one class"):
        auc_p_value([1, 1], [0.1, 0.2])


def test_calibration_error_by_hand():
    y, s = [0, 1, 1, 0], [0.05, 0.15, 0.95, 0.95]
    # bins 0: |0 - .05|, 1: |1 - .15|, 9: |.5 - .95| twice
    assert expected_calibration_error(y, s) == pytest.approx((0.05 + 0.85 + 2 * 0.45) / 4)
    assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert expected_calibration_error([1, 0], [0.0, 1.0]) == 1


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_constant_score_is_off_by_its_distance_to_the_rate(strategy):
    y = np.array([0, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    for c in (0.0, 0.3, 0.5, 1.0):
        error = expected_calibration_error(y, np.full(10, c), strategy=strategy)
        assert error == pytest.approx(abs(c - 0.4))


@settings(max_examples=150, deadline=None)
@given(scores, st.integers(1, 12), st.sampled_from(["uniform", "quantile"]))
def test_bins_partition_rows_and_never_split_ties(s, n_bins, strategy):
    s = np.array(s)
    bins = assign_bins(s, n_bins=n_bins, strategy=strategy)
    assert bins.min() >= 0
    assert bins.max() < n_bins
    order = np.argsort(s, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    for value in np.unique(s):
        assert len(set(bins[s == value])) == 1
    y = (np.arange(len(s)) % 2).astype(int)
    error = expected_calibration_error(y, s, n_bins=n_bins, strategy=strategy)
    assert 0 <= error <= 1
    shuffle = np.random.default_rng(0).permutation(len(s))
    again = expected_calibration_error(y[shuffle], s[shuffle], n_bins=n_bins, strategy=strategy)
    assert again == pytest.approx(error, abs=1e-12)


def test_verbalised_scores_fall_into_the_bin_that_starts_at_them():
    tenths = np.arange(11) / 10
    assert assign_bins(tenths).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


def test_quantile_bins_have_equal_mass_without_ties():
    bins = assign_bins(np.random.default_rng(0).random(1000), strategy="quantile")
    assert np.bincount(bins).tolist() == [100] * 10


def test_null_band_covers_perfect_scores():
    rng = np.random.default_rng(0)
    inside = 0
    for draw in range(300):
        s = rng.beta(2, 3, 150)
        y = (rng.random(150) < s).astype(int)
        null = ece_null(s, n_draws=120, random_state=draw)
        inside += expected_calibration_error(y, s) <= np.quantile(null, 0.95)
    assert 0.90 <= inside / 300 <= 0.98


def test_null_mean_at_small_n():
    # the bias of the error of a perfect Beta(2, 3) score, by simulation elsewhere: .099 at n=100
    rng = np.random.default_rng(1)
    means = [ece_null(rng.beta(2, 3, 100), n_draws=20, random_state=i).mean() for i in range(100)]
    assert np.mean(means) == pytest.approx(0.099, abs=0.004)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_brier_decomposition_adds_up(pairs):
    y, s = np.array([int(a) for a, _ in pairs]), np.array([b for _, b in pairs])
    parts = brier_decomposition(y, s)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
    assert total == pytest.approx(np.mean((y - s) ** 2))
    tenths = np.minimum(np.floor(10 * s), 9) / 10
    assert brier_decomposition(y, tenths)["within"] == pytest.approx(0, abs=1e-12)


def test_claimed_uncertainty_is_what_the_moments_say():
    s = np.random.default_rng(0).beta(2, 5, 500)
    assert claimed_uncertainty(s) == pytest.approx(np.mean(s * (1 - s)))
    assert uncertainty_from_moments(s.mean(), s.std()) == pytest.approx(claimed_uncertainty(s))
    assert uncertainty_gap(np.full(4, 0.5), 0.2) == pytest.approx(0.05)
    assert uncertainty_gap(np.array([0.0, 1.0]), 0.2) == pytest.approx(-0.2)


def test_confidence_gap_signs():
    y = np.array([1, 0, 1, 0])
    assert confidence_gap(y, [0.9, 0.9, 0.9, 0.9]) == pytest.approx(0.4)
    assert confidence_gap(y, [0.55, 0.45, 0.55, 0.45]) == pytest.approx(0.55 - 1)


def test_reliability_rows():
    table = reliability([0, 1, 1], [0.12, 0.18, 0.9])
    assert table.n.tolist() == [2, 1]
    assert table.score.tolist() == pytest.approx([0.15, 0.9])
    assert table.rate.tolist() == [0.5, 1]


def test_evaluate_reports_groups_and_limits():
    rng = np.random.default_rng(0)
    s = rng.random(400)
    y = (rng.random(400) < s).astype(int)
    groups = np.where(np.arange(400) % 2, "odd", "even")
    report = evaluate(y, s, groups=groups, bayes_brier=1 / 6, n_boot=60)
    assert report.index.tolist() == ["all", "even", "odd"]
    assert report.loc["all", "n"] == 400
    assert report.loc["all", "auc"] == pytest.approx(roc_auc_score(y, s))
    assert (report.auc_low < report.auc).all()
    assert (report.auc < report.auc_high).all()
    assert report.loc["all", "ece"] < report.loc["all", "ece_null_95"] * 1.5
    assert abs(report.loc["all", "uncertainty_gap"]) < 0.02
    with pytest.warns(UserWarning, match="'b' holds one class"):
        report = evaluate([0, 1, 1], [0.1, 0.2, 0.3], groups=["a", "a", "b"])
    assert np.isnan(report.loc["b", "auc"])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"s\[1\] = 1\.5"):
        expected_calibration_error([0, 1], [0.5, 1.5])
    with pytest.raises(ValueError, match=r"s\[0\] = nan"):
        auc([0, 1], [np.nan, 0.2])
    with pytest.raises(ValueError, match="equal length, got 2 and 1"):
        auc([0, 1], [0.2])
    with pytest.raises(ValueError, match="0 and 1 only, found also 2"):
        auc([0, 2], [0.2, 0.3])
    with pytest.raises(ValueError, match="n_bins must be a positive integer"):
        expected_calibration_error([0], [0.1], n_bins=0)
    with pytest.raises(ValueError, match="strategy must be one of"):
        expected_calibration_error([0], [0.1], strategy="mass")
    with pytest.raises(ValueError, match="non-empty vector"):
        claimed_uncertainty([])
    with pytest.raises(ValueError, match="n_draws"):
        ece_null([0.1], n_draws=0)
    with pytest.raises(ValueError, match="groups and y"):
        evaluate([0, 1], [0.1, 0.2], groups=["a"])
    with pytest.raises(ValueError, match="bayes_brier"):
        uncertainty_gap([0.1], 2)
    with pytest.raises(ValueError, match="beta must be positive"):
        polarise([0.1], 0)
    with pytest.raises(ValueError, match="equal shape"):
        polarise([0.1], 1, [0.1, 0.2])
    with pytest.raises(ValueError, match="temperature must be positive"):
        temper([0.1], -1)


# --- polarisation ------------------------------------------------------------------------------------------


def test_polarise_maximises_the_tuning_objective():
    rng = np.random.default_rng(0)
    for eta, s0, beta in zip(
        *rng.uniform(0.05, 0.95, (2, 200)), rng.uniform(0.2, 2, 200), strict=True
    ):
        best = minimize_scalar(
            lambda s, eta=eta, s0=s0, beta=beta: -tuning_objective(s, eta, s0, beta),
            bounds=(1e-9, 1 - 1e-9),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert polarise([s0], beta, [eta])[0] == pytest.approx(best.x, abs=1e-6)


def test_polarise_at_known_points():
    assert polarise([0.3], 0.5, [0.3])[0] == pytest.approx(0.16147, abs=1e-5)
    assert polarise([0.55], 0.2, [0.7])[0] == pytest.approx(0.90031, abs=1e-5)
    assert polarise([0.9], 1.0, [0.5])[0] == pytest.approx(0.9, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=30, unique=True), st.floats(0.05, 20))
def test_polarise_keeps_order_and_side_and_moves_outwards(s, beta):
    s = np.sort(np.array(s))
    polarised = polarise(s, beta)
    assert (np.diff(polarised) >= 0).all()
    assert ((polarised > 0.5) == (s > 0.5)).all()
    assert (np.abs(polarised - 0.5) >= np.abs(s - 0.5) - 1e-12).all()
    assert polarise(s, 1e9) == pytest.approx(s, abs=1e-8)


def test_certain_scores_stay_certain():
    assert polarise([0.0, 1.0], 0.1).tolist() == [0.0, 1.0]
    assert temper([0.0, 0.5, 1.0], 3.0).tolist() == [0.0, 0.5, 1.0]


def test_squeeze_factor_is_the_slope_of_the_averaged_probability():
    from scipy.special import expit

    for b in (0.0, 1.3, 2.42):
        e = 1e-4
        averaged = (expit(e - b) + expit(e + b)) / 2
        assert (averaged - 0.5) / (expit(e) - 0.5) == pytest.approx(squeeze_factor(b), rel=1e-6)
