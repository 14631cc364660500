import numpy as np
import pandas as pd
import pytest

from paperkit import domain_constraints as dc
from paperkit.domain_constraints import experiments as ex


@pytest.fixture(scope="module")
def study():
    return dc.load_free_light_chain(0)


def test_study_is_the_one_described(study):
    assert len(study.X) == 6524
    assert study.prevalence == pytest.approx(0.1042, abs=1e-4)
    assert len(study.labels().X) == 98
    np.testing.assert_allclose(
        study.truth["score_coefficients"], [-2.775, 0.894, 0.530, -0.204, 0.875], atol=2e-3
    )
    wilms = dc.load_wilms()
    assert len(wilms.X) == 4028
    assert wilms.hidden_outcome[wilms.tested == 1].mean() == pytest.approx(0.813, abs=1e-3)
    assert len(wilms.labels().X) == 4


def test_unknown_policy():
    with pytest.raises(ValueError, match="policy must be"):
        dc.load_free_light_chain(0, "lenient")
    with pytest.raises(ValueError, match="intercept, age65 and male"):
        dc.load_free_light_chain(0, {"age65": 1.0})
    with pytest.raises(ValueError, match="features"):
        dc.load_free_light_chain(0, features="all")


def test_recentring_hits_the_target(study):
    data, off = study.labels(), study.tested == 0
    moved = dc.logistic_tested_only(data, recentre_to=study.prevalence).risk(study.X[off])
    assert moved.mean() == pytest.approx(study.hidden_outcome[off].mean(), abs=1e-6)
    plain = dc.logistic_tested_only(data)
    shifted = dc.logistic_tested_only(data, recentre_to=study.prevalence)
    np.testing.assert_allclose(plain.coef[1:], shifted.coef[1:])
    with pytest.raises(ValueError, match="impossible"):
        dc.logistic_tested_only(data, recentre_to=0.9)


def test_untested_negative_is_a_regression_of_y_times_t(study):
    from sklearn.linear_model import LogisticRegression

    label = study.tested * study.hidden_outcome
    fit = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-8).fit(study.X[:, 1:], label)
    ours = dc.logistic_untested_negative(study.labels())
    np.testing.assert_allclose(ours.coef[1:], fit.coef_.ravel(), atol=2e-3)


def test_reallocation():
    tested = np.array([1, 1, 1, 0, 0, 0])
    moved = dc.reallocation([0.3, 0.1, 0.2, 9, 9, 9], [0, 0, 0, 0.5, 0.9, 0.7], tested, 2)
    assert set(moved.dropped) == {1, 2}
    assert set(moved.added) == {4, 5}
    for k in (0, 4):
        with pytest.raises(ValueError, match="k must lie"):
            dc.reallocation(np.zeros(6), np.zeros(6), tested, k)


def test_constraint_gains_by_hand():
    rows = [
        {"set": s, "constraint": c, "width_a": w, "error_a": w}
        for s, factor in ((0, 1.0), (1, 2.0), (2, 3.0))
        for c, w in (("u", 10 * factor), ("b", 5 * factor))
    ]
    table = dc.constraint_gains(pd.DataFrame(rows), blocks=("a",))
    assert table["median"].tolist() == [-50.0, -50.0]
    assert (table["n"] == 3).all()
    with pytest.raises(ValueError, match="every constraint"):
        dc.constraint_gains(pd.DataFrame(rows[:-1]), blocks=("a",))


def test_calibration_counts_only_the_untested(study):
    table = ex.untested_calibration(study, {"risk": study.hidden_outcome})
    assert table["n"].sum() == (study.tested == 0).sum()
    assert ex.untested_cell_error(study, study.hidden_outcome) == 0
    assert ex.untested_cell_error(study, study.hidden_outcome + 0.1) == pytest.approx(0.1)
