"""RADD: absorbing diffusion as the conditional laws of clean data.

J. Ou, S. Nie, K. Xue, F. Zhu, J. Sun, Z. Li, C. Li: *Your Absorbing Discrete Diffusion Secretly
Models the Conditional Distributions of Clean Data*. ICLR 2025, arXiv:2406.03736.

Every token of a text is replaced by a mask at a random time. The concrete score of a noisy text,
``p_t(x with token v at i) / p_t(x)``, is the conditional probability of the clean token given the
visible ones, times ``1 / (exp(sigma_bar(t)) - 1)`` (Theorem 1). Hence a network without a time
input, samplers that call it only when something changes, and one bound on the likelihood that
is at once a diffusion loss and the expected loss of an autoregressive model in a random order.
"""

from paperkit.absorbing_diffusion.evaluation import (
    BoundEstimate,
    generative_nll,
    infilling,
    nll_bound,
    paired_difference,
    unigram_entropy,
)
from paperkit.absorbing_diffusion.known import (
    MarkovLanguage,
    TableModel,
    TabularJoint,
    total_variation,
)
from paperkit.absorbing_diffusion.losses import (
    any_order_loss,
    autoregressive_loss,
    concrete_score,
    conditional_from_score,
    dse_loss,
    exact_any_order_nll,
    exact_losses,
    lambda_dce_loss,
    mask_tokens,
    t_dce_loss,
)
from paperkit.absorbing_diffusion.networks import (
    NETWORKS,
    CausalTransformer,
    MaskedTransformer,
    TimeConditionedTransformer,
    TransformerConfig,
    time_conditioning_parameters,
)
from paperkit.absorbing_diffusion.reference import load_reference_model
from paperkit.absorbing_diffusion.sampling import (
    SampleResult,
    adaptive_sample,
    expected_nfe,
    ordered_sample,
    reveal_law,
    sample,
)
from paperkit.absorbing_diffusion.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LogLinearSchedule,
    NoiseSchedule,
    unmask_probabilities,
)
from paperkit.absorbing_diffusion.text import (
    TextWindows,
    load_kjv,
    load_zero_shot_texts,
)

__all__ = [
    "NETWORKS",
    "BoundEstimate",
    "CausalTransformer",
    "CosineSchedule",
    "GeometricSchedule",
    "LogLinearSchedule",
    "MarkovLanguage",
    "MaskedTransformer",
    "NoiseSchedule",
    "SampleResult",
    "TableModel",
    "TabularJoint",
    "TextWindows",
    "TimeConditionedTransformer",
    "TransformerConfig",
    "adaptive_sample",
    "any_order_loss",
    "autoregressive_loss",
    "concrete_score",
    "conditional_from_score",
    "dse_loss",
    "exact_any_order_nll",
    "exact_losses",
    "expected_nfe",
    "generative_nll",
    "infilling",
    "lambda_dce_loss",
    "load_kjv",
    "load_reference_model",
    "load_zero_shot_texts",
    "mask_tokens",
    "nll_bound",
    "ordered_sample",
    "paired_difference",
    "reveal_law",
    "sample",
    "t_dce_loss",
    "time_conditioning_parameters",
    "total_variation",
    "unigram_entropy",
    "unmask_probabilities",
]
