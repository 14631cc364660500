"""The runs over fresh seeds repeat every claim that depends on the seed."""

import importlib.util
import re
from pathlib import Path

import pytest

from paperkit import claims

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "unsupervised_pretraining"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("f", ROOT / f"scripts/{CHAPTER}/fresh_seeds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_live_claim_is_repeated_or_known_not_to_depend_on_the_seed(script):
    live = {claim.id for claim in claims.chapter(CHAPTER).file.claims if claim.kind == "live"}
    sources = "".join("".join(script.measuring_cells(name)) for name in script.FIRST_SEED)
    repeated = set(re.findall(r'"([a-z]\d+[a-z]?-[a-z0-9-]+)"', sources)) & live
    assert repeated | script.FIXED == live
    assert {path.stem for path in script.FOLDER.glob("0*.md")} == set(script.FIRST_SEED)


def test_a_repeated_notebook_gives_other_values_under_another_seed(script, monkeypatch):
    """On the cheapest block of the second notebook."""
    imports, *others = script.measuring_cells("02_which_rate_is_it")
    block = next(source for source in others if "c11-halfspace" in source)
    monkeypatch.setattr(script, "measuring_cells", lambda notebook: [imports, block])
    values = []
    for seed in ("1", "2", "2"):
        monkeypatch.setenv("PAPERKIT_SEED", seed)
        values.append({id: value for id, (value, _) in script.measured("any").items()})
    assert set(values[0]) == {"c11-halfspace", "c11-invariance"}
    assert values[0] != values[1] == values[2]
