"""Risk prediction when outcomes are missing because somebody decided whom to test.

Balachandar, Garg and Pierson, *Domain constraints improve risk prediction when outcome data is
missing*, ICLR 2024. For a person with features ``X`` and an unobservable ``Z``::

    risk        r = X'beta_Y + Z,      Y ~ Bernoulli(sigmoid(r)), seen only if tested
    testing     T ~ Bernoulli(sigmoid(alpha r + X'beta_Delta))
    prevalence  mean over everybody of p(Y=1|X) equals a known number
    expertise   beta_Delta is zero outside a named set of features

Read in this order: :mod:`~paperkit.domain_constraints.cells` (the integrals over ``Z``),
:mod:`~paperkit.domain_constraints.labels` (data and constraints),
:mod:`~paperkit.domain_constraints.model` (posterior and predictions),
:mod:`~paperkit.domain_constraints.heckman` (the special case of econometrics),
:mod:`~paperkit.domain_constraints.rivals` (simpler methods, comparison, use).
"""

from paperkit.domain_constraints.cells import Cells, cell_probabilities, quadrature_nodes
from paperkit.domain_constraints.heckman import (
    HeckmanFit,
    HeckmanModel,
    fit_heckman_mle,
    general_from_heckman,
    general_loglik,
    heckman_from_general,
    heckman_loglik,
    mills_condition_number,
)
from paperkit.domain_constraints.labels import (
    DomainConstraints,
    SelectiveLabels,
    SeparationWarning,
)
from paperkit.domain_constraints.laplace import NestedLaplace, nested_laplace
from paperkit.domain_constraints.model import (
    SelectionModel,
    latent_pymc_model,
    predict,
    predictive_draws,
    predictive_p,
    pymc_model,
    replicate_counts,
)
from paperkit.domain_constraints.nuts import ApproximationWarning
from paperkit.domain_constraints.rivals import (
    LogisticRisk,
    Reallocation,
    constraint_gains,
    logistic_tested_only,
    logistic_untested_negative,
    parameter_report,
    reallocation,
)
from paperkit.domain_constraints.simulate import (
    Simulation,
    simulate_bernoulli_sigmoid,
    simulate_heckman,
)
from paperkit.domain_constraints.tables import (
    AGE_BINS,
    POLICIES,
    Mroz,
    Study,
    load_free_light_chain,
    load_mroz,
    load_wilms,
)

__all__ = [
    "AGE_BINS",
    "POLICIES",
    "ApproximationWarning",
    "Cells",
    "DomainConstraints",
    "HeckmanFit",
    "HeckmanModel",
    "LogisticRisk",
    "Mroz",
    "NestedLaplace",
    "Reallocation",
    "SelectionModel",
    "SelectiveLabels",
    "SeparationWarning",
    "Simulation",
    "Study",
    "cell_probabilities",
    "constraint_gains",
    "fit_heckman_mle",
    "general_from_heckman",
    "general_loglik",
    "heckman_from_general",
    "heckman_loglik",
    "latent_pymc_model",
    "load_free_light_chain",
    "load_mroz",
    "load_wilms",
    "logistic_tested_only",
    "logistic_untested_negative",
    "mills_condition_number",
    "nested_laplace",
    "parameter_report",
    "predict",
    "predictive_draws",
    "predictive_p",
    "pymc_model",
    "quadrature_nodes",
    "reallocation",
    "replicate_counts",
    "simulate_bernoulli_sigmoid",
    "simulate_heckman",
]
