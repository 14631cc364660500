"""Theorem 1, the four losses and the known languages, against enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from paperkit.absorbing_diffusion import (
    CosineSchedule,
    GeometricSchedule,
    LogLinearSchedule,
    MarkovLanguage,
    TableModel,
    TabularJoint,
    any_order_loss,
    concrete_score,
    conditional_from_score,
    dse_loss,
    exact_any_order_nll,
    exact_losses,
    lambda_dce_loss,
    t_dce_loss,
    total_variation,
    unmask_probabilities,
)

SCHEDULES = [
    LogLinearSchedule(),
    LogLinearSchedule(1e-3),
    CosineSchedule(1e-3),
    GeometricSchedule(),
]


@pytest.fixture(scope="module")
def joint() -> TabularJoint:
    return TabularJoint.random(3, 4, np.random.default_rng(0))


@pytest.fixture(scope="module")
def table() -> TableModel:
    return TableModel.random(3, 4, 1)


@pytest.mark.parametrize("sigma_bar", [0.05, 0.7, 7.0])
def test_concrete_score_is_a_conditional_times_a_scalar(joint, sigma_bar):
    states = joint.states()
    noisy = joint.noisy_marginal(sigma_bar)
    assert noisy.sum() == pytest.approx(1)
    c = torch.from_numpy(joint.conditional(states)).log()
    score = concrete_score(c, sigma_bar).exp().numpy()
    for i, v in itertools.product(range(4), range(3)):
        at = states[:, i] == 3
        moved = states[at].copy()
        moved[:, i] = v
        truth = noisy[tuple(moved.T)] / noisy[tuple(states[at].T)]
        np.testing.assert_allclose(score[at, i, v], truth, rtol=1e-12)
    back = conditional_from_score(torch.from_numpy(score).log(), sigma_bar)
    np.testing.assert_allclose(back.exp(), c.exp(), rtol=1e-12, atol=1e-15)


def test_scores_need_noise(joint):
    with pytest.raises(ValueError, match="positive"):
        concrete_score(torch.zeros(1, 3), 0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_three_integrals_agree(table, schedule):
    x = torch.tensor(list(itertools.product(range(3), repeat=4)))
    losses = exact_losses(table, x, schedule)
    torch.testing.assert_close(losses["dse"], losses["t_dce"], rtol=0, atol=1e-8)
    torch.testing.assert_close(losses["lambda_dce"], losses["t_dce"], rtol=0, atol=1e-8)
    assert (losses["any_order"] >= losses["lambda_dce"] - 1e-9).all()


def test_whole_range_is_the_any_order_loss(table):
    x = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]])
    losses = exact_losses(table, x, LogLinearSchedule())
    torch.testing.assert_close(losses["lambda_dce"], losses["any_order"], rtol=0, atol=1e-10)
    torch.testing.assert_close(
        exact_any_order_nll(table, x), losses["any_order"], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("d", [2, 4])
def test_mask_sets_do_the_work_of_all_orders(d):
    model = TableModel.random(3, d, 5)
    x = torch.tensor([[k % 3 for k in range(d)]])
    total = 0.0
    for order in itertools.permutations(range(d)):
        seen = torch.full((1, d), 3)
        for i in order:
            total -= float(model(seen).log_softmax(-1)[0, i, x[0, i]])
            seen[0, i] = x[0, i]
    assert total / math.factorial(d) == pytest.approx(
        float(exact_any_order_nll(model, x)), abs=1e-12
    )


def test_exact_conditionals_make_the_bound_tight(joint):
    x = torch.from_numpy(joint.sequences())
    bound = exact_any_order_nll(joint.as_model(), x).numpy()
    np.testing.assert_allclose(bound, -joint.log_prob(joint.sequences()), atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_estimators_are_unbiased(table, seed):
    x = torch.tensor([[0, 1, 2, 1]]).expand(40_000, 4)
    truth = float(exact_any_order_nll(table, x[:1]))
    generator = torch.Generator().manual_seed(seed)
    schedule = LogLinearSchedule()
    draws = {
        "dse": dse_loss(table, x, schedule, stratified=False, generator=generator),
        "t": t_dce_loss(table, x, schedule, stratified=False, generator=generator),
        "lambda": lambda_dce_loss(table, x, stratified=False, generator=generator),
        "any": any_order_loss(table, x, stratified=False, generator=generator),
    }
    for name, each in draws.items():
        error = float(each.std()) / math.sqrt(len(each))
        assert abs(float(each.mean()) - truth) < 4.5 * error, name


def test_dse_and_cross_entropy_are_equal_draw_by_draw(table):
    x = torch.tensor([[0, 1, 2, 1]]).expand(200, 4)
    schedule = CosineSchedule(1e-3)
    both = [
        loss(table, x, schedule, generator=torch.Generator().manual_seed(2))
        for loss in (dse_loss, t_dce_loss)
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-9, atol=1e-9)


def test_normalising_tightens_the_bound(table):
    x = torch.tensor([[0, 1, 2, 1]]).expand(500, 4)
    loose, tight = (
        any_order_loss(table, x, normalized=n, generator=torch.Generator().manual_seed(3))
        for n in (False, True)
    )
    assert (loose >= tight - 1e-12).all()
    assert float((loose - tight).mean()) > 0.1


def test_one_token_has_no_variance():
    model = TableModel.random(5, 1, 0)
    x = torch.tensor([[3]]).expand(50, 1)
    truth = -float(model(torch.tensor([[5]])).log_softmax(-1)[0, 0, 3])
    exact = exact_losses(model, x[:1], LogLinearSchedule())
    for value in exact.values():
        assert float(value) == pytest.approx(truth, abs=1e-10)
    # masked or not is all that varies: the draw is truth / lambda or nothing
    lam = torch.full((50,), 0.5)
    each = lambda_dce_loss(model, x, probability=lam, generator=torch.Generator().manual_seed(0))
    assert set(each.round(decimals=9).tolist()) <= {0.0, round(2 * truth, 9)}
    full = lambda_dce_loss(model, x, probability=1.0)
    np.testing.assert_allclose(full, truth, atol=1e-12)
    np.testing.assert_allclose(any_order_loss(model, x), truth, atol=1e-12)


def test_exact_conditionals_have_no_gradient():
    joint = TabularJoint.random(2, 3, np.random.default_rng(4))
    logits = joint.as_model().logits.clone()
    for normalized in (True, False):
        table = logits.clamp_min(-40).requires_grad_()
        model = TableModel(table)
        x = torch.from_numpy(joint.sequences())
        weight = torch.from_numpy(joint.probs.ravel())
        total = 0.0
        for k in range(1, 4):
            for chosen in itertools.combinations(range(3), k):
                share = math.factorial(k - 1) * math.factorial(3 - k) / math.factorial(3)
                mask = torch.zeros(len(x), 3, dtype=torch.bool)
                mask[:, list(chosen)] = True
                c = model(torch.where(mask, 2, x))[mask].view(len(x), k, 2)
                own = c.gather(2, x[:, list(chosen)][..., None])[..., 0]
                each = (
                    torch.logsumexp(c, -1) - own
                    if normalized
                    else torch.logsumexp(c, -1).exp() - 1 - own
                )
                total = total + share * (weight * each.sum(1)).sum()
        total.backward()
        assert float(table.grad.abs().max()) < 1e-10


def test_table_laws(joint):
    full = np.full((1, 4), 3)
    np.testing.assert_allclose(joint.conditional(full)[0, 0], joint.probs.sum((1, 2, 3)))
    c = joint.conditional(np.array([[1, 3, 3, 2]]))
    np.testing.assert_allclose(c[0, 0], [0, 1, 0])
    np.testing.assert_allclose(
        c[0, 1], joint.probs[1, :, :, 2].sum(1) / joint.probs[1, :, :, 2].sum()
    )
    turned = joint.permuted([2, 0, 3, 1])
    x = np.array([[1, 3, 0, 3]])
    np.testing.assert_allclose(
        turned.conditional(x[:, [2, 0, 3, 1]]), joint.conditional(x)[:, [2, 0, 3, 1]]
    )


@pytest.mark.parametrize("seed", range(5))
def test_impossible_contexts_are_uniform(seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(27)).reshape(3, 3, 3)
    probs[0] = 0.0
    joint = TabularJoint(probs / probs.sum())
    np.testing.assert_allclose(joint.conditional(np.array([[0, 3, 3]]))[0, 1], 1 / 3)
    law = joint.sampler_law(unmask_probabilities(LogLinearSchedule(), 8))
    assert law.sum() == pytest.approx(1)
    assert law[0].sum() < 1e-12


def test_exact_law_of_the_sampler(joint):
    one = joint.sampler_law([1.0])
    marginals = [joint.probs.sum(tuple(a for a in range(4) if a != i)) for i in range(4)]
    product = np.einsum("a,b,c,d->abcd", *marginals)
    np.testing.assert_allclose(one, product, atol=1e-14)
    distances = [
        total_variation(
            joint.sampler_law(unmask_probabilities(LogLinearSchedule(), n)), joint.probs
        )
        for n in (8, 64, 512)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert 512 * distances[2] == pytest.approx(64 * distances[1], rel=0.02)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        assert total_variation(joint.ordered_law(order), joint.probs) < 1e-14
    given = joint.sampler_law(unmask_probabilities(LogLinearSchedule(), 4000), prompt=[1, 3, 3, 2])
    truth = np.zeros_like(joint.probs)
    truth[1, :, :, 2] = joint.probs[1, :, :, 2] / joint.probs[1, :, :, 2].sum()
    assert total_variation(given, truth) < 1e-3


@pytest.mark.parametrize(
    ("probs", "match"),
    [
        (np.full((2, 2), 0.3), "sum to 1"),
        (np.array([[1.5, -0.5], [0.0, 0.0]]), "not negative"),
        (np.full((2, 3), 1 / 6), "equal length"),
        (np.full((2,) * 12, 2.0**-12), "states"),
        (np.array([np.nan, 1.0]), "finite"),
    ],
)
def test_bad_tables(probs, match):
    with pytest.raises(ValueError, match=match):
        TabularJoint(probs)


def test_markov_conditionals_against_the_table():
    language = MarkovLanguage.example(3)
    x = np.array(list(itertools.product(range(3), repeat=4)))
    probs = language.log_prob(torch.from_numpy(x)).exp().numpy().reshape(3, 3, 3, 3)
    joint = TabularJoint(probs)
    states = joint.states()
    np.testing.assert_allclose(
        language.conditional(torch.from_numpy(states)), joint.conditional(states), atol=1e-12
    )
    entropy = -(probs * np.log(probs)).sum() / 4
    assert language.entropy_rate(4) == pytest.approx(entropy, abs=1e-12)


def test_markov_language_of_the_chapter():
    assert MarkovLanguage.example().entropy_rate(16) == pytest.approx(1.141250722, abs=1e-8)
    language = MarkovLanguage.example()
    x = language.sample(4000, 16, generator=torch.Generator().manual_seed(0))
    each = -language.log_prob(x) / 16
    assert abs(float(each.mean()) - language.entropy_rate(16)) < 4 * float(each.std()) / 4000**0.5


def test_bad_markov_chains():
    with pytest.raises(ValueError, match="laws"):
        MarkovLanguage([0.5, 0.6], np.eye(2))
    with pytest.raises(ValueError, match="shapes"):
        MarkovLanguage([0.5, 0.5], np.eye(3))
    with pytest.raises(TypeError, match="integers"):
        MarkovLanguage.example().conditional(torch.zeros(1, 4))
