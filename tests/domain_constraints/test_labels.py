import numpy as np
import pandas as pd
import pytest

from paperkit.domain_constraints import (
    DomainConstraints,
    SelectiveLabels,
    SeparationWarning,
    logistic_tested_only,
)

X = np.column_stack([np.ones(8), [0, 1, 0, 1, 0, 1, 0, 1]]).astype(float)
T = np.array([1, 1, 1, 1, 1, 1, 0, 0.0])
Y = np.array([1, 0, 0, 1, 1, 1, np.nan, np.nan])


def test_grouping_counts_people():
    data = SelectiveLabels.from_arrays(X, T, Y)
    assert data.X.shape == (2, 2)
    np.testing.assert_array_equal(data.n11, [2, 2])
    np.testing.assert_array_equal(data.n10, [1, 1])
    np.testing.assert_array_equal(data.n0, [1, 1])
    np.testing.assert_array_equal(data.X[data.inverse], X)
    assert data.n_people == 8


def test_names_from_data_frame():
    frame = pd.DataFrame(X, columns=["intercept", "old"])
    assert SelectiveLabels.from_arrays(frame, T, Y).names == ("intercept", "old")
    assert SelectiveLabels.from_arrays(frame, T, Y).column("old") == 1


def bad(**change):
    base = {"X": X, "tested": T, "outcome": Y} | change
    return SelectiveLabels.from_arrays(**base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": X[:, 1]}, "two dimensions"),
        ({"X": np.where(X == 0, np.nan, X)}, "missing or infinite"),
        ({"X": X[:, ::-1]}, "column 0 of X must be 1"),
        ({"X": np.column_stack([X, np.full(8, 3.0)])}, "constant"),
        ({"tested": T * 2}, "tested must be 0 or 1"),
        ({"tested": np.zeros(8), "outcome": np.full(8, np.nan)}, "nobody is tested"),
        ({"outcome": np.nan_to_num(Y)}, "must not see"),
        ({"outcome": np.where(T == 1, Y * 0.5, np.nan)}, "outcome must be 0 or 1"),
        ({"outcome": np.full(8, np.nan)}, "outcome must be 0 or 1"),
        ({"tested": T[:5]}, "lengths differ"),
        ({"names": ["a"]}, "names must be"),
        ({"X": np.ones((0, 2)), "tested": [], "outcome": []}, "no rows"),
    ],
)
def test_bad_arrays(change, message):
    with pytest.raises(ValueError, match=message):
        bad(**change)


def test_text_column_is_a_type_error():
    frame = pd.DataFrame(X, columns=["intercept", "old"]).assign(name=list("abcdefgh"))
    with pytest.raises(TypeError, match="name"):
        bad(X=frame)


def test_separation_warns():
    y = np.where(T == 1, X[:, 1], np.nan)
    with pytest.warns(SeparationWarning, match="x1"):
        bad(outcome=y)
    with pytest.warns(SeparationWarning, match="same outcome"):
        bad(outcome=np.where(T == 1, 1.0, np.nan))


def test_separation_in_two_features_warns_at_the_regression():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    y = (x[:, 1] + x[:, 2] > 0).astype(float)
    data = SelectiveLabels.from_arrays(x, np.ones(200), y)
    with pytest.warns(SeparationWarning, match="perfectly"):
        logistic_tested_only(data)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5])
def test_prevalence_outside_unit_interval(value):
    with pytest.raises(ValueError, match="strictly between"):
        DomainConstraints(prevalence=value)


def test_constraint_errors():
    data = SelectiveLabels.from_arrays(X, T, Y)
    with pytest.raises(ValueError, match="prevalence_sd"):
        DomainConstraints(prevalence=0.5, prevalence_sd=0)
    with pytest.raises(ValueError, match="impossible"):
        DomainConstraints(prevalence=0.4).targets(data)  # 4 of 8 are tested positives
    with pytest.raises(ValueError, match="impossible"):
        DomainConstraints(prevalence=0.8).targets(data)  # at most 6 of 8
    with pytest.raises(ValueError, match="unknown feature"):
        DomainConstraints(deviation_features=["age"]).free_columns(data)
    with pytest.raises(ValueError, match="out of range"):
        DomainConstraints(deviation_features=[2]).free_columns(data)
    with pytest.raises(ValueError, match="sequence of features"):
        DomainConstraints(deviation_features="x1").free_columns(data)
    with pytest.raises(ValueError, match="does not split"):
        DomainConstraints(subgroup_prevalence={"x1": (9.0, 0.5, 0.5)}).targets(data)


def test_intercept_stays_free_and_subgroups_weigh_people():
    data = SelectiveLabels.from_arrays(X, T, Y)
    np.testing.assert_array_equal(DomainConstraints(deviation_features=[]).free_columns(data), [0])
    weights, shares = DomainConstraints(
        prevalence=0.6, subgroup_prevalence={"x1": (0.5, 0.55, 0.65)}
    ).targets(data)
    np.testing.assert_allclose(weights, [[0.5, 0.5], [1, 0], [0, 1]])
    np.testing.assert_allclose(shares, [0.6, 0.55, 0.65])
