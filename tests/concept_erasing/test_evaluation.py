import numpy as np
import pytest
import torch

from paperkit.concept_erasing import erasure_report, generate, load_pipeline, scenes
from paperkit.concept_erasing.evaluation import image_rmse, median_shift


@pytest.fixture(scope="module")
def circles():
    table = scenes.sample_scenes(np.random.default_rng(0), 30).assign(shape="circle")
    return table, scenes.render(table)


def report(original, erased, kept, kept_after, alternative="triangle"):
    table = erasure_report(
        original, erased, kept, kept_after, concept="circle", alternative=alternative,
        oracle=scenes.analyse, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert (table.low <= table.estimate + 1e-9).all()
    assert (table.estimate <= table.high + 1e-9).all()
    return table.set_index("measure").estimate


def test_a_perfect_operation(circles):
    table, original = circles
    erased = scenes.render(table.assign(shape="triangle"))
    kept = scenes.render(table.assign(shape="square"))
    found = report(original, erased, kept, kept)
    assert found["concept still there"] == 0
    for name in ("alternative there", "one whole object", "colour as before",
                 "background as before", "kept prompts: same shape and colour",
                 "kept prompts: SSIM, same seed"):  # fmt: skip
        assert found[name] == pytest.approx(1), name
    assert found["median shift, pixels"] < 0.6
    assert found["kept prompts: RMSE, same seed"] == 0


def test_a_failed_operation(circles):
    table, original = circles
    other = scenes.render(table.assign(cx=table.cx.to_numpy()[::-1], colour="red"))
    kept = scenes.render(table.assign(shape="square"))
    found = report(original, other, kept, 1 - kept, alternative=None)
    assert found["concept still there"] == 1
    assert "alternative there" not in found
    assert found["colour as before"] < 0.6
    assert found["median shift, pixels"] > 1
    assert found["kept prompts: RMSE, same seed"] > 0.2


def test_measures_and_their_errors(circles):
    _table, original = circles
    assert image_rmse(original, original).max() == 0
    assert image_rmse(original, original * 0 + 1).shape == (30,)
    seen = scenes.analyse(original)
    moved = seen.assign(cx=seen.cx + 3, cy=seen.cy + 4)
    np.testing.assert_allclose(median_shift(seen, moved), 5)
    with pytest.raises(ValueError, match="equal stacks"):
        image_rmse(original, original[:2])
    with pytest.raises(ValueError, match="as many"):
        report(original, original[:3], original, original)


@pytest.mark.model
def test_the_shipped_model_draws_what_it_is_told():
    pipe = load_pipeline()
    table = scenes.captions().query("held_out and colour != ''").sample(32, random_state=0)
    seen = scenes.analyse(generate(pipe, list(table.text)))
    assert (seen["shape"].to_numpy() == table["shape"].to_numpy()).mean() > 0.9
    assert (seen.colour.to_numpy() == table.colour.to_numpy()).mean() > 0.9
    repeated = pipe([table.text.iloc[0]])
    torch.testing.assert_close(repeated, generate(pipe, [table.text.iloc[0]]))
