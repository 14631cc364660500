"""Erasing a concept from a text-to-image diffusion model by surgery on its guidance term.

Hong, Lee and Woo, "All but One: Surgical Concept Erasing with Model Preservation in Text-to-Image
Diffusion Models", AAAI 2024. The loss is our reading of the abstract; no code of the authors is
known.

:mod:`.guidance` holds the mathematics (guidance, the surgical loss, its rivals' targets, the error
identity), :mod:`.sampling` draws and inverts images with any `diffusers` pipeline, :mod:`.erasing`
records states and fine-tunes, :mod:`.evaluation` judges, :mod:`.scenes` is a small trained
text-to-image model with an oracle, and :mod:`.exact` a two-dimensional model with known answers.
"""

from .erasing import ErasureResult, States, erase_concept, record_states, trainable_parameters
from .evaluation import cfg_error, erasure_report
from .guidance import (
    METHODS,
    Replacement,
    ablation_target,
    classifier_free_guidance,
    error_bound,
    esd_target,
    guidance_term,
    method_loss,
    surgical_loss,
)
from .sampling import encode_prompts, generate, initial_noise, invert, purify
from .scenes import load_pipeline

__all__ = [
    "METHODS",
    "ErasureResult",
    "Replacement",
    "States",
    "ablation_target",
    "cfg_error",
    "classifier_free_guidance",
    "encode_prompts",
    "erase_concept",
    "erasure_report",
    "error_bound",
    "esd_target",
    "generate",
    "guidance_term",
    "initial_noise",
    "invert",
    "load_pipeline",
    "method_loss",
    "purify",
    "record_states",
    "surgical_loss",
    "trainable_parameters",
]
