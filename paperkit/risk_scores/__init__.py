"""Language models as risk scores: ask, score, judge.

A language model is asked about one person described in text, and the probabilities of its answer
tokens are read as a *risk score* :math:`s(x) \\in [0, 1]`. Where the outcome is not determined by
the description, a good score is the conditional frequency :math:`\\eta(x) = P(y = 1 | x)`, and one
can ask whether the model quantifies uncertainty.

The modules, in the order of the argument: :mod:`~paperkit.risk_scores.tasks` (rows to questions),
:mod:`~paperkit.risk_scores.scoring` (questions to scores), :mod:`~paperkit.risk_scores.judging`
(scores against outcomes), :mod:`~paperkit.risk_scores.polarisation` (why tuning polarises),
:mod:`~paperkit.risk_scores.recalibration` (baselines and repair),
:mod:`~paperkit.risk_scores.published` (the authors' table),
:mod:`~paperkit.risk_scores.experiments` (one function per claim of the chapter).

References
----------
Cruz, A. F., Hardt, M., and Mendler-Duenner, C. (2024). Evaluating language models as risk scores.
Advances in Neural Information Processing Systems 37, Datasets and Benchmarks. arXiv:2407.14614.
"""

from paperkit.risk_scores.judging import (
    auc,
    auc_p_value,
    brier_decomposition,
    claimed_uncertainty,
    confidence_gap,
    ece_null,
    evaluate,
    expected_calibration_error,
    reliability,
    uncertainty_gap,
)
from paperkit.risk_scores.polarisation import polarise, squeeze_factor, temper
from paperkit.risk_scores.published import load_published_baselines, load_published_results
from paperkit.risk_scores.recalibration import ScoreCalibrator, crossfit_baseline, make_baseline
from paperkit.risk_scores.scoring import (
    AnswerNotFound,
    LMRiskScorer,
    LocalBackend,
    TopLogprobsBackend,
    as_backend,
)
from paperkit.risk_scores.tasks import Column, Question, Task, TaskData, Template, load_task

__all__ = [
    "AnswerNotFound",
    "Column",
    "LMRiskScorer",
    "LocalBackend",
    "Question",
    "ScoreCalibrator",
    "Task",
    "TaskData",
    "Template",
    "TopLogprobsBackend",
    "as_backend",
    "auc",
    "auc_p_value",
    "brier_decomposition",
    "claimed_uncertainty",
    "confidence_gap",
    "crossfit_baseline",
    "ece_null",
    "evaluate",
    "expected_calibration_error",
    "load_published_baselines",
    "load_published_results",
    "load_task",
    "make_baseline",
    "polarise",
    "reliability",
    "squeeze_factor",
    "temper",
    "uncertainty_gap",
]
