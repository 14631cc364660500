"""What the chapter measures: one function per claim, settings in, numbers (and intervals) out.

Notebooks, the stored run, mutation tests and the check over fresh seeds call these functions. Randomness
comes from :func:`paperkit.profiles.rng`, so it follows ``PAPERKIT_SEED``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from paperkit import claims, profiles
from paperkit.claims import Interval

from . import incentives, online, program
from .closed_forms import minimum_payment, twin_ladder, v_shaped_rule
from .definition import count_rows, enumerated_gain, solve_definition
from .incentives import Strategy, agent_values, largest_gain, obedience, principal_value
from .instances import separate_noise_instance, shared_noise_instance, twin_instance
from .problem import Array, HiringProblem, Mechanism, point_mass
from .readers import Readers

#: The twin instance of the ladder and of the equilibria.
LADDER = {"accuracy": 0.75, "cost": 0.08, "cap": 0.5}
#: The twin instances of the learning experiments.
LEARN = {"accuracy": 0.75, "cost": 0.04, "cap": 0.4, "independent_copy": 0.05}
EXPONENT = {"accuracy": 0.85, "cost": 0.03, "cap": 0.3, "independent_copy": 0.05}
HORIZONS = 10 ** np.arange(5.5, 8.6, 0.5)


# ------------------------------------------------------------------------ one expert, known answers


def single_expert(n_experts: int = 6) -> pd.DataFrame:
    """Linear program and closed form for random single experts (claim c0)."""
    rng = profiles.rng("information_acquisition", "single")
    rows = []
    for j in range(n_experts):
        m = 2 + j % 4
        see = rng.dirichlet(np.ones(m), size=2).T
        share = rng.uniform(0.25, 0.75)
        prior = np.array([1 - share, share])
        cost = rng.uniform(0.01, 0.1)
        tables = [np.stack([np.full((m, 2), 1 / m), see])]
        problem = separate_noise_instance(tables, [[0, cost]], prior, 1e3)
        work = program.optimal_mechanism(problem, recommendation=[0, 1])
        rows.append(
            {
                "signals": m,
                "cost": cost,
                "program": float(work.expected_payments(problem)[0]),
                "closed form": minimum_payment(see, prior, cost),
            }
        )
    return pd.DataFrame(rows)


def random_shared_instance(
    rng: np.random.Generator, n_agents: int, n_actions: int, n_signals: int
) -> HiringProblem:
    """Draw experts who copy one noisy source, with costs small enough that some are hired."""
    accuracies = [np.sort(np.r_[0, rng.uniform(0.6, 0.97, n_actions - 1)]) for _ in range(n_agents)]
    costs = [np.sort(np.r_[0, rng.uniform(0.005, 0.03, n_actions - 1)]) for _ in range(n_agents)]
    noise = rng.dirichlet(np.ones(n_signals), 2).T
    source = 0.75 * np.eye(n_signals)[:, [0, n_signals - 1]] + 0.25 * noise
    share = rng.uniform(0.4, 0.6)
    return shared_noise_instance(accuracies, costs, source, [share, 1 - share], 0.8)


#: Experts, efforts and signals of the instances on which program and definition are compared.
SIZES = (
    (1, 3, 3),
    (2, 2, 2),
    (2, 2, 2),
    (2, 2, 3),
    (2, 3, 2),
    (2, 3, 3),
    (2, 2, 2),
    (3, 2, 2),
    (2, 3, 2),
    (2, 2, 3),
)


def against_definition(sizes: Sequence[tuple[int, int, int]] = SIZES) -> pd.DataFrame:
    """Compare optimal values with the definition, and enumerate all deviations (claims c1a-c1c)."""
    rng = profiles.rng("information_acquisition", "definition")
    rows = []
    for n, k, m in sizes:
        problem = random_shared_instance(rng, n, k, m)
        best = program.optimal_mechanism(problem)
        rows.append(
            {
                "experts": n,
                "efforts": k,
                "signals": m,
                "program": best.value,
                "definition": solve_definition(problem).value,
                "gain": enumerated_gain(problem, best),
                "payments": float(best.expected_payments(problem).sum()),
            }
        )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------- size


def growth(
    experts: Sequence[int] = (2, 3, 4, 5), signals: Sequence[int] = (2, 3, 4, 6, 8)
) -> pd.DataFrame:
    """Size of the compact program against the size of its input (claims c2a, c2b)."""
    rows = []
    for over, n, m in [("experts", n, 2) for n in experts] + [("signals", 2, m) for m in signals]:
        rng = np.random.default_rng(n * 100 + m)
        problem = random_shared_instance(rng, n, 2, m)
        lp = program.build_lp(problem, presolve=False)
        rows.append(
            {
                "over": over,
                "experts": n,
                "signals": m,
                "input": problem.kernel.size,
                "nonzeros": lp.nnz,
                "predicted": program.predicted_nonzeros(n, 2, m, 2),
                "rows": lp.A_ub.shape[0],
                "explicit rows": count_rows(problem),
            }
        )
    return pd.DataFrame(rows)


def growth_exponents(sizes: pd.DataFrame) -> dict[str, float]:
    """Log-log slope of non-zeros on input size, over experts and over signals."""
    return {
        str(over): float(np.polyfit(np.log(part["input"]), np.log(part["nonzeros"]), 1)[0])
        for over, part in sizes.groupby("over")
    }


def enumeration_factor(sizes: pd.DataFrame, few: int = 2, many: int = 4) -> float:
    """How much faster the explicit rows grow than the compact ones, from few to many signals."""
    part = sizes[sizes["over"] == "signals"].set_index("signals")
    ratio = part["explicit rows"] / part["rows"]
    return float(ratio[many] / ratio[few])


def without_cap() -> dict[str, float]:
    """What the solver returns for the twin instance if the cap rows are deleted."""
    problem = twin_instance(**LADDER)
    lp = program.build_lp(problem)
    keep = np.ones(lp.A_ub.shape[0], bool)
    for i in range(problem.n_agents):
        keep[lp.slices[f"cap{i}"]] = False
    found = linprog(
        lp.c,
        lp.A_ub[keep],
        lp.b_ub[keep],
        lp.A_eq,
        lp.b_eq,
        bounds=np.column_stack([np.zeros(len(lp.c)), lp.upper]),
    )
    paid = 0.0
    for i in range(problem.n_agents):
        x = np.zeros(problem.kernel.shape)
        x[lp.cells[i]] = found.x[lp.slices[f"x{i}"]]
        paid += float((x * problem.kernel)[1, 1].sum())
    mu = found.x[lp.slices["mu"]].reshape(problem.n_actions)
    return {"value": -float(found.fun), "both": float(mu[1, 1]), "weighted payment": paid}


def broken_programs() -> dict[str, tuple[float, float]]:
    """Twin optimum if the program is written down wrongly: value it claims, largest true gain."""
    problem = twin_instance(**LADDER)
    found = {}
    for name in ("as it should be", "nobody can lie", "signals of the told effort"):
        lp = program.build_lp(problem)
        rows = lp.A_ub.tolil()
        for i in range(problem.n_agents):
            x, z = lp.slices[f"x{i}"], lp.slices[f"z{i}"]
            report = np.arange(lp.slices[f"report{i}"].start, lp.slices[f"report{i}"].stop)
            truth = np.arange(lp.slices[f"truth{i}"].start, lp.slices[f"truth{i}"].stop)
            if name == "nobody can lie":
                # rows are (seen, reported): keep what tells the truth
                for row in [*truth, *report.reshape(2, 2)[~np.eye(2, dtype=bool)]]:
                    rows[[row], :] = 0
            if name == "signals of the told effort":
                cells = np.argwhere(lp.cells[i])
                for s, r in np.ndindex(2, 2):
                    row = report.reshape(2, 2)[s, r]
                    rows[[row], :] = 0
                    rows[row, z.start + s] = -1
                    for column, cell in enumerate(cells):
                        seen = cell.copy()
                        seen[2 + i] = s
                        if cell[2 + i] == r:
                            rows[row, x.start + column] = problem.kernel[tuple(seen)]
        changed = dataclasses.replace(lp, A_ub=rows.tocsr())
        made = program.solve_lp(problem, changed)
        found[name] = (made.value, largest_gain(problem, made))
    return found


# ------------------------------------------------------------------------------------ correlation


def product_recommendation(first: float, second: float) -> Array:
    """Recommend work to two experts independently, with these probabilities."""
    return np.outer([1 - first, first], [1 - second, second])


def best_product(problem: HiringProblem, points: int = 11, zooms: int = 6) -> tuple[float, Array]:
    """Best value over independent recommendations of work, two experts with two efforts.

    A grid with a linear program for the payments at each point, then smaller grids around the best.
    """
    centre, width = np.array([0.5, 0.5]), 0.5
    best = -np.inf
    for _ in range(zooms + 1):
        grids = [np.clip(np.linspace(c - width, c + width, points), 0, 1) for c in centre]
        for p in grids[0]:
            for q in grids[1]:
                mu = product_recommendation(p, q)
                value = program.optimal_mechanism(problem, recommendation=mu).value
                if value > best:
                    best, centre = value, np.array([p, q])
        width = 2 * width / (points - 1)
        points = 5
    return best, centre


def ladder() -> pd.DataFrame:
    """Five classes of mechanism on the twin instance, program against closed form (claim c3a)."""
    problem, closed = twin_instance(**LADDER), twin_ladder(**LADDER)
    fixed = {
        "nobody": point_mass(problem, (0, 0)),
        "both always": point_mass(problem, (1, 1)),
        "independent audits": product_recommendation(1.0, closed.audit),
    }
    values = {
        k: program.optimal_mechanism(problem, recommendation=mu).value for k, mu in fixed.items()
    }
    values["one worker, own report"] = program.uncorrelated_mechanism(problem).value
    values["optimal, correlated"] = program.optimal_mechanism(problem).value
    forms = {
        "nobody": closed.nobody,
        "both always": closed.both_always,
        "one worker, own report": closed.uncorrelated,
        "independent audits": closed.independent,
        "optimal, correlated": closed.optimal,
    }
    return pd.DataFrame(
        [{"mechanism": k, "program": values[k], "closed form": v} for k, v in forms.items()]
    )


def correlation_gap() -> float:
    """Optimum minus the best product recommendation on the twin instance (claim c3b)."""
    problem = twin_instance(**LADDER)
    return program.optimal_mechanism(problem).value - best_product(problem)[0]


def decoupled_value(problem: HiringProblem) -> float:
    """Best profile of efforts, each expert paid the least that would make him work alone."""
    least = []
    for i in range(problem.n_agents):
        others = tuple(j for j in range(problem.n_agents) if j != i)
        # with the others idle; under conditional independence their efforts do not matter
        index = tuple(slice(None) if j == i else 0 for j in range(problem.n_agents))
        own = problem.kernel[index].sum(axis=tuple(1 + j for j in others))
        alone = HiringProblem(own, (problem.costs[i],), problem.utility, problem.payment_cap)
        worth, pay = alone.values(), []
        for b in range(problem.n_actions[i]):
            made = program.optimal_mechanism(alone, recommendation=point_mass(alone, (b,)))
            pay.append(worth[b] - made.value)
        least.append(np.array(pay))
    total = problem.values()
    for i, paid in enumerate(least):
        total = total - paid.reshape([-1 if j == i else 1 for j in range(problem.n_agents)])
    return float(total.max())


def random_separate_instance(rng: np.random.Generator, shared_noise: bool = False) -> HiringProblem:
    """Draw two experts whose signals are independent given the state (or, broken, share noise)."""
    m, k = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    if shared_noise:
        return random_shared_instance(rng, 2, k, m)
    tables, costs = [], []
    for _ in range(2):
        noise = rng.dirichlet(np.ones(m), 2).T
        sharp = np.sort(np.r_[0, rng.uniform(0.4, 0.9, k - 1)])
        exact = np.eye(m)[:, [0, m - 1]]
        tables.append(
            np.stack([np.full((m, 2), 1 / m), *(a * exact + (1 - a) * noise for a in sharp[1:])])
        )
        costs.append(np.sort(np.r_[0, rng.uniform(0.005, 0.03, k - 1)]))
    share = rng.uniform(0.4, 0.6)
    return separate_noise_instance(tables, costs, [share, 1 - share], 1.0)


def independence(n_instances: int = 12, shared_noise: bool = False) -> pd.DataFrame:
    """Optimum against decoupled value where signals are independent (claims c4a, c4c)."""
    rng = profiles.rng("information_acquisition", "independence")
    rows = []
    for _ in range(n_instances):
        problem = random_separate_instance(rng, shared_noise)
        best = program.optimal_mechanism(problem)
        rows.append(
            {
                "optimum": best.value,
                "decoupled": decoupled_value(problem),
                "payments": float(best.expected_payments(problem).sum()),
            }
        )
    return pd.DataFrame(rows)


def dependence() -> float:
    """Optimum minus decoupled value on the twin instance (claim c4b)."""
    problem = twin_instance(**LADDER)
    return program.optimal_mechanism(problem).value - decoupled_value(problem)


# ------------------------------------------------------------------------------------- equilibria


def equilibria(problem: HiringProblem, mechanism: Mechanism) -> pd.DataFrame:
    """Pure equilibria with what everybody gets (claims c5b, c5c)."""
    rows = []
    for profile in incentives.pure_equilibria(problem, mechanism):
        told = problem.n_actions[0] - 1
        plays = tuple(int(s.actions[told]) for s in profile)
        maps = tuple("".join(map(str, s.reports[told])) for s in profile)
        pays = agent_values(problem, mechanism, profile)
        honest = plays == (1, 1) and maps == ("01", "01")
        kind = "truthful" if honest else "lazy" if plays == (0, 0) else "flipped"
        rows.append(
            {
                "kind": kind,
                "efforts": plays,
                "report maps": maps,
                "expert 1": pays[0],
                "expert 2": pays[1],
                "principal": principal_value(problem, mechanism, profile),
            }
        )
    return pd.DataFrame(rows)


def own_report_mechanism(problem: HiringProblem) -> Mechanism:
    """Recommend work to both and pay each by the V-shaped rule on his own report."""
    see = problem.kernel[1, 0].sum(axis=1) / problem.prior
    rule = v_shaped_rule(see, problem.prior, float(problem.costs[0][1]))
    rule = np.stack([np.zeros_like(rule), rule])
    # A hair above indifference: at equality idling is an equilibrium too.
    rule = np.minimum(rule * 1.01, problem.payment_cap)
    mechanism = online.rules_mechanism(problem, (rule, rule), point_mass(problem, (1, 1)))
    return dataclasses.replace(mechanism, decision=problem.decision_rule())


def mixed_with_match(alpha: float) -> tuple[HiringProblem, Mechanism]:
    """Twin optimum with a share alpha of "the cap if the report equals the state" mixed in."""
    problem = twin_instance(**LADDER)
    best = program.optimal_mechanism(problem)
    safe = online.rules_mechanism(problem, online.match_rules(problem), best.recommendation)
    pays = tuple(
        (1 - alpha) * a + alpha * b for a, b in zip(best.payments, safe.payments, strict=True)
    )
    return problem, Mechanism(best.recommendation, pays, best.decision, 0.0)


def lazy_equilibria(alpha: float) -> int:
    """Lazy equilibria of the twin optimum with a share alpha of the match rule mixed in."""
    return int((equilibria(*mixed_with_match(alpha))["kind"] == "lazy").sum())


def mixed_value(alpha: float) -> float:
    """Principal's value under obedience with a share alpha of the match rule mixed in."""
    return principal_value(*mixed_with_match(alpha))


def externality() -> float:
    """What expert 1 loses if expert 2 idles and reports 0 under the twin optimum (claim c5e)."""
    problem = twin_instance(**LADDER)
    best = program.optimal_mechanism(problem)
    honest = obedience(problem)
    lazy = Strategy(np.zeros(2, int), np.zeros((2, 2), int))
    before = agent_values(problem, best, honest)[0]
    return float(before - agent_values(problem, best, (honest[0], lazy))[0])


# --------------------------------------------------------------------------------------- learning


@lru_cache(maxsize=8)
def _known(settings: tuple[tuple[str, float], ...]) -> tuple[HiringProblem, float]:
    problem = twin_instance(**dict(settings))
    return problem, program.optimal_mechanism(problem).value


def regret_cell(
    *,
    horizon: float,
    method: str = "interval",
    z: float = 2.0,
    exponent: float = 2 / 3,
    instance: dict[str, float] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Run the learner once and return one row of the regret table, for :func:`paperkit.sweeps.sweep`.

    ``z = 0`` stands for the union-bound multiplier of :func:`.online.confidence_multiplier`.
    """
    settings = LEARN if instance is None else instance
    problem, optimum = _known(tuple(sorted(settings.items())))
    multiplier = online.confidence_multiplier(problem.kernel.size, horizon) if z == 0 else z
    run = online.explore_then_commit(
        problem,
        horizon,
        online.match_rules(problem),
        exponent=exponent,
        z=multiplier,
        method=method,  # type: ignore[arg-type]
        seed=np.random.default_rng([int(seed), round(1000 * np.log10(horizon))]),
        optimum=optimum,
    )
    return {
        "regret": run.regret,
        "incentive_compatible": run.incentive_compatible,
        "realised": run.realised_value,
        "explored": run.n_explore,
    }


@dataclass(frozen=True, eq=False)
class Regret:
    """Regret of several seeds (rows) at several horizons (columns), and whether truth held."""

    horizons: Array
    regret: Array
    incentive_compatible: Array
    seeds: list[int]

    @property
    def scaled(self) -> Array:
        """Mean regret over T^(2/3), one per horizon."""
        return self.regret.mean(axis=0) / self.horizons ** (2 / 3)

    def slope(self, last: int | None = None) -> Interval:
        """Log-log slope of mean regret on T, over all or the last few horizons."""
        part = slice(None) if last is None else slice(-last, None)
        return claims.loglog_slope(
            self.horizons[part],
            self.regret[:, part],
            rng=profiles.rng("information_acquisition", "slope"),
        )

    def median_slope(self, n_draws: int = 500) -> Interval:
        """Log-log slope of median regret on T, with a bootstrap interval over the seeds.

        At a fixed multiplier z one mechanism in several hundred is not incentive compatible, and its linear
        regret alone rules a mean over tens of seeds. The median is the growth of the others.
        """
        log_x = np.log(self.horizons) - np.log(self.horizons).mean()
        weights = log_x / (log_x**2).sum()

        def slope(rows: Array) -> float:
            return float(np.log(np.median(rows, axis=0)) @ weights)

        return claims.bootstrap(
            slope,
            self.regret,
            n_draws=n_draws,
            method="percentile",
            rng=profiles.rng("information_acquisition", "median-slope"),
        )


def from_rows(rows: pd.DataFrame, method: str, z: float) -> Regret:
    """One learner of a stored table whose rows came from :func:`regret_cell`."""
    part = rows[(rows["method"] == method) & (rows["z"] == z)]
    wide = part.pivot(index="seed", columns="horizon", values=["regret", "incentive_compatible"])
    return Regret(
        wide["regret"].columns.to_numpy(float),
        wide["regret"].to_numpy(float),
        wide["incentive_compatible"].to_numpy(float),
        [int(s) for s in wide.index],
    )


def regret_table(
    method: str = "interval",
    *,
    horizons: Array = HORIZONS,
    n_seeds: int = 30,
    z: float = 2.0,
    exponent: float = 2 / 3,
    instance: dict[str, float] | None = None,
) -> Regret:
    """Regret of one learner on a grid of horizons and seeds (claims c6a-c6d, c8)."""
    seeds = profiles.seeds(n_seeds, "information_acquisition", "regret")
    cells = [
        [
            regret_cell(
                horizon=float(T), method=method, z=z, exponent=exponent, instance=instance, seed=s
            )
            for T in horizons
        ]
        for s in seeds
    ]
    return Regret(
        np.asarray(horizons, dtype=float),
        np.array([[c["regret"] for c in row] for row in cells]),
        np.array([[c["incentive_compatible"] for c in row] for row in cells]),
        seeds,
    )


EXPONENTS = (0.4, 0.5, 0.6, 2 / 3, 0.75, 0.85)


def exponent_curve(n_seeds: int = 32, exponents: Sequence[float] = EXPONENTS) -> pd.DataFrame:
    """Slope of median regret over the three largest horizons for each exploration exponent (claim c7).

    The shorter the exploration, the poorer the estimates and the more regret scatters: four times as many seeds
    below an exponent of .55, sixteen times as many below .45.
    """
    horizons = np.logspace(6, 10, 6)
    rows = []
    for a in exponents:
        # Only the three largest horizons enter the slope.
        n = n_seeds * (16 if a < 0.45 else 4 if a < 0.55 else 1)
        table = regret_table(horizons=horizons[-3:], n_seeds=n, exponent=a, instance=EXPONENT)
        slope = table.median_slope()
        rows.append(
            {
                "exponent": a,
                "slope": slope.estimate,
                "low": slope.low,
                "high": slope.high,
                "theory": max(a, 1 - a / 2),
            }
        )
    return pd.DataFrame(rows)


def against_uncorrelated(table: Regret) -> Array:
    """Regret over what the best uncorrelated mechanism loses from the first round on (claim c8)."""
    problem, optimum = _known(tuple(sorted(LEARN.items())))
    lost = optimum - program.uncorrelated_mechanism(problem).value
    return table.regret.mean(axis=0) / (lost * table.horizons)


def monte_carlo_path(horizon: int = 1_000_000, points: int = 200) -> pd.DataFrame:
    """One simulated run beside its exact expectation: cumulative regret at some rounds."""
    problem, optimum = _known(tuple(sorted(LEARN.items())))
    rng = profiles.rng("information_acquisition", "path")
    run = online.explore_then_commit(
        problem, horizon, online.match_rules(problem), seed=rng, optimum=optimum
    )
    even = np.full(problem.n_actions, 1 / np.prod(problem.n_actions))
    safe = online.rules_mechanism(problem, online.match_rules(problem), even)
    drawn = np.concatenate(
        [
            online.simulate(problem, safe, run.n_explore, rng),
            online.simulate(problem, run.mechanism, horizon - run.n_explore, rng),
        ]
    )
    mean = np.repeat([safe.value, run.realised_value], [run.n_explore, horizon - run.n_explore])
    at = np.unique(np.linspace(0, horizon - 1, points).astype(int))
    return pd.DataFrame(
        {
            "round": at + 1,
            "simulated": np.cumsum(optimum - drawn)[at],
            "expected": np.cumsum(optimum - mean)[at],
            "error": np.sqrt(np.cumsum(np.full(horizon, drawn.var()))[at]),
        }
    )


def cost_errors(
    samples: Sequence[int] = (200, 2000, 20000), repetitions: int = 200
) -> tuple[Interval, Array]:
    """Errors of the estimated cost against the number of samples (claim c10).

    Returns
    -------
    slope : Interval
    errors : array (repetitions, len(samples))
    """
    problem, _ = _known(tuple(sorted(LEARN.items())))
    rng = profiles.rng("information_acquisition", "costs")
    rules, true = online.match_rules(problem), problem.costs[0][1]
    errors = np.empty((repetitions, len(samples)))
    for r in range(repetitions):
        for j, n in enumerate(samples):
            counts = online.explore(problem, n, rng)
            found = online.estimate_costs(problem, rules, counts / n)
            errors[r, j] = abs(found[0][1] - true)
    slope = claims.loglog_slope(
        np.array(samples), errors, rng=profiles.rng("information_acquisition", "cost-slope")
    )
    return slope, errors


# ------------------------------------------------------------------------------------ real readers


def value_of_correlation(problem: HiringProblem) -> float:
    """Optimum minus best uncorrelated value."""
    best = program.optimal_mechanism(problem).value
    return best - program.uncorrelated_mechanism(problem).value


def classes(readers: Readers, costs: Sequence[float], cap: float, **options: Any) -> pd.DataFrame:
    """Values of four classes of mechanism over the cost of the full chart."""
    rows = []
    for cost in costs:
        problem = readers.problem(float(cost), cap, **options)
        best = program.optimal_mechanism(problem)
        rows.append(
            {
                "cost": float(cost),
                "optimal, correlated": best.value,
                "best fixed profile": program.fixed_mechanism(problem).value,
                "uncorrelated": program.uncorrelated_mechanism(problem).value,
                "hire nobody": float((problem.utility @ problem.prior).max()),
            }
        )
    return pd.DataFrame(rows)


def real_correlation(
    readers: Readers, cost: float = 0.02, cap: float = 1.0, n_draws: int = 600
) -> Interval:
    """Value of correlation with a percentile interval over resampled patients (claim c9a).

    The value is 0 in about one resample in a hundred, so that the lower end needs many draws.
    """

    def statistic(rows: Array) -> float:
        return value_of_correlation(readers.problem(cost, cap, rows=rows))

    return claims.bootstrap(
        statistic,
        np.arange(len(readers.labels)),
        n_draws=n_draws,
        method="percentile",
        rng=profiles.rng("information_acquisition", "patients"),
    )


def fragility(
    readers: Readers,
    *,
    cost: float = 0.005,
    cap: float = 0.5,
    sizes: Sequence[int] = (250, 1000, 4000, 16000),
    multipliers: Sequence[float] = (0.0, 1.0, 2.0),
    draws: int = 6,
) -> pd.DataFrame:
    """Design a mechanism on a sample of patients, use it on the population (claims c9b, c9c).

    ``z = 0`` is the plug-in mechanism.
    """
    population = readers.problem(cost, cap)
    rng = profiles.rng("information_acquisition", "fragility")
    rows = []
    for n in sizes:
        for _ in range(draws):
            sample = rng.integers(0, len(readers.labels), n)
            seen = readers.problem(cost, cap, rows=sample)
            for z in multipliers:
                used = _used(seen, population, n, z)
                rows.append({"patients": n, "z": z, **used})
    return pd.DataFrame(rows)


def half_split(
    readers: Readers,
    *,
    cost: float = 0.02,
    cap: float = 1.0,
    splits: int = 12,
    multipliers: Sequence[float] = (0.0, 1.0, 2.0),
) -> pd.DataFrame:
    """Design on half of the patients, use on the other half (claim c9d)."""
    rng = profiles.rng("information_acquisition", "halves")
    rows = []
    for _ in range(splits):
        order = rng.permutation(len(readers.labels))
        half = len(order) // 2
        seen = readers.problem(cost, cap, rows=order[:half])
        rest = readers.problem(cost, cap, rows=order[half:])
        nobody = float((rest.utility @ rest.prior).max())
        for z in multipliers:
            rows.append({"z": z, **_used(seen, rest, half, z), "nobody": nobody})
    return pd.DataFrame(rows)


def _used(seen: HiringProblem, truth: HiringProblem, n: int, z: float) -> dict[str, Any]:
    counts = np.round(seen.kernel * n).astype(int)
    box = online.kernel_intervals(counts, seen.n_agents, z)
    mechanism = program.optimal_mechanism(seen, intervals=box)
    honest = largest_gain(truth, mechanism) <= online.GAIN_TOLERANCE
    behaviour = None if honest else incentives.best_response_dynamics(truth, mechanism)[0]
    return {
        "incentive_compatible": honest,
        "realised": principal_value(truth, mechanism, behaviour),
        "hires": float(1 - mechanism.recommendation[0, 0]),
    }


def mean_interval(values: Array) -> Interval:
    """Mean of independent repetitions with a bootstrap interval."""
    return claims.bootstrap(
        np.mean,
        np.asarray(values, dtype=float),
        method="percentile",
        rng=profiles.rng("information_acquisition", "mean"),
    )


def learning_frames(
    horizons: Sequence[float],
) -> list[dict[str, Any]]:
    """One learner at several horizons: the interval of one cell, recommendations and value."""
    problem, optimum = _known(tuple(sorted(LEARN.items())))
    frames = []
    for T in horizons:
        each = int(np.ceil(T ** (2 / 3) / 4))
        rng = profiles.rng("information_acquisition", "frames")
        box = online.kernel_intervals(online.explore(problem, each, rng), 2, 2.0)
        made = program.optimal_mechanism(problem, intervals=box)
        cells = (1, 1)
        frames.append(
            {
                "horizon": float(T),
                "low": box.low[cells].ravel(),
                "centre": box.centre[cells].ravel(),
                "high": box.high[cells].ravel(),
                "truth": problem.kernel[cells].ravel(),
                "recommendation": made.recommendation.ravel(),
                "value": principal_value(problem, made),
                "optimum": optimum,
            }
        )
    return frames


# ------------------------------------------------------------------------------------------ seeds


def stochastic_claims(readers: Readers) -> dict[str, tuple[float, Interval | None]]:
    """Value and interval of the live claims that depend on ``PAPERKIT_SEED``, as in the notebooks.

    The other three are in :func:`revised_claims`.
    """
    single = single_expert()
    same = against_definition()
    apart = independence()
    table, plug_in = regret_table(), regret_table("plugin", n_seeds=10)
    lost = against_uncorrelated(table)
    slope, _ = cost_errors()
    broken = fragility(readers).groupby("z")["incentive_compatible"].mean()
    linear = plug_in.slope()
    return {
        "c0-single-expert": (largest_difference(single["program"], single["closed form"]), None),
        "c1a-equals-definition": (largest_difference(same["program"], same["definition"]), None),
        "c1b-no-profitable-deviation": (float(same["gain"].max()), None),
        "c1c-payments-are-positive": (float(same["payments"].min()), None),
        "c4a-independence-decouples": (
            largest_difference(apart["optimum"], apart["decoupled"]),
            None,
        ),
        "c4c-not-vacuous": (float((apart["payments"] > 1e-4).sum()), None),
        "c6a-regret-slope": (table.slope().estimate, table.slope()),
        "c6b-regret-bounded": (float(table.scaled.max() / table.scaled[0]), None),
        "c6c-incentive-compatible": (float(table.incentive_compatible.mean()), None),
        "c6d-no-slack-is-linear": (linear.estimate, linear),
        "c8a-beats-uncorrelated": (float(lost[table.horizons >= 3e6].max()), None),
        "c8b-by-far": (float(lost[np.isclose(table.horizons, 1e8)][0]), None),
        "c9b-plug-in-breaks": (float(broken[0.0]), None),
        "c9c-interval-holds": (float(broken[2.0]), None),
        "c10-unknown-costs": (slope.estimate, slope),
    }


def revised_claims(readers: Readers) -> dict[str, tuple[float, Interval | None]]:
    """Claims whose experiment was revised after seeds 1 to 20; judged on fresh seeds since.

    One of those twenty runs failed c9a, because of the Monte Carlo error of 200 resamples (now 600). The condition
    is the declared one.
    """
    correlation = real_correlation(readers)
    return {"c9a-real-correlation-pays": (correlation.estimate, correlation)}


def exponent_claims() -> dict[str, tuple[float, Interval | None]]:
    """Claims on the exponent, whose experiment was revised twice; judged on seeds 41 to 60 since.

    One of seeds 1 to 20 failed c7b, because of one dishonest mechanism in a mean of 32 (now a median). With 128
    seeds where exploration is short it held under seeds 21 to 40, but not under seed 0: at the exponent .4 the
    distance is .05 and still scattered by .008. Now 512 seeds there. The conditions are the declared ones.
    """
    curve = exponent_curve()
    return {
        "c7a-best-exponent": (best_exponent(curve), None),
        "c7b-exponent-curve": (largest_difference(curve["slope"], curve["theory"]), None),
    }


def best_exponent(curve: pd.DataFrame) -> float:
    """Exploration exponent with the smallest slope of regret."""
    return float(curve["exponent"].to_numpy()[curve["slope"].to_numpy().argmin()])


def largest_difference(first: Any, second: Any) -> float:
    """Largest absolute difference of two columns."""
    return float(np.abs(np.asarray(first) - np.asarray(second)).max())
