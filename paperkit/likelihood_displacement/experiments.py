"""What the chapter measures: one function per claim, settings in, numbers (and intervals) out.

Notebooks, the stored runs, mutation tests and the check over fresh seeds call these functions. Live randomness
comes from :func:`paperkit.profiles.rng`, so it follows ``PAPERKIT_SEED``; shipped worlds keep their seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize.elementwise import find_root
from scipy.special import log_softmax
from scipy.stats import rankdata

from paperkit import claims, data, models, profiles
from paperkit.claims import Interval
from paperkit.likelihood_displacement import features, pairs, rates, training
from paperkit.likelihood_displacement.pairs import TokenPair
from paperkit.likelihood_displacement.refusal_world import RefusalWorld

CHAPTER = "likelihood_displacement"


def mean_interval(values: Sequence[float] | np.ndarray, *key: str) -> Interval:
    """Mean of independent repetitions with a bootstrap interval."""
    return claims.bootstrap(np.mean, np.asarray(values, float), rng=profiles.rng(CHAPTER, *key))


# ------------------------------------------------------------------------ the model that can be solved


def random_features(
    rng: np.random.Generator, n_tokens: int = 7, d: int = 4, *, equal_norms: bool = False
) -> features.UnconstrainedFeatures:
    """Draw a softmax model with normal entries; ``equal_norms`` puts the unembeddings on a sphere."""
    W, h = rng.standard_normal((n_tokens, d)), rng.standard_normal(d)
    if equal_norms:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=1, keepdims=True)
    return features.UnconstrainedFeatures(W, h)


def _autograd_rates(model: features.UnconstrainedFeatures, a: int, b: int, train: str) -> Any:
    """Rates of all log-probabilities under the gradient flow of the margin, by automatic differentiation."""
    W = torch.tensor(model.W, requires_grad=train != "hidden")
    h = torch.tensor(model.h, requires_grad=train != "head")
    moving = [x for x in (W, h) if x.requires_grad]
    log_p = torch.log_softmax(W @ h, 0)
    direction = torch.autograd.grad(log_p[a] - log_p[b], moving, retain_graph=True)
    rows = []
    for z in range(len(log_p)):
        gradient = torch.autograd.grad(log_p[z], moving, retain_graph=True)
        rows.append(sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True)))
    return np.array(rows)


def single_token_error(n_models: int = 100) -> float:
    """Largest error of the single-token formula relative to the largest rate (claim a4a)."""
    rng = profiles.rng(CHAPTER, "single")
    worst = 0.0
    for i in range(n_models):
        model = random_features(rng)
        a, b = rng.choice(7, 2, replace=False)
        train = ("both", "head", "hidden")[i % 3]
        truth = _autograd_rates(model, a, b, train)
        formula = model.rates(a, b, train=train)  # type: ignore[arg-type]
        terms = sum(model.theorem1_terms(a, b).values()) - model.rates(a, b)[a]
        error = max(np.abs(formula - truth).max(), abs(terms))
        worst = max(worst, error / np.abs(truth).max())
    return worst


def multi_token_error(n_models: int = 30) -> float:
    """Largest error of the multi-token formula relative to the largest rate (claim a4b)."""
    rng = profiles.rng(CHAPTER, "multi")
    worst = 0.0
    for i in range(n_models):
        V, d = 6, 4
        shared = i % 4
        start = rng.integers(V, size=shared).tolist()
        first, second = rng.choice(V, 2, replace=False)
        chosen = (*start, int(first), *rng.integers(V, size=rng.integers(3)).tolist())
        rejected = (*start, int(second), *rng.integers(V, size=rng.integers(3)).tolist())
        prefixes = {y[:k] for y in (chosen, rejected) for k in range(len(y))}
        hidden = {prefix: rng.standard_normal(d) for prefix in sorted(prefixes)}
        model = features.MultiTokenFeatures(rng.standard_normal((V, d)), hidden)
        W = torch.tensor(model.W, requires_grad=True)
        free = {p: torch.tensor(h, requires_grad=True) for p, h in hidden.items()}
        moving = [W, *free.values()]

        def log_prob(y: Sequence[int], W: Any = W, free: Any = free) -> Any:
            return sum(torch.log_softmax(W @ free[tuple(y[:k])], 0)[t] for k, t in enumerate(y))

        def gradient(y: Sequence[int], moving: Any = moving, log_prob: Any = log_prob) -> Any:
            parts = torch.autograd.grad(log_prob(y), moving, allow_unused=True)
            return [
                torch.zeros_like(m) if g is None else g for g, m in zip(parts, moving, strict=True)
            ]

        plus, minus = gradient(chosen), gradient(rejected)
        truth = sum(float((p * (p - m)).sum()) for p, m in zip(plus, minus, strict=True))
        size = sum(float((p * p).sum()) for p in plus)
        worst = max(worst, abs(model.rate(chosen, rejected)["total"] - truth) / size)
    return worst


def closed_form_error(scales: Sequence[float] = (1.0, 2.0, 3.0)) -> float:
    """Largest difference of probabilities between closed form and solver, DPO (claim a4c)."""
    worst = 0.0
    for c in scales:
        model = features.canonical_instance()[0].rescaled(c)
        times = np.linspace(0, 60 / c, 61)
        log_p, margin = model.train_in_time(0, 1, times, loss="dpo", beta=0.1)
        worst = max(worst, np.abs(np.exp(log_p) - np.exp(at_margin(model, margin))).max())
    return worst


def at_margin(model: features.UnconstrainedFeatures, margin: np.ndarray) -> np.ndarray:
    """Log-probabilities of the closed-form path at given margins of token 0 over token 1, (M, V)."""
    margin = np.asarray(margin, dtype=float)
    low, high = np.zeros_like(margin), np.ones_like(margin)
    while (model.path(0, 1, high)[1] < margin).any():
        high *= 1.5
    # the margin rises with s
    found = find_root(lambda s, m: model.path(0, 1, s)[1] - m, (low, high), args=(margin,))
    return model.path(0, 1, found.x)[0]


def canonical_path(
    c: float = 2.0, *, train: str = "both", until: float = 3.0, points: int = 301
) -> pd.DataFrame:
    """Probabilities of the five tokens and the margin along the path, one row a time."""
    model, tokens = features.canonical_instance()
    s = np.linspace(0, until / c, points)
    log_p, margin = model.rescaled(c).path(0, 1, s, train=train)  # type: ignore[arg-type]
    table = pd.DataFrame(np.exp(log_p), columns=list(tokens))
    return table.assign(s=s, margin=margin)


def canonical_extremes(c: float = 2.0) -> dict[str, float]:
    """Smallest p(No), largest p(Yes), and whether the margin only rises (claims a1a, a2a)."""
    path = canonical_path(c, points=3001)
    rising = bool((path["margin"].diff().dropna() > 0).all())
    nothing = float("nan")  # a path whose margin falls does not count, and NaN never passes
    return {
        "smallest p(No)": float(path["No"].min()) if rising else nothing,
        "largest p(Yes)": float(path["Yes"].max()) if rising else nothing,
    }


#: Losses of the comparison with their inverse temperature and the time they are given.
VARIANTS: Mapping[str, tuple[float, float]] = {
    "dpo": (0.1, 60.0),
    "ipo": (0.02, 0.4),
    "hinge": (0.04, 60.0),
}


def variant_path(
    loss: str, *, c: float = 2.0, sft: float = 0.0, points: int = 401
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, log-probabilities (T, V) and margins of training the canonical instance in time."""
    beta, until = VARIANTS[loss]
    model = features.canonical_instance()[0].rescaled(c)
    times = until * np.linspace(0, 1, points) ** 2  # dense where the model moves fast
    log_p, margin = model.train_in_time(0, 1, times, loss=loss, beta=beta, sft=sft)  # type: ignore[arg-type]
    return times, log_p, margin


def variant_minimum(loss: str) -> float:
    """Smallest p(No) of a loss in time (claim a1c)."""
    return float(np.exp(variant_path(loss)[1][:, 0].min()))


def distance_from_path(loss: str, *, sft: float = 0.0) -> float:
    """Largest distance of p(No) from the closed form at equal margin (claims t2a, t2c)."""
    _, log_p, margin = variant_path(loss, sft=sft, points=201)
    model = features.canonical_instance()[0].rescaled(2.0)
    keep = margin < 40  # beyond, every probability but one is below 1e-15
    return float(
        np.abs(np.exp(log_p[keep, 0]) - np.exp(at_margin(model, margin[keep])[:, 0])).max()
    )


def similarity_correlation(n_models: int = 2000) -> Interval:
    """Spearman correlation of alignment and initial rate over random models (claim a4d)."""
    rng = profiles.rng(CHAPTER, "similarity")
    rows = []
    for _ in range(n_models):
        model = random_features(rng, 10, 8, equal_norms=True)
        cosine = model.W[0] @ model.W[1] / (model.W[0] @ model.W[0])
        rows.append((cosine, model.rates(0, 1)[0]))
    x, y = np.array(rows).T
    return claims.bootstrap(_spearman, x, y, method="percentile", n_draws=500, rng=rng)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of ranks, without the test that makes scipy's function slow on thousands of resamples."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def same_policy() -> tuple[float, float]:
    """Initial rates of ln p(No) at c = 1 and c = 2, whose policies are equal (claim a4e)."""
    one = features.canonical_instance()[0]
    two = one.rescaled(2.0)
    if np.abs(one.log_probs() - two.log_probs()).max() > 1e-12:
        return float("nan"), float("nan")
    return float(one.rates(0, 1)[0]), float(two.rates(0, 1)[0])


def identity_spread(times: Sequence[float] = (0.3, 1.0, 1.4)) -> float:
    """Spread over other tokens of what alignment with the movement of h does not explain (claim t1a)."""
    model = features.canonical_instance()[0].rescaled(2.0)
    W, h = model.flow(0, 1, times)
    worst = 0.0
    for k in range(len(times)):
        log_p = log_softmax(W[k] @ h[k])
        rest = log_p - model.log_probs() - model.W @ (h[k] - model.h)
        worst = max(worst, float(np.ptp(rest[2:])))
    return worst


def head_only_minimum(n_models: int = 200) -> float:
    """Smallest rate of the preferred token if only the unembeddings are trained (claim t3a)."""
    rng = profiles.rng(CHAPTER, "head")
    return min(
        float(_autograd_rates(random_features(rng), 0, 1, "head")[0]) for _ in range(n_models)
    )


# ---------------------------------------------------------------------- Yes, No, Never in SmolLM2

ANSWERS = (
    "Yes", "No", "Never", "Sure", "Maybe", "Perhaps",
    "Yeah", "Certainly", "Not", "True", "False", "Okay",
)  # fmt: skip
#: Preferences between near-synonyms, and controls.
CLOSE = (("Not", "No"), ("Perhaps", "Maybe"), ("Yes", "Yeah"))
CONTROLS = (("No", "Never"), ("Yes", "Sure"))
QUESTION = 'Is this a statement that you would make?\n"{}"'
#: Statements of the stored runs: the first six of either stance.
PROMPTS = (0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17)
RUN: dict[str, Any] = {
    "n_steps": 8,
    "first_step_margin": 0.6,
    "train": "blocks",
    "optimizer": "sgd",
}


@lru_cache(maxsize=1)
def smollm2() -> Any:
    """The chapter's language model, loaded once a process: SmolLM2-135M-Instruct with 4-bit weights."""
    return models.load_language_model("smollm2-135m")


def statement_prompt(tokenizer: Any, statement: int) -> tuple[int, ...]:
    """Token ids of the question about one of the shipped statements, with an empty system message."""
    text = data.table(f"{CHAPTER}/statements")["statement"][statement]
    return chat_ids(tokenizer, QUESTION.format(text))


def chat_ids(tokenizer: Any, user: str) -> tuple[int, ...]:
    """Token ids of a user's turn with an empty system message, ready for the answer."""
    chat = models.chat_prompt(tokenizer, user, system="")
    return tuple(tokenizer(chat, add_special_tokens=False)["input_ids"])


def answer_id(tokenizer: Any, answer: str) -> int:
    """Id of an answer that is one token.

    Raises
    ------
    ValueError
        The answer is several tokens.
    """
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{answer!r} is {len(ids)} tokens for this tokenizer, not one")
    return int(ids[0])


def rate_table(lm: Any, statement: int) -> pd.DataFrame:
    """Exact initial rates of all ordered pairs of answers at one prompt, one row a pair.

    Columns: ``statement``, ``chosen``, ``rejected``, ``p_chosen``, ``blocks`` and ``head`` (rate of the preferred
    log-probability, by what is trained), ``yes`` (rate of ln p(Yes), blocks).
    """
    prompt = statement_prompt(lm.tokenizer, statement)
    ids = [answer_id(lm.tokenizer, answer) for answer in ANSWERS]
    found = rates.token_rates(lm.model, prompt, ids)
    rows = []
    for i, chosen in enumerate(ANSWERS):
        for j, rejected in enumerate(ANSWERS):
            if i != j:
                rows.append(
                    {
                        "statement": statement,
                        "chosen": chosen,
                        "rejected": rejected,
                        "p_chosen": found["probabilities"][i],
                        "blocks": found["blocks"][i, j, i],
                        "head": found["head"][i, j, i],
                        "yes": found["blocks"][i, j, ANSWERS.index("Yes")],
                    }
                )
    return pd.DataFrame(rows)


def preference_run(
    lm: Any, statement: int, chosen: str, rejected: str, **settings: Any
) -> tuple[pd.DataFrame, training.TrainingTrace, float]:
    """Train one single-token preference; the trace, and how well alignment ranks the tokens' gains.

    Returns
    -------
    A DataFrame with one row a step (``gain``, ``log_chosen``, ``log_rejected`` and the probability of every answer),
    the trace, and the Spearman correlation over the vocabulary of the change of ln p with
    :math:`\\langle W_z, W_{y^+} - W_{y^-} \\rangle` (claim t1b).
    """
    prompt = statement_prompt(lm.tokenizer, statement)
    ids = {answer: answer_id(lm.tokenizer, answer) for answer in ANSWERS}
    pair = TokenPair(prompt, (ids[chosen],), (ids[rejected],))
    trace = training.train_preferences(
        lm.model, [pair], watch=list(ids.values()), **{**RUN, **settings}
    )
    answers = trace.tokens.rename(columns={str(i): answer for answer, i in ids.items()})
    table = trace.pairs.drop(columns="pair").merge(answers, on="step")
    before = np.log(training.first_token_probabilities(lm.model, prompt))
    after = np.log(training.first_token_probabilities(trace.model, prompt))
    W = lm.model.get_output_embeddings().weight.detach()
    aligned = (W @ (W[ids[chosen]] - W[ids[rejected]])).double().cpu().numpy()
    others = np.ones(len(aligned), dtype=bool)
    others[[ids[chosen], ids[rejected]]] = False
    table = table.assign(statement=statement, chosen=chosen, rejected=rejected)
    return table, trace, _spearman((after - before)[others], aligned[others])


def top_gains(lm: Any, trace: training.TrainingTrace, statement: int, n: int = 6) -> pd.DataFrame:
    """The tokens whose probability rose most, with before and after."""
    prompt = statement_prompt(lm.tokenizer, statement)
    before = training.first_token_probabilities(lm.model, prompt)
    after = training.first_token_probabilities(trace.model, prompt)
    best = np.argsort(before - after, kind="stable")[:n]
    return pd.DataFrame(
        {
            "token": [lm.tokenizer.decode([int(t)]).strip() for t in best],
            "before": before[best],
            "after": after[best],
        }
    )


def stored_rates() -> pd.DataFrame:
    """The stored rates of 12 prompts."""
    return data.stored(CHAPTER, "token_rates")


def stored_runs() -> pd.DataFrame:
    """The stored training runs, one row a prompt, pair and step."""
    return data.stored(CHAPTER, "preference_runs")


def _of_pair(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return table[(table["chosen"] == pair[0]) & (table["rejected"] == pair[1])]


def falling_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of prompts at which a pair's preferred answer starts by falling, with intervals (claim a1b)."""
    rows = []
    for pair in (*CLOSE, *CONTROLS):
        negative = _of_pair(table, pair)["blocks"] < 0
        interval = claims.wilson(int(negative.sum()), len(negative), level=0.95)
        rows.append(
            {
                "pair": " > ".join(pair),
                "falling": int(negative.sum()),
                "prompts": len(negative),
                "share": interval.estimate,
                "interval": interval,
            }
        )
    return pd.DataFrame(rows)


def falling_share(table: pd.DataFrame) -> Interval:
    """Share of all ordered pairs at all prompts that start by falling, whole prompts resampled (claim a1d)."""
    shares = (table["blocks"] < 0).groupby(table["statement"]).mean().to_numpy(float)
    return mean_interval(shares, "all pairs")


def smallest_control_rate(table: pd.DataFrame) -> float:
    """Smallest initial rate of the controls (claim a1b-controls)."""
    return float(min(_of_pair(table, pair)["blocks"].min() for pair in CONTROLS))


def smallest_yes_rate(table: pd.DataFrame) -> float:
    """Smallest initial rate of ln p(Yes) under No over Never (claim a2b-rate)."""
    return float(_of_pair(table, ("No", "Never"))["yes"].min())


def fell_while_margin_rose(runs: pd.DataFrame) -> pd.DataFrame:
    """Per run of a close pair: change of ln p of the preferred answer, and whether the margin rose throughout."""
    rows = []
    for (statement, chosen, rejected), run in runs.groupby(["statement", "chosen", "rejected"]):
        if (chosen, rejected) not in CLOSE:
            continue
        run = run.sort_values("step")
        change = float(run["log_chosen"].iloc[-1] - run["log_chosen"].iloc[0])
        rising = bool((run["gain"].diff().dropna() > 0).all())
        rows.append(
            {
                "statement": statement,
                "pair": f"{chosen} > {rejected}",
                "change": change,
                "margin gained": float(run["gain"].iloc[-1]),
                "displaced": change < 0 and rising,
            }
        )
    return pd.DataFrame(rows)


def yes_ratios(runs: pd.DataFrame) -> np.ndarray:
    """p(Yes) after over before, for every prompt of No over Never (claim a2b-ratio)."""
    table = _of_pair(runs, ("No", "Never")).sort_values("step")
    ends = table.groupby("statement")["Yes"].agg(["first", "last"])
    return (ends["last"] / ends["first"]).to_numpy()


def rates_difference(live: pd.DataFrame, stored: pd.DataFrame) -> float:
    """Largest difference of live and stored rates of a prompt over the largest rate (claim a1b-replicate-rates)."""
    keys = ["statement", "chosen", "rejected"]
    both = live.merge(stored, on=keys, suffixes=("", "_stored"))
    if len(both) != len(live):
        return float("nan")
    return float(
        (both["blocks"] - both["blocks_stored"]).abs().max() / both["blocks_stored"].abs().max()
    )


def run_difference(live: pd.DataFrame, stored: pd.DataFrame) -> float:
    """Largest difference of ln p of the preferred answer over the run's largest change (claim a1b-replicate-run)."""
    keys = ["statement", "chosen", "rejected", "step"]
    both = live.merge(stored, on=keys, suffixes=("", "_stored"))
    if len(both) != len(live):
        return float("nan")
    change = (both["log_chosen_stored"] - both["log_chosen_stored"].iloc[0]).abs().max()
    return float((both["log_chosen"] - both["log_chosen_stored"]).abs().max() / change)


def log_ratio_of_yes(run: pd.DataFrame) -> float:
    """ln of p(Yes) after over before of one run."""
    run = run.sort_values("step")
    return float(np.log(run["Yes"].iloc[-1] / run["Yes"].iloc[0]))


def curve_distance(runs: pd.DataFrame) -> float:
    """Largest distance of ln p of the preferred answer between losses at equal margin (claim t2b).

    ``runs`` has the columns ``loss``, ``gain`` and ``log_chosen``. Relative to the change of the DPO run.
    """
    base = runs[runs["loss"] == "dpo"]
    worst = 0.0
    for loss in ("ipo", "hinge"):
        other = runs[runs["loss"] == loss]
        inside = other["gain"] <= base["gain"].max()
        expected = np.interp(other["gain"][inside], base["gain"], base["log_chosen"])
        worst = max(worst, float(np.abs(other["log_chosen"][inside] - expected).max()))
    return worst / float(np.ptp(base["log_chosen"]))


def head_only_rates(lm: Any, statement: int) -> np.ndarray:
    """Rates of all preferred answers by autograd on the answers' rows of the head alone, (M, M) (claim t3b)."""
    prompt = statement_prompt(lm.tokenizer, statement)
    ids = torch.tensor([answer_id(lm.tokenizer, answer) for answer in ANSWERS])
    device = next(lm.model.parameters()).device
    with torch.no_grad():
        h = lm.model.base_model(
            input_ids=torch.tensor([list(prompt)], device=device), use_cache=False
        ).last_hidden_state[0, -1].double()  # fmt: skip
        W = lm.model.get_output_embeddings().weight
        logits = (W.double() @ h).detach()
    rows = W[ids].detach().double().requires_grad_(True)
    log_p = torch.log_softmax(logits.index_copy(0, ids.to(device), rows @ h), 0)[ids]
    out = np.full((len(ids), len(ids)), np.nan)
    gradients = [torch.autograd.grad(value, rows, retain_graph=True)[0] for value in log_p]
    for a in range(len(ids)):
        for b in range(len(ids)):
            if a != b:
                trained = [a, b]  # the margin depends on these two rows only
                step = (gradients[a] - gradients[b])[trained]
                out[a, b] = float((gradients[a][trained] * step).sum())
    return out


def unembedding_cosines(lm: Any, *, centred: bool) -> pd.DataFrame:
    """Cosines of the answers' unembeddings, raw or with the vocabulary's mean row taken out."""
    W = lm.model.get_output_embeddings().weight.detach().double()
    rows = W[[answer_id(lm.tokenizer, answer) for answer in ANSWERS]]
    if centred:
        rows = rows - W.mean(0)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return pd.DataFrame((rows @ rows.T).cpu().numpy(), index=ANSWERS, columns=ANSWERS)


# ------------------------------------------------------------------------------ CHES on SmolLM2


def authored_pairs(tokenizer: Any) -> list[TokenPair]:
    """The 24 shipped pairs as token ids, without an end token."""
    frame = data.table(f"{CHAPTER}/pairs").rename(columns={"a": "chosen", "b": "rejected"})
    return pairs.encode_pairs(tokenizer, frame, system="")


def both_orders(lm: Any, token_pairs: Sequence[TokenPair]) -> pd.DataFrame:
    """All measures and the exact relative rate of every pair in both orders; two rows a pair."""
    forward = pairs.score_pairs(lm.model, token_pairs)
    backward = pairs.score_pairs(lm.model, [pair.swapped() for pair in token_pairs])
    exact = rates.displacement_rates(lm.model, token_pairs, groups=("blocks",))
    swapped = 1 - exact["gpm"] / exact["gmm"]
    rows = [
        forward.assign(pair=range(len(token_pairs)), order="a > b", relative=exact["relative"]),
        backward.assign(pair=range(len(token_pairs)), order="b > a", relative=swapped),
    ]
    return pd.concat(rows, ignore_index=True)


def alignment_coefficients(lm: Any, token_pairs: Sequence[TokenPair] | None = None) -> np.ndarray:
    r"""All :math:`\alpha^{+-}_{kk'} = \langle g_k^+, g_{k'}^- \rangle` of the pairs, which CHES takes as 1; (n,).

    :math:`g_k = e_{y_k} - \pi(\cdot | x, y_{<k})`; the default is the authored pairs.
    """
    token_pairs = authored_pairs(lm.tokenizer) if token_pairs is None else token_pairs
    device = next(lm.model.parameters()).device
    found = []
    for pair in token_pairs:
        residuals = []
        for response in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *response[:-1]]], device=device)
            with torch.no_grad():
                logits = lm.model(input_ids=ids).logits[0, len(pair.prompt) - 1 :]
            residual = -torch.softmax(logits.float(), -1)
            residual[torch.arange(len(response)), torch.tensor(response)] += 1
            residuals.append(residual)
        found.append((residuals[0] @ residuals[1].T).flatten().cpu().numpy())
    return np.concatenate(found)


def rank_correlation(table: pd.DataFrame, measure: str) -> Interval:
    """Spearman correlation of a measure with minus the relative rate, whole pairs resampled (claims a5a, a5e)."""
    return claims.bootstrap(
        _spearman,
        table[measure].to_numpy(float),
        -table["relative"].to_numpy(float),
        groups=table["pair"].to_numpy(),
        method="percentile",
        rng=profiles.rng(CHAPTER, "ranks", measure),
    )


def rank_difference(table: pd.DataFrame, measure: str, other: str) -> Interval:
    """Difference of two such correlations on the same resampled pairs (claim a5b)."""

    def difference(x: np.ndarray, y: np.ndarray, rate: np.ndarray) -> float:
        return _spearman(x, -rate) - _spearman(y, -rate)

    return claims.bootstrap(
        difference,
        table[measure].to_numpy(float),
        table[other].to_numpy(float),
        table["relative"].to_numpy(float),
        groups=table["pair"].to_numpy(),
        method="percentile",
        rng=profiles.rng(CHAPTER, "difference", measure, other),
    )


def stored_scores(which: str = "authored") -> pd.DataFrame:
    """Stored measures and rates: ``"authored"`` or ``"on-policy"`` pairs."""
    table = data.stored(CHAPTER, "ches_table")
    return table[table["set"] == which].reset_index(drop=True)


def score_difference(live: pd.DataFrame, stored: pd.DataFrame) -> float:
    """Largest difference of live and stored ln-CHES, first order of every pair, over the largest (claim a5f)."""
    reference = stored.loc[stored["order"] == "a > b", "ln_ches"].to_numpy()
    if len(live) != len(reference):
        return float("nan")
    return float(np.abs(live["ln_ches"].to_numpy() - reference).max() / np.abs(reference).max())


def relative_rate_difference(
    lm: Any, stored: pd.DataFrame, which: Sequence[int] = (0, 9, 21)
) -> float:
    """Largest difference of live and stored relative rates of some pairs, both orders (claim a5g)."""
    everything = authored_pairs(lm.tokenizer)
    exact = rates.displacement_rates(lm.model, [everything[i] for i in which], groups=("blocks",))
    worst = 0.0
    for k, i in enumerate(which):
        rows = stored[stored["pair"] == i].set_index("order")["relative"]
        worst = max(
            worst,
            abs(exact["relative"][k] - rows["a > b"]),
            abs(1 - exact["gpm"][k] / exact["gmm"][k] - rows["b > a"]),
        )
    return float(worst)


def extreme_groups(
    table: pd.DataFrame, *, n_groups: int = 3, size: int = 3
) -> dict[str, list[list[tuple[int, str]]]]:
    """Disjoint groups out of the pairs with the lowest and the highest ln-CHES.

    Of every pair the order with the higher ln-CHES is taken. The ``n_groups * size`` lowest are dealt out in turn to
    the groups, and so are the highest. An entry is (pair, order).
    """
    best = table.loc[table.groupby("pair")["ln_ches"].idxmax()].sort_values("ln_ches")
    entries = list(zip(best["pair"].astype(int), best["order"], strict=True))
    n = n_groups * size
    if 2 * n > len(entries):
        raise ValueError(f"{n_groups} groups of {size} at either end need {2 * n} pairs")
    low, high = entries[:n], entries[-n:]
    return {
        "lowest": [low[g::n_groups] for g in range(n_groups)],
        "highest": [high[g::n_groups] for g in range(n_groups)],
    }


def group_run(
    lm: Any,
    entries: Sequence[tuple[int, str]],
    *,
    n_steps: int = 12,
    first_step_margin: float = 1.0,
) -> pd.DataFrame:
    """Train on one group of pairs, all of them at every step; one row a step and pair."""
    everything = authored_pairs(lm.tokenizer)
    group = [everything[i] if order == "a > b" else everything[i].swapped() for i, order in entries]
    trace = training.train_preferences(
        lm.model, group, n_steps=n_steps, first_step_margin=first_step_margin, train="blocks"
    )
    table = trace.pairs.copy()
    table["pair"] = [entries[i][0] for i in table["pair"]]
    return table


def change_at_margin(runs: pd.DataFrame, margin: float = 8.0) -> dict[str, float]:
    """Mean change of ln pi(y+) where a group's mean margin has grown by ``margin``, by kind of group (claim a5d)."""
    out: dict[str, list[float]] = {}
    for (kind, _), run in runs.groupby(["kind", "group"]):
        mean = run.groupby("step")[["gain", "log_chosen"]].mean()
        change = mean["log_chosen"] - mean["log_chosen"].iloc[0]
        reached = mean["gain"].max() >= margin
        value = np.interp(margin, mean["gain"], change) if reached else float("nan")
        out.setdefault(str(kind), []).append(float(value))
    return {kind: float(np.mean(values)) for kind, values in out.items()}


# ------------------------------------------------------------------------------- the refusal world

TRAINING: dict[str, Any] = {
    "loss": "dpo",
    "beta": 0.1,
    "n_steps": 40,
    "batch_size": 32,
    "optimizer": "rmsprop",
    "learning_rate": 1e-4,
    "train": "all",
}
SFT_WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3)
SHIPPED_WORLDS = (0,)
#: Arms that the notebook trains again.
LIVE_ARMS = ("both-refuse", "85/15", "lowest tenth", "random tenth")


def shipped_world(seed: int) -> RefusalWorld:
    """A pretrained world that comes with the book.

    Raises
    ------
    ValueError
        Another seed.
    """
    if seed not in SHIPPED_WORLDS:
        raise ValueError(f"seed must be one of {SHIPPED_WORLDS}, got {seed}")
    return RefusalWorld.load(Path(data.path(f"{CHAPTER}/world_{seed}")))


def mixed_set(
    table: pd.DataFrame, rng: np.random.Generator, *, mixed_share: float = 0.15
) -> np.ndarray:
    """Row positions of all both-refuse pairs and of as many mixed ones as make the wanted share."""
    refuse = np.flatnonzero(table["category"] == "both-refuse")
    mixed = np.flatnonzero(table["category"] == "mixed")
    wanted = round(len(refuse) * mixed_share / (1 - mixed_share))
    kept = rng.choice(mixed, min(wanted, len(mixed)), replace=False)
    return np.sort(np.concatenate([refuse, kept]))


def world_sets(world: RefusalWorld, seed: int) -> dict[str, list[TokenPair]]:
    """The training sets of all arms of one world; the keys are the arms' names."""
    found, table = world.preference_pairs(judge="soft", seed=seed)
    rng = np.random.default_rng([seed, 3])
    rows = mixed_set(table, rng)
    chosen = [found[i] for i in rows]
    scores = pairs.score_pairs(world.model, chosen, batch_size=128)
    n_tenth = len(pairs.filter_pairs(scores, keep=0.1))

    def of(positions: np.ndarray) -> list[TokenPair]:
        return [chosen[i] for i in positions]

    def refusals(judge: str) -> list[TokenPair]:
        other, kinds = world.preference_pairs(judge=judge, seed=seed)
        return [other[i] for i in np.flatnonzero(kinds["category"] == "both-refuse")]

    sets = {
        "both-refuse": refusals("soft"),
        "both-refuse, random ties": refusals("random"),
        "both-refuse, inverted judge": refusals("hard"),
        "85/15": chosen,
        "lowest tenth": of(pairs.filter_pairs(scores, keep=0.1)),
        "random tenth": of(rng.choice(len(chosen), n_tenth, replace=False)),
        "highest half": of(pairs.filter_pairs(scores, keep=0.5, which="highest")),
        "gold": [found[i] for i in np.flatnonzero(table["category"] == "mixed")],
    }
    for measure in pairs.MEASURES:
        top = pairs.filter_pairs(scores, keep=1 / 3, by=measure, which="highest")
        sets[f"highest third by {measure}"] = of(top)
    return sets


def train_world(
    world: RefusalWorld, token_pairs: Sequence[TokenPair], *, seed: int, sft: float = 0.0
) -> dict[str, float]:
    """Train on a set; exact masses on held-out topics, and the mean change of ln pi(y+) on the set."""
    trace = training.train_preferences(
        world.model, token_pairs, sft=sft, seed=seed, record_every=TRAINING["n_steps"], **TRAINING
    )
    mass = world.kind_mass(trace.model)
    return {
        **mass,
        "change": float(trace.change()["log_chosen"].mean()),
        "n_pairs": len(token_pairs),
    }


def world_arms(
    world: RefusalWorld, seed: int, arms: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Train the named arms (default: all, and the sweep of cross-entropy weights); one record an arm."""
    sets = world_sets(world, seed)
    start = world.kind_mass()
    records: list[dict[str, Any]] = [
        {"seed": seed, "arm": "before", **start, "change": 0.0, "n_pairs": 0}
    ]
    jobs = [(arm, arm, 0.0) for arm in (sets if arms is None else arms)]
    if arms is None:
        jobs += [(f"85/15 + {weight:g} SFT", "85/15", weight) for weight in SFT_WEIGHTS]
    for name, key, weight in jobs:
        result = train_world(world, sets[key], seed=seed, sft=weight)
        records.append({"seed": seed, "arm": name, **result})
    return records


def mass_trace(
    world: RefusalWorld, token_pairs: Sequence[TokenPair], *, seed: int, every: int = 4
) -> pd.DataFrame:
    """Masses of the kinds on held-out topics and the mean preferred log-probability, along the training."""
    rows: list[dict[str, float]] = []

    def note(step: int, model: Any) -> None:
        rows.append({"step": step, **world.kind_mass(model)})

    trace = training.train_preferences(
        world.model, token_pairs, seed=seed, record_every=every, callback=note, **TRAINING
    )
    return pd.DataFrame(rows).merge(trace.mean().reset_index(), on="step")


def judge_map(
    world: RefusalWorld,
    seed: int,
    *,
    mixed_shares: Sequence[float] = (0.0, 0.15, 0.5),
    consistencies: Sequence[float] = (0.0, 0.5, 1.0),
) -> list[dict[str, float]]:
    """Compliance after training by share of mixed pairs and by how consistently the judge prefers softer refusals."""
    soft, table = world.preference_pairs(judge="soft", seed=seed)
    coin, _ = world.preference_pairs(judge="random", seed=seed)
    if len(coin) != len(soft):
        raise RuntimeError("two judges of one set of samples must keep the same pairs")
    records = []
    for share in mixed_shares:
        rows = mixed_set(table, np.random.default_rng([seed, 3]), mixed_share=share)
        draw = np.random.default_rng([seed, 4]).random(len(soft))
        for consistency in consistencies:
            chosen = [soft[i] if draw[i] < consistency else coin[i] for i in rows]
            result = train_world(world, chosen, seed=seed)
            records.append({"seed": seed, "mixed": share, "consistency": consistency, **result})
    return records


def filter_curve(
    world: RefusalWorld,
    seed: int,
    *,
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0),
) -> list[dict[str, Any]]:
    """Masses after training on the lowest share of the 85/15 set by ln-CHES, and what that share consists of."""
    found, table = world.preference_pairs(judge="soft", seed=seed)
    rows = mixed_set(table, np.random.default_rng([seed, 3]))
    scores = pairs.score_pairs(world.model, [found[i] for i in rows], batch_size=128)
    records: list[dict[str, Any]] = []
    for share in shares:
        kept = pairs.filter_pairs(scores, keep=share)
        result = train_world(world, [found[rows[i]] for i in kept], seed=seed)
        clear = float((table["category"].to_numpy()[rows[kept]] == "mixed").mean())
        threshold = float(scores["ln_ches"].iloc[kept].max())
        entry = {"seed": seed, "share": share, "clear": clear, "threshold": threshold}
        records.append({**entry, **result})
    return records


def train_fifths(world: RefusalWorld, seed: int) -> list[dict[str, Any]]:
    """Train on each fifth of the 85/15 set by ln-CHES, the lowest first; one record a fifth."""
    found, table = world.preference_pairs(judge="soft", seed=seed)
    rows = mixed_set(table, np.random.default_rng([seed, 3]))
    scores = pairs.score_pairs(world.model, [found[i] for i in rows])["ln_ches"].to_numpy()
    records = []
    for fifth, kept in enumerate(np.array_split(np.argsort(scores, kind="stable"), 5), 1):
        result = train_world(world, [found[rows[i]] for i in kept], seed=seed)
        ches = float(scores[kept].mean())
        records.append({"seed": seed, "fifth": fifth, "ln_ches": ches, **result})
    return records


def fifths_correlation(table: pd.DataFrame) -> Interval:
    """Rank correlation of ln-CHES and change of ln pi(y+) over the fifths, mean of the worlds (claim a5i)."""
    values = [
        _spearman(rows["ln_ches"].to_numpy(float), rows["change"].to_numpy(float))
        for _, rows in table.groupby("seed")
    ]
    rng = profiles.rng(CHAPTER, "fifths")
    return claims.bootstrap(np.mean, np.array(values), method="percentile", rng=rng)


def similarity_by_kind(world: RefusalWorld, seed: int) -> pd.DataFrame:
    """ln-CHES of all pairs of a world with their category."""
    found, table = world.preference_pairs(judge="soft", seed=seed)
    return table.assign(ln_ches=pairs.score_pairs(world.model, found, batch_size=128)["ln_ches"])


def stored_worlds() -> pd.DataFrame:
    """The stored arms of all worlds."""
    return data.stored(CHAPTER, "refusal_world")


def arm(table: pd.DataFrame, name: str, column: str = "comply") -> np.ndarray:
    """Values of an arm, ordered by seed."""
    rows = table[table["arm"] == name].sort_values("seed")
    if rows.empty:
        raise KeyError(f"no arm {name!r}; there are {', '.join(sorted(table['arm'].unique()))}")
    return rows[column].to_numpy(float)


def difference(table: pd.DataFrame, first: str, second: str, column: str = "comply") -> Interval:
    """Paired difference of two arms over the worlds."""
    gap = arm(table, first, column) - arm(table, second, column)
    return mean_interval(gap, first, second, column)


def ratio_of_means(table: pd.DataFrame, first: str, second: str) -> Interval:
    """Compliance of one arm over another's, ratio of means over the worlds (claim a3b)."""

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        return float(x.mean() / y.mean())

    return claims.bootstrap(
        ratio,
        arm(table, first),
        arm(table, second),
        method="percentile",
        rng=profiles.rng(CHAPTER, "ratio"),
    )


def best_sft(table: pd.DataFrame) -> str:
    """The arm with a cross-entropy term that refuses most on average (claim a6d)."""
    names = [f"85/15 + {weight:g} SFT" for weight in SFT_WEIGHTS]
    return max(names, key=lambda name: arm(table, name, "refuse").mean())


def sft_compliance_gap(table: pd.DataFrame) -> Interval:
    """Compliance of the lowest tenth minus that of the best cross-entropy weight, world 0 left out (claim a6h)."""
    others = table[table["seed"] != 0]
    return difference(others, "lowest tenth", best_sft(table))


def world_claims(table: pd.DataFrame) -> dict[str, Interval]:
    """Every claim about the stored worlds: id to value with its interval over the worlds."""
    best = best_sft(table)
    rises = {
        "a3a-unalignment": "both-refuse",
        "a3c-inverted-judge": "both-refuse, inverted judge",
        "a3d-mixed-set": "85/15",
        "a3e-gold": "gold",
    }
    refusals = {"a6a-low-keeps": "before", "a6b-low-beats-all": "85/15",
                "a6c-low-beats-random": "random tenth", "a6d-beats-sft": best}  # fmt: skip
    return {
        **{id: difference(table, arm, "before") for id, arm in rises.items()},
        "a3b-random-ties": ratio_of_means(table, "both-refuse, random ties", "both-refuse"),
        "a5c-refusal-world": difference(
            table, "highest third by ches", "highest third by neg_edit_distance", "change"
        ),
        **{id: difference(table, "lowest tenth", arm, "refuse") for id, arm in refusals.items()},
        "a6e-high-hurts": difference(table, "highest half", "85/15"),
        "a6h-sft-complies": sft_compliance_gap(table),
    }


def fresh_world() -> tuple[RefusalWorld, list[dict[str, Any]]]:
    """A world made here and now, and three of its arms (claims a3g, a6f)."""
    seed = profiles.seeds(1, CHAPTER, "world")[0] % 2**31
    world = RefusalWorld.pretrain(seed=seed)
    return world, world_arms(world, seed, ("both-refuse", "lowest tenth"))


def rise(records: Sequence[Mapping[str, Any]], name: str, column: str = "comply") -> float:
    """Change of a mass from before to after an arm, out of one world's records."""
    by_arm = {record["arm"]: record for record in records}
    return float(by_arm[name][column] - by_arm["before"][column])


def replicate_difference(
    stored: pd.DataFrame,
    seeds: Sequence[int] = (0,),
    arms: Sequence[str] = LIVE_ARMS,
) -> tuple[float, pd.DataFrame]:
    """Largest difference between live and stored compliance, and the live records (claim a3f)."""
    live = pd.DataFrame(
        [record for seed in seeds for record in world_arms(shipped_world(seed), seed, arms)]
    )
    both = live.merge(stored, on=["seed", "arm"], suffixes=("", "_stored"))
    if len(both) != len(live):
        return float("nan"), live
    return float((both["comply"] - both["comply_stored"]).abs().max()), live


# --------------------------------------------------------------------------- over fresh seeds


def stochastic_claims() -> dict[str, tuple[float, Interval | None]]:
    """Every live claim that depends on ``PAPERKIT_SEED``, measured: id to value and interval."""
    similarity = similarity_correlation()
    _, records = fresh_world()
    return {
        "a4a-rates": (single_token_error(), None),
        "a4b-multi-token": (multi_token_error(), None),
        "a4d-similarity": (similarity.estimate, similarity),
        "t3a-head-only": (head_only_minimum(), None),
        "a3g-fresh-world": (rise(records, "both-refuse"), None),
        "a6f-fresh-world": (rise(records, "lowest tenth"), None),
    }
