"""Claims of the chapter turn red when the method is broken on purpose."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import claims, data
from paperkit.likelihood_displacement import experiments as ex
from paperkit.likelihood_displacement import (
    features,
    losses,
    pairs,
    rates,
    training,
)
from paperkit.likelihood_displacement import smollm2_refusals as refusals
from paperkit.likelihood_displacement.features import MultiTokenFeatures, UnconstrainedFeatures
from paperkit.likelihood_displacement.pairs import TokenPair
from paperkit.models import prefix_tree

RATES = UnconstrainedFeatures.rates


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("likelihood_displacement")


# ------------------------------------------------------------------------ the model that can be solved


def without_mean(self, a, b, *, train="both"):
    """The mean unembedding is forgotten."""
    p = np.exp(self.log_probs())
    shift = (p @ self.W) @ (self.W[a] - self.W[b])
    return RATES(self, a, b, train=train) + (shift if train != "head" else 0)


def without_head(self, a, b, *, train="both"):
    """The |h|^2 term is forgotten."""
    return RATES(self, a, b, train="hidden")


def swapped(self, a, b, *, train="both"):
    """Preferred and dispreferred are mixed up."""
    return RATES(self, b, a, train=train)


@pytest.mark.parametrize("broken", [without_mean, without_head, swapped])
def test_wrong_rates(ledger, monkeypatch, broken):
    assert ledger.judge("a4a-rates", ex.single_token_error(12)).ok
    monkeypatch.setattr(UnconstrainedFeatures, "rates", broken)
    assert not ledger.judge("a4a-rates", ex.single_token_error(12)).ok


def test_similarity_with_swapped_preferences(ledger, monkeypatch):
    monkeypatch.setattr(UnconstrainedFeatures, "rates", lambda self, a, b: -RATES(self, a, b))
    found = ex.similarity_correlation(300)
    assert not ledger.judge("a4d-similarity", found.estimate, interval=found).ok


def test_same_policy_without_the_protecting_term(ledger, monkeypatch):
    one, two = ex.same_policy()
    assert ledger.judge("a4e-same-policy", one * two).ok
    monkeypatch.setattr(UnconstrainedFeatures, "rates", without_head)
    one, two = ex.same_policy()
    assert not ledger.judge("a4e-same-policy", one * two).ok


@pytest.mark.parametrize("part", ["shared", "head"])
def test_multi_token_terms(ledger, monkeypatch, part):
    original = MultiTokenFeatures.rate

    def rate(self, chosen, rejected):
        found = original(self, chosen, rejected)
        return {**found, "total": found["total"] - found[part]}

    assert ledger.judge("a4b-multi-token", ex.multi_token_error(8)).ok
    monkeypatch.setattr(MultiTokenFeatures, "rate", rate)
    assert not ledger.judge("a4b-multi-token", ex.multi_token_error(8)).ok


def sum_for_difference(self, a, b, s, *, train="both"):
    """The hidden state moves along the sum of the preferences instead of their difference."""
    s = np.atleast_1d(np.asarray(s, dtype=float))[:, None]
    W = np.repeat(self.W[None], len(s), axis=0)
    W[:, a], W[:, b] = self.W[a] + s * self.h, self.W[b] - s * self.h
    return W, self.h + s * (self.W[a] + self.W[b])


def test_flow_along_the_sum(ledger, monkeypatch):
    right = ex.canonical_extremes()
    assert ledger.judge("a1a-canonical", right["smallest p(No)"]).ok
    assert ledger.judge("a2a-canonical", right["largest p(Yes)"]).ok
    monkeypatch.setattr(UnconstrainedFeatures, "flow", sum_for_difference)
    wrong = ex.canonical_extremes()
    assert not ledger.judge("a1a-canonical", wrong["smallest p(No)"]).ok
    assert not ledger.judge("a2a-canonical", wrong["largest p(Yes)"]).ok


def test_closed_form_of_the_hidden_state_alone(ledger, monkeypatch):
    original = UnconstrainedFeatures.flow
    monkeypatch.setattr(
        UnconstrainedFeatures,
        "flow",
        lambda self, a, b, s, *, train="both": original(self, a, b, s, train="hidden"),
    )
    assert not ledger.judge("a4c-closed-form", ex.closed_form_error((1.0,))).ok
    assert not ledger.judge("t2a-one-path", ex.distance_from_path("dpo")).ok


def test_movement_of_h_reversed(ledger, monkeypatch):
    assert ledger.judge("t1a-identity", ex.identity_spread()).ok
    original = UnconstrainedFeatures.flow

    def reversed_flow(self, a, b, s, *, train="both"):
        W, _ = original(self, a, b, s, train=train)
        return W, original(self, b, a, s, train=train)[1]

    monkeypatch.setattr(ex, "log_softmax", lambda logits: features.log_softmax(logits * 1.1))
    assert not ledger.judge("t1a-identity", ex.identity_spread()).ok
    monkeypatch.undo()
    monkeypatch.setattr(UnconstrainedFeatures, "flow", reversed_flow)
    assert not ledger.judge("a1a-canonical", ex.canonical_extremes()["smallest p(No)"]).ok


def test_a_loss_with_more_than_the_margin(ledger):
    assert ledger.judge("t2a-one-path", ex.distance_from_path("dpo")).ok
    assert not ledger.judge("t2a-one-path", ex.distance_from_path("dpo", sft=0.01)).ok
    assert ledger.judge("t2c-sft-leaves", ex.distance_from_path("dpo", sft=0.1)).ok
    assert not ledger.judge("t2c-sft-leaves", ex.distance_from_path("dpo", sft=0.0)).ok


def test_variants_that_stop_early(ledger, monkeypatch):
    monkeypatch.setattr(ex, "VARIANTS", {"ipo": (1.0, 3.0), "hinge": (1.0, 20.0)})
    assert not ledger.judge("a1c-variants", ex.variant_minimum("ipo")).ok
    assert not ledger.judge("a1c-variants", ex.variant_minimum("hinge")).ok


def test_descending_head(ledger, monkeypatch):
    assert ledger.judge("t3a-head-only", ex.head_only_minimum(20)).ok
    original = ex._autograd_rates
    monkeypatch.setattr(ex, "_autograd_rates", lambda *a: -original(*a))
    assert not ledger.judge("t3a-head-only", ex.head_only_minimum(20)).ok


# --------------------------------------------------------------------------- a real network


def test_reference_term_and_slope_of_the_loss(monkeypatch):
    u = torch.tensor([2.0, -3.0])
    at_reference = losses.preference_loss(u, u)
    torch.testing.assert_close(at_reference, torch.full((2,), float(np.log(2))))
    without = losses.preference_loss(u, torch.zeros(2))
    assert (without - np.log(2)).abs().min() > 0.05


def falling_pair(model):
    """A single-token pair whose preferred answer falls at the first step when only blocks move."""
    prompt, answers = (1, 2, 3), list(range(5, 25))
    found = rates.token_rates(model, prompt, answers)["blocks"]
    own = np.array(
        [[found[a, b, a] for b in range(len(answers))] for a in range(len(answers))]
    ) + np.diag([np.inf] * len(answers))
    a, b = np.unravel_index(own.argmin(), own.shape)
    assert own[a, b] < 0
    return TokenPair(prompt, (answers[a],), (answers[b],))


def run_table(model, pair, **settings):
    trace = training.train_preferences(
        model, [pair], n_steps=8, first_step_margin=0.01, train="blocks", **settings
    )
    first = ex.CLOSE[0]
    return trace.pairs.assign(statement=0, chosen=first[0], rejected=first[1])


def test_cross_entropy_raises_what_a_margin_loss_lowers(ledger, tiny_llama):
    pair = falling_pair(tiny_llama)
    fell = ex.fell_while_margin_rose(run_table(tiny_llama, pair))
    assert ledger.judge("a1b-trained", fell["displaced"].mean()).ok
    fell = ex.fell_while_margin_rose(
        run_table(tiny_llama, pair, loss="cross_entropy", learning_rate=0.01)
    )
    assert not ledger.judge("a1b-trained", fell["displaced"].mean()).ok


def test_gradient_with_the_wrong_sign(ledger):
    stored = ex.stored_rates()
    turned = stored.assign(blocks=-stored["blocks"], yes=-stored["yes"])
    assert not ledger.judge("a1b-controls", ex.smallest_control_rate(turned)).ok
    assert not ledger.judge("a2b-rate", ex.smallest_yes_rate(turned)).ok
    first = stored[stored["statement"] == 0]
    assert ledger.judge("a1b-replicate-rates", ex.rates_difference(first, stored)).ok
    wrong = first.assign(blocks=-first["blocks"])
    assert not ledger.judge("a1b-replicate-rates", ex.rates_difference(wrong, stored)).ok


def test_runs_of_another_pair_do_not_replicate(ledger):
    runs = ex.stored_runs()
    never = runs[(runs["chosen"] == "No") & (runs["statement"] == 0)]
    assert ledger.judge("a1b-replicate-run", ex.run_difference(never, runs)).ok
    slower = never.assign(
        log_chosen=never["log_chosen"].iloc[0]
        + 0.5 * (never["log_chosen"] - never["log_chosen"].iloc[0])
    )
    assert not ledger.judge("a1b-replicate-run", ex.run_difference(slower, runs)).ok
    upside_down = runs.assign(Yes=1 - runs["Yes"])
    assert not ledger.judge("a2b-ratio", (ex.yes_ratios(upside_down) >= 2).mean()).ok


def test_curve_with_a_cross_entropy_term_leaves(ledger, tiny_llama):
    pair = falling_pair(tiny_llama)

    def curves(sft):
        ipo = {"loss": "ipo", "learning_rate": 1e-3, "sft": sft} if sft else {"loss": "ipo"}
        parts = [
            run_table(tiny_llama, pair, **settings).assign(loss=settings["loss"])
            for settings in ({"loss": "dpo"}, ipo, {"loss": "hinge"})
        ]
        return ex.curve_distance(pd.concat(parts))

    assert ledger.judge("t2b-one-path-real", curves(0.0)).ok
    assert not ledger.judge("t2b-one-path-real", curves(20.0)).ok


# --------------------------------------------------------------------------------- CHES


def shifted(path, pair):
    """States are taken one position late."""
    return path[len(pair.prompt) :]


PAIRS = [
    TokenPair((1, 2, 3), (4, 5, 6), (4, 7)),
    TokenPair((9, 2), (4, 8), (5,)),
    TokenPair((1, 2, 3, 8, 8), (10, 11), (12, 13, 14, 15, 16)),
]


def test_scores_from_the_wrong_positions_or_without_the_centre(ledger, monkeypatch, tiny_llama):
    right = pairs.score_pairs(tiny_llama, PAIRS)["ln_ches"].to_numpy()

    def error():
        wrong = pairs.score_pairs(tiny_llama, PAIRS)["ln_ches"].to_numpy()
        return float(np.abs(wrong - right).max() / np.abs(right).max())

    assert ledger.judge("a5f-replicate-scores", error()).ok
    fed = pairs._fed
    monkeypatch.setattr(pairs, "_fed", lambda pair, side, include_last: fed(pair, side, True))
    monkeypatch.setattr(pairs, "_predicting", shifted)
    assert not ledger.judge("a5f-replicate-scores", error()).ok
    monkeypatch.undo()
    monkeypatch.setattr(
        pairs, "ches_score", lambda s, t, n, m, *, length_normalize=False: (s * t).sum(1)
    )
    assert not ledger.judge("a5f-replicate-scores", error()).ok


def test_rank_correlation_of_measures_that_mean_nothing(ledger):
    table = ex.stored_scores()
    found = ex.rank_correlation(table, "ln_ches")
    assert ledger.judge("a5a-ln-ches", found.estimate, interval=found).ok
    noise = table.assign(ln_ches=np.random.default_rng(0).standard_normal(len(table)))
    found = ex.rank_correlation(noise, "ln_ches")
    assert not ledger.judge("a5a-ln-ches", found.estimate, interval=found).ok
    turned = table.assign(ln_ches=-table["ln_ches"])
    found = ex.rank_correlation(turned, "ln_ches")
    assert not ledger.judge("a5a-ln-ches", found.estimate, interval=found).ok


def test_groups_with_their_names_exchanged(ledger):
    runs = data.stored("likelihood_displacement", "group_runs")
    turned = runs.assign(kind=runs["kind"].map({"lowest": "highest", "highest": "lowest"}))
    right, wrong = ex.change_at_margin(runs), ex.change_at_margin(turned)
    assert right["highest"] < right["lowest"]
    verdict = ledger.judge("a5d-groups", wrong["highest"] / wrong["lowest"])
    assert not verdict.held
    assert verdict.value > 1


# --------------------------------------------------------------------------- refusal world


@pytest.fixture(scope="module")
def world():
    return ex.shipped_world(0)


@pytest.fixture(scope="module")
def sets(world):
    return ex.world_sets(world, 0)


def compliance_rise(world, chosen):
    return ex.train_world(world, chosen, seed=0)["comply"] - world.kind_mass()["comply"]


def test_unalignment_needs_the_soft_judge_and_pairs_of_refusals(ledger, world, sets):
    assert ledger.judge("a3g-fresh-world", compliance_rise(world, sets["both-refuse"])).ok
    for other in ("both-refuse, random ties", "both-refuse, inverted judge", "gold"):
        assert not ledger.judge("a3g-fresh-world", compliance_rise(world, sets[other])).ok, other


def test_chosen_and_rejected_exchanged(ledger, world, sets):
    turned = [pair.swapped() for pair in sets["both-refuse"]]
    assert not ledger.judge("a3g-fresh-world", compliance_rise(world, turned)).ok


def test_filter_that_keeps_the_highest(ledger, world, monkeypatch):
    right = ex.world_arms(world, 0, ["lowest tenth"])
    assert ledger.judge("a6f-fresh-world", ex.rise(right, "lowest tenth")).ok
    original = pairs.filter_pairs

    def highest(scores, *, keep=0.05, by="ln_ches", which="lowest"):
        return original(scores, keep=keep, by=by, which="highest")

    monkeypatch.setattr(pairs, "filter_pairs", highest)
    wrong = ex.world_arms(world, 0, ["lowest tenth"])
    assert not ledger.judge("a6f-fresh-world", ex.rise(wrong, "lowest tenth")).ok


def test_score_of_a_model_that_knows_nothing(world, monkeypatch):
    """Filtering by an untrained model's states does not find the clear pairs."""
    untrained = dataclasses.replace(world, model=copy.deepcopy(world.model))
    for parameter in untrained.model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    found, table = world.preference_pairs(judge="soft", seed=0)
    rows = ex.mixed_set(table, np.random.default_rng([0, 3]))
    chosen = [found[i] for i in rows]
    shares = []
    for model in (world.model, untrained.model):
        kept = pairs.filter_pairs(pairs.score_pairs(model, chosen, batch_size=128), keep=0.1)
        shares.append((table["category"].to_numpy()[rows[kept]] == "mixed").mean())
    assert shares[0] > 0.95
    assert shares[1] < 0.7


def test_stored_arms_exchanged(ledger):
    """Rows about all worlds turn red when the arms they compare are exchanged."""
    table = ex.stored_worlds()
    for id, first, second, column in (
        ("a3a-unalignment", "both-refuse", "before", "comply"),
        ("a3c-inverted-judge", "both-refuse, inverted judge", "before", "comply"),
        ("a3d-mixed-set", "85/15", "before", "comply"),
        ("a3e-gold", "gold", "before", "comply"),
        ("a6b-low-beats-all", "lowest tenth", "85/15", "refuse"),
        ("a6e-high-hurts", "highest half", "85/15", "comply"),
        ("a5c-refusal-world", "highest third by ches", "highest third by neg_edit_distance", "change"),
    ):  # fmt: skip
        gap = ex.difference(table, first, second, column)
        right = ledger.judge(id, gap.estimate, interval=gap)
        gap = ex.difference(table, second, first, column)
        assert right.held != ledger.judge(id, gap.estimate, interval=gap).held, id
    soft = ex.ratio_of_means(table, "both-refuse", "both-refuse, random ties")
    assert not ledger.judge("a3b-random-ties", soft.estimate, interval=soft).ok


def test_replicate_of_another_world(ledger):
    stored = ex.stored_worlds()
    other = stored.assign(seed=stored["seed"].map({0: 5, 5: 6, 6: 7, 7: 8, 8: 0}))
    worst, _ = ex.replicate_difference(other, arms=("both-refuse",))
    assert not ledger.judge("a3f-replicate", worst).ok


# --------------------------------------------------------------- attacks that the brief does not name


def test_positions_by_place_instead_of_depth(ledger, monkeypatch, tiny_llama):
    """Tokens of the tree are numbered in the order in which they are packed."""
    right = pairs.score_pairs(tiny_llama, PAIRS)["ln_ches"].to_numpy()
    build = prefix_tree._Tree.build

    def numbered(sequences):
        tree = build(sequences)
        return dataclasses.replace(tree, depth=np.arange(len(tree.token)))

    monkeypatch.setattr(prefix_tree._Tree, "build", numbered)
    wrong = pairs.score_pairs(tiny_llama, PAIRS)["ln_ches"].to_numpy()
    error = float(np.abs(wrong - right).max() / np.abs(right).max())
    assert not ledger.judge("a5f-replicate-scores", error).ok


def test_mean_in_place_of_summed_log_probabilities(ledger, monkeypatch):
    original = training.pair_logprobs

    def averaged(model, token_pairs, *, batch_size=None):
        lengths = [[len(pair.chosen), len(pair.rejected)] for pair in token_pairs]
        return original(model, token_pairs, batch_size=batch_size) / torch.tensor(lengths)

    monkeypatch.setattr(training, "pair_logprobs", averaged)
    worst, _ = ex.replicate_difference(ex.stored_worlds(), arms=("both-refuse", "85/15"))
    assert not ledger.judge("a3f-replicate", worst).ok


def test_a_margin_without_its_reference(ledger, monkeypatch):
    original = losses.preference_loss

    def without(margin, reference_margin, kind="dpo", beta=0.1, *, delta=1.0):
        return original(margin, torch.zeros_like(margin), kind, beta, delta=delta)

    monkeypatch.setattr(training, "preference_loss", without)
    worst, _ = ex.replicate_difference(ex.stored_worlds(), arms=("both-refuse", "85/15"))
    assert not ledger.judge("a3f-replicate", worst).ok


def test_fifths_in_the_wrong_order(ledger):
    table = data.stored("likelihood_displacement", "ches_fifths")
    found = ex.fifths_correlation(table)
    assert ledger.judge("a5i-fifths", found.estimate, interval=found).ok
    turned = ex.fifths_correlation(table.assign(ln_ches=-table["ln_ches"]))
    assert not ledger.judge("a5i-fifths", turned.estimate, interval=turned).ok


def test_a_model_that_is_unaligned_would_be_news(ledger):
    """The rows that are not supported turn red when the harm of the paper appears in the table."""
    table = data.stored("likelihood_displacement", "smollm2_refusals")
    for id, harmed, arms in (
        ("a3h-smollm2", "both-refuse", ("both-refuse", "taught")),
        ("a6g-smollm2", "highest third", ("lowest third", "highest third")),
    ):
        gap = refusals.refusal_gap(table, *arms)
        assert ledger.judge(id, gap.estimate, interval=gap).ok
        answers = table.assign(kind=table["kind"].where(table["arm"] != harmed, "answer"))
        gap = refusals.refusal_gap(answers, *arms)
        assert not ledger.judge(id, gap.estimate, interval=gap).ok
