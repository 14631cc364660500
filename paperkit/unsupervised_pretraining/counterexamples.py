r"""Small worlds in which one condition of the theorem fails (instances derived here).

The paper shows that a zero-information unlabelled law and maximum likelihood downstream break the
guarantee; the instances below are ours. In the *two squares* world x is uniform on the unit
square up to a tilt of size delta, which lies along the first axis (the truth) or the second: the
marginal laws are delta apart in total variation, the joint laws 1/2, so kappa = 1 / (2 delta) is
a dial.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from paperkit.unsupervised_pretraining._validate import (
    FloatArray,
    count,
    flip_probability,
    float_array,
)
from paperkit.unsupervised_pretraining.factor import (
    FactorTask,
    fit_ppca,
    representation_excess,
    sample_second_moments,
)
from paperkit.unsupervised_pretraining.mixture import majority_wrong


def two_squares_wrong(m: int, delta: float) -> float:
    """Probability that maximum likelihood on m points picks the wrong axis (exact).

    Only the k ~ Bin(m, 1/2) points in the two quadrants where the models disagree count; each
    lies on the true side with probability (1 + 2 delta) / 2, and the larger count wins (ties by a
    coin).
    """
    m = count("m", m)
    if not 0 < delta <= 0.5:
        raise ValueError(f"delta must lie in (0, 0.5], got {delta}")
    return float(majority_wrong(m, 0.5, (1 + 2 * delta) / 2))


def two_squares_excess(m: int, delta: float, label_noise: float = 0.0) -> float:
    """Exact mean excess error rate (1 - 2 eps)(1/2 - delta) P(wrong axis); kappa = 1 / (2 delta).

    Half of the plane is misread with the wrong axis, so the best head is then a constant, which is
    wrong on the light half: probability 1/2 - delta.
    """
    noise = flip_probability("label_noise", label_noise)
    return (1 - 2 * noise) * (0.5 - delta) * two_squares_wrong(m, delta)


def halfspace_excess(
    m: int, dimension: int, label_noise: float, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess error rates in the zero-information world, shape (n_draws,).

    x ~ N(0, I), z = sign(u^T x): the law of x does not contain u, every u maximises the
    likelihood. The fit takes the leading direction of the unlabelled sample, one of the
    maximisers; the head may still choose the sign, so the excess is (1 - 2 eps) min(theta, pi -
    theta) / pi.
    """
    noise = flip_probability("label_noise", label_noise)
    d = count("dimension", dimension, at_least=2)
    moments = sample_second_moments(np.eye(d), m, n_draws, rng)
    u = np.linalg.eigh(moments)[1][:, 0, -1]  # cosine with the true direction e_1
    return (1 - 2 * noise) * np.arccos(np.clip(np.abs(u), 0, 1)) / np.pi


def broken_invariance_excess(
    m: int, signal: Any, dimension: int, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Excess squared risks when the head class is ``{b e_1}``, shape (n_draws,).

    The truth has beta = e_1; maximum likelihood finds the factors only up to a rotation, and a
    class that may use the first fitted factor only is not closed under it. n is infinite.
    """
    strength = float_array("signal", signal, ndim=1)
    task = FactorTask.diagonal(
        strength.tolist(),
        np.eye(len(strength))[0].tolist(),
        dimension=dimension,
        noise_variance=1.0,
    )
    moments = sample_second_moments(task.covariance, m, n_draws, rng)
    first = fit_ppca(moments, len(strength))[..., :1]  # (draws, d, 1): the one admitted direction
    return representation_excess(task, first)


def coin_excess(n: int, eta: float, *, rule: str = "mle", likelihood_floor: float = 0.0) -> float:
    """Exact excess error of choosing between "y = z" and a fair coin with n labels.

    x takes two values; z agrees with x with probability 1 - eta, but the fitted representation says
    "always" (total variation eta). A label contradicts the fitted z with probability eta. Maximum
    likelihood gives "y = z" probability zero after one contradiction and then prefers the coin; 0-1
    empirical risk minimisation compares mistakes with n / 2.

    Parameters
    ----------
    n : int
        Labels.
    eta : float
        In [0, 1/2).
    rule : {"mle", "erm"}
    likelihood_floor : float
        Smallest probability the likelihood may give to a label; 0 is plain maximum likelihood.
    """
    n, eta = count("n", n), flip_probability("eta", eta)
    if rule not in ("mle", "erm"):
        raise ValueError(f"rule must be one of mle, erm, got {rule!r}")
    if not 0 <= likelihood_floor < 0.5:
        raise ValueError(f"likelihood_floor must lie in [0, 0.5), got {likelihood_floor}")
    contradictions = np.arange(n + 1)
    weight = stats.binom.pmf(contradictions, n, eta)
    if rule == "erm":
        # A coin's predictor is wrong on half of the labels; at a tie the first class is kept.
        picks_coin = contradictions > n / 2
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            against = np.where(contradictions > 0, contradictions * np.log(likelihood_floor), 0.0)
        log_copy = against + (n - contradictions) * np.log1p(-likelihood_floor)
        picks_coin = log_copy < n * np.log(0.5)
    return float((0.5 - eta) * weight[picks_coin].sum())
