"""What the chapter measures: one function per claim, settings in, numbers (and intervals) out.

Notebooks, stored runs, mutation tests and the check over fresh seeds call these functions.
Randomness comes from :mod:`paperkit.profiles`, so it follows ``PAPERKIT_SEED``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from paperkit import claims, data, models, profiles
from paperkit.absorbing_diffusion import losses, sampling, schedules
from paperkit.absorbing_diffusion.evaluation import (
    BoundEstimate,
    generative_nll,
    infilling,
    nll_bound,
    paired_difference,
    unigram_entropy,
)
from paperkit.absorbing_diffusion.known import (
    MarkovLanguage,
    TableModel,
    TabularJoint,
    total_variation,
)
from paperkit.absorbing_diffusion.networks import (
    NETWORKS,
    TransformerConfig,
    time_conditioning_parameters,
)
from paperkit.absorbing_diffusion.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LogLinearSchedule,
    unmask_probabilities,
)
from paperkit.absorbing_diffusion.text import (
    TextWindows,
    bigram_nats,
    load_kjv,
    load_zero_shot_texts,
    unigram_nats,
)
from paperkit.claims import Interval

NOISE = (0.05, 0.3, 1.0, 3.0, 7.0)
"""Total noise of the five times at which scores are compared."""

SCHEDULES: dict[str, schedules.NoiseSchedule] = {
    "log-linear": LogLinearSchedule(1e-3),
    "cosine": CosineSchedule(1e-3),
    "geometric": GeometricSchedule(),
}

KINDS = {"radd": "RADD", "time": "told the time", "ar": "left to right"}
"""Short names of the three networks, and how figures call them."""

MARKOV = TransformerConfig(
    vocab_size=8, width=48, depth=2, heads=4, rotary_base=100.0, neighbours=16.0
)
"""Size of the networks that learn the Markov language."""


def _key(*parts: Any) -> torch.Generator:
    return profiles.generator("absorbing_diffusion", *parts)


def small_joint() -> TabularJoint:
    """Return a random law over the 81 texts of four tokens of three kinds."""
    return TabularJoint.random(3, 4, profiles.rng("absorbing_diffusion", "joint"))


def random_model() -> TableModel:
    """Return a random model of these texts, whose answers contradict each other."""
    return TableModel.random(3, 4, profiles.seeds(1, "absorbing_diffusion", "table")[0])


# -------------------------------------------------------------------------------- the score


def true_scores(joint: TabularJoint | None = None) -> pd.DataFrame:
    """Return every ratio of noisy marginals beside the formula (claims c1 and c2a).

    Returns
    -------
    pandas.DataFrame
        One row for each masked position, token, noisy text and noise: ``noise``, ``state``,
        ``position``, ``token``, ``ratio`` (from the kernel), ``formula``, ``conditional``
        (the ratio divided by the scalar).
    """
    joint = small_joint() if joint is None else joint
    V, d = joint.vocab_size, joint.length
    states = joint.states()
    log_c = torch.from_numpy(joint.conditional(states)).log()
    parts = []
    for noise in NOISE:
        law = joint.noisy_marginal(noise)
        formula = losses.concrete_score(log_c, noise).exp().numpy()
        for i, v in itertools.product(range(d), range(V)):
            at = np.flatnonzero(states[:, i] == V)
            moved = states[at].copy()
            moved[:, i] = v
            ratio = law[tuple(moved.T)] / law[tuple(states[at].T)]
            log_ratio = torch.from_numpy(np.log(ratio))[:, None]
            back = losses.conditional_from_score(log_ratio, noise).exp().numpy()[:, 0]
            parts.append(
                pd.DataFrame(
                    {
                        "noise": noise,
                        "state": at,
                        "position": i,
                        "token": v,
                        "ratio": ratio,
                        "formula": formula[at, i, v],
                        "conditional": back,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def largest_relative_error(scores: pd.DataFrame) -> float:
    """Return the largest relative error of the formula."""
    return float((scores["formula"] / scores["ratio"] - 1).abs().max())


def spread_over_time(scores: pd.DataFrame) -> float:
    """Return the largest spread over times of what should be one conditional law."""
    by = scores.groupby(["state", "position", "token"])["conditional"]
    return float((by.max() - by.min()).max())


def uniform_noise_ratios(joint: TabularJoint | None = None) -> pd.DataFrame:
    """Return normalised ratios of one text under noise that replaces tokens at random.

    For noise that is not absorbing the ratios of the noisy marginals keep depending on the time
    after they are normalised over the tokens.
    """
    joint = small_joint() if joint is None else joint
    V = joint.vocab_size
    rows = []
    for noise in NOISE:
        kernel = np.exp(-noise) * np.eye(V) + (1 - np.exp(-noise)) / V
        law = joint.through_kernel(kernel)
        column = law[:, 0, 0, 0]
        rows += [
            {"noise": noise, "token": v, "share": float(column[v] / column.sum())} for v in range(V)
        ]
    return pd.DataFrame(rows)


def change_under_uniform_noise(ratios: pd.DataFrame) -> float:
    """Return by how much a normalised ratio moves between noise levels (claim c1b)."""
    by = ratios.groupby("token")["share"]
    return float((by.max() - by.min()).max())


# ------------------------------------------------------------------------------- the losses


def _texts(joint: TabularJoint) -> torch.Tensor:
    return torch.from_numpy(joint.sequences())


def loss_table() -> pd.DataFrame:
    """Return the four losses of one text under three schedules: quadrature and random draws."""
    model, x = random_model(), torch.tensor([[0, 1, 2, 1]])
    drawers: dict[str, Any] = {
        "dse": losses.dse_loss,
        "t_dce": losses.t_dce_loss,
    }
    rows = []
    for name, schedule in SCHEDULES.items():
        exact = losses.exact_losses(model, x, schedule)
        for loss, value in exact.items():
            rows.append({"schedule": name, "loss": loss, "exact": float(value)})
            if loss in drawers:
                drawn = drawers[loss](
                    model,
                    x.expand(20_000, 4),
                    schedule,
                    generator=_key("bars", name, loss),
                )
                rows[-1] |= {
                    "mean": float(drawn.mean()),
                    "stderr": float(drawn.std() / math.sqrt(len(drawn))),
                }
    return pd.DataFrame(rows)


def three_integrals() -> float:
    """Return the largest difference of the three integrals (claim c3a)."""
    model, x = random_model(), _texts(small_joint())
    worst = 0.0
    for schedule in SCHEDULES.values():
        exact = losses.exact_losses(model, x, schedule)
        for other in ("dse", "lambda_dce"):
            worst = max(worst, float((exact[other] - exact["t_dce"]).abs().max()))
    return worst


def order_losses(model: TableModel, x: torch.Tensor) -> torch.Tensor:
    """Return ``-log`` of the product of conditionals for each order and text, ``[d!, batch]``."""
    d = x.shape[1]
    rows = []
    for order in itertools.permutations(range(d)):
        seen = torch.full_like(x, model.vocab_size)
        total = torch.zeros(len(x), dtype=torch.float64)
        for i in order:
            law = model(seen)[:, i].log_softmax(-1)
            total -= law.gather(1, x[:, i : i + 1])[:, 0]
            seen[:, i] = x[:, i]
        rows.append(total)
    return torch.stack(rows)


def all_orders() -> float:
    """Return the largest difference between quadrature and all orders (claim c3b)."""
    model, x = random_model(), _texts(small_joint())
    integral = losses.exact_losses(model, x, LogLinearSchedule())["lambda_dce"]
    return float((integral - order_losses(model, x).mean(0)).abs().max())


def estimator_deviations(draws: int = 200_000) -> pd.Series:
    """Return how many standard errors each random estimator is off (claim c3c)."""
    model, x = random_model(), torch.tensor([[0, 1, 2, 1]])
    truth = float(losses.exact_any_order_nll(model, x))
    many = x.expand(draws, 4)
    schedule = LogLinearSchedule()
    made = {
        "dse": losses.dse_loss(
            model, many, schedule, stratified=False, generator=_key("draw", "dse")
        ),
        "t_dce": losses.t_dce_loss(
            model, many, schedule, stratified=False, generator=_key("draw", "t")
        ),
        "lambda_dce": losses.lambda_dce_loss(
            model, many, stratified=False, generator=_key("draw", "lambda")
        ),
        "any_order": losses.any_order_loss(
            model, many, stratified=False, generator=_key("draw", "any")
        ),
    }
    return pd.Series(
        {
            name: float((each.mean() - truth).abs() / (each.std() / math.sqrt(draws)))
            for name, each in made.items()
        }
    )


def exact_gap() -> pd.DataFrame:
    """Return bound and negative log-likelihood of every text, with exact conditionals."""
    joint = small_joint()
    bound = losses.exact_any_order_nll(joint.as_model(), _texts(joint)).numpy()
    return pd.DataFrame({"likelihood": -joint.log_prob(joint.sequences()), "bound": bound})


def bound_error() -> float:
    """Return how far the bound is from ``-log p`` with exact conditionals (claim c4a)."""
    gap = exact_gap()
    return float((gap["bound"] - gap["likelihood"]).abs().max())


def jensen_gap() -> pd.DataFrame:
    """Return bound and negative log-likelihood of the mixture over orders (claim c4b)."""
    model, joint = random_model(), small_joint()
    each = order_losses(model, _texts(joint))
    mixture = -(torch.logsumexp(-each, 0) - math.log(len(each)))
    bound = losses.exact_any_order_nll(model, _texts(joint))
    return pd.DataFrame({"likelihood": mixture.numpy(), "bound": bound.numpy()})


# ------------------------------------------------------------------------ steps and calls


class _Flat:
    """A model that knows nothing, for counting calls."""

    vocab_size = 2

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape, 2)


def count_calls(rows: int = 1000, length: int = 64) -> pd.DataFrame:
    """Return counted and expected network calls a text (claim c5a)."""
    records = []
    for name, schedule in (("log-linear", LogLinearSchedule()), ("cosine", CosineSchedule())):
        for steps in (16, 64, 256, 1024, 4096):
            result = sampling.sample(
                _Flat(), (rows, length), steps, schedule, generator=_key("calls", name, steps)
            )
            when = result.reveal_step.sort(dim=1).values
            each = 1 + (when[:, 1:] != when[:, :-1]).sum(1).double()
            if int(each.sum()) != result.rows_evaluated + rows - 1:
                raise AssertionError("the sampler's count is not that of its reveal steps")
            expected = sampling.expected_nfe(schedule, steps, length)
            records.append(
                {
                    "schedule": name,
                    "steps": steps,
                    "counted": float(each.mean()),
                    "stderr": float(each.std() / math.sqrt(rows)),
                    "expected": expected,
                }
            )
    table = pd.DataFrame(records)
    table["deviation"] = (table["counted"] - table["expected"]).abs() / table["stderr"]
    return table


def saved_calls(batch: int = 8, length: int = 64, steps: int = 256) -> dict[str, float]:
    """Return texts read and calls of three ways to sample (claims c5b and c5c)."""
    made = {
        cache: sampling.sample(
            _Flat(),
            (batch, length),
            steps,
            LogLinearSchedule(),
            cache=cache,
            generator=_key("saved"),
        )
        for cache in ("none", "rows", "rounds")
    }
    return {
        "rows_ratio": made["none"].rows_evaluated / made["rows"].rows_evaluated,
        "calls_ratio": made["rows"].forward_calls / made["rounds"].forward_calls,
        **{f"{cache} rows": r.rows_evaluated for cache, r in made.items()},
        **{f"{cache} calls": r.forward_calls for cache, r in made.items()},
    }


def same_law(draws: int = 30_000) -> pd.DataFrame:
    """Return chi-square tests of samplers against the exact N-step law (claim c7a)."""
    from scipy import stats

    joint = small_joint()
    model = joint.as_model()
    rows = []
    for name, schedule in (("log-linear", LogLinearSchedule()), ("cosine", CosineSchedule())):
        for steps in (2, 8):
            law = joint.sampler_law(unmask_probabilities(schedule, steps)).ravel()
            for cache in ("none", "rows", "rounds"):
                drawn = sampling.sample(
                    model,
                    (draws, 4),
                    steps,
                    schedule,
                    cache=cache,
                    generator=_key("law", name, steps, cache),
                ).tokens.numpy()
                index = np.ravel_multi_index(tuple(drawn.T), (3,) * 4)
                counts = np.bincount(index, minlength=81)
                big = law * draws > 5
                observed = np.append(counts[big], counts[~big].sum())
                expected = np.append(law[big], law[~big].sum()) * draws
                keep = expected > 0
                p = stats.chisquare(observed[keep], expected[keep]).pvalue
                rows.append({"schedule": name, "steps": steps, "cache": cache, "p": float(p)})
    return pd.DataFrame(rows)


def differing_tokens() -> int:
    """Return how many tokens differ between cached and uncached samplers (claim c7b)."""
    language = MarkovLanguage.example()
    made = [
        sampling.sample(
            language, (64, 16), 32, LogLinearSchedule(), cache=cache, generator=_key("same")
        ).tokens
        for cache in ("none", "rows", "rounds")
    ]
    return sum(int((made[0] != other).sum()) for other in made[1:])


def distance_table(
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096),
) -> pd.DataFrame:
    """Return the total variation between sampler and data law against N (claims c8a and c9b)."""
    joint = small_joint()
    rows = []
    for name, schedule in (("log-linear", LogLinearSchedule()), ("cosine", CosineSchedule())):
        for method in ("tweedie", "euler"):
            for n in steps:
                law = joint.sampler_law(unmask_probabilities(schedule, n, method))
                rows.append(
                    {
                        "schedule": name,
                        "method": method,
                        "steps": n,
                        "tv": total_variation(law, joint.probs),
                    }
                )
    return pd.DataFrame(rows)


def first_order(table: pd.DataFrame) -> float:
    """Return the deviation of N x TV from its limit, N = 32 to 1024 (claim c8a)."""
    part = table[(table["schedule"] == "log-linear") & (table["method"] == "tweedie")]
    scaled = part["steps"] * part["tv"]
    limit = float(scaled[part["steps"] == 4096].iloc[0])
    middle = scaled[(part["steps"] >= 32) & (part["steps"] <= 1024)]
    return float((middle / limit - 1).abs().max())


def method_gap(table: pd.DataFrame) -> float:
    """Return how much Euler and Tweedie differ for the cosine schedule at N = 4 (claim c9b)."""
    part = table[(table["schedule"] == "cosine") & (table["steps"] == 4)]
    return float(abs(part["tv"].iloc[0] - part["tv"].iloc[1]))


def reveal_difference() -> float:
    """Return the largest difference of Euler and Tweedie, log-linear schedule (claim c9a)."""
    worst = 0.0
    for steps in range(1, 257):
        both = [
            schedules.unmask_probabilities(LogLinearSchedule(), steps, m)
            for m in ("tweedie", "euler")
        ]
        worst = max(worst, float(np.abs(both[0] - both[1]).max()))
    return worst


def quality_against_steps(
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 256), texts: int = 10_000
) -> pd.DataFrame:
    """Return likelihood and diversity of text from the Markov language (claims c8b to c8d)."""
    language = MarkovLanguage.example()
    truth = language.sample(texts, 16, generator=_key("truth"))
    rows = [_quality(0, truth, language)]
    for n in steps:
        drawn = sampling.sample(
            language, (texts, 16), n, LogLinearSchedule(), generator=_key("quality", n)
        )
        rows.append(_quality(n, drawn.tokens, language))
    return pd.DataFrame(rows)


def _quality(steps: int, tokens: torch.Tensor, language: MarkovLanguage) -> dict[str, float]:
    nats = generative_nll(tokens, language)
    # a text that the language cannot produce has no finite likelihood: such are counted apart
    finite = np.isfinite(nats)
    return {
        "steps": steps,
        "nats": float(nats[finite].mean()),
        "stderr": float(nats[finite].std() / math.sqrt(finite.sum())),
        "impossible": float(1 - finite.mean()),
        "unigram": unigram_entropy(tokens.numpy()),
    }


def quality_interval(row: pd.Series, entropy: float) -> Interval:
    """Return generated minus true nats per token with its 95 % interval."""
    gap = float(row["nats"] - entropy)
    half = 1.96 * float(row["stderr"])
    return Interval(gap, gap - half, gap + half, 0.95, 10_000, "normal")


def estimator_spread(texts: int = 4000, seeds: int = 3) -> pd.DataFrame:
    """Return draws' standard deviations of four estimators, exact laws (claims c12a, c12b)."""
    language = MarkovLanguage.example()
    rows = []
    for s in range(seeds):
        x = language.sample(texts, 16, generator=_key("spread", s))
        schedule = LogLinearSchedule()
        made = {
            "any order": losses.any_order_loss(
                language, x, stratified=False, generator=_key("a", s)
            ),
            "integral over masks": losses.lambda_dce_loss(
                language, x, stratified=False, generator=_key("l", s)
            ),
            "integral over time": losses.t_dce_loss(
                language, x, schedule, stratified=False, generator=_key("t", s)
            ),
            "with the score": losses.t_dce_loss(
                language, x, schedule, ratio_form=True, stratified=False, generator=_key("t", s)
            ),
        }
        for name, each in made.items():
            per = each.double().numpy() / 16
            rows.append({"seed": s, "estimator": name, "mean": per.mean(), "std": per.std()})
    return pd.DataFrame(rows)


def best_number_of_masks(texts: int = 1000, seeds: int = 3) -> tuple[pd.DataFrame, Interval]:
    """Return the best law of the number of masks, and what it saves (claim c12c).

    With k drawn from a law q and the draw weighted by ``1 / (d q(k))``, the variance is least for
    q in proportion to the root of the second moment of the draws with k masks.

    Returns
    -------
    table : pandas.DataFrame
        ``masks``, ``share`` (the best law), ``mean`` and ``root`` of the second moment of the draws
        with so many masks (nats per token).
    ratio : Interval
        Standard deviation under the best law over that under the uniform law; resampled are texts.
    """
    language, d = MarkovLanguage.example(), 16
    x = language.sample(texts, d, generator=_key("masks"))
    draws = np.stack(
        [
            np.stack(
                [
                    losses.any_order_loss(
                        language, x, count=k, generator=_key("masks", k, s)
                    ).numpy()
                    for s in range(seeds)
                ]
            ).T
            / d
            for k in range(1, d + 1)
        ],
        axis=1,
    )  # (texts, d, seeds)

    def ratio(part: np.ndarray) -> float:
        second = (part**2).mean((0, 2))
        square = part.mean() ** 2
        return float(np.sqrt((np.sqrt(second).mean() ** 2 - square) / (second.mean() - square)))

    root = np.sqrt((draws**2).mean((0, 2)))
    table = pd.DataFrame(
        {
            "masks": range(1, d + 1),
            "share": root / root.sum(),
            "mean": draws.mean((0, 2)),
            "root": root,
        }
    )
    rng = profiles.rng("absorbing_diffusion", "masks")
    return table, claims.bootstrap(ratio, draws, method="percentile", n_draws=400, rng=rng)


ORDERS = {
    "random": "a random position",
    "entropy": "the surest position",
    "confidence": "the surest drawn token",
}
"""Rules by which one token at a time is revealed, and how tables call them."""


def quality_of_orders(texts: int = 10_000) -> pd.DataFrame:
    """Return likelihood and diversity of text revealed token by token (claims c17a, c17b)."""
    language = MarkovLanguage.example()
    rows = []
    for rule, name in ORDERS.items():
        g = _key("orders", rule)
        if rule == "random":
            made = sampling.ordered_sample(language, (texts, 16), generator=g)
        else:
            made = sampling.adaptive_sample(language, (texts, 16), rule, generator=g)
        rows.append({"rule": rule, "revealed first": name, **_quality(16, made.tokens, language)})
    return pd.DataFrame(rows)


def parallel_cost(steps: int, joint: TabularJoint | None = None) -> tuple[float, float]:
    """Return what revealing together can cost, and what it does cost (claim c13).

    Returns
    -------
    bound : float
        Expected sum over the steps of the total correlation, given the visible tokens, of the
        tokens that a step reveals; nats.
    divergence : float
        Kullback-Leibler divergence of the data law from the sampler's law, nats.
    """
    joint = small_joint() if joint is None else joint
    d = joint.length
    entropy = {}
    for size in range(d + 1):
        for chosen in itertools.combinations(range(d), size):
            rest = tuple(a for a in range(d) if a not in chosen)
            marginal = joint.probs.sum(rest) if rest else joint.probs
            p = np.asarray(marginal).ravel()
            entropy[frozenset(chosen)] = float(-(p[p > 0] * np.log(p[p > 0])).sum())
    bound = 0.0
    edge = np.arange(steps, -1, -1) / steps
    for start, end in itertools.pairwise(edge):
        share = (start - end) / start if start else 1.0
        for size in range(d + 1):
            for visible in itertools.combinations(range(d), size):
                seen = frozenset(visible)
                masked = [i for i in range(d) if i not in seen]
                here = start ** len(masked) * (1 - start) ** len(seen)
                for k in range(2, len(masked) + 1):
                    for group in itertools.combinations(masked, k):
                        chance = share**k * (1 - share) ** (len(masked) - k)
                        together = entropy[seen | set(group)] - entropy[seen]
                        apart = sum(entropy[seen | {i}] - entropy[seen] for i in group)
                        bound += here * chance * (apart - together)
    law = joint.sampler_law(unmask_probabilities(LogLinearSchedule(), steps))
    return bound, float((joint.probs * np.log(joint.probs / law)).sum())


def coarse_race(bits: int = 8, p: float | None = None, draws: int = 4_000_000) -> dict[str, float]:
    """Return how often a rare token wins a race of coarse random numbers (claim c14).

    A token of probability p gets the time ``-log(u) / p`` with u of so many bits, everything else
    together an exact exponential time of rate 1 - p; the earlier one wins.
    """
    p = 2.0**-bits if p is None else p
    generator = _key("race", bits, p)
    wins = 0
    for _ in range(8):
        n = draws // 8
        u = torch.randint(0, 2**bits, (n,), generator=generator).double() / 2**bits
        rival = torch.rand(n, generator=generator, dtype=torch.float64)
        wins += int((-torch.log(u) / p < -torch.log1p(-rival) / (1 - p)).sum())
    z = (1 - p) / (2**bits * p)
    predicted = p * z / math.expm1(z)
    return {"observed": wins / draws, "predicted": predicted, "asked": p}


# --------------------------------------------------------------------------- trained networks


@dataclass(frozen=True)
class Trained:
    """Networks of the three kinds after equal training, and how they did on the way."""

    networks: dict[str, Any]
    losses: dict[str, np.ndarray]
    bounds: dict[str, BoundEstimate]


def train_markov(
    steps: int = 300,
    batch: int = 128,
    length: int = 16,
    *,
    objective: str = "any_order",
    kinds: Sequence[str] = tuple(NETWORKS),
) -> Trained:
    """Train networks of these kinds on the Markov language, on the same texts (claim c10d)."""
    language = MarkovLanguage.example()
    seed = profiles.seeds(1, "absorbing_diffusion", "markov")[0] % 2**31
    test = language.sample(1000, length, generator=_key("markov", "test"))
    networks, curves, bounds = {}, {}, {}
    for kind in kinds:
        model = NETWORKS[kind](MARKOV, seed=seed)

        def step(i, _, kind=kind, model=model):
            g = torch.Generator().manual_seed(seed + 1000 * i)  # same texts and masks for all
            x = language.sample(batch, length, generator=g)
            return training_loss(kind, model, x, g, objective).mean() / length

        history = models.train(
            step, model.parameters(), n_steps=steps, learning_rate=4e-3, seed=seed
        )
        networks[kind] = model.eval()
        curves[kind] = history.losses
        estimator = "exact" if kind == "ar" else "any_order"
        bounds[kind] = nll_bound(
            model, test, estimator=estimator, repeats=4, generator=_key("markov", "masks")
        )
    bounds["exact law"] = nll_bound(language, test, generator=_key("markov", "masks"))
    return Trained(networks, curves, bounds)


def training_loss(
    kind: str,
    model: Any,
    x: torch.Tensor,
    generator: torch.Generator,
    objective: str = "any_order",
) -> torch.Tensor:
    """Return a kind's training loss in nats per text ``[batch]``."""
    if kind == "ar":
        return losses.autoregressive_loss(model, x)
    normalized = kind == "radd"
    if objective == "any_order":
        return losses.any_order_loss(model, x, normalized=normalized, generator=generator)
    if objective == "lambda_dce":
        return losses.lambda_dce_loss(model, x, normalized=normalized, generator=generator)
    if objective == "t_dce":
        return losses.t_dce_loss(model, x, LogLinearSchedule(1e-3), generator=generator)
    if objective == "dse":
        return losses.dse_loss(
            model, x, LogLinearSchedule(1e-3), normalized=normalized, generator=generator
        ).to(torch.float32)
    raise ValueError(f"unknown objective {objective!r}")


def twin_over_time(trained: Trained, texts: int = 400) -> Interval:
    """Return the KL divergence between the twin's answers at two times (claim c2b)."""
    language = MarkovLanguage.example()
    x = language.sample(texts, 16, generator=_key("twin"))
    masked = losses.mask_tokens(x, 8, prob=0.5, generator=_key("twin", "masks"))
    chosen = masked == 8
    chosen &= chosen.sum(1, keepdim=True) > 0
    model = trained.networks["time"]
    with torch.no_grad():
        laws = [
            model(masked, sigma=torch.full((texts,), -math.log1p(-level))).double().log_softmax(-1)
            for level in (0.2, 0.8)
        ]
    each = (laws[0].exp() * (laws[0] - laws[1])).sum(-1)
    keep = chosen.any(1)
    mean = (torch.where(chosen, each, 0.0).sum(1)[keep] / chosen.sum(1)[keep]).numpy()
    rng = profiles.rng("absorbing_diffusion", "twin")
    return claims.bootstrap(np.mean, mean, method="percentile", rng=rng)


def parameter_table() -> pd.DataFrame:
    """Return counted parameters and the closed form of what the time input costs (claim c11)."""
    rows = []
    for width, depth, heads in ((48, 2, 4), (96, 3, 4), (128, 4, 4)):
        config = TransformerConfig(1024, width, depth, heads)
        counted = {k: NETWORKS[k](config).parameter_count() for k in ("radd", "time")}
        rows.append(
            {
                "width": width,
                "blocks": depth,
                "RADD": counted["radd"],
                "told the time": counted["time"],
                "closed form": counted["radd"] + time_conditioning_parameters(config),
            }
        )
    return pd.DataFrame(rows)


def count_difference(table: pd.DataFrame) -> int:
    """Return the largest difference of counted and predicted parameters (claim c11a)."""
    return int((table["told the time"] - table["closed form"]).abs().max())


def share_saved(table: pd.DataFrame) -> float:
    """Return the smallest share of the twin's parameters that RADD does without (claim c11b)."""
    return float((1 - table["RADD"] / table["told the time"]).min())


# ------------------------------------------------------------------------------- text models


def load_text_models() -> dict[str, Any]:
    """Return the three networks that were trained on the King James Bible."""
    loaded = {}
    for kind in NETWORKS:
        tensors, record = models.load_checkpoint(data.path(f"absorbing_diffusion/kjv_{kind}"))
        model = NETWORKS[kind](TransformerConfig(**record["settings"]["config"]))
        model.load_state_dict(tensors)
        loaded[kind] = model.eval()
    return loaded


def text_bounds(
    networks: dict[str, Any], windows: TextWindows, *, repeats: int = 4, seed: int = 0
) -> dict[str, BoundEstimate]:
    """Return the bounds of the three networks on a text, on the same masks."""
    x = windows.tensor()
    return {
        kind: nll_bound(
            model,
            x,
            estimator="exact" if kind == "ar" else "any_order",
            repeats=repeats,
            characters_per_token=windows.characters_per_token,
            generator=torch.Generator().manual_seed(seed),
        )
        for kind, model in networks.items()
    }


def evaluate_texts(networks: dict[str, Any], *, repeats: int = 4) -> dict[str, Any]:
    """Return bounds on held-out books and five other texts (claims c10a, c10b, c10e)."""
    held_out = load_kjv()
    sets = {"bible": held_out, "bible without Mark": held_out.select(held_out.source != "Mark")}
    sets |= load_zero_shot_texts()
    rows, differences = [], {}
    for name, windows in sets.items():
        bounds = text_bounds(networks, windows, repeats=repeats)
        for kind, bound in bounds.items():
            rows.append(
                {
                    "text": name,
                    "kind": kind,
                    "nats": bound.nats_per_token,
                    "stderr": bound.stderr,
                    "bits_per_char": bound.bits_per_char,
                    "windows": len(windows),
                }
            )
        rows += [
            {"text": name, "kind": "unigram", "nats": unigram_nats(windows)},
            {"text": name, "kind": "bigram", "nats": bigram_nats(windows)},
        ]
        for a, b in (("radd", "time"), ("radd", "ar")):
            gap = paired_difference(bounds[a], bounds[b], rng=0)
            differences[f"{name}: {a} - {b}"] = {
                "estimate": float(gap.estimate),
                "low": float(gap.low),
                "high": float(gap.high),
                "windows": len(windows),
            }
        if name in ("bible", "bible without Mark"):
            continue
        differences.setdefault("samples", {})[name] = (
            bounds["radd"].per_sequence - bounds["time"].per_sequence
        ).tolist()
    samples = [np.asarray(v) for v in differences.pop("samples").values()]
    rng = np.random.default_rng(0)
    draws = np.array(
        [np.mean([rng.choice(s, len(s)).mean() for s in samples]) for _ in range(2000)]
    )
    differences["five texts: radd - time"] = {
        "estimate": float(np.mean([s.mean() for s in samples])),
        "low": float(np.quantile(draws, 0.025)),
        "high": float(np.quantile(draws, 0.975)),
        "windows": int(sum(len(s) for s in samples)),
    }
    return {"bounds": rows, "differences": differences}


def evaluate_infilling(networks: dict[str, Any], windows: int = 400, gap: int = 8) -> dict:
    """Return how well a gap is filled with both sides visible (claims c15a, c15b)."""
    held_out = load_kjv()
    x = held_out.tensor()[:: max(1, len(held_out) // windows)]
    middle = slice(28, 28 + gap)

    class Blind:
        """RADD with everything after the gap masked as well."""

        vocab_size = networks["radd"].config.vocab_size

        def __call__(self, y: torch.Tensor) -> torch.Tensor:
            y = y.clone()
            y[:, middle.stop :] = self.vocab_size
            return networks["radd"](y)

    made = {
        "both sides": infilling(
            networks["radd"], x, middle, orders=2, generator=torch.Generator().manual_seed(1)
        ),
        "left side only": infilling(
            Blind(), x, middle, orders=2, generator=torch.Generator().manual_seed(1)
        ),
        "left to right": infilling(networks["ar"], x, middle),
    }
    result: dict[str, Any] = {
        name: {
            "nats": float(m["nats"].mean()),
            "first_correct": float(m["first_correct"].mean()),
        }
        for name, m in made.items()
    }
    for name, other in (("suffix", "left side only"), ("against", "left to right")):
        each = made[other]["nats"] - made["both sides"]["nats"]
        gap_interval = claims.bootstrap(np.mean, each, method="percentile", rng=0)
        result[name] = {
            "estimate": float(gap_interval.estimate),
            "low": float(gap_interval.low),
            "high": float(gap_interval.high),
            "windows": len(each),
        }
    return result


def evaluate_samples(
    networks: dict[str, Any], steps: tuple[int, ...] = (1, 4, 16, 64, 256), texts: int = 64
) -> dict[str, Any]:
    """Return generated text: judge's likelihood, diversity, calls and CPU seconds (claim c16)."""
    import time

    from paperkit.absorbing_diffusion.text import decode

    rows, kept, examples = [], {}, {}  # examples: 24 texts for each number of steps
    for n in steps:
        for cache in ("rounds", "none"):
            if cache == "none" and n > 64:
                continue
            start = time.process_time()
            result = sampling.sample(
                networks["radd"],
                (texts, 64),
                n,
                LogLinearSchedule(),
                cache=cache,
                generator=torch.Generator().manual_seed(n),
            )
            seconds = time.process_time() - start
            nats = generative_nll(result.tokens, networks["ar"])
            rows.append(
                {
                    "steps": n,
                    "cache": cache,
                    "nats": float(nats.mean()),
                    "stderr": float(nats.std() / math.sqrt(texts)),
                    "unigram": unigram_entropy(result.tokens.numpy()),
                    "rows": result.rows_evaluated,
                    "calls": result.forward_calls,
                    "seconds": seconds,
                }
            )
            if cache == "rounds":
                kept[n] = nats
                examples[str(n)] = [decode(ids.numpy()) for ids in result.tokens[:24]]
    gap = claims.bootstrap(
        lambda a, b: float(np.mean(a) - np.mean(b)), kept[4], kept[64], method="percentile", rng=0
    )
    truth = generative_nll(load_kjv().tensor()[:400], networks["ar"])
    return {
        "rows": rows,
        "examples": examples,
        "true_text": float(truth.mean()),
        "gain": {
            "estimate": float(gap.estimate),
            "low": float(gap.low),
            "high": float(gap.high),
            "windows": texts,
        },
    }


def judge_independently(
    written: dict[str, Any],
    steps: tuple[int, ...] = (1, 4, 64, 256),
    *,
    model: Any = "smollm2-135m",
) -> dict[str, Any]:
    """Return what a network that never saw our training thinks of generated text (claim c16b).

    Each text is scored by its first token's continuation, in nats per character, so that texts and
    tokenizers compare.
    """
    judge = models.as_language_model(model)
    true = load_kjv()
    groups = {str(n): written["examples"][str(n)] for n in steps}
    from paperkit.absorbing_diffusion.text import decode

    groups["true text"] = [decode(ids) for ids in true.tokens[:: len(true) // 24][:24]]
    each = {}
    for name, texts in groups.items():
        nats = []
        for text in texts:
            ids = torch.tensor([judge.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                nats.append(-float(models.sequence_logprobs(judge.model, ids, [1])[0]) / len(text))
        each[name] = np.array(nats)
    gap = claims.bootstrap(
        lambda a, b: float(np.mean(a) - np.mean(b)),
        each["4"],
        each["64"],
        method="percentile",
        rng=0,
    )
    return {
        "judge": judge.label,
        "nats_per_character": {name: float(v.mean()) for name, v in each.items()},
        "stderr": {name: float(v.std(ddof=1) / math.sqrt(len(v))) for name, v in each.items()},
        "gain": {
            "estimate": float(gap.estimate),
            "low": float(gap.low),
            "high": float(gap.high),
            "windows": len(each["4"]),
        },
    }


def bound_table(stored: dict[str, Any]) -> pd.DataFrame:
    """Return nats per token of every network and of word statistics, one row a text."""
    rows = pd.DataFrame(stored["bounds"]).pivot(index="text", columns="kind", values="nats")
    order = [row["text"] for row in stored["bounds"] if row["kind"] == "radd"]
    names = {**KINDS, "unigram": "word frequencies", "bigram": "word pairs"}
    return rows.loc[order, list(names)].rename(columns=names)


def margin_to_word_pairs(stored: dict[str, Any]) -> float:
    """Return the smallest margin of the networks below word pairs, held-out books (claim c10f)."""
    row = bound_table(stored).loc["bible"].to_dict()
    return min(float(row["word pairs"] - row[name]) for name in KINDS.values())


def fill_gap(
    networks: dict[str, Any], window: int, gap: slice, texts: int = 3, steps: int = 64
) -> pd.Series:
    """Return the true tokens of a gap in a held-out text, and what RADD and AR write there.

    RADD sees both sides of the gap; the left-to-right network sees what comes before.
    """
    from paperkit.absorbing_diffusion.text import VOCABULARY, decode

    true = load_kjv().tensor()[window]
    prompt = true.clone()
    prompt[gap] = VOCABULARY
    made = sampling.sample(
        networks["radd"],
        (texts, len(true)),
        steps,
        LogLinearSchedule(),
        prompt=prompt,
        temperature=0.7,
        generator=_key("gap", window),
    ).tokens
    blind = prompt.expand(texts, -1).clone()
    blind[:, gap.start :] = 0
    generator = _key("gap", "ar", window)
    with torch.no_grad():
        for i in range(gap.start, gap.stop):
            law = (networks["ar"](blind)[:, i] / 0.7).softmax(-1)
            blind[:, i] = torch.multinomial(law, 1, generator=generator)[:, 0]
    lines = {"before": true[: gap.start], "true": true[gap], "after": true[gap.stop :]}
    shown = {name: decode(ids.numpy()).strip() for name, ids in lines.items()}
    for name, drawn in (("RADD", made), ("left to right", blind)):
        shown |= {f"{name} {k + 1}": decode(drawn[k, gap].numpy()).strip() for k in range(texts)}
    return pd.Series(shown)


def interval_of(entry: dict[str, Any]) -> Interval:
    """Return the interval that a stored result keeps as plain numbers."""
    return Interval(
        entry["estimate"], entry["low"], entry["high"], 0.95, entry["windows"], "bootstrap"
    )


def unigram_margin(stored: dict[str, Any]) -> Interval:
    """Return by how much RADD is below word frequencies on held-out books (claim c10b)."""
    rows = {(row["text"], row["kind"]): row for row in stored["bounds"]}
    radd = rows["bible", "radd"]
    gap = float(rows["bible", "unigram"]["nats"] - radd["nats"])
    half = 1.96 * float(radd["stderr"])
    return Interval(gap, gap - half, gap + half, 0.95, int(radd["windows"]), "normal")


def replicate_bound(networks: dict[str, Any], windows: int = 128) -> float:
    """Return RADD's bound on the first held-out windows with fixed masks (claim c10c)."""
    x = load_kjv().tensor()[:windows]
    return nll_bound(
        networks["radd"], x, repeats=1, generator=torch.Generator().manual_seed(3)
    ).nats_per_token


def stochastic_claims() -> dict[str, tuple[float, Interval | None]]:
    """Return the live claims that depend on ``PAPERKIT_SEED``, without those that train."""
    scores = true_scores()
    gap = jensen_gap()
    distances = distance_table((4, 32, 64, 128, 256, 512, 1024, 4096))
    made = quality_against_steps()
    saved = saved_calls()
    std = estimator_spread().pivot(index="seed", columns="estimator", values="std")
    bound, divergence = parallel_cost(8)
    race = coarse_race()
    orders = quality_of_orders().set_index("rule")
    entropy = MarkovLanguage.example().entropy_rate(16)
    last = quality_interval(made.iloc[-1], entropy)
    surest = {rule: quality_interval(orders.loc[rule], entropy) for rule in orders.index}
    return {
        "c1-factorisation": (largest_relative_error(scores), None),
        "c1b-only-absorbing": (change_under_uniform_noise(uniform_noise_ratios()), None),
        "c2a-time-free": (spread_over_time(scores), None),
        "c3a-three-integrals": (three_integrals(), None),
        "c3b-all-orders": (all_orders(), None),
        "c3c-estimators": (float(estimator_deviations().max()), None),
        "c4a-tight-bound": (bound_error(), None),
        "c4b-gap-of-a-bad-model": (float((gap["bound"] - gap["likelihood"]).min()), None),
        "c5a-expected-calls": (float(count_calls()["deviation"].max()), None),
        "c5b-fewer-calls": (saved["rows_ratio"], None),
        "c5c-rounds-need-few-calls": (saved["calls_ratio"], None),
        "c7a-same-law": (float(same_law()["p"].min()), None),
        "c7b-same-tokens": (differing_tokens(), None),
        "c8a-first-order": (first_order(distances), None),
        "c8b-more-steps-are-better": (
            float(made[made["steps"].between(1, 64)]["nats"].diff().max()),
            None,
        ),
        "c8c-reaches-the-entropy": (float(last.estimate), last),
        "c8d-diversity-stays": (
            float((made["unigram"] - made["unigram"].iloc[0]).abs().max()),
            None,
        ),
        "c9b-not-for-cosine": (method_gap(distances), None),
        "c12a-any-order-is-calmer": (
            float((std["any order"] / std["integral over masks"]).max()),
            None,
        ),
        "c12b-ratio-form-is-noisy": (
            float((std["with the score"] / std["integral over time"]).min()),
            None,
        ),
        "c13-parallel-costs-information": (bound - divergence, None),
        "c14-coarse-random-numbers": (race["observed"] / race["predicted"], None),
        "c17a-surest-position-first": (float(surest["entropy"].estimate), surest["entropy"]),
        "c17b-surest-token-first": (float(surest["confidence"].estimate), surest["confidence"]),
    }


def trained_claims() -> dict[str, tuple[float, Interval | None]]:
    """Return the live claim about networks trained on the Markov language."""
    trained = train_markov(kinds=("radd", "time"))
    pair = paired_difference(trained.bounds["radd"], trained.bounds["time"], rng=0)
    return {"c10d-known-answer": (float(pair.estimate), pair)}
