"""Load the weights that the authors released into this chapter's network.

Their network (repository ML-GSAI/RADD, Apache-2.0) is the same pre-norm transformer with rotary
positions. Its attention has no biases, which are zero here, and its output layer has one row more
than there are tokens, for the mask, which is left out: a mask is not a possible output.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from paperkit.absorbing_diffusion.networks import MaskedTransformer, TransformerConfig

__all__ = ["load_reference_model"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_reference_model(source: str | os.PathLike[str]) -> MaskedTransformer:
    """Return the authors' network as a :class:`MaskedTransformer`, in evaluation mode.

    Parameters
    ----------
    source : str or path
        A folder with ``config.json`` and ``model.safetensors``, or a hub id such as
        ``"JingyangOu/radd-lambda-dce"``, which is downloaded.

    Returns
    -------
    MaskedTransformer
        float32; its tokens are those of GPT-2's tokenizer for the released weights.

    Raises
    ------
    FileNotFoundError
        If the folder lacks one of the files.
    ValueError
        If the configuration or a tensor is missing or has another shape.
    """
    from safetensors.torch import load_file

    folder = Path(source)
    if folder.is_dir():
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder.name} has no {name}")
        files = [folder / CONFIG, folder / WEIGHTS]
    else:
        from transformers.utils import cached_file

        files = [Path(str(cached_file(str(source), name))) for name in (CONFIG, WEIGHTS)]
    settings = json.loads(files[0].read_text(encoding="utf-8"))
    config = _config(settings.get("config", settings))
    return _fill(MaskedTransformer(config), load_file(files[1]))


def _config(settings: dict[str, Any]) -> TransformerConfig:
    try:
        model = settings["model"]
        return TransformerConfig(
            vocab_size=int(settings["tokens"]),
            width=int(model["hidden_size"]),
            depth=int(model["n_blocks"]),
            heads=int(model["n_heads"]),
            dropout=float(model.get("dropout", 0.0)),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.json is not one of the authors' networks: {error!r}") from None


def _fill(model: MaskedTransformer, there: dict[str, torch.Tensor]) -> MaskedTransformer:
    V = model.config.vocab_size
    source = {"embedding.weight": "vocab_embed.embedding"}
    for part in ("weight", "bias"):
        source[f"norm.{part}"] = f"output_layer.norm_final.{part}"
        source[f"vocabulary.{part}"] = f"output_layer.linear.{part}"
    for k in range(model.config.depth):
        ours, theirs = f"blocks.{k}", f"blocks.{k}"
        source[f"{ours}.attention.qkv.weight"] = f"{theirs}.attn_qkv.weight"
        source[f"{ours}.attention.out.weight"] = f"{theirs}.attn_out.weight"
        for part in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                source[f"{ours}.{norm}.{part}"] = f"{theirs}.{norm}.{part}"
            source[f"{ours}.up.{part}"] = f"{theirs}.mlp.0.{part}"
            source[f"{ours}.down.{part}"] = f"{theirs}.mlp.2.{part}"
    state = {}
    for name, wanted in model.state_dict().items():
        if name not in source:  # biases that their attention does not have
            state[name] = torch.zeros_like(wanted)
            continue
        tensor = there.get(source[name])
        if tensor is None:
            raise ValueError(f"{WEIGHTS} has no tensor {source[name]!r}")
        if name.startswith("vocabulary"):
            tensor = tensor[:V]
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{source[name]} has shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}"
            )
        state[name] = tensor.to(wanted.dtype)
    model.load_state_dict(state)
    return model.eval()
