"""Why tuning for answers polarises risk scores, in two lines.

*Pretraining* maximises expected log-likelihood: for every x the best score of

.. math:: \\eta \\log s + (1 - \\eta) \\log (1 - s)

is :math:`s = \\eta`, calibrated. *Tuning* pays 1 for the right answer and charges for moving away
from the base model :math:`s_0`:

.. math:: \\max_s\\; \\eta s + (1 - \\eta)(1 - s) - \\beta\\, KL(Bern(s) \\,\\|\\, Bern(s_0))

Setting the derivative to zero gives

.. math:: logit\\, s_\\beta = logit\\, s_0 + (2 \\eta - 1) / \\beta .

From a calibrated base the side of 1/2 and the order of the people stay as they were (same accuracy,
same AUC), but every score moves away from 1/2. This derivation is ours; the paper observes the
effect on trained models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from paperkit.risk_scores._checks import Floats, check_scores


def polarise(s: ArrayLike, beta: float, eta: ArrayLike | None = None) -> Floats:
    """Score after tuning for right answers.

    Parameters
    ----------
    s : array of shape (n,)
        Scores of the base model, :math:`s_0`.
    beta : float
        Price of leaving the base model, above 0: infinity leaves the scores alone, near 0 they
        become 0 and 1.
    eta : array of shape (n,), optional
        Conditional frequency of the outcome; default ``s`` itself, a calibrated base model.

    Returns
    -------
    array of shape (n,)
        :math:`s_\\beta` with :math:`logit\\, s_\\beta = logit\\, s_0 + (2 \\eta - 1) / \\beta`.
    """
    base = check_scores(s)
    frequency = base if eta is None else check_scores(eta, "eta")
    if frequency.shape != base.shape:
        raise ValueError(f"s and eta must have equal shape, got {base.shape} and {frequency.shape}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta!r}")
    return expit(logit(base) + (2 * frequency - 1) / beta)


def tuning_objective(s: ArrayLike, eta: ArrayLike, s0: ArrayLike, beta: float) -> Floats:
    """What tuning maximises: expected reward minus ``beta`` times KL(Bern(s) || Bern(s0)).

    All arguments broadcast and lie strictly between 0 and 1 (``beta`` above 0).
    """
    s, eta, s0 = (np.asarray(v, dtype=np.float64) for v in (s, eta, s0))
    kl = s * np.log(s / s0) + (1 - s) * np.log((1 - s) / (1 - s0))
    return eta * s + (1 - eta) * (1 - s) - beta * kl


def temper(s: ArrayLike, temperature: float) -> Floats:
    """Divide the logit by ``temperature``: below 1 sharpens, above 1 flattens, 1/2 stays where it
    is."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    return expit(logit(check_scores(s)) / temperature)


def squeeze_factor(letter_bias: float) -> float:
    """Shrinkage of a weak signal when *probabilities* of the two answer orders are averaged.

    With letter bias b and evidence e the orders have logits b - e and b + e, and the mean of the
    two probabilities of the positive answer, :math:`(\\sigma(e - b) + \\sigma(e + b)) / 2`, leaves
    1/2 with the slope
    :math:`\\sigma'(b)` instead of 1/4.

    Returns
    -------
    float
        :math:`4 \\sigma'(b)`, in (0, 1]: 1 without bias.
    """
    p = expit(letter_bias)
    return float(4 * p * (1 - p))
