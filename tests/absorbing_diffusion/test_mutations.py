"""Break the method on purpose: each break must turn a claim red."""

import copy
import json

import numpy as np
import pytest
import torch

from paperkit import claims, data
from paperkit.absorbing_diffusion import (
    NETWORKS,
    LogLinearSchedule,
    MarkovLanguage,
    TabularJoint,
    evaluation,
    experiments,
    load_kjv,
    losses,
    sampling,
    schedules,
    unmask_probabilities,
)

DRAWS = 20_000


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("absorbing_diffusion")


def held(ledger, row, value, interval=None):
    return ledger.judge(row, float(value), interval=interval).held


# --- the score -------------------------------------------------------------------------------------------


def survival_only(noise, like):
    """The scalar without the probability of a mask: alpha in the place of alpha / lambda."""
    return torch.as_tensor(noise, dtype=torch.float64).to(like)


def marginals(self, x):
    """The law of each token without regard to the visible ones."""
    d = self.length
    each = np.stack([self.probs.sum(tuple(a for a in range(d) if a != i)) for i in range(d)])
    return np.broadcast_to(each, (len(x), d, self.vocab_size)).copy()


def test_the_wrong_scalar(ledger, monkeypatch):
    monkeypatch.setattr(losses, "_log_expm1", survival_only)
    scores = experiments.true_scores()
    assert not held(ledger, "c1-factorisation", experiments.largest_relative_error(scores))
    assert not held(ledger, "c2a-time-free", experiments.spread_over_time(scores))


def test_marginals_in_the_place_of_conditionals(ledger, monkeypatch):
    monkeypatch.setattr(TabularJoint, "conditional", marginals)
    scores = experiments.true_scores()
    assert not held(ledger, "c1-factorisation", experiments.largest_relative_error(scores))
    assert not held(ledger, "c4a-tight-bound", experiments.bound_error())


def test_noise_that_absorbs_does_factorise(ledger):
    scores = experiments.true_scores()
    one = scores[(scores["state"] == 255) & (scores["position"] == 0)]
    share = one["ratio"] / one.groupby("noise")["ratio"].transform("sum")
    moved = experiments.change_under_uniform_noise(one.assign(share=share))
    assert not held(ledger, "c1b-only-absorbing", moved)


# --- the losses ------------------------------------------------------------------------------------------


def test_a_wrong_rate_of_noise(ledger, monkeypatch):
    rate = LogLinearSchedule.rate
    monkeypatch.setattr(LogLinearSchedule, "rate", lambda self, t: 1.001 * rate(self, t))
    assert not held(ledger, "c3a-three-integrals", experiments.three_integrals())


def forward_only(model, x):
    """One order in the place of all."""
    seen = torch.full_like(x, model.vocab_size)
    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(x.shape[1]):
        law = model(seen)[:, i].log_softmax(-1)
        total -= law.gather(1, x[:, i : i + 1])[:, 0]
        seen[:, i] = x[:, i]
    return total[None]


def test_one_order_in_the_place_of_all(ledger, monkeypatch):
    monkeypatch.setattr(experiments, "order_losses", forward_only)
    gap = experiments.jensen_gap()
    assert not held(ledger, "c3b-all-orders", experiments.all_orders())
    assert not held(ledger, "c4b-gap-of-a-bad-model", (gap["bound"] - gap["likelihood"]).min())


def test_probabilities_averaged_before_the_logarithm(ledger, monkeypatch):
    each = experiments.order_losses(experiments.random_model(), torch.zeros(81, 4).long())
    assert len(each) == 24

    def mixture(model, x):
        orders = experiments.order_losses(model, x)
        return -(torch.logsumexp(-orders, 0) - np.log(len(orders)))

    monkeypatch.setattr(losses, "exact_any_order_nll", mixture)
    gap = experiments.jensen_gap()
    assert not held(ledger, "c4b-gap-of-a-bad-model", (gap["bound"] - gap["likelihood"]).min())


def without_weight(model, x0, *, generator, **_):
    level = losses._times(x0, False, generator)
    u = torch.rand(x0.shape, generator=generator, dtype=torch.float64)
    return losses._masked_sum(model, x0, u < level[:, None], None, True)


def one_over_k(loss):
    return lambda model, x0, **k: loss(model, x0, **k) / x0.shape[1]


def from_zero(loss):
    """k from 0 to d instead of 1 to d."""

    def wrong(model, x0, *, generator, **_):
        d = x0.shape[1]
        k = torch.randint(0, d + 1, (len(x0),), generator=generator)
        each = loss(model, x0, count=k.clamp_min(1), generator=generator)
        return torch.where(k > 0, each, 0.0)

    return wrong


def cut_short(loss):
    return lambda model, x0, schedule, **k: loss(model, x0, LogLinearSchedule(0.05), **k)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lambda_dce_loss", lambda _: without_weight),
        ("any_order_loss", one_over_k),
        ("any_order_loss", from_zero),
        ("t_dce_loss", cut_short),
    ],
)
def test_wrong_weights_of_the_estimators(ledger, monkeypatch, name, wrong):
    monkeypatch.setattr(losses, name, wrong(getattr(losses, name)))
    assert not held(ledger, "c3c-estimators", experiments.estimator_deviations(DRAWS).max())


# --- calls -----------------------------------------------------------------------------------------------


def test_counts_of_another_cache(ledger, monkeypatch):
    count = sampling.expected_nfe

    def deviation():
        return experiments.count_calls(rows=200)["deviation"].max()

    assert held(ledger, "c5a-expected-calls", deviation())
    for wrong in (
        lambda schedule, *a: count(LogLinearSchedule(), *a),  # 1 / N for cosine too
        lambda *a: count(*a) + 1,  # a first call of its own
        lambda *a: count(*a, cache="whole_batch", batch_size=8),
    ):
        monkeypatch.setattr(sampling, "expected_nfe", wrong)
        assert not held(ledger, "c5a-expected-calls", deviation())


def as_if(replacement, *, whole=False):
    """A sampler that runs another way than it is asked to."""
    real = sampling.sample

    def run(model, shape, steps, schedule, *, cache="rounds", **k):
        result = real(model, shape, steps, schedule, cache=replacement.get(cache, cache), **k)
        if whole and cache == "rows":  # the batch is read whole whenever a text of it changes
            rows = result.forward_calls * shape[0]
            result = sampling.SampleResult(
                result.tokens, result.reveal_step, rows, result.forward_calls
            )
        return result

    return run


def test_no_saving(ledger, monkeypatch):
    real = sampling.sample
    for wrong in (as_if({"rows": "none"}), as_if({}, whole=True)):
        monkeypatch.setattr(sampling, "sample", wrong)
        assert not held(ledger, "c5b-fewer-calls", experiments.saved_calls()["rows_ratio"])
        monkeypatch.setattr(sampling, "sample", real)
    monkeypatch.setattr(sampling, "sample", as_if({"rounds": "rows"}))
    assert not held(ledger, "c5c-rounds-need-few-calls", experiments.saved_calls()["calls_ratio"])


class Stale:
    """A cache that is never refreshed: the answers to a page of masks, whatever is visible."""

    def __init__(self, model):
        self.model, self.vocab_size = model, model.vocab_size

    def __call__(self, x):
        return self.model(torch.full_like(x, self.vocab_size))


def test_a_stale_cache(ledger, monkeypatch):
    rounds = sampling._in_rounds
    monkeypatch.setattr(sampling, "_in_rounds", lambda model, *rest: rounds(Stale(model), *rest))
    assert not held(ledger, "c7a-same-law", experiments.same_law(draws=DRAWS)["p"].min())
    assert not held(ledger, "c7b-same-tokens", experiments.differing_tokens())


# --- steps -----------------------------------------------------------------------------------------------


def test_steps_that_do_not_look_again(ledger, monkeypatch):
    law = TabularJoint.sampler_law
    monkeypatch.setattr(TabularJoint, "sampler_law", lambda self, rho: law(self, [1.0]))
    table = experiments.distance_table((4, 32, 1024, 4096))
    assert not held(ledger, "c8a-first-order", experiments.first_order(table))


def texts_at(changes, texts=2000):
    """The table of qualities with a sampler whose settings are changed."""
    real = sampling.sample

    def run(model, shape, steps, schedule, **k):
        here = changes | k
        return real(model, shape, here.pop("steps", steps), schedule, **here)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "sample", run)
        return experiments.quality_against_steps(texts=texts)


def test_the_likeliest_token_always(ledger):
    made = texts_at({"top_k": 1})
    shift = (made["unigram"] - made["unigram"].iloc[0]).abs().max()
    gap = made["nats"].iloc[-1] - MarkovLanguage.example().entropy_rate(16)
    assert gap < 0  # "better than the truth"
    assert not held(ledger, "c8c-reaches-the-entropy", gap)
    assert not held(ledger, "c8d-diversity-stays", shift)


def test_steps_that_are_not_taken(ledger):
    made = texts_at({"steps": 4})
    more = made[made["steps"].between(1, 64)]["nats"].diff().max()
    assert not held(ledger, "c8b-more-steps-are-better", more)


def test_two_ways_of_stepping(ledger, monkeypatch):
    real = unmask_probabilities

    def no_factor(schedule, steps, method="tweedie"):
        if method == "tweedie":
            return real(schedule, steps)
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
        rate = schedule.rate(t.clamp_max(1 - 1e-9)).numpy() / steps
        return np.append(np.minimum(rate, 1.0)[:-1], 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(schedules, "unmask_probabilities", no_factor)
        assert not held(ledger, "c9a-euler-is-tweedie", experiments.reveal_difference())
    monkeypatch.setattr(
        experiments, "unmask_probabilities", lambda schedule, steps, method: real(schedule, steps)
    )
    table = experiments.distance_table((4,))
    assert not held(ledger, "c9b-not-for-cosine", experiments.method_gap(table))


# --- networks --------------------------------------------------------------------------------------------


def test_a_network_left_untrained_and_masks_of_its_own(ledger):
    language = MarkovLanguage.example()
    x = language.sample(300, 16, generator=torch.Generator().manual_seed(0))

    def bound(model, masks):
        generator = torch.Generator().manual_seed(masks)
        return evaluation.nll_bound(model, x, generator=generator)

    raw, exact = NETWORKS["radd"](experiments.MARKOV).eval(), bound(language, 1)
    worse = evaluation.paired_difference(bound(raw, 1), exact, rng=0)
    assert not held(ledger, "c10d-known-answer", worse.estimate, worse)
    # a language that is a little off: the same masks are what makes the difference visible
    blurred = MarkovLanguage(language.initial, 0.98 * language.transition + 0.02 / 8)
    paired = evaluation.paired_difference(bound(blurred, 1), exact, rng=0)
    apart = evaluation.paired_difference(bound(blurred, 2), exact, rng=0)
    assert apart.high - apart.low > 5 * (paired.high - paired.low)


def test_a_time_input_that_is_counted_wrong(ledger, monkeypatch):
    table = experiments.parameter_table()
    assert held(ledger, "c11a-count", experiments.count_difference(table))
    assert held(ledger, "c11b-fewer-parameters", experiments.share_saved(table))
    real = experiments.time_conditioning_parameters
    monkeypatch.setattr(  # forget the norms that the modulation replaces
        experiments,
        "time_conditioning_parameters",
        lambda c: real(c) + 4 * c.width * c.depth,
    )
    assert not held(
        ledger, "c11a-count", experiments.count_difference(experiments.parameter_table())
    )
    same = table.assign(**{"told the time": table["RADD"]})
    assert not held(ledger, "c11b-fewer-parameters", experiments.share_saved(same))


# --- beyond the paper ------------------------------------------------------------------------------------


def test_one_estimator_under_four_names(ledger, monkeypatch):
    real = losses.t_dce_loss
    with monkeypatch.context() as patch:
        patch.setattr(losses, "any_order_loss", losses.lambda_dce_loss)
        table = experiments.estimator_spread(texts=2000)
        std = table.pivot(index="seed", columns="estimator", values="std")
        calm = (std["any order"] / std["integral over masks"]).max()
        assert not held(ledger, "c12a-any-order-is-calmer", calm)
    monkeypatch.setattr(losses, "t_dce_loss", lambda *a, ratio_form=False, **k: real(*a, **k))
    table = experiments.estimator_spread(texts=2000)
    std = table.pivot(index="seed", columns="estimator", values="std")
    noisy = (std["with the score"] / std["integral over time"]).min()
    assert not held(ledger, "c12b-ratio-form-is-noisy", noisy)


def test_fewer_steps_than_are_counted(ledger, monkeypatch):
    bound, divergence = experiments.parallel_cost(8)
    assert held(ledger, "c13-parallel-costs-information", bound - divergence)
    monkeypatch.setattr(
        experiments,
        "unmask_probabilities",
        lambda schedule, steps: unmask_probabilities(schedule, steps // 8),
    )
    bound, divergence = experiments.parallel_cost(8)
    assert not held(ledger, "c13-parallel-costs-information", bound - divergence)


def test_random_numbers_that_are_not_coarse(ledger, monkeypatch):
    def fine(low, high, size, *, generator):
        return high * torch.rand(size, generator=generator, dtype=torch.float64)

    monkeypatch.setattr(torch, "randint", fine)
    race = experiments.coarse_race(draws=400_000)
    assert not held(ledger, "c14-coarse-random-numbers", race["observed"] / race["predicted"])


def test_the_two_rules_swapped(ledger):
    table = experiments.quality_of_orders(texts=2000).set_index("rule")
    entropy = MarkovLanguage.example().entropy_rate(16)
    gap = {rule: experiments.quality_interval(table.loc[rule], entropy) for rule in table.index}
    surest, drawn = gap["entropy"], gap["confidence"]
    assert not held(ledger, "c17a-surest-position-first", drawn.estimate, drawn)
    assert not held(ledger, "c17b-surest-token-first", surest.estimate, surest)


# --- stored results --------------------------------------------------------------------------------------


def test_a_sampler_that_is_not_faster(ledger):
    table = data.stored("absorbing_diffusion", "speed")["table"]
    last = table[-1]
    assert held(ledger, "c6a-faster-than-uncached", last["none"] / last["rounds"])
    assert held(
        ledger,
        "c6b-faster-than-the-reference-design",
        min(row["peer"] / row["rounds"] for row in table),
    )
    # our own cache of rows, step by step, would not do
    assert not held(ledger, "c6b-faster-than-the-reference-design", 0.99)
    assert not held(ledger, "c6a-faster-than-uncached", 3.49)


@pytest.fixture(scope="module")
def bounds():
    return data.stored("absorbing_diffusion", "text_bounds")


def changed(bounds, kind, by):
    """The stored bounds with those of one network set to those of another row."""
    copied = copy.deepcopy(bounds)
    rows = {(row["text"], row["kind"]): row for row in copied["bounds"]}
    for (text, name), row in rows.items():
        if name == kind:
            row["nats"] = rows[text, by]["nats"]
    return copied


def test_a_network_that_knows_word_frequencies_only(ledger, bounds):
    good = experiments.unigram_margin(bounds)
    assert held(ledger, "c10b-beyond-word-frequencies", good.estimate, good)
    bad = experiments.unigram_margin(changed(bounds, "radd", "unigram"))
    assert not held(ledger, "c10b-beyond-word-frequencies", bad.estimate, bad)
    pairs = experiments.margin_to_word_pairs(changed(bounds, "radd", "bigram"))
    assert not held(ledger, "c10f-beyond-word-pairs", pairs)


def test_the_shipped_network_is_the_stored_one(ledger, bounds):
    networks = experiments.load_text_models()
    off = experiments.replicate_bound(networks, 32) - experiments.replicate_bound(
        {"radd": NETWORKS["radd"](networks["radd"].config).eval()}, 32
    )
    assert not held(ledger, "c10c-replicate", abs(off))
    assert json.dumps(bounds)  # plain numbers
    assert len(load_kjv()) == bounds["bounds"][0]["windows"]


def test_a_gap_without_its_right_side(ledger):
    networks = experiments.load_text_models()
    radd = networks["radd"]

    class Blind:
        vocab_size = radd.config.vocab_size
        config = radd.config

        def __call__(self, x):
            x = x.clone()
            x[:, 36:] = self.vocab_size
            return radd(x)

    filled = experiments.evaluate_infilling(networks | {"radd": Blind()}, windows=24)
    nothing = experiments.interval_of(filled["suffix"])
    assert not held(ledger, "c15a-both-sides", nothing.estimate, nothing)


def test_differences_with_the_sign_turned(ledger, bounds):
    written = data.stored("absorbing_diffusion", "text_samples")
    filled = data.stored("absorbing_diffusion", "text_infilling")
    judged = data.stored("absorbing_diffusion", "text_judge")
    for row, entry in (
        ("c10a-five-texts", bounds["differences"]["five texts: radd - time"]),
        ("c10g-held-out-books", bounds["differences"]["bible: radd - time"]),
        ("c15b-against-left-to-right", filled["against"]),
        ("c16-text-quality", written["gain"]),
        ("c16b-independent-judge", judged["gain"]),
    ):
        here = experiments.interval_of(entry)
        turned = claims.Interval(
            -here.estimate, -here.high, -here.low, here.level, here.n, here.method
        )
        assert ledger.judge(row, here.estimate, interval=here).ok
        assert not ledger.judge(row, turned.estimate, interval=turned).ok, row
