"""Effective draws per CPU second, and growth with the number of people.

Ours integrates every Z out; the peers sample one Z per person (the direct way to write the model
in PyMC), or integrate but sample through a PyMC graph. Compilation is left out for all: a short run
of the same call is subtracted.
"""

import time
import warnings

import numpy as np
from _record import cpu_seconds, row, save

from paperkit import data
from paperkit import domain_constraints as dc
from paperkit.domain_constraints import experiments as ex

PEOPLE, DRAWS, SEED = 400, 400, 0
NAMES = ["beta_Y", "beta_Delta_free", "sigma"]


def effective(posterior) -> tuple[float, float]:
    """Smallest bulk ESS and largest r-hat."""
    import arviz as az

    ess, rhat = az.ess(posterior[NAMES]), az.rhat(posterior[NAMES])
    return (
        min(float(ess[v].min()) for v in NAMES),
        max(float(rhat[v].max()) for v in NAMES),
    )


def race() -> list[dict]:
    """Every method on the same 400 people with both constraints."""
    import nutpie
    import pymc as pm

    sim = dc.simulate_bernoulli_sigmoid(SEED, PEOPLE)
    model = dc.SelectionModel(
        sim.labels(), constraints=ex.constraint_set("b", sim.prevalence, [1], prevalence_sd=0.01)
    )
    chains = {"chains": 2, "cores": 1}
    length = {"draws": DRAWS, "tune": DRAWS}
    short = {"draws": 2, "tune": 2}
    latent, marginal = dc.latent_pymc_model(model), dc.pymc_model(model)
    quiet = {"progressbar": False, "compute_convergence_checks": False, "random_seed": SEED}
    compiled = {"latent": nutpie.compile_pymc_model(latent)}
    compiled["marginal"] = nutpie.compile_pymc_model(marginal)

    def default(size):
        return pm.sample(model=latent, **size, **chains, **quiet)

    def through_nutpie(name, size):
        return nutpie.sample(compiled[name], seed=SEED, progress_bar=False, **size, **chains)

    def kernel(size):
        return model.fit(method="nuts", seed=SEED, **size, **chains)

    calls = {
        "latent Z, PyMC default NUTS": default,
        "latent Z, nutpie": lambda size: through_nutpie("latent", size),
        "marginal PyMC graph, nutpie": lambda size: through_nutpie("marginal", size),
        "marginal kernel, nutpie": kernel,
    }
    results = []
    for name, call in calls.items():
        call(short)
        _, overhead = cpu_seconds(lambda call=call: call(short))
        idata, seconds = cpu_seconds(lambda call=call: call(length))
        ess, rhat = effective(idata.posterior)
        sampling = max(seconds - overhead, 1e-3)
        results.append(
            {
                "method": name,
                "ess": ess,
                "r_hat": rhat,
                "seconds": sampling,
                "ess_per_second": ess / sampling,
            }
        )
    model.fit(seed=SEED)
    idata, seconds = cpu_seconds(lambda: model.fit(seed=SEED))
    results.append(
        {
            "method": "nested Laplace",
            "ess": idata.posterior.attrs["n_eff"],
            "r_hat": float("nan"),
            "seconds": seconds,
            "ess_per_second": idata.posterior.attrs["n_eff"] / seconds,
        }
    )
    return results


def gradient_seconds(people: int, *, group: bool) -> list[float]:
    """CPU seconds of one gradient with three binary features, five times."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(people), rng.integers(0, 2, (people, 3))]).astype(float)
    tested = (rng.random(people) < 0.4).astype(float)
    outcome = np.where(tested == 1, rng.random(people) < 0.3, np.nan)
    model = dc.SelectionModel(dc.SelectiveLabels.from_arrays(X, tested, outcome, group=group))
    theta = np.append(model.start(), 0.0)
    model.logp_and_grad(theta)
    repeats = max(3, 200_000 // max(len(model.data.X), 100))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(repeats):
            model.logp_and_grad(theta)
        seconds.append((time.process_time() - start) / repeats)
    return seconds


def main() -> dict:
    warnings.simplefilter("ignore")
    methods = race()
    rate = {m["method"]: m["ess_per_second"] for m in methods}
    ours = "marginal kernel, nutpie"
    rows = []
    for m in methods:
        if m["method"] in (ours, "nested Laplace"):
            continue
        rows.append(
            row(
                "effective draw, marginal kernel + nutpie, 400 people",
                m["method"],
                1 / rate[ours],
                1 / m["ess_per_second"],
                "s per effective draw",
                f"r-hat of the peer {m['r_hat']:.2f}",
            )
        )
    rows.append(
        row(
            "effective draw, nested Laplace, 400 people",
            ours,
            1 / rate["nested Laplace"],
            1 / rate[ours],
            "s per effective draw",
        )
    )
    growth = []
    for people in (1_000, 10_000, 100_000):
        grouped = gradient_seconds(people, group=True)
        ungrouped = gradient_seconds(people, group=False)
        growth.append({"people": people, "grouped": grouped, "ungrouped": ungrouped})
        rows.append(
            row(
                f"gradient, three binary features, {people:,} people",
                "the same without grouping",
                min(grouped),
                min(ungrouped),
                "s per gradient",
            )
        )
    stored = [{k: (None if v != v else v) for k, v in m.items()} for m in methods]
    data.save_stored(
        "domain_constraints",
        "speed",
        {"methods": stored, "growth": growth},
        script="benchmarks/domain_constraints.py",
        settings={"people": PEOPLE, "draws": DRAWS, "chains": 2, "prevalence_sd": 0.01},
        seeds=[SEED],
    )
    return save("domain_constraints", rows, "pymc", "nutpie", "numba")


if __name__ == "__main__":
    main()
