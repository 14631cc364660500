"""Hiring several experts whose effort is hidden, and learning to do so.

Cacciamani, Castiglioni and Gatti, "Online Information Acquisition: Hiring Multiple Agents", ICLR
2024.

A principal hires experts whose effort and signals she cannot see. :mod:`.problem` states the game,
:mod:`.program` finds the best incentive-compatible mechanism by a linear program,
:mod:`.incentives` says what liars and shirkers gain, :mod:`.closed_forms` holds answers on paper,
:mod:`.definition` the program without simplifications, :mod:`.online` learns the mechanism from
data and :mod:`.instances` makes problems, from two lines of algebra or from real classifiers.
"""

from .closed_forms import (
    TwinLadder,
    minimum_payment,
    smallest_cap,
    total_variation,
    twin_ladder,
    v_shaped_rule,
)
from .definition import solve_definition
from .incentives import (
    Deviation,
    Strategy,
    agent_values,
    best_response_dynamics,
    deviation_gains,
    gain_table,
    largest_gain,
    obedience,
    principal_value,
    pure_equilibria,
)
from .instances import (
    classifier_instance,
    separate_noise_instance,
    shared_noise_instance,
    twin_instance,
)
from .online import (
    RunResult,
    confidence_multiplier,
    estimate_costs,
    explore,
    explore_then_commit,
    kernel_intervals,
    match_rules,
    simulate,
    worst_case_gain,
)
from .problem import HiringProblem, Mechanism
from .program import (
    KernelIntervals,
    SparseLP,
    build_lp,
    fixed_mechanism,
    optimal_mechanism,
    predicted_nonzeros,
    uncorrelated_mechanism,
)

__all__ = [
    "Deviation",
    "HiringProblem",
    "KernelIntervals",
    "Mechanism",
    "RunResult",
    "SparseLP",
    "Strategy",
    "TwinLadder",
    "agent_values",
    "best_response_dynamics",
    "build_lp",
    "classifier_instance",
    "confidence_multiplier",
    "deviation_gains",
    "estimate_costs",
    "explore",
    "explore_then_commit",
    "fixed_mechanism",
    "gain_table",
    "kernel_intervals",
    "largest_gain",
    "match_rules",
    "minimum_payment",
    "obedience",
    "optimal_mechanism",
    "predicted_nonzeros",
    "principal_value",
    "pure_equilibria",
    "separate_noise_instance",
    "shared_noise_instance",
    "simulate",
    "smallest_cap",
    "solve_definition",
    "total_variation",
    "twin_instance",
    "twin_ladder",
    "uncorrelated_mechanism",
    "v_shaped_rule",
    "worst_case_gain",
]
