"""Real data: shapes, splits without overlap, images."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

mpl.use("agg")
import matplotlib.pyplot as plt

from paperkit.claims import Interval
from paperkit.unsupervised_pretraining import figures, images, real


def test_tables():
    X, y = real.load_penguins()
    assert X.shape == (342, 4)
    assert np.bincount(y).tolist() == [151, 68, 123]
    bfi = real.load_bfi()
    assert bfi.shape == (2436, 25)
    assert bfi.isin(range(1, 7)).all(axis=None)
    X, y = real.load_digits()
    assert X.shape == (1797, 64)
    assert X.max() == 1


def test_factors_find_the_traits_without_being_told():
    loadings = real.trait_loadings()
    assert list(loadings.columns) == ["A", "C", "E", "N", "O"]
    strongest = loadings.abs().idxmax(axis=1)
    assert (strongest == [item[0] for item in loadings.index]).all()
    # Signed so that most items of a trait rise with its factor.
    for trait in loadings:
        own = loadings.loc[[item for item in loadings.index if item[0] == trait], trait]
        assert (own > 0).sum() >= 3
    with pytest.raises(ValueError, match="n_factors"):
        real.trait_loadings(0)


def test_confusion_matrices_are_shares_in_their_own_panels():
    tables = {n: {"mixture": np.eye(3), "shrunk LDA": np.full((3, 3), 1 / 3)} for n in (6, 10)}
    frames, labels = figures.confusion_frames(tables)
    layout = figures.confusion_layout(["mixture", "shrunk LDA"], ["Ad", "Ch", "Ge"])
    assert labels == ["6", "10"]
    assert [trace.xaxis for trace in frames[0]] == ["x", "x2"]
    assert frames[0][0].text.tolist() == (100 * np.eye(3)).tolist()
    assert [title.text for title in layout.annotations] == ["mixture", "shrunk<br>LDA"]
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]


def test_panels_name_their_axes_above_them_and_ticks_in_numbers():
    layout = figures.two_panels(["left", "right"], ["x", "m"])
    assert [title.text for title in layout.annotations] == ["left", "right"]
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == ("x", "m")
    assert layout.yaxis.title.text is None
    surface = figures.surface_layout((1, 2, 4, 8))
    assert surface.yaxis3.ticktext[0] == "100"
    assert surface.xaxis3.tickvals[0] == 2
    table = pd.DataFrame(
        [
            {"r": r, "signal": 1.0, "m": m, "n": n, "excess": 0.1}
            for r in (1, 2) for m in (30, 1000) for n in (50, 500)
        ]
    )  # fmt: skip
    frames, labels = figures.surface_frames(table)
    assert labels == ["1"]
    assert [trace.type for trace in frames[0]] == ["heatmap", "scatter"] * 2
    assert [trace.showscale for trace in frames[0][::2]] == [True, False]


def test_dots_carry_their_intervals():
    fig, ax = plt.subplots()
    colour = figures.dots(ax, [1, 2], [Interval(1, 0.5, 3, 0.95, 9, "any")] * 2, label="a")
    ends = ax.containers[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in ends] == [[0.5, 3.0]] * 2
    assert colour == ax.containers[0].lines[0].get_color()
    plt.close(fig)


def test_the_worst_strength_moves_left_and_down():
    moving = figures.envelope_animation([1000, 100_000], 80)
    ax = moving._fig.axes[0]
    marks = []
    for i in range(2):
        moving._func(i)
        marks.append(np.ravel(ax.lines[2].get_data()))
        titles = ax.get_title(), ax.get_title("left")  # the book's style puts it left
        assert ("m = 1,000", "m = 100,000")[i] in titles
    moving._draw_was_started = True  # it is not shown, which matplotlib would warn about
    plt.close(moving._fig)
    assert (marks[1] < marks[0]).all()
    # At the edge of visibility, lambda^2 = sqrt(d / m).
    np.testing.assert_allclose(marks[1][0], np.sqrt(80 / 100_000), rtol=0.03)


def test_digit_splits_do_not_overlap_and_labels_are_seen_by_every_encoder():
    test, pool = real.digits_split(0)
    assert len(test) == 500
    assert not set(test) & set(pool)
    for n in (20, 50, 100):
        assert set(real.digits_labelled(0, n, 1)) <= set(pool[:150])
    assert len(real.digits_labelled(0, 450, 0)) == 450


def test_every_class_is_drawn():
    y = np.array([0] * 50 + [1] * 2)
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert set(y[real.draw_labelled(y, 4, rng)]) == {0, 1}
    with pytest.raises(ValueError, match="n must be"):
        real.draw_labelled(y, 1, rng)


def test_bad_input_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="n <= m"):
        real.penguin_split(rng, n=30, m=20)
    with pytest.raises(ValueError, match="tied, diag"):
        real.penguin_split(rng, covariance="round")
    with pytest.raises(ValueError, match="target"):
        real.bfi_split(rng, "Z9")
    with pytest.raises(ValueError, match="at most 1436"):
        real.bfi_split(rng, "A3", m_values=(2000,))


def test_pair_loss_rewards_alignment():
    loss = images.PairLoss()
    eye = 6 * torch.eye(4)
    assert loss(eye, eye) < loss(eye, eye.roll(1, dims=0))
    with pytest.raises(ValueError, match="equal views"):
        loss(eye, eye[:2])


def test_augmentation_is_seeded_and_can_do_nothing():
    X, _ = real.load_digits()
    batch = images.to_images(X[:5])
    still = images.augment(
        batch, torch.Generator().manual_seed(0), degrees=0, scale=0, shift=0, noise=0
    )
    torch.testing.assert_close(still, batch)
    a, b = (images.augment(batch, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="negative"):
        images.augment(batch, torch.Generator(), noise=-1)
    with pytest.raises(ValueError, match="64 columns"):
        images.to_images(X[:, :10])


def test_encoder_shapes_and_an_image_is_never_its_own_negative():
    X, _ = real.load_digits()
    encoder = images.ConvEncoder()
    assert images.encode(encoder, X[:7]).shape == (7, 32)
    step = images.contrastive_step(encoder, images.to_images(X[:3]), batch_size=100)
    loss = step(0, torch.Generator().manual_seed(0))
    assert loss.requires_grad
    assert torch.isfinite(loss)
    again = images.load_encoder(encoder.state_dict())
    np.testing.assert_array_equal(images.encode(again, X[:7]), images.encode(encoder, X[:7]))
    assert images.nearest(np.eye(3), np.eye(3)[:1], 2)[0, 0] == 0
