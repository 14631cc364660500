"""Real people: the three tables of the chapter.

Licences stand in ``paperkit/data/SOURCES.csv``. In the free light chain study everybody's outcome
is known, so a testing policy can be simulated and the risk of people it leaves out checked. In
the Wilms' tumour study the decision is real as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from paperkit import data
from paperkit.domain_constraints.labels import SelectiveLabels

AGE_BINS = ("50-54", "55-59", "60-64", "65-69", "70-74", "75-79", "80+")

#: Deviation of the simulated policies from risk-based testing: intercept, age >= 65, men.
POLICIES: Mapping[str, Mapping[str, float]] = {
    "strong": {"intercept": 0.0, "age65": 3.0, "male": -1.5},
    "mild": {"intercept": 1.0, "age65": 1.5, "male": -1.0},
    "step": {"intercept": 0.3, "age65": 1.5, "male": 0.0},
    "no step": {"intercept": 1.5, "age65": 0.0, "male": -1.5},
    "no sex": {"intercept": -0.5, "age65": 3.0, "male": 0.0},
}


@dataclass(frozen=True)
class Study:
    """People with a decision, and outcomes that the analyst may not see.

    Attributes
    ----------
    X : ndarray, shape (N, M)
    names : tuple of str
    tested : ndarray, shape (N,)
    hidden_outcome : ndarray, shape (N,)
        Outcomes of everybody; only verification reads the untested part.
    people : DataFrame
        Columns used for description (age, sex, stage, ...).
    truth : dict
        What is known about the simulated policy, if it is simulated.
    """

    X: np.ndarray
    names: tuple[str, ...]
    tested: np.ndarray
    hidden_outcome: np.ndarray
    people: pd.DataFrame
    truth: dict

    @property
    def prevalence(self) -> float:
        """Share of positives among everybody, the number an outside source would give."""
        return float(self.hidden_outcome.mean())

    def labels(self, **settings: Any) -> SelectiveLabels:
        """Return the analyst's view: outcomes of untested people are NaN."""
        outcome = np.where(self.tested == 1, self.hidden_outcome, np.nan)
        return SelectiveLabels.from_arrays(
            self.X, self.tested, outcome, names=self.names, **settings
        )


def _free_light_chain_people() -> pd.DataFrame:
    frame = data.table("domain_constraints/flchain")
    frame = frame[frame["creatinine"].notna()].reset_index(drop=True)
    people = pd.DataFrame(
        {
            "age": frame["age"].astype(float),
            "male": (frame["sex"] == "M").astype(float),
            "positive": (frame["flc_group"] == 10).astype(float),
            "creatinine": frame["creatinine"].astype(float),
        }
    )
    bins = np.clip((people["age"] // 5 - 10).astype(int), 0, 6)
    people["age_bin"] = bins
    log_c = np.log(people["creatinine"].to_numpy())
    log_c = (log_c - log_c.mean()) / log_c.std()
    design = np.column_stack([np.ones(len(people)), people["age"], people["male"]])
    people["kidney"] = log_c - design @ np.linalg.lstsq(design, log_c, rcond=None)[0]
    return people


def load_free_light_chain(
    policy_seed: int = 0,
    policy: str | Mapping[str, float] = "strong",
    *,
    features: Literal["age", "bins"] = "age",
) -> Study:
    """Residents of Olmsted County aged 50 or more, with a simulated testing policy.

    A free light chain assay was run on stored serum of everybody; the outcome is a sum of light
    chains in the top decile. The decision maker sees kidney function, the analyst does not: this
    real, skewed quantity is ``Z``. Only the decision who is tested is simulated: risk by a logistic
    regression on everything, plus the policy's deviations, ``T ~ Bernoulli(sigmoid(.))``.

    Parameters
    ----------
    policy_seed : int
        Seed of the testing decisions.
    policy : {"strong", "mild", "step", "no step", "no sex"} or mapping
        Deviations ``intercept``, ``age65`` and ``male`` in log-odds.
    features : {"age", "bins"}
        Analyst's features: ``[1, (age - 65)/10, male, age65]``, or dummies of five-year bins and
        ``male``.

    Returns
    -------
    Study
        6,524 people.

    Raises
    ------
    ValueError
        Unknown policy or features.

    References
    ----------
    Dispenzieri et al. (2012), Mayo Clinic Proceedings; Kyle et al. (2006), NEJM.
    """
    from sklearn.linear_model import LogisticRegression

    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        policy = POLICIES[policy]
    if set(policy) != {"intercept", "age65", "male"}:
        raise ValueError("a policy names intercept, age65 and male")
    if features not in ("age", "bins"):
        raise ValueError(f"features must be 'age' or 'bins', got {features!r}")
    people = _free_light_chain_people()
    age65 = (people["age"] >= 65).to_numpy(float)
    male = people["male"].to_numpy()
    decade = (people["age"].to_numpy() - 65.0) / 10.0
    y = people["positive"].to_numpy()
    seen = np.column_stack([decade, male, age65, people["kidney"]])
    full = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8).fit(seen, y)
    score = full.decision_function(seen)
    logit = score + policy["intercept"] + policy["age65"] * age65 + policy["male"] * male
    p = 1.0 / (1.0 + np.exp(-logit))
    tested = (np.random.default_rng(policy_seed).random(len(y)) < p).astype(float)
    if features == "age":
        X = np.column_stack([np.ones(len(y)), decade, male, age65])
        names: tuple[str, ...] = ("intercept", "decade", "male", "age65")
    else:
        dummies = (people["age_bin"].to_numpy()[:, None] == np.arange(1, 7)).astype(float)
        X = np.column_stack([np.ones(len(y)), dummies, male])
        names = ("intercept", *AGE_BINS[1:], "male")
    truth = {
        "policy": dict(policy),
        "score_coefficients": np.append(full.intercept_, full.coef_.ravel()),
        "z_sd": float(full.coef_.ravel()[3] * people["kidney"].std()),
    }
    return Study(X, names, tested, y, people, truth)


def load_wilms() -> Study:
    """Children with Wilms' tumour: a real decision, and the truth for everybody.

    The decision maker is the local pathologist (``T = 1``: called unfavourable), the outcome the
    reference laboratory's verdict. We pretend that only flagged cases went to the laboratory.

    Returns
    -------
    Study
        4,028 patients; features are an intercept and three stage dummies.

    References
    ----------
    D'Angio et al. (1989), Cancer; Breslow and Chatterjee (1999), Applied Statistics.
    """
    frame = data.table("domain_constraints/nwtco")
    stage = frame["stage"].to_numpy(int)
    X = np.column_stack([np.ones(len(stage)), *((stage == s).astype(float) for s in (2, 3, 4))])
    return Study(
        X,
        ("intercept", "stage2", "stage3", "stage4"),
        (frame["local"] == 2).to_numpy(float),
        (frame["central"] == 2).to_numpy(float),
        pd.DataFrame({"stage": stage}),
        {},
    )


@dataclass(frozen=True)
class Mroz:
    """Design matrices of the classic labour supply example."""

    X_outcome: np.ndarray
    X_selection: np.ndarray
    wage: np.ndarray
    working: np.ndarray


def load_mroz() -> Mroz:
    """753 married women, 1975: wages are seen for those who work.

    Returns
    -------
    Mroz
        Outcome: 1, experience, its square, education, city. Selection: 1, age, its square, family
        income in 10,000 dollars, any children, education. ``wage`` is NaN for the others.

    References
    ----------
    Mroz (1987), Econometrica; Greene, Econometric Analysis, the sample selection example.
    """
    f = data.table("domain_constraints/mroz87").astype(float)
    one = np.ones(len(f))
    kids = ((f["kids5"] + f["kids618"]) > 0).to_numpy(float)
    outcome = np.column_stack([one, f["exper"], f["exper"] ** 2, f["educ"], f["city"]])
    selection = np.column_stack([one, f["age"], f["age"] ** 2, f["faminc"] / 1e4, kids, f["educ"]])
    working = f["lfp"].to_numpy()
    wage = np.where(working == 1, f["wage"], np.nan)
    return Mroz(outcome, selection, wage, working)
