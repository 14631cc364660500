"""The measurements behind the chapter's claims: settings in, numbers with intervals out.

Notebooks, mutation tests and runs over fresh seeds call the same functions. A function that draws
takes a numpy generator; the draws come back as arrays (S replicates, P settings), from which the
small functions at the top make one number and its `paperkit.claims.Interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperkit.claims import Interval, bootstrap, loglog_slope
from paperkit.unsupervised_pretraining import (
    contrastive,
    counterexamples,
    factor,
    mixture,
    real,
    theory,
)
from paperkit.unsupervised_pretraining._validate import FloatArray
from paperkit.unsupervised_pretraining.factor import FactorTask

N_BOOT = 1000


# ------------------------------------------------------------------------- from draws to one number


def slope(x: Any, draws: FloatArray, rng: np.random.Generator) -> Interval:
    """Log-log slope of the mean over draws (S, P) on x (P,)."""
    return loglog_slope(x, draws, n_draws=N_BOOT, rng=rng)


def mean_interval(values: FloatArray, rng: np.random.Generator) -> Interval:
    """Mean of values (S,) with its bootstrap interval."""
    return bootstrap(np.mean, values, n_draws=N_BOOT, method="percentile", rng=rng)


def paired_difference(first: Any, second: Any, rng: np.random.Generator) -> Interval:
    """Mean difference of paired values (S,), first minus second."""
    return mean_interval(np.asarray(first, float) - np.asarray(second, float), rng)


def ratio_of_means(
    first: FloatArray, second: FloatArray, rng: np.random.Generator, *, scale: float = 1.0
) -> Interval:
    """Mean of ``first`` (S,) over mean of ``second`` (S,), over ``scale``; draws are paired."""
    return bootstrap(
        lambda a, b: a.mean() / b.mean() / scale,
        first,
        second,
        n_draws=N_BOOT,
        method="percentile",
        rng=rng,
    )


def worst_deviation(draws: FloatArray, law: Any, rng: np.random.Generator) -> Interval:
    """Relative deviation of the mean over draws (S, P) from the law (P,) where it is largest."""
    relative = draws / np.asarray(law)
    worst = int(np.abs(relative.mean(axis=0) - 1).argmax())
    return bootstrap(
        lambda column: abs(column.mean() - 1),
        relative[:, worst],
        n_draws=N_BOOT,
        method="percentile",
        rng=rng,
    )


def farthest(intervals: Sequence[Interval], target: float) -> Interval:
    """The interval whose estimate lies farthest from the target: the one that must pass."""
    return max(intervals, key=lambda found: abs(found.estimate - target))


def value_range(values: Any, what: str) -> Interval:
    """Mean of a few values, with their smallest and largest as ends (a range, not a sampling error)."""
    numbers = np.asarray(values, float)
    return Interval(
        float(numbers.mean()),
        float(numbers.min()),
        float(numbers.max()),
        1.0,
        len(numbers),
        f"range over {what}",
    )


# ----------------------------------------------------------------------------------- factor models


def base_task(dimension: int = 40) -> FactorTask:
    """Task F of the chapter: lambda^2 = (4, 3, 2, 1), beta = (.5, .5, .5, .5), eps^2 = .25."""
    return FactorTask.diagonal([4, 3, 2, 1], [0.5] * 4, dimension=dimension, noise_variance=0.25)


def chain(
    task: FactorTask, m_values: Sequence[int], n_draws: int, rng: np.random.Generator
) -> dict[str, FloatArray]:
    """Terms of the proof's chain for maximum-likelihood fits: name to draws (n_draws, len(m_values)).

    The loss is capped at L = 4 tau^2.
    """
    clip = 4 * task.squared_bayes_risk
    columns = []
    for m in m_values:
        moments = factor.sample_second_moments(task.covariance, m, n_draws, rng)
        loadings = factor.fit_ppca(moments, task.n_factors)
        columns.append(theory.bound_chain(task, loadings, clip))
    return {key: np.stack([column[key] for column in columns], axis=1) for key in columns[0]}


def chain_order(terms: dict[str, FloatArray]) -> Interval:
    """Smallest ratio of a term to the one before it (>= 1: the order holds); range over draws."""
    names = ("excess", "law_xy", "law_xz", "law_x")
    ratios = np.stack([terms[b] / terms[a] for a, b in pairwise(names)])
    smallest = ratios.min(axis=(0, 2))  # worst link and worst m of each draw
    return Interval(
        float(smallest.min()),
        float(smallest.min()),
        float(smallest.max()),
        1.0,
        ratios.shape[1],
        "smallest and largest over draws",
    )


def hellinger_deviation(
    task: FactorTask, terms: dict[str, FloatArray], m_values: Any, rng: np.random.Generator
) -> Interval:
    """Largest relative deviation of the root mean square distance of the laws of x from sqrt(p/8m)."""
    p = theory.free_parameters(task.dimension, task.n_factors)
    squared = terms["hellinger_x"] ** 2 / (p / (8 * np.asarray(m_values)))
    worst = int(np.abs(np.sqrt(squared.mean(axis=0)) - 1).argmax())
    return bootstrap(
        lambda column: abs(np.sqrt(column.mean()) - 1),
        squared[:, worst],
        n_draws=N_BOOT,
        method="percentile",
        rng=rng,
    )


def kappa_ratio(task: FactorTask, terms: dict[str, FloatArray], m_values: Any) -> Interval:
    """Largest joint-to-marginal distance ratio over kappa_H, m >= 1e4; range over draws."""
    kept = np.asarray(m_values) >= 10_000
    ratio = terms["hellinger_xz"][:, kept] / terms["hellinger_x"][:, kept]
    ratio = (ratio / theory.local_kappa(task.loadings)).ravel()
    top = float(ratio.max())
    return Interval(top, float(ratio.min()), top, 1.0, len(ratio), "smallest to largest over draws")


def pretraining_term(
    task: FactorTask, m_values: Sequence[int], n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess at n = infinity, draws (n_draws, len(m_values))."""
    columns = [
        factor.representation_excess(task, factor.pretraining_draws(task, m, n_draws, rng))
        for m in m_values
    ]
    return np.stack(columns, axis=1)


def head_term(
    task: FactorTask, n_values: Sequence[int], n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess at m = infinity (the true subspace), draws (n_draws, len(n_values))."""
    truth = np.broadcast_to(
        np.linalg.qr(task.loadings)[0], (n_draws, task.dimension, task.n_factors)
    )
    columns = [
        factor.downstream_excess(task, n, n_draws, rng, methods=("pretrained",), subspaces=truth)[
            "pretrained"
        ]
        for n in n_values
    ]
    return np.stack(columns, axis=1)


def both_terms(
    task: FactorTask,
    m_values: Sequence[int],
    n_values: Sequence[int],
    n_draws: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Excess of both phases, draws (n_draws, len(m_values), len(n_values))."""
    result = np.empty((n_draws, len(m_values), len(n_values)))
    for i, m in enumerate(m_values):
        for j, n in enumerate(n_values):
            subspaces = factor.pretraining_draws(task, m, n_draws, rng)
            result[:, i, j] = factor.downstream_excess(
                task, n, n_draws, rng, methods=("pretrained",), subspaces=subspaces
            )["pretrained"]
    return result


def against_baselines(
    task: FactorTask, m: int, n_values: Sequence[int], n_draws: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Excess of pretraining and every baseline on shared labelled samples: n, method, draw, excess."""
    frames = []
    for n in n_values:
        methods = [k for k in factor.METHODS if k != "ols" or n > task.dimension + 1]
        subspaces = factor.pretraining_draws(task, m, n_draws, rng)
        excess = factor.downstream_excess(
            task, n, n_draws, rng, methods=methods, subspaces=subspaces
        )
        frames += [
            pd.DataFrame({"n": n, "method": k, "draw": np.arange(n_draws), "excess": v})
            for k, v in excess.items()
        ]
    return pd.concat(frames, ignore_index=True)


def smallest_gain(frame: pd.DataFrame, rng: np.random.Generator) -> Interval:
    """Smallest ratio of a baseline's to the pretrained mean excess over n and baselines."""
    table = frame.pivot_table(index=["n", "draw"], columns="method", values="excess")
    ratios = []
    for _, block in table.groupby(level="n"):
        for method in block.columns.drop("pretrained"):
            if block[method].notna().all():
                ratios.append((block[method].to_numpy(), block["pretrained"].to_numpy()))
    baseline, own = min(ratios, key=lambda pair: pair[0].mean() / pair[1].mean())
    return ratio_of_means(baseline, own, rng)


def advantage_without_gap(n_draws: int, rng: np.random.Generator) -> Interval:
    """Least-squares over pretrained mean excess for d = r + 1 = 5, n = 1000, m = 1e5."""
    task = base_task(dimension=5)
    frame = against_baselines(task, 100_000, [1000], n_draws, rng)
    parts = {k: frame.loc[frame.method == k, "excess"].to_numpy() for k in ("ols", "pretrained")}
    return ratio_of_means(parts["ols"], parts["pretrained"], rng)


CROSSOVER_SPECTRA = ((4.0, 3.0, 2.0, 1.0), (3.0, 2.0, 1.0, 0.5), (1.0,) * 4, (2.0, 1.0, 0.5, 0.5))


def measured_crossover(
    task: FactorTask, n: int, n_draws: int, rng: np.random.Generator
) -> Interval:
    """m at which the simulated mean excess of pretraining equals that of least squares.

    Five sizes around the prediction share the labelled samples; the curve is interpolated in logs.
    """
    predicted = float(task.crossover(n))
    sizes = np.unique(np.round(predicted * np.array([0.5, 0.75, 1.1, 1.6, 2.4])).astype(int))
    seed = int(rng.integers(2**31))
    curves = []
    for m in sizes:
        subspaces = factor.pretraining_draws(task, int(m), n_draws, rng)
        shared = np.random.default_rng(seed)
        excess = factor.downstream_excess(
            task, n, n_draws, shared, methods=("pretrained", "ols"), subspaces=subspaces
        )
        curves.append(excess["pretrained"])
    draws = np.stack([*curves, excess["ols"]], axis=1)  # (S, sizes + 1)

    def crossing(rows: FloatArray) -> float:
        means = np.log(rows.mean(axis=0))
        # np.interp needs rising abscissae; the curve falls in m.
        return float(np.exp(np.interp(-means[-1], -means[:-1], np.log(sizes))))

    return bootstrap(crossing, draws, n_draws=N_BOOT, method="percentile", rng=rng)


def crossover_deviation(
    n_draws: int, rng: np.random.Generator, n: int = 1600
) -> tuple[Interval, pd.DataFrame]:
    """Largest relative deviation of measured from predicted m* over four spectra (d = 40)."""
    rows, deviations = [], []
    for spectrum in CROSSOVER_SPECTRA:
        task = FactorTask.diagonal(spectrum, [0.5] * 4, dimension=40)
        found = measured_crossover(task, n, n_draws, rng)
        predicted = float(task.crossover(n))
        rows.append(
            {
                "λ²": ", ".join(f"{signal:g}" for signal in spectrum),
                "predicted": predicted,
                "measured": found.estimate,
                "low": found.low,
                "high": found.high,
            }
        )
        ends = [abs(x / predicted - 1) for x in (found.low, found.high)]
        value = abs(found.estimate / predicted - 1)
        low, high = min([*ends, value]), max([*ends, value])
        deviations.append(Interval(value, low, high, found.level, found.n, found.method))
    return farthest(deviations, 0.0), pd.DataFrame(rows).set_index("λ²")


def crossover_dimensions(n_draws: int, rng: np.random.Generator) -> tuple[Interval, pd.DataFrame]:
    """Largest over smallest measured m*/n over d = 20, 40, 80 at n = 40 d."""
    found = []
    for d in (20, 40, 80):
        star = measured_crossover(base_task(d), 40 * d, n_draws, rng)
        found.append({"d": d, "rate": star.estimate / (40 * d), "low": star.low / (40 * d),
                      "high": star.high / (40 * d)})  # fmt: skip
    table = pd.DataFrame(found).set_index("d")
    ratio = float(table.rate.max() / table.rate.min())
    low = max(1.0, float(table.low.max() / table.high.min()))
    return Interval(ratio, min(low, ratio), float(table.high.max() / table.low.min()), 0.95,
                    n_draws, "ends of the single intervals"), table  # fmt: skip


def complexity_phi(n_draws: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """m-term at m = 1e5 over d = 10, 20, 40, 80: draws (S, 4) and the law (4,)."""
    tasks = [base_task(d) for d in (10, 20, 40, 80)]
    draws = [pretraining_term(task, [100_000], n_draws, rng)[:, 0] for task in tasks]
    return np.stack(draws, axis=1), np.array([t.pretraining_constant / 1e5 for t in tasks])


def complexity_psi(n_draws: int, rng: np.random.Generator) -> tuple[Interval, FloatArray]:
    """Largest over smallest mean excess over d = 10 .. 80 at m = 1e6, n = 100, and the draws (S, 4)."""
    draws = np.stack(
        [both_terms(base_task(d), [1_000_000], [100], n_draws, rng)[:, 0, 0] for d in (10, 20, 40,
        80)], axis=1,
    )  # fmt: skip

    def spread(rows: FloatArray) -> float:
        means = rows.mean(axis=0)
        return float(means.max() / means.min())

    found = bootstrap(spread, draws, n_draws=N_BOOT, method="percentile", rng=rng)
    return found, draws


def complexity_composed(n_draws: int, rng: np.random.Generator) -> FloatArray:
    """Excess of least squares on raw x at n = 1000 over d = 10, 20, 40, 80: draws (S, 4)."""
    columns = [
        factor.downstream_excess(base_task(d), 1000, n_draws, rng, methods=("ols",))["ols"]
        for d in (10, 20, 40, 80)
    ]
    return np.stack(columns, axis=1)


def rank_coefficients(r: int) -> FloatArray:
    """Heads of the rank experiment: every factor has the coefficient 1/2."""
    return np.full(r, 0.5)


def complexity_rank(n_draws: int, rng: np.random.Generator) -> tuple[Interval, FloatArray]:
    """m-term at r = 8 over that at r = 1 (d = 40, lambda^2 = 2, m = 1e5), and draws (S, 4)."""
    draws = np.stack(
        [
            pretraining_term(
                FactorTask.diagonal([2.0] * r, rank_coefficients(r).tolist(), dimension=40),
                [100_000],
                n_draws,
                rng,
            )[:, 0]
            for r in (1, 2, 4, 8)
        ],
        axis=1,
    )
    return ratio_of_means(draws[:, 3], draws[:, 0], rng), draws


def complexity_head(n_draws: int, rng: np.random.Generator) -> tuple[Interval, FloatArray]:
    """n-term over tau^2 at r = 8 over that at r = 1 (d = 10, lambda^2 = 2, n = 1000), and draws (S, 4).

    Divided by the risk tau^2 of the best predictor, which grows with r, too.
    """
    columns = []
    for r in (1, 2, 4, 8):
        task = FactorTask.diagonal([2.0] * r, rank_coefficients(r).tolist(), dimension=10)
        columns.append(head_term(task, [1000], n_draws, rng)[:, 0] / task.squared_bayes_risk)
    draws = np.stack(columns, axis=1)
    return ratio_of_means(draws[:, 3], draws[:, 0], rng), draws


WORST_STRENGTHS = np.geomspace(0.3, 4.0, 12)


def signal_grid(m: int, dimension: int) -> FloatArray:
    """Signal strengths lambda^2 around the critical one, sqrt(d/m)."""
    return WORST_STRENGTHS * np.sqrt(dimension / m)


def worst_signal(
    m_values: Sequence[int], dimension: int, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess of one factor (beta = 1, n = infinity): draws (n_draws, len(m), strengths)."""
    result = np.empty((n_draws, len(m_values), len(WORST_STRENGTHS)))
    for i, m in enumerate(m_values):
        for j, strength in enumerate(signal_grid(m, dimension)):
            task = FactorTask.diagonal([float(strength)], [1.0], dimension=dimension)
            result[:, i, j] = pretraining_term(task, [m], n_draws, rng)[:, 0]
    return result


def envelope_slope(m_values: Any, draws: FloatArray, rng: np.random.Generator) -> Interval:
    """Log-log slope in m of the supremum over settings of the mean, draws (S, M, settings)."""
    log_m = np.log(np.asarray(m_values, float))
    weights = (log_m - log_m.mean()) / ((log_m - log_m.mean()) ** 2).sum()

    def of_supremum(rows: FloatArray) -> float:
        return float(np.log(rows.mean(axis=0).max(axis=1)) @ weights)

    return bootstrap(of_supremum, draws, n_draws=N_BOOT, method="percentile", rng=rng)


def bbp_slope(m_values: Any, dimension: int) -> float:
    """The same slope for the asymptotic curve on the same grid."""
    top = [
        theory.worst_signal_excess(signal_grid(m, dimension), m, dimension).max() for m in m_values
    ]
    return float(np.polyfit(np.log(m_values), np.log(top), 1)[0])


# ---------------------------------------------------------------------------------------- mixtures


def _two_component_rows(s: float, m: int, dimension: int, rng: np.random.Generator) -> Any:
    z = rng.choice((-1.0, 1.0), m)
    rows = rng.standard_normal((m, dimension))
    rows[:, 0] += s * z
    return rows, z


def two_components(
    s: float, m: int, dimension: int, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess (no label noise) of the boundary found without labels, shape (n_draws,)."""
    truth = np.eye(dimension)[0] * s
    fitted = [
        mixture.fit_symmetric_mixture(
            _two_component_rows(s, m, dimension, rng)[0], em_steps=2, tol=1e-5
        )
        for _ in range(n_draws)
    ]
    return mixture.symmetric_excess(np.array(fitted), truth)


def labelled_means(
    s: float, n: int, dimension: int, label_noise: float, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess of the labelled mean-difference classifier, shape (n_draws,)."""
    truth = np.eye(dimension)[0] * s
    fitted = []
    for _ in range(n_draws):
        rows, z = _two_component_rows(s, n, dimension, rng)
        y = z * np.where(rng.random(n) < label_noise, -1.0, 1.0)
        fitted.append(rows.T @ y / n)
    return mixture.symmetric_excess(np.array(fitted), truth, label_noise)


MIXTURE_CELLS = ((1.0, 4000), (1.5, 1000), (1.5, 4000), (2.0, 1000), (2.0, 4000))


def mixture_constants(
    n_draws: int, rng: np.random.Generator, dimension: int = 10
) -> tuple[Interval, pd.DataFrame]:
    """Ratio of mean excess to its closed form, the one farthest from 1, and all ratios."""
    rows, found = [], []
    for s, m in MIXTURE_CELLS:
        draws = two_components(s, m, dimension, n_draws, rng)
        ratio = mean_interval(draws / mixture.unlabelled_excess(s, m, dimension), rng)
        found.append(ratio)
        rows.append({"s": s, "m": m, "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high})
    return farthest(found, 1.0), pd.DataFrame(rows)


def exchange_rates(
    n_draws: int,
    rng: np.random.Generator,
    *,
    separations: Sequence[float] = (1.0, 1.5, 2.0),
    label_noise: float = 0.2,
    size: int = 4000,
    dimension: int = 10,
) -> tuple[Interval, pd.DataFrame]:
    """Unlabelled points per label: measured over predicted, farthest from 1; and the table."""
    rows, found = [], []
    for s in separations:
        unlabelled = two_components(s, size, dimension, n_draws, rng) * (1 - 2 * label_noise)
        labelled = labelled_means(s, size, dimension, label_noise, n_draws, rng)
        predicted = float((1 - 2 * label_noise) ** 2 / mixture.tanh_information(s))
        ratio = ratio_of_means(unlabelled, labelled, rng, scale=predicted)
        found.append(ratio)
        rows.append({"s": s, "label noise": label_noise, "predicted": predicted,
                     "measured": ratio.estimate * predicted, "low": ratio.low * predicted,
                     "high": ratio.high * predicted})  # fmt: skip
    return farthest(found, 1.0), pd.DataFrame(rows)


def start_means(task: mixture.MixtureTask) -> FloatArray:
    """Where EM starts: the true means, so that it finds the maximum next to the truth."""
    return task.means


def component_regret(
    n_components: int,
    m_values: Sequence[int],
    n_draws: int,
    rng: np.random.Generator,
    *,
    dimension: int = 10,
    distance: float = 3.0,
) -> FloatArray:
    """Regret of K components found without labels and named correctly: draws (n_draws, len(m))."""
    task = mixture.MixtureTask.simplex(n_components, dimension=dimension, distance=distance)
    result = np.empty((n_draws, len(m_values)))
    for i in range(n_draws):
        # Fresh rows for each draw: their sampling error averages out over the draws.
        X_eval, _ = task.sample(20_000, rng)
        for j, m in enumerate(m_values):
            X, _ = task.sample(m, rng)
            means = mixture.fit_mixture(X, start_means(task), tol=1e-4).means
            result[i, j] = mixture.regret(task, means, task.labels, X_eval)
    return result


SEPARATION_STEPS = np.array([0.6, 0.75, 0.95, 1.2, 1.6])


def worst_separation(
    m_values: Sequence[int], dimension: int, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess of two components at separations around (d/m)^(1/4): draws (n_draws, M, 5)."""
    result = np.empty((n_draws, len(m_values), len(SEPARATION_STEPS)))
    for i, m in enumerate(m_values):
        for j, step in enumerate(SEPARATION_STEPS):
            s = float(step * (dimension / m) ** 0.25)
            result[:, i, j] = two_components(s, m, dimension, n_draws, rng)
    return result


def kappa_normalised(m_values: Sequence[int], dimension: int, draws: FloatArray) -> Interval:
    """Supremum over kappa(s) sqrt(d/m) at the worst s; range over m."""
    ratios = []
    for i, m in enumerate(m_values):
        means = draws[:, i].mean(axis=0)
        worst = int(means.argmax())
        s = SEPARATION_STEPS[worst] * (dimension / m) ** 0.25
        kappa = 1 / np.sqrt(mixture.tanh_information(s))
        ratios.append(means[worst] / (kappa * np.sqrt(dimension / m)))
    return value_range(ratios, "m")


def voting_table(
    components: Sequence[int] = (2, 4, 8, 16), n_values: Sequence[int] = (100, 400, 1600, 6400)
) -> pd.DataFrame:
    """Exact supremum over label quality of the cost of naming K components: K, n, supremum, ratio.

    Only n/K >= 25 is kept. The supremum is taken over delta sqrt(n/K) in (0.2, 3).
    """
    rows = []
    for k in components:
        for n in n_values:
            if n < 25 * k:
                continue
            delta = np.linspace(0.2, 3.0, 57) * np.sqrt(k / n)
            top = float(mixture.voting_excess(k, n, delta[delta <= 0.5]).max())
            rows.append({"K": k, "n": n, "supremum": top, "ratio": top / np.sqrt(k / n)})
    return pd.DataFrame(rows)


def voting_constant() -> float:
    """max_x x Phi(-x) = .16997, the limit of the ratio (found numerically)."""
    from scipy import optimize

    found = optimize.minimize_scalar(
        lambda x: -x * stats.norm.sf(x), bounds=(0.1, 3), method="bounded", options={"xatol": 1e-10}
    )
    return float(-found.fun)


def voting_slopes(table: pd.DataFrame) -> pd.Series:
    """Slope of log supremum on log n for each K."""
    return pd.Series(
        {
            k: float(np.polyfit(np.log(part["n"]), np.log(part["supremum"]), 1)[0])
            for k, part in table.groupby("K")
        }
    )


# ------------------------------------------------------------------------------------- contrastive


def linear_contrastive(
    m_values: Sequence[int],
    n_draws: int,
    rng: np.random.Generator,
    *,
    dimension: int = 10,
    coefficients: Sequence[float] = (0.5, 0.5),
) -> FloatArray:
    """Excess at n = infinity of linear encoders learned from m pairs: draws (n_draws, len(m))."""
    truth = np.eye(len(coefficients), dimension)
    result = np.empty((n_draws, len(m_values)))
    for i in range(n_draws):
        for j, m in enumerate(m_values):
            pairs = contrastive.sample_pairs(truth, m, rng)
            fitted = contrastive.fit_linear_encoder(*pairs, len(coefficients), gtol=1e-5)
            result[i, j] = contrastive.encoder_excess(fitted, truth, coefficients)
    return result


# ---------------------------------------------------------------------------------- counter-examples


def collapse_curves(
    m_values: Sequence[int] = (100, 1000, 10_000), steps: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Probability of the wrong axis on delta sqrt(m): the steps (P,) and exact curves (len(m), P)."""
    grid = np.geomspace(0.03, 3.0, 25) if steps is None else np.asarray(steps, float)
    curves = [
        [counterexamples.two_squares_wrong(m, float(x / np.sqrt(m))) for x in grid]
        for m in m_values
    ]
    return grid, np.array(curves)


# ------------------------------------------------------------------------------------- wrong model


def hot_world(hot: float, dimension: int = 20) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Factor world whose first three coordinates have noise variance ``hot``.

    Returns the covariance (d, d), the cross moment of x and y (d,), and the loadings (d, 3):
    three factors with lambda^2 = 4, 3, 2, spread over all coordinates by a fixed rotation, beta =
    1/2.
    """
    basis = np.linalg.qr(np.random.default_rng(2303).standard_normal((dimension, 3)))[0]
    loadings = basis * np.sqrt([4.0, 3.0, 2.0])
    noise = np.ones(dimension)
    noise[:3] = hot
    return loadings @ loadings.T + np.diag(noise), loadings @ np.full(3, 0.5), loadings


def factor_analysis_subspaces(moments: FloatArray, n_factors: int) -> FloatArray:
    """Directions that the factor scores of a right-noise model use, (S, d, r)."""
    kept = []
    for moment in moments:
        loadings, noise = factor.fit_factor_analysis(moment, n_factors)
        kept.append(loadings / noise[:, None])
    return np.array(kept)


def ppca_subspaces(moments: FloatArray, n_factors: int) -> FloatArray:
    """Directions that an equal-noise model uses, (..., d, r)."""
    return np.linalg.eigh(moments)[1][..., ::-1][..., :n_factors]


def wrong_noise(
    hot: float, m_values: Sequence[int], n_draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Excess at n = infinity of the equal-noise and the right model: draws (S, M) and the limit."""
    covariance, cross, _ = hot_world(hot)
    equal: list[FloatArray] = []
    right: list[FloatArray] = []
    for m in m_values:
        moments = factor.sample_second_moments(covariance, m, n_draws, rng)
        for result, subspaces in ((equal, ppca_subspaces), (right, factor_analysis_subspaces)):
            result.append(factor.subspace_excess(covariance, cross, subspaces(moments, 3)))
    limit = float(factor.subspace_excess(covariance, cross, ppca_subspaces(covariance, 3)))
    return {"equal": np.stack(equal, 1), "right": np.stack(right, 1), "limit": limit}


# --------------------------------------------------------------------------------------- real data


def penguin_curves(
    seeds: Sequence[int],
    *,
    n: int = 10,
    m_values: Sequence[int] = (20, 160),
    covariance: str = "tied",
) -> pd.DataFrame:
    """Accuracies over paired splits: seed, m, mixture, logistic, shrunk LDA.

    The supervised methods do not depend on m; they are computed once a split.
    """
    rows = []
    for seed in seeds:
        for m in m_values:
            last = m == m_values[-1]
            found = real.penguin_split(
                np.random.default_rng(seed), n=n, m=m, covariance=covariance, supervised=last
            )
            rows.append({"seed": seed, "n": n, "m": m, **found})
    return pd.DataFrame(rows)


def penguin_confusions(
    seeds: Sequence[int], n_values: Sequence[int]
) -> dict[int, dict[str, FloatArray]]:
    """Confusion matrices (3, 3), rows summing to 1, averaged over splits: n to method to matrix."""
    result: dict[int, dict[str, FloatArray]] = {}
    for n in n_values:
        counts: dict[str, FloatArray] = {}
        for seed in seeds:
            predicted, truth = real.penguin_predictions(np.random.default_rng(seed), n=n)
            for name, guess in predicted.items():
                matrix = counts.setdefault(name, np.zeros((3, 3)))
                np.add.at(matrix, (truth, guess), 1)
        result[n] = {name: c / c.sum(axis=1, keepdims=True) for name, c in counts.items()}
    return result


def penguin_gain(frame: pd.DataFrame, rng: np.random.Generator) -> Interval:
    """Mixture (largest m) minus the supervised method with the higher mean accuracy, paired."""
    part = frame[frame.m == frame.m.max()]
    best = max(("logistic", "shrunk LDA"), key=lambda name: part[name].mean())
    return paired_difference(part["mixture"], part[best], rng)


def penguin_unlabelled(frame: pd.DataFrame, rng: np.random.Generator) -> Interval:
    """Mixture at the largest m minus mixture at the smallest m, paired over splits."""
    table = frame.pivot(index="seed", columns="m", values="mixture")
    return paired_difference(table[table.columns.max()], table[table.columns.min()], rng)


def bfi_curves(seeds: Sequence[int], **settings: Any) -> pd.DataFrame:
    """R^2 for every target and split: seed, target, method, m, n, r2."""
    rows = []
    for seed in seeds:
        for k, target in enumerate(real.BFI_TARGETS):
            for row in real.bfi_split(np.random.default_rng([seed, k]), target, **settings):
                rows.append({"seed": seed, "target": target, **row})
    return pd.DataFrame(rows)


def bfi_difference(
    frame: pd.DataFrame,
    first: tuple[str, int],
    second: tuple[str, int],
    n: int,
    rng: np.random.Generator,
) -> Interval:
    """Mean paired difference of R^2 between two (method, m); replicates are splits, over all targets."""
    part = frame[frame.n == n].set_index(["seed", "target", "method", "m"])["r2"]
    a, b = (part.xs(key, level=("method", "m")) for key in (first, second))
    difference = (a - b).dropna().groupby(level="seed").mean()
    return mean_interval(difference.to_numpy(), rng)


def linear_digits(splits: Sequence[int], n: int, **settings: Any) -> pd.DataFrame:
    """Accuracy of three linear routes on the digits over fixed splits."""
    return pd.DataFrame(
        [{"split": k, "n": n, **real.linear_digits(k, n, **settings)} for k in splits]
    )


def probe_table(
    features: dict[int, FloatArray], split: int, n_values: Sequence[int]
) -> pd.DataFrame:
    """Probe accuracies of encoders (m to features of all digits) on one split, over label draws.

    Columns split, m, n, draw, accuracy; m = 0 is logistic regression on the pixels. Encoders are
    probed only with labels from images they have seen.
    """
    X, y = real.load_digits()
    test, _ = real.digits_split(split)
    rows = []
    for n in n_values:
        for draw in range(4 if n <= 150 else 1):
            labelled = real.digits_labelled(split, n, draw)
            accuracy = real.probe_accuracy(X, y, labelled, test, scale=False)
            rows.append({"split": split, "m": 0, "n": n, "draw": draw, "accuracy": accuracy})
            for m, found in features.items():
                if n <= 150 or n <= m:
                    accuracy = real.probe_accuracy(found, y, labelled, test)
                    rows.append(
                        {"split": split, "m": m, "n": n, "draw": draw, "accuracy": accuracy}
                    )
    return pd.DataFrame(rows)


def digits_difference(table: pd.DataFrame, first: str, second: str, n: int) -> Interval:
    """Mean over splits of the accuracy difference between two methods of a stored table.

    The columns are split, method, n, accuracy (averaged over label draws); the interval is
    Student's, because there are few splits.
    """
    part = table[table.n == n].groupby(["split", "method"])["accuracy"].mean().unstack()
    difference = (part[first] - part[second]).dropna().to_numpy()
    if len(difference) < 3:
        raise ValueError(
            f"need at least 3 splits with both methods at n={n}, got {len(difference)}"
        )
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    mean = float(difference.mean())
    return Interval(mean, mean - half, mean + half, 0.95, len(difference), "Student, over splits")


def replicate_error(live: pd.DataFrame, table: pd.DataFrame) -> float:
    """Largest absolute difference between live probe accuracies and the stored ones."""
    keys = ["split", "method", "n", "draw"]
    names = live["m"].map(lambda m: f"contrastive m={m}" if m else "pixels")
    joined = live.assign(method=names).merge(table, on=keys, suffixes=("", "_stored"))
    if len(joined) != len(live):
        raise ValueError(f"only {len(joined)} of {len(live)} probes have a stored value")
    return float((joined["accuracy"] - joined["accuracy_stored"]).abs().max())
