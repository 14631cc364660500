"""The language-model policy and RLOO against plain forward passes and enumeration, on a tiny model."""

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paperkit.models import LanguageModel, sequence_logprobs
from paperkit.relevance_reward import price, rl
from paperkit.relevance_reward.policy import LanguageModelPolicy, _draw
from paperkit.relevance_reward.world import leave_one_out

END = 4
PROMPTS = [[0, 1, 2], [3, 1], [2]]


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=END, initializer_range=0.6,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval(), None, "tiny")


@pytest.fixture
def policy(lm):
    made = LanguageModelPolicy(lm, top_blocks=2, rank=2, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in made.parameters:
            p.normal_(0, 0.5)  # adapters that do something
    return made


def plain(model, prompt, response):
    ids = torch.tensor([[*prompt, *response]])
    return sequence_logprobs(model, ids, [len(prompt)])[0]


def drawn(policy, k=5, n=6, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(PROMPTS, k, max_new_tokens=n, generator=generator, **settings)


def tokens(rollout, row):
    return rollout.token_ids[row][rollout.response[row]].tolist()


def test_logprobs_equal_a_forward_without_padding(policy):
    rollout = drawn(policy)
    mine = policy.logprobs(rollout)
    for row in range(15):
        expected = plain(policy.lm.model, PROMPTS[row // 5], tokens(rollout, row))
        assert float(mine[row].detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
        assert float(rollout.logprobs[row]) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_gradient_equals_that_of_the_whole_model(policy):
    rollout = drawn(policy)
    mine = torch.autograd.grad(policy.logprobs(rollout).sum(), policy.parameters)
    whole = sum(plain(policy.lm.model, PROMPTS[r // 5], tokens(rollout, r)) for r in range(15))
    for a, b in zip(mine, torch.autograd.grad(whole, policy.parameters), strict=True):
        assert (a - b).abs().max() < 3e-3 * b.abs().max()


def test_without_adapters_it_is_the_model_it_came_from(lm, policy):
    rollout = drawn(policy)
    with policy.reference(), torch.no_grad():
        reference = policy.logprobs(rollout)
    for row in range(15):
        expected = plain(lm.model, PROMPTS[row // 5], tokens(rollout, row))
        assert float(reference[row]) == pytest.approx(float(expected.detach()), abs=1e-4)
    assert not any("lora" in name for name, _ in lm.model.named_parameters())


def test_a_fresh_policy_equals_its_reference(lm):
    fresh = LanguageModelPolicy(lm, top_blocks=2, rank=2, seed=0)
    rollout = drawn(fresh)
    with fresh.reference(), torch.no_grad():
        assert torch.equal(fresh.logprobs(rollout), fresh.logprobs(rollout))
        reference = fresh.logprobs(rollout)
    torch.testing.assert_close(reference, fresh.logprobs(rollout).detach(), atol=0, rtol=0)


def test_end_counts_once_and_nothing_after_it(policy):
    rollout = drawn(policy, k=40)
    assert rollout.finished.any()
    assert not rollout.finished.all()
    for row in range(120):
        inside = rollout.response[row].tolist()
        n = sum(inside)
        assert inside == [True] * n + [False] * (len(inside) - n)
        ended = [t == END for t in tokens(rollout, row)]
        assert sum(ended[:-1]) == 0
        assert ended[-1] == bool(rollout.finished[row])


def test_temperature_is_part_of_the_policy(policy):
    rollout = drawn(policy, temperature=0.5)
    hot = policy.logprobs(rollout, temperature=0.5).detach()
    torch.testing.assert_close(hot, rollout.logprobs, atol=1e-4, rtol=1e-4)
    assert (hot - policy.logprobs(rollout).detach()).abs().max() > 0.1


def test_samples_have_the_policy_s_frequencies(policy):
    generator = torch.Generator().manual_seed(0)
    rollout = policy.sample([[0, 1, 2]], 20000, max_new_tokens=1, generator=generator)
    counts = np.bincount(rollout.token_ids[:, 0], minlength=5) / 20000
    expected = [float(plain(policy.lm.model, [0, 1, 2], [v]).exp()) for v in range(5)]
    np.testing.assert_allclose(counts, expected, atol=0.015)


def test_some_rows_are_scored_as_in_all(policy):
    rollout = drawn(policy)
    rows = torch.tensor([13, 2, 3])  # of two of the three prompts
    torch.testing.assert_close(policy.logprobs(rollout, rows), policy.logprobs(rollout)[rows])
    torch.testing.assert_close(policy.logprobs(rollout, slice(4, 9)), policy.logprobs(rollout)[4:9])


def test_responses_of_one_token(policy):
    rollout = drawn(policy, n=1)
    expected = [
        float(plain(policy.lm.model, PROMPTS[r // 5], tokens(rollout, r)).detach())
        for r in range(15)
    ]
    np.testing.assert_allclose(policy.logprobs(rollout).detach(), expected, atol=1e-4)


@pytest.mark.parametrize("size", [5, 256, 700])
def test_draws_follow_the_weights(size):
    rng = np.random.default_rng(size)
    weights = rng.random(size) * (rng.random(size) < 0.3)
    weights[[0, -1]] = 0.0, 2.0
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(weights / weights.sum(), dtype=torch.float32).expand(40_000, -1)
    counts = np.bincount(_draw(rows, generator)[:, 0], minlength=size)
    assert len(counts) == size
    assert counts[weights == 0].sum() == 0
    expected = 40_000 * weights / weights.sum()
    seen = expected > 0
    far = (counts - expected)[seen] / np.sqrt(expected[seen])
    assert np.abs(far).max() < 5


def test_reading_given_responses(policy):
    responses = [[1, 2, END], [3], [0, END]]
    rollout = policy.teacher_forced(PROMPTS, responses)
    expected = [
        float(plain(policy.lm.model, p, r)) for p, r in zip(PROMPTS, responses, strict=True)
    ]
    np.testing.assert_allclose(rollout.logprobs, expected, atol=1e-4)
    assert rollout.finished.tolist() == [True, False, True]
    prices = price.token_prices(policy.lm, PROMPTS[0], responses[0])
    assert prices.sum() == pytest.approx(-expected[0], abs=1e-4)


def test_merged_model_equals_the_policy(policy):
    merged = policy.merged()
    for prompt in PROMPTS:
        a, b = (plain(m, prompt, [1, 2, END]) for m in (merged.model, policy.lm.model))
        assert float(a.detach()) == pytest.approx(float(b.detach()), abs=1e-4)
    LanguageModelPolicy(merged, top_blocks=2, rank=2, seed=3)  # can be adapted again
    assert not any("lora" in name for name, _ in merged.model.named_parameters())


def test_adapter_can_be_put_back(lm, policy):
    other = LanguageModelPolicy(lm, top_blocks=2, rank=2, seed=9)
    other.load_adapter(policy.adapter())
    rollout = drawn(policy)
    torch.testing.assert_close(other.logprobs(rollout), policy.logprobs(rollout))
    with pytest.raises(ValueError, match="does not fit"):
        other.load_adapter({})


# ------------------------------------------------------------------------------------------------------ RLOO


def everything(policy, prompt, length=2):
    """All responses of at most `length` tokens, as sampling cuts them, with their log-probabilities."""
    full = [
        list(r) for r in itertools.product(range(5), repeat=length) if END not in r[:-1]
    ] + [[END]]  # fmt: skip
    return full, torch.stack([plain(policy.lm.model, prompt, r) for r in full])


def value(response):
    return 0.3 * response.count(1) + 0.1 * response.count(END) - 0.2 * response.count(2) + 1.0


def exact_gradient(policy, beta):
    responses, logps = everything(policy, PROMPTS[0])
    with policy.reference(), torch.no_grad():
        _, reference = everything(policy, PROMPTS[0])
    assert float(logps.exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    net = torch.tensor([value(r) for r in responses]) - beta * (logps - reference)
    return torch.autograd.grad((logps.exp() * net).sum(), policy.parameters)


def group_gradients(policy, beta, k=4, groups=1500, baseline=leave_one_out):
    """Mean and standard error of RLOO gradients, by weighing the score of each distinct response."""
    generator = torch.Generator().manual_seed(5)
    rollout = policy.sample([PROMPTS[0]], k * groups, max_new_tokens=2, generator=generator)
    drawn_ = [tuple(tokens(rollout, r)) for r in range(k * groups)]
    distinct = sorted(set(drawn_))
    logps = torch.stack([plain(policy.lm.model, PROMPTS[0], list(r)) for r in distinct])
    with policy.reference(), torch.no_grad():
        reference = torch.stack([plain(policy.lm.model, PROMPTS[0], list(r)) for r in distinct])
    scores = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(lp, policy.parameters, retain_graph=True)]
        )
        for lp in logps
    ]
    scores = torch.stack(scores)  # (D, parameters)
    index = torch.tensor([distinct.index(r) for r in drawn_])
    net = torch.tensor([value(list(r)) for r in distinct]) - beta * (logps.detach() - reference)
    advantages = baseline(net[index].reshape(groups, k))  # (groups, k)
    each = torch.einsum("gk,gkp->gp", advantages, scores[index].reshape(groups, k, -1)) / k
    return each.mean(0), each.std(0) / groups**0.5


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_rloo_gradient_is_unbiased(policy, beta):
    exact = torch.cat([g.flatten() for g in exact_gradient(policy, beta)])
    mean, error = group_gradients(policy, beta)
    far = (mean - exact).abs() / error.clamp(min=1e-3 * float(error.max()))
    assert far.max() < 5


def test_a_baseline_that_includes_the_answer_shrinks_the_gradient(policy):
    exact = torch.cat([g.flatten() for g in exact_gradient(policy, 0.0)])
    mean, error = group_gradients(
        policy, 0.0, k=2, groups=3000, baseline=lambda r: r - r.mean(1, keepdim=True)
    )
    far = (mean - exact).abs() / error.clamp(min=1e-3 * float(error.max()))
    assert far.max() > 5
    assert float((mean @ exact) / (exact @ exact)) == pytest.approx(0.5, abs=0.1)


def test_loss_has_the_estimate_as_gradient():
    logps = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    advantages = torch.tensor([0.5, -0.25, -0.25])
    rl.rloo_loss(logps, advantages).backward()
    torch.testing.assert_close(-logps.grad, advantages / 3)


def run(policy, reward, **settings):
    queries = ["one", "two", "three"]
    defaults = {"steps": 6, "group_size": 8, "max_new_tokens": 3, "learning_rate": 0.05, "seed": 0}
    return rl.rloo(policy, queries, PROMPTS, reward, **(defaults | settings))


class Decoder:
    """A tokenizer for the tiny model: a word for each token."""

    bos_token = None
    eos_token_id = END

    def decode(self, ids, skip_special_tokens=True):
        words = ["alpha", "beta", "gamma", "delta", ""]
        return " ".join(words[i] for i in ids if i != END)


@pytest.fixture
def speaking(lm):
    return LanguageModelPolicy(
        LanguageModel(lm.model, Decoder(), "tiny"), top_blocks=2, rank=4, seed=0
    )


def count_beta(queries, responses):
    return np.array([text.split().count("beta") / 3 for text in responses])


def test_rloo_raises_the_reward(speaking):
    table = run(speaking, count_beta, steps=25)
    means = table.groupby("step")["reward"].mean()
    assert list(means.index) == list(range(26))
    assert len(table) == 26 * 24
    assert means.iloc[-3:].mean() > means.iloc[0] + 0.3
    assert table.loc[table["step"] == 0, "log_ratio"].abs().max() < 1e-5
    assert table.loc[table["step"] > 20, "log_ratio"].mean() > 0.2


def test_a_high_price_keeps_the_policy_near(speaking, lm):
    free = run(speaking, count_beta, steps=25)
    other = LanguageModelPolicy(
        LanguageModel(lm.model, Decoder(), "tiny"), top_blocks=2, rank=4, seed=0
    )
    dear = run(other, count_beta, steps=25, beta=1.0)
    late = [t.loc[t["step"] > 20, "log_ratio"].mean() for t in (free, dear)]
    assert late[1] < late[0] / 2


def test_a_run_goes_on_where_it_stopped(lm, tmp_path):
    def fresh():
        return LanguageModelPolicy(
            LanguageModel(lm.model, Decoder(), "tiny"), top_blocks=2, rank=4, seed=0
        )

    whole = run(fresh(), count_beta)

    def stop(step, rows):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fresh(), count_beta, store=tmp_path, every=2, callback=stop)
    resumed = run(fresh(), count_beta, store=tmp_path, every=2)
    assert resumed.drop(columns="log_ratio").equals(whole.drop(columns="log_ratio"))


def test_copying_counts_words():
    found = rl.copying(
        ["How do magnets work?"] * 5,
        ["how do magnets work", "How do magnets work? They pull.", "Magnets work by forces.",
         "", "How do the magnets work?"],
    )  # fmt: skip
    assert found.exact.tolist() == [True, False, False, False, False]
    assert found.restates.tolist() == [True, True, False, False, True]
    np.testing.assert_allclose(found.coverage, [1, 1, 0.5, 0, 1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group_size": 1}, "group_size"),
        ({"beta": -1.0}, "beta"),
        ({"steps": 0}, "steps"),
    ],
)
def test_rloo_refuses(speaking, settings, words):
    with pytest.raises(ValueError, match=words):
        run(speaking, count_beta, **settings)


def test_rloo_refuses_rewards_that_are_not_numbers(speaking):
    with pytest.raises(ValueError, match="finite"):
        run(speaking, lambda q, r: np.full(len(r), np.nan))


@pytest.mark.parametrize(("settings", "words"), [({"top_blocks": 0}, "top_blocks"), ({"top_blocks": 4}, "top_blocks"),
                                               ({"rank": 0}, "rank")])  # fmt: skip
def test_policy_refuses(lm, settings, words):
    with pytest.raises(ValueError, match=words):
        LanguageModelPolicy(lm, **({"top_blocks": 2, "rank": 2, "seed": 0} | settings))


def test_sampling_refuses(policy):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="temperature"):
        policy.sample(PROMPTS, 2, max_new_tokens=2, temperature=0.0, generator=generator)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        policy.sample([[0], []], 2, max_new_tokens=2, generator=generator)
    with pytest.raises(ValueError, match="positive"):
        policy.sample(PROMPTS, 0, max_new_tokens=2, generator=generator)
    with pytest.raises(ValueError, match="responses"):
        policy.teacher_forced(PROMPTS, [[1]])
