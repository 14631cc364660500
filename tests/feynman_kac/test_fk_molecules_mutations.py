"""Break the experiment with molecules on purpose: each break must turn a claim red."""

import pytest

from paperkit import claims, data
from paperkit.feynman_kac import composition, molecules, sampler

RIGHT = composition.log_weight_rate


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("feynman_kac")


@pytest.fixture(autouse=True)
def nothing_remembered():
    molecules._run.cache_clear()
    yield
    molecules._run.cache_clear()


def held(ledger, row, made):
    if isinstance(made, claims.Interval):
        return ledger.judge(row, made.estimate, interval=made).held
    return ledger.judge(row, made).held


def test_the_rows_hold(ledger):
    table = molecules.molecule_table()
    assert held(ledger, "f9e-valid", molecules.validity(table))
    assert held(ledger, "f9f-room", molecules.best_plain_share(table))
    assert held(ledger, "f9g-two-models", molecules.product_gain(table))


def test_one_model_is_asked_for_the_wrong_third(ledger, monkeypatch):
    wrong = molecules.TARGETS | {"product over any": ({"logP": 2, "TPSA": 0}, True)}
    monkeypatch.setattr(molecules, "TARGETS", wrong)
    table = molecules.molecule_table(("high logP", "high TPSA", "product over any"))
    assert not held(ledger, "f9g-two-models", molecules.product_gain(table))


def test_the_notation_is_not_translated(ledger, monkeypatch):
    import selfies

    monkeypatch.setattr(selfies, "decoder", lambda text: text)
    table = molecules.molecule_table(("product",))
    assert not held(ledger, "f9e-valid", molecules.validity(table))


def test_a_judge_that_is_always_content_leaves_no_room(ledger, monkeypatch):
    monkeypatch.setattr(
        molecules.MoleculeModels, "third", lambda self, name, values: molecules.WANTED[name]
    )
    table = molecules.molecule_table(("product", "product over any"))
    assert not held(ledger, "f9f-room", molecules.best_plain_share(table))


def test_a_stored_comparison(ledger):
    """Exchanged samplers, or the same sampler twice, would not be told as an improvement."""
    table = data.stored("feynman_kac", "product_molecules")
    swapped = table.assign(
        sampler=table["sampler"].map({"plain": "corrected", "corrected": "plain"})
    )
    gain = molecules.correction_gain(swapped, "product")
    assert not held(ledger, "f9c-molecules", gain)


def test_the_inner_product_of_scores_is_dropped(ledger, monkeypatch):
    """Nothing is left of the weight of a product: every ancestor survives, nothing is gained."""
    monkeypatch.setattr(sampler, "log_weight_rate", lambda *a, **o: 0 * RIGHT(*a, **o))
    table = molecules.molecule_table(("product",))
    assert float(table["ancestors"].min()) == molecules.SIZE
    assert not held(ledger, "f9c-molecules", molecules.correction_gain(table, "product"))
