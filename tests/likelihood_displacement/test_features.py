"""The solvable model against automatic differentiation, an ODE solver and the identities it must obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from paperkit.likelihood_displacement.features import (
    MultiTokenFeatures,
    UnconstrainedFeatures,
    canonical_instance,
    rate_map,
)
from paperkit.likelihood_displacement.losses import loss_slope, preference_loss


def random_features(seed, V=7, d=4):
    rng = np.random.default_rng(seed)
    return UnconstrainedFeatures(rng.normal(size=(V, d)), rng.normal(size=d))


def autograd_rates(features, a, b, train):
    W = torch.tensor(features.W, requires_grad=True)
    h = torch.tensor(features.h, requires_grad=True)
    log_p = torch.log_softmax(W @ h, 0)
    parameters = {"both": (W, h), "head": (W,), "hidden": (h,)}[train]
    direction = torch.autograd.grad(log_p[a] - log_p[b], parameters, retain_graph=True)
    rates = []
    for z in range(len(log_p)):
        gradient = torch.autograd.grad(log_p[z], parameters, retain_graph=True)
        rates.append(sum((g * v).sum() for g, v in zip(gradient, direction, strict=True)).item())
    return np.array(rates)


@pytest.mark.parametrize("train", ["both", "head", "hidden"])
def test_rates_equal_autograd(train):
    for seed in range(100):
        features = random_features(seed)
        np.testing.assert_allclose(
            features.rates(1, 4, train=train), autograd_rates(features, 1, 4, train), atol=1e-12
        )


def test_theorem_1_terms_add_up_to_the_rate():
    for seed in range(50):
        features = random_features(seed)
        terms = features.theorem1_terms(2, 5)
        assert terms["norms"] >= 0
        assert sum(terms.values()) == pytest.approx(features.rates(2, 5)[2], abs=1e-12)


@pytest.mark.parametrize("train", ["both", "head", "hidden"])
def test_closed_form_equals_the_ode(train):
    features, _ = canonical_instance()
    features = features.rescaled(2.0)
    V, d = features.W.shape
    s = np.linspace(0, 1.2, 7)

    def velocity(_, state):
        W, h = state[: V * d].reshape(V, d), state[V * d :]
        dW = np.zeros_like(W)
        if train != "hidden":
            dW[0], dW[1] = h, -h
        dh = np.zeros_like(h) if train == "head" else W[0] - W[1]
        return np.concatenate([dW.ravel(), dh])

    start = np.concatenate([features.W.ravel(), features.h])
    states = solve_ivp(velocity, (0, s[-1]), start, t_eval=s, rtol=1e-12, atol=1e-12).y.T
    W, h = features.flow(0, 1, s, train=train)
    np.testing.assert_allclose(W.reshape(len(s), -1), states[:, : V * d], atol=1e-8)
    np.testing.assert_allclose(h, states[:, V * d :], atol=1e-8)


def test_flow_conserves_and_starts_at_the_model():
    features = random_features(3)
    s = np.linspace(0, 2, 9)
    W, h = features.flow(0, 1, s)
    D = W[:, 0] - W[:, 1]
    invariant = (D**2).sum(1) - 2 * (h**2).sum(1)
    np.testing.assert_allclose(invariant, invariant[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(W[0], features.W)
    log_p, margin = features.path(0, 1, s)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1)
    assert (np.diff(margin) > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 20))
def test_rescaling_keeps_the_policy_and_head_only_never_displaces(seed, c):
    features = random_features(seed)
    np.testing.assert_allclose(features.rescaled(c).log_probs(), features.log_probs(), atol=1e-9)
    assert features.rates(0, 1, train="head")[0] >= 0


def test_other_tokens_gain_by_their_alignment_and_nothing_else():
    features, _ = canonical_instance()
    features = features.rescaled(2.0)
    log_p, _ = features.path(0, 1, [0.3, 1.0, 1.4])
    _, h = features.flow(0, 1, [0.3, 1.0, 1.4])
    others = [2, 3, 4]
    gain = (log_p - features.log_probs())[:, others]
    common = gain - (h - features.h) @ features.W[others].T
    assert np.ptp(common, axis=1).max() < 1e-10


def test_canonical_table():
    features, tokens = canonical_instance()
    assert tokens[:3] == ("No", "Never", "Yes")
    np.testing.assert_allclose(
        np.exp(features.log_probs()), [0.3518, 0.3735, 0.0539, 0.0627, 0.1581], atol=5e-5
    )
    s = np.linspace(0, 2, 4001)
    for c, rate, lowest_no, highest_yes in [
        (1, 0.23895, 0.3518, 0.0938),
        (2, -0.01167, 0.0016, 0.9983),
    ]:
        world = features.rescaled(c)
        p = np.exp(world.path(0, 1, s)[0])
        assert world.rates(0, 1)[0] == pytest.approx(rate, abs=5e-6)
        assert p[:, 0].min() == pytest.approx(lowest_no, abs=5e-5)
        assert p[:, 2].max() == pytest.approx(highest_yes, abs=5e-5)


def test_margin_losses_share_one_curve_and_sft_leaves_it():
    features, _ = canonical_instance()
    features = features.rescaled(2.0)
    s = np.linspace(0, 2, 20001)
    log_p, margin = features.path(0, 1, s)
    settings_ = {"dpo": (0.1, 30.0), "ipo": (0.1, 1.0), "hinge": (0.1, 10.0)}
    for kind, (beta, t_end) in settings_.items():
        t = np.linspace(0, t_end, 60)
        in_time, u = features.train_in_time(0, 1, t, loss=kind, beta=beta)
        np.testing.assert_allclose(in_time[:, 0], np.interp(u, margin, log_p[:, 0]), atol=1e-6)
        assert u[-1] - u[0] > 1
    with_sft, u = features.train_in_time(0, 1, np.linspace(0, 30, 60), beta=0.1, sft=0.05)
    assert np.abs(with_sft[:, 0] - np.interp(u, margin, log_p[:, 0])).max() > 0.1


def test_multi_token_rate_equals_autograd():
    V, d = 6, 3
    for seed, (chosen, rejected) in enumerate(
        [((0, 1, 2), (3, 4)), ((0, 1, 2), (0, 4)), ((0, 1, 2), (0, 1, 5, 3)), ((4,), (2, 2, 2))]
    ):
        rng = np.random.default_rng(seed)
        prefixes = {r[:k] for r in (chosen, rejected) for k in range(len(r))}
        hidden = {prefix: rng.normal(size=d) for prefix in sorted(prefixes)}
        world = MultiTokenFeatures(rng.normal(size=(V, d)), hidden)
        W = torch.tensor(world.W, requires_grad=True)
        h = {key: torch.tensor(value, requires_grad=True) for key, value in hidden.items()}

        def log_prob(response, W=W, h=h):
            terms = [torch.log_softmax(W @ h[response[:k]], 0)[z] for k, z in enumerate(response)]
            return sum(terms)

        leaves = [W, *h.values()]
        grads = [
            torch.autograd.grad(log_prob(r), leaves, allow_unused=True) for r in (chosen, rejected)
        ]

        def inner(x, y):
            return [
                0.0 if g is None or k is None else (g * k).sum().item()
                for g, k in zip(x, y, strict=True)
            ]

        plus, cross = inner(grads[0], grads[0]), inner(grads[0], grads[1])
        parts = world.rate(chosen, rejected)
        assert parts["head"] == pytest.approx(plus[0] - cross[0], abs=1e-10)
        assert parts["hidden"] == pytest.approx(sum(plus[1:]), abs=1e-10)
        assert parts["shared"] == pytest.approx(-sum(cross[1:]), abs=1e-10)
        assert parts["total"] == pytest.approx(sum(plus) - sum(cross), abs=1e-10)
        assert world.log_prob(chosen) == pytest.approx(log_prob(chosen).item())
        assert np.abs(world.alignment_coefficients(chosen, rejected)).max() <= 2


def test_rate_map_has_both_signs():
    table = rate_map(np.linspace(-0.9, 0.98, 20), np.linspace(0.05, 1.5, 10))
    assert (table < 0).any()
    assert (table > 0).any()
    assert table[0, -1] < table[0, 0]  # similar preferences displace more


def test_dpo_at_the_start():
    u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = preference_loss(u, torch.zeros(1, dtype=torch.float64), "dpo", 0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert u.grad.item() == pytest.approx(-0.05)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "hinge"])
def test_loss_slope_is_the_derivative(kind):
    u = torch.linspace(-30, 30, 41, dtype=torch.float64) + 0.123
    u.requires_grad_(True)
    preference_loss(u, torch.zeros_like(u), kind, 0.2, delta=1.5).sum().backward()
    np.testing.assert_allclose(
        loss_slope(u.detach().numpy(), kind, 0.2, delta=1.5), u.grad.numpy(), atol=1e-12
    )


def test_ipo_rests_at_its_margin_and_large_margins_stay_finite():
    assert loss_slope(1 / (2 * 0.1), "ipo", 0.1) == pytest.approx(0)
    assert loss_slope(0.0, "ipo", 0.1) == pytest.approx(-1 / 0.1)
    u = torch.tensor([1e6, -1e6])
    for kind in ("dpo", "ipo", "hinge"):
        assert torch.isfinite(preference_loss(u, torch.zeros(2), kind)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preference_loss(torch.zeros(2), torch.zeros(2), "kto"), "kind must be one of"),
        (lambda: preference_loss(torch.zeros(2), torch.zeros(2), beta=-1.0), "beta"),
        (lambda: preference_loss(torch.zeros(2), torch.zeros(3)), "one shape"),
        (lambda: preference_loss(torch.tensor([float("nan")]), torch.zeros(1)), "margin"),
        (lambda: preference_loss(torch.zeros(1), torch.zeros(1), delta=0.0), "delta"),
        (lambda: random_features(0).rates(2, 2), "the same"),
        (lambda: random_features(0).rates(2, 9), "b must be a token"),
        (lambda: random_features(0).rates(0, 1, train="all"), "train"),
        (lambda: random_features(0).flow(0, 1, [-1.0]), "not negative"),
        (lambda: random_features(0).rescaled(0.0), "positive"),
        (lambda: UnconstrainedFeatures(np.ones((3, 2)), np.ones(3)), "W must be"),
        (lambda: UnconstrainedFeatures(np.ones((2, 2)), np.ones(2)), "three rows"),
        (lambda: UnconstrainedFeatures(np.full((3, 2), np.nan), np.ones(2)), "finite"),
        (lambda: random_features(0).train_in_time(0, 1, [1.0, 2.0]), "start at 0"),
        (lambda: random_features(0).train_in_time(0, 1, [0.0, 1.0], sft=-1.0), "sft"),
        (lambda: MultiTokenFeatures(np.eye(3), {(): np.ones(3)}).rate((), (1,)), "empty"),
        (lambda: MultiTokenFeatures(np.eye(3), {(): np.ones(3)}).rate((0, 1), (1,)), "prefix"),
        (lambda: MultiTokenFeatures(np.eye(3), {(): np.ones(3)}).rate((1,), (1,)), "same response"),
        (lambda: MultiTokenFeatures(np.eye(3), {(): np.ones(3)}).rate((7,), (1,)), "outside"),
        (lambda: rate_map(np.array([1.0]), np.array([1.0])), "cosines"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
