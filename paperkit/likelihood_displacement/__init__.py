"""When preferred answers become less likely: likelihood displacement in direct preference optimisation.

Razin, Malladi, Bhaskar, Chen, Arora and Hanin, "Unintentional Unalignment: Likelihood Displacement in Direct
Preference Optimization", ICLR 2025.

:mod:`.losses` holds the family of losses, :mod:`.features` the model that can be solved, :mod:`.rates` the exact first
step of displacement in any causal language model, :mod:`.pairs` the CHES score and its rivals, :mod:`.training`
preference training with a record, and :mod:`.refusal_world` a small language in which refusals can be unlearnt.
"""

from .features import MultiTokenFeatures, UnconstrainedFeatures, canonical_instance, rate_map
from .losses import LOSSES, check_loss, loss_slope, preference_loss
from .pairs import (
    MEASURES,
    TokenPair,
    ches_score,
    encode_pairs,
    filter_pairs,
    hidden_sums,
    normalized_edit_distance,
    score_pairs,
)
from .rates import displacement_rates, token_rates
from .refusal_world import RefusalLanguage, RefusalWorld
from .training import (
    TrainingTrace,
    first_token_probabilities,
    pair_logprobs,
    train_preferences,
    trained_parameters,
)

__all__ = [
    "LOSSES",
    "MEASURES",
    "MultiTokenFeatures",
    "RefusalLanguage",
    "RefusalWorld",
    "TokenPair",
    "TrainingTrace",
    "UnconstrainedFeatures",
    "canonical_instance",
    "check_loss",
    "ches_score",
    "displacement_rates",
    "encode_pairs",
    "filter_pairs",
    "first_token_probabilities",
    "hidden_sums",
    "loss_slope",
    "normalized_edit_distance",
    "pair_logprobs",
    "preference_loss",
    "rate_map",
    "score_pairs",
    "token_rates",
    "train_preferences",
    "trained_parameters",
]
