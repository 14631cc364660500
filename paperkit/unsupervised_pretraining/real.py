"""Real data: three small sets, and the two-phase procedures that the last notebook runs on them.

Penguins (Gorman, Williams, Fraser 2014; CC0), a personality questionnaire with five trait factors
(psych::bfi, Revelle; GPL) and handwritten digits (scikit-learn, UCI; CC BY 4.0). Supervised
baselines never see unlabelled rows, not even to standardise.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from paperkit.unsupervised_pretraining._validate import FloatArray, count, one_of
from paperkit.unsupervised_pretraining.factor import fit_factor_analysis
from paperkit.unsupervised_pretraining.mixture import labelling_erm

BFI_TARGETS = ("A3", "C4", "E2", "N1", "O3")


def load_penguins() -> tuple[FloatArray, np.ndarray]:
    """Four body measurements (342, 4) and the species as 0, 1, 2 (Adelie, Chinstrap, Gentoo)."""
    from paperkit import data

    table = data.table("unsupervised_pretraining/penguins")
    names = sorted(table["species"].unique())
    X = table.drop(columns="species").to_numpy(float)
    return X, table["species"].map({name: k for k, name in enumerate(names)}).to_numpy()


def load_bfi() -> pd.DataFrame:
    """Answers 1 to 6 of 2,436 people to 25 items; five items for each of the traits A, C, E, N, O."""
    from paperkit import data

    return data.table("unsupervised_pretraining/bfi").astype(float)


def load_digits() -> tuple[FloatArray, np.ndarray]:
    """Digits of 8 x 8 pixels scaled to [0, 1], (1797, 64), and their classes."""
    from sklearn import datasets

    X, y = datasets.load_digits(return_X_y=True)
    return X / 16.0, y


def draw_labelled(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n random row numbers among which every class of ``y`` occurs (redrawn until it does)."""
    classes = np.unique(y)
    if count("n", n) < len(classes) or n > len(y):
        raise ValueError(f"n must be between {len(classes)} classes and {len(y)} rows, got {n}")
    for _ in range(10_000):
        chosen = rng.choice(len(y), n, replace=False)
        if len(np.unique(y[chosen])) == len(classes):
            return chosen
    raise ValueError(f"no draw of {n} rows held every class: n is too small for the rarest class")


def _standardiser(X: FloatArray) -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(X)


def supervised_predictions(
    X: FloatArray, y: np.ndarray, X_test: FloatArray
) -> dict[str, np.ndarray]:
    """Classes predicted by logistic regression and shrunk discriminant analysis on n labelled rows."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression

    scaler = _standardiser(X)
    train, test = scaler.transform(X), scaler.transform(X_test)
    logistic = LogisticRegression(max_iter=2000).fit(train, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with one row: its scatter is zero
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, y)
    return {"logistic": logistic.predict(test), "shrunk LDA": lda.predict(test)}


def mixture_predictions(
    X_unlabelled: FloatArray,
    X: FloatArray,
    y: np.ndarray,
    X_test: FloatArray,
    *,
    n_components: int = 3,
    n_classes: int = 3,
    covariance: str = "tied",
    n_init: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Classes predicted by a mixture fitted without labels whose components n labels then name.

    ``covariance`` is "tied" (one covariance for all components, the model that also underlies
    discriminant analysis) or "diag" (coordinates independent within a component).
    """
    from sklearn.mixture import GaussianMixture

    one_of("covariance", covariance, ("tied", "diag", "full", "spherical"))
    scaler = _standardiser(X_unlabelled)
    model = GaussianMixture(
        n_components, covariance_type=covariance, n_init=n_init, reg_covar=1e-3, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-means on few distinct rows
        model.fit(scaler.transform(X_unlabelled))
    method = "exact" if n_classes**n_components <= 4096 else "vote"
    responsibilities = model.predict_proba(scaler.transform(X))
    names = labelling_erm(responsibilities, y, n_classes=n_classes, method=method)
    posterior = model.predict_proba(scaler.transform(X_test)) @ np.eye(n_classes)[names]
    return posterior.argmax(axis=1)


def penguin_predictions(
    rng: np.random.Generator,
    *,
    n: int = 10,
    m: int = 160,
    covariance: str = "tied",
    supervised: bool = True,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Predicted classes of each method on 142 test rows of one random split, and the true classes.

    m rows are unlabelled, n of them labelled. Labels come from the first 20 rows (from the first n if
    n > 20), so that runs over m share them; a split whose first rows lack a species is redrawn.
    """
    X, y = load_penguins()
    if not n <= m <= len(y) - 142:
        raise ValueError(f"need n <= m <= {len(y) - 142}, got n={n}, m={m}")
    while True:
        order = rng.permutation(len(y))
        test, pool = order[:142], order[142:]
        head = pool[: max(20, n)]
        if len(np.unique(y[head])) == 3:
            break
    labelled = head[draw_labelled(y[head], n, rng)]
    seed = int(rng.integers(2**31))
    predicted = {
        "mixture": mixture_predictions(
            X[pool[:m]], X[labelled], y[labelled], X[test], covariance=covariance, seed=seed
        )
    }
    if supervised:
        predicted |= supervised_predictions(X[labelled], y[labelled], X[test])
    return predicted, y[test]


def penguin_split(rng: np.random.Generator, **settings: Any) -> dict[str, float]:
    """Test accuracy of each method on one split; settings as in `penguin_predictions`."""
    predicted, truth = penguin_predictions(rng, **settings)
    return {name: float((guess == truth).mean()) for name, guess in predicted.items()}


def _r2(y: FloatArray, predicted: FloatArray) -> float:
    return float(1 - ((y - predicted) ** 2).mean() / y.var())


def _regression(features: FloatArray, y: FloatArray, rows: np.ndarray, test: np.ndarray) -> float:
    """R^2 on ``test`` of least squares with intercept on ``rows``."""
    design = np.column_stack([np.ones(len(features)), features])
    weights = np.linalg.lstsq(design[rows], y[rows], rcond=None)[0]
    return _r2(y[test], design[test] @ weights)


def trait_loadings(n_factors: int = 5) -> pd.DataFrame:
    """Loadings of a factor analysis of all 25 items, rotated to simple structure (25, n_factors).

    Rows are the items A1 .. O5. The likelihood does not change under rotations of the factors;
    varimax picks the rotation in which every item has few large loadings. Columns are named after
    the trait whose items load highest on them, in the order of the rows, and signed so that most of
    these items load positively.
    """
    from sklearn.decomposition import FactorAnalysis

    table = load_bfi()
    Z = _standardiser(table.to_numpy()).transform(table.to_numpy())
    model = FactorAnalysis(count("n_factors", n_factors), rotation="varimax", random_state=0)
    loadings = model.fit(Z).components_.T
    traits = np.array([name[0] for name in table.columns])
    names = list(dict.fromkeys(traits))
    strength = np.array([np.abs(loadings[traits == t]).mean(axis=0) for t in names])  # (5, r)
    owner = strength.argmax(axis=0)
    signs = [np.sign(np.median(loadings[traits == names[k], j])) for j, k in enumerate(owner)]
    frame = pd.DataFrame(loadings * signs, index=table.columns, columns=[names[k] for k in owner])
    return frame.iloc[:, np.argsort(owner, kind="stable")]


def bfi_split(
    rng: np.random.Generator,
    target: str,
    *,
    n_values: tuple[int, ...] = (30, 50, 400),
    m_values: tuple[int, ...] = (100, 1436),
    n_factors: int = 5,
    n_label_draws: int = 8,
    baselines: bool = True,
) -> list[dict[str, Any]]:
    """R^2 of one held-out item, 1,000 test people, 1,436 others of whom n are labelled.

    Returns records ``method, m, n, r2`` averaged over the label draws. Methods: "factors" (maximum
    likelihood factor analysis of the other 24 items on m people, then least squares on the factor
    scores), "ridge" (penalty by leave-one-out on the labelled rows) and "own components" (principal
    components of the labelled rows only).
    """
    from sklearn.linear_model import RidgeCV

    table = load_bfi()
    if target not in table:
        raise ValueError(f"target must be one of {', '.join(map(str, table))}, got {target!r}")
    if max(m_values) > 1436 or max(n_values) > min(1436, len(table)):
        raise ValueError("m and n can be at most 1436")
    y, X = table[target].to_numpy(), table.drop(columns=target).to_numpy()
    order = rng.permutation(len(y))
    test, pool = order[:1000], order[1000:]
    scores: dict[int, FloatArray] = {}
    for m in m_values:
        scaler = _standardiser(X[pool[:m]])
        Z = scaler.transform(X)
        seen = Z[pool[:m]]
        loadings, noise = fit_factor_analysis(seen.T @ seen / m, n_factors, tol=1e-5)
        scores[m] = Z @ (loadings / noise[:, None])
    result: list[dict[str, Any]] = []
    for n in n_values:
        values: dict[tuple[str, int], list[float]] = {}
        # Large labelled samples vary little: fewer draws do.
        for _ in range(n_label_draws if n <= 100 else max(1, n_label_draws // 4)):
            rows = pool[rng.choice(len(pool), n, replace=False)]
            for m, features in scores.items():
                values.setdefault(("factors", m), []).append(_regression(features, y, rows, test))
            if not baselines:
                continue
            scaler = _standardiser(X[rows])
            own = scaler.transform(X)
            ridge = RidgeCV(np.logspace(-1, 4, 16)).fit(own[rows], y[rows])
            values.setdefault(("ridge", 0), []).append(_r2(y[test], ridge.predict(own[test])))
            _, _, v_t = np.linalg.svd(own[rows], full_matrices=False)
            value = _regression(own @ v_t[:n_factors].T, y, rows, test)
            values.setdefault(("own components", 0), []).append(value)
        for (method, m), r2 in values.items():
            result.append({"method": method, "m": m, "n": n, "r2": float(np.mean(r2))})
    return result


def probe_accuracy(
    features: FloatArray, y: np.ndarray, rows: np.ndarray, test: np.ndarray, *, scale: bool = True
) -> float:
    """Test accuracy of logistic regression (C = 10) on features divided by one overall deviation."""
    from sklearn.linear_model import LogisticRegression

    size = features[rows].std() if scale else 1.0
    model = LogisticRegression(C=10, max_iter=2000).fit(features[rows] / size, y[rows])
    return float((model.predict(features[test] / size) == y[test]).mean())


def digits_split(split: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a fixed split of the digits: 500 test rows, 1,297 others in random order."""
    order = np.random.default_rng([1797, count("split", split, at_least=0)]).permutation(1797)
    return order[:500], order[500:]


def digits_labelled(split: int, n: int, draw: int) -> np.ndarray:
    """Row numbers of n labelled digits: from the first 150 of the pool (the first n if n > 150).

    Every encoder has seen these rows without labels, whatever its m.
    """
    _, pool = digits_split(split)
    if n > 150:
        return pool[:n]
    _, y = load_digits()
    rng = np.random.default_rng([1797, split, n, draw])
    return pool[:150][draw_labelled(y[pool[:150]], n, rng)]


def linear_digits(split: int, n: int, *, n_factors: int = 10, n_draws: int = 2) -> dict[str, float]:
    """Test accuracy on digits of three linear routes, averaged over label draws.

    ``pixels``: logistic regression on the 64 pixels. ``factors``: the same on the scores of a
    factor analysis with ``n_factors`` of all 1,297 unlabelled images. ``components``: on 20
    principal components of these images.
    """
    X, y = load_digits()
    test, pool = digits_split(split)
    mean = X[pool].mean(axis=0)
    centred = X - mean
    # A pixel that is always blank has no variance; a floor keeps its noise variance positive.
    moment = centred[pool].T @ centred[pool] / len(pool) + 1e-4 * np.eye(64)
    loadings, noise = fit_factor_analysis(moment, n_factors, tol=1e-4, max_iter=300)
    scaled = loadings / noise[:, None]
    factors = centred @ scaled @ np.linalg.inv(np.eye(n_factors) + loadings.T @ scaled)
    components = centred @ np.linalg.eigh(moment)[1][:, -20:]
    result = {"pixels": 0.0, "factors": 0.0, "components": 0.0}
    for draw in range(n_draws):
        rows = digits_labelled(split, n, draw)
        result["pixels"] += probe_accuracy(X, y, rows, test, scale=False) / n_draws
        result["factors"] += probe_accuracy(factors, y, rows, test) / n_draws
        result["components"] += probe_accuracy(components, y, rows, test) / n_draws
    return result
