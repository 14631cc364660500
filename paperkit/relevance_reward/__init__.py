"""Regularised relevance reward: align a language model without preferences.

The modules, in the order of the argument: :mod:`~paperkit.relevance_reward.reward` (the reward and every ablation of
it), :mod:`~paperkit.relevance_reward.world` (a world small enough to know the optimum of every reward),
:mod:`~paperkit.relevance_reward.preferences` (an annotator with a known taste for length, and the reward model fitted
to it), :mod:`~paperkit.relevance_reward.experiments` (one function per claim).

References
----------
Kim, S., and Seo, M. (2024). Preference-free alignment learning with regularized relevance reward. arXiv:2402.03469,
version 1; later versions, and EMNLP 2024, under the title "Rethinking the role of proxy rewards in language model
alignment".
"""

from paperkit.relevance_reward.reward import (
    LABELS,
    PRESETS,
    QueryType,
    RelevanceReward,
    Retriever,
    TokenVectors,
    copy_rate,
    interpolate,
    length_incentive,
    load_prompts,
    preset,
    repetition_penalty,
    tokenize_words,
    truncate_response,
)

__all__ = [
    "LABELS",
    "PRESETS",
    "QueryType",
    "RelevanceReward",
    "Retriever",
    "TokenVectors",
    "copy_rate",
    "interpolate",
    "length_incentive",
    "load_prompts",
    "preset",
    "repetition_penalty",
    "tokenize_words",
    "truncate_response",
]
