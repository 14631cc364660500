import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit.concept_erasing import guidance as g

SHAPE = (3, 2, 4, 4)


def draws(n, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n)]


@pytest.mark.parametrize("scale", [0, 1, 3, 7.5])
def test_the_error_identity(scale):
    e0, ec, f0, fa = draws(4)
    error = g.classifier_free_guidance(e0, ec, scale) - g.classifier_free_guidance(f0, fa, scale)
    u, d, r = e0 - f0, g.guidance_term(e0, ec) - g.guidance_term(f0, fa), ec - fa
    torch.testing.assert_close(error, u + scale * d, rtol=0, atol=1e-12)
    torch.testing.assert_close(error, (1 - scale) * u + scale * r, rtol=0, atol=1e-12)


numbers = st.floats(-10, 10)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(0, 20),
       st.floats(1e-3, 100))  # fmt: skip
def test_the_bound_is_never_violated(pairs, scale, weight):
    u, d = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    bound = g.error_bound(d.square().sum(), u.square().sum(), scale, weight)
    assert (u + scale * d).square().sum() <= bound * (1 + 1e-9) + 1e-9
    u = d / (weight * scale) if scale > 0.1 else u * 0
    bound = g.error_bound(d.square().sum(), u.square().sum(), scale, weight)
    if scale > 0.1:  # equality exactly where d = lambda s u
        assert float((u + scale * d).square().sum()) == pytest.approx(float(bound), rel=1e-9)


def test_an_anchor_on_concept_ablation_needs_s_minus_one_squared():
    """(s^2 + (s-1)^2 / w)(|r|^2 + w |u|^2) bounds |(1-s) u + s r|^2, with equality for some r."""
    (u,), scale, weight = draws(1), 7.5, 2.0
    r = -u * weight * scale / (scale - 1)
    error = ((1 - scale) * u + scale * r).square().sum()
    bound = (scale**2 + (scale - 1) ** 2 / weight) * (r.square().sum() + weight * u.square().sum())
    torch.testing.assert_close(error, bound)
    surgical = g.error_bound(torch.tensor(0.0), torch.tensor(1.0), scale, 1.0)
    anchored = (scale**2 + (scale - 1) ** 2 / 42.25) * 42.25
    assert anchored == pytest.approx(42.25 * float(surgical))


def test_the_loss_is_zero_exactly_at_the_target():
    f0, fa = draws(2)
    loss, terms = g.surgical_loss(fa, f0, g.guidance_term(f0, fa), f0)
    assert float(loss) == 0
    assert set(terms) == {"guidance", "unconditional"}
    shifted, _ = g.surgical_loss(fa + 0.1, f0 + 0.1, g.guidance_term(f0, fa), f0, 2.0)
    assert float(shifted) == pytest.approx(2 * 0.01)  # only the anchor sees a common shift
    loss, _ = g.surgical_loss(fa + 0.1, f0 + 0.1, g.guidance_term(f0, fa), f0, 0.0)
    assert float(loss) == pytest.approx(0, abs=1e-25)


def test_gradients_flow_through_both_branches():
    e0, ec, f0, fa = draws(4)
    e0.requires_grad_(True)
    ec.requires_grad_(True)
    loss, _ = g.surgical_loss(ec, e0, g.guidance_term(f0, fa), f0, drift_weight=0.0)
    loss.backward()
    torch.testing.assert_close(e0.grad, -ec.grad)
    assert ec.grad.abs().max() > 0
    e0.grad = None
    _, terms = g.surgical_loss(ec.detach(), e0, g.guidance_term(f0, fa), f0)
    terms["unconditional"].backward()
    torch.testing.assert_close(e0.grad, 2 * (e0.detach() - f0) / f0.numel())


def test_the_targets():
    f0, fe = draws(2)
    torch.testing.assert_close(g.esd_target(f0, fe, 2.0), f0 - 2 * (fe - f0))
    torch.testing.assert_close(g.classifier_free_guidance(f0, fe, 1), fe)
    assert torch.equal(g.classifier_free_guidance(f0, fe, 0), f0)
    assert torch.equal(g.ablation_target(fe), fe)


def targets(f0, fe, fa):
    return {"target_uncond": f0, "target_erase": fe, "target_alternative": fa}


def test_every_method_has_its_loss():
    e0, ec, f0, fe, fa = draws(5)
    kw = targets(f0, fe, fa)
    mse = torch.nn.functional.mse_loss
    wanted = {
        "surgical": mse(ec - e0, fa - f0) + 3 * mse(e0, f0),
        "esd": mse(ec, f0 - (fe - f0)),
        "concept_ablation": mse(ec, fa),
        "anchored_ablation": mse(ec, fa) + 3 * mse(e0, f0),
        "sdd": mse(ec, e0),
    }
    assert set(wanted) == set(g.METHODS)
    for method, value in wanted.items():
        loss, terms = g.method_loss(method, ec, e0, drift_weight=3.0, **kw)
        torch.testing.assert_close(loss, value)
        assert terms


def test_sdd_moves_the_prompt_only():
    e0, ec, f0, fe, fa = draws(5)
    e0.requires_grad_(True)
    ec.requires_grad_(True)
    g.method_loss("sdd", ec, e0, **targets(f0, fe, fa))[0].backward()
    assert e0.grad is None
    assert ec.grad is not None


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_bad_drift_weight_is_rejected(weight):
    e0, ec, f0, fa = draws(4)
    with pytest.raises(ValueError, match="drift_weight"):
        g.surgical_loss(ec, e0, fa, f0, weight)


def test_bad_input():
    (a,), (b,) = draws(1), draws(1, shape=(1, 2, 4, 4))
    with pytest.raises(ValueError, match="shape"):
        g.guidance_term(a, b)
    with pytest.raises(ValueError, match="shape"):
        g.surgical_loss(a, a, b, a)
    with pytest.raises(ValueError, match="finite"):
        g.classifier_free_guidance(a, a, math.nan)
    with pytest.raises(ValueError, match="method must be one of"):
        g.needs_unconditional("magic")
    with pytest.raises(ValueError, match="needs eps_uncond"):
        g.method_loss("surgical", a, None, **targets(a, a, a))


@pytest.mark.parametrize(
    ("erase", "alternative", "error"),
    [("", "b", ValueError), ("a", " ", ValueError), ("a", "a ", ValueError), (1, "b", TypeError)],
)
def test_a_replacement_names_two_things(erase, alternative, error):
    with pytest.raises(error):
        g.Replacement(erase, alternative)


def test_a_replacement_may_have_no_alternative():
    assert g.Replacement("a circle").alternative is None
