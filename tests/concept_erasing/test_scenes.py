import math

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit.concept_erasing import scenes


@pytest.fixture(scope="module")
def drawn():
    table = scenes.sample_scenes(np.random.default_rng(0), 500)
    return table, scenes.render(table)


def right(table, seen):
    columns = ["shape", "colour", "background"]
    return (table[columns] == seen[columns]).all(axis=1) & (seen.n_objects == 1)


def test_the_oracle_reads_what_was_drawn(drawn):
    table, images = drawn
    seen = scenes.analyse(images)
    assert right(table, seen).mean() >= 0.99
    assert seen.clean.all()
    assert np.hypot(seen.cx - table.cx, seen.cy - table.cy).max() < 0.7
    for column, names in (("shape", scenes.SHAPES), ("colour", scenes.COLOURS)):
        assert set(seen[column]) == set(names)


def test_the_oracle_reads_through_noise(drawn):
    table, images = drawn
    noise = np.random.default_rng(1).normal(0, 0.075, images.shape)
    noisy = (images + torch.from_numpy(noise).float()).clamp(0, 1)
    assert right(table, scenes.analyse(noisy)).mean() >= 0.97


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_areas_have_their_closed_form(shape):
    scene = pd.DataFrame(
        {"shape": [shape], "colour": "red", "background": "black",
         "cx": 12.0, "cy": 12.0, "radius": 6.0}
    )  # fmt: skip
    image = scenes.render(scene, size=240)[0, 0].numpy()
    low, high = 15 / 255, 220 / 255
    area = ((image - low) / (high - low)).sum() / 100
    assert area == pytest.approx(scenes.AREA[shape] * 36, rel=0.02)


def one(shape="circle", cx=12.0, cy=12.0, radius=6.0, colour="red", background="black"):
    scene = {"shape": shape, "colour": colour, "background": background,
             "cx": cx, "cy": cy, "radius": radius}  # fmt: skip
    return scenes.render(pd.DataFrame([scene]))


def test_broken_objects_are_not_clean():
    half = one(radius=7)
    half[:, :, :, 11:] = 15 / 255
    merged = torch.maximum(one(cx=8, cy=8), one(cx=15, cy=15, radius=5))
    noise = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    empty = torch.full((1, 3, 24, 24), 0.5)
    two = torch.maximum(one(cx=6, cy=6, radius=4), one(cx=17, cy=17, radius=4))
    seen = scenes.analyse(torch.cat([half, merged, noise, empty, two]))
    assert not seen.clean.any()
    assert seen["shape"][3] == "none"
    assert math.isnan(seen.cx[3])
    assert seen.n_objects[4] == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 3, 24, 24), math.nan), "not finite"),
        (torch.full((1, 3, 24, 24), 2.0), "lie in"),
        (torch.zeros(3, 24, 24), "shape"),
    ],
)
def test_the_oracle_rejects_what_is_no_image(bad, message):
    with pytest.raises(ValueError, match=message):
        scenes.analyse(bad)


def test_the_renderer_and_sampler_reject_bad_input():
    with pytest.raises(ValueError, match=r"scenes\.shape"):
        one(shape="star")
    with pytest.raises(ValueError, match="positive"):
        scenes.sample_scenes(np.random.default_rng(0), 0)


def test_the_captions():
    table = scenes.captions()
    assert len(table) == table.text.nunique() == 576
    assert table.held_out.sum() == 84
    rng = np.random.default_rng(0)
    scene = {"shape": "circle", "colour": "red", "background": "grey"}
    said = [scenes.caption(scene, rng) for _ in range(2000)]
    known = table.set_index("text")
    assert set(said) <= set(known.index)
    rows = known.loc[said]
    assert not rows.held_out.any()
    assert set(rows["shape"]) == {"circle"}
    assert set(rows.colour) == {"red", ""}
    assert set(rows.background) == {"grey", ""}
    assert (rows.colour == "").mean() == pytest.approx(0.1, abs=0.04)
    assert (rows.background == "").mean() == pytest.approx(0.5, abs=0.06)
    assert (rows.noun != "circle").mean() == pytest.approx(0.3, abs=0.06)


def test_encoding_loses_nothing(drawn):
    _, images = drawn
    pipe = scenes.ScenePipeline(None, None, None, None)
    latents = pipe.encode(images[:4])
    assert latents.shape == (4, 12, 12, 12)
    assert latents.min() >= -1
    torch.testing.assert_close(pipe.decode(latents), images[:4])


def test_the_text_encoder_standardises_and_blanks_the_padding():
    class Encoder(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            from types import SimpleNamespace

            return SimpleNamespace(
                last_hidden_state=input_ids[:, :, None].float().expand(-1, -1, 2)
            )

    encoder = scenes.TextEncoder(Encoder(), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1e-9]))
    ids = torch.tensor([[3, 5, 0]])
    (states,) = encoder(ids, attention_mask=torch.tensor([[1, 1, 0]]))
    expected = torch.tensor(
        [[[1.0, 20.0], [2.0, 40.0], [0.0, 0.0]]]
    )  # a spread below 0.1 counts as 0.1
    torch.testing.assert_close(states, expected)
