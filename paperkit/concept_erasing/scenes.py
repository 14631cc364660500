r"""Captioned scenes of one coloured shape, an oracle that reads them, and a model that draws them.

A scene is one shape (circle, square, triangle, cross) in one of five colours on one of three
backgrounds, 24 x 24 pixels, drawn from signed distances with a soft edge of one pixel. A caption
never says where the shape lies or how large it is: position and size can come from the noise alone,
which is what makes "the spatial structure is kept" measurable.

The oracle :func:`analyse` has no learned part. It takes the background from the border, the objects
from connected components, the colour from the nearest palette entry and the shape from the best
overlap with templates of equal area.

:func:`load_pipeline` returns a text-to-image diffusion pipeline that was trained on such scenes
(``scripts/concept_erasing/train_base.py``): a `diffusers` UNet and DDIM scheduler with the frozen
sentence encoder all-MiniLM-L6-v2 as its text encoder. Images are float32 in [0, 1], (B, 3, H, W).
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "SHAPES",
    "SIZE",
    "ScenePipeline",
    "TextEncoder",
    "analyse",
    "caption",
    "captions",
    "is_held_out",
    "load_pipeline",
    "new_scheduler",
    "new_unet",
    "render",
    "sample_scenes",
]

SIZE = 24
SHAPES = ("circle", "square", "triangle", "cross")
NOUNS = {
    "circle": ("circle", "disc", "round shape"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus sign"),
}
PREFIXES = ("", "a picture of ", "an image of ")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 230),
    "yellow": (245, 215, 50),
    "purple": (160, 60, 200),
}
BACKGROUNDS = {"black": 15, "grey": 128, "white": 240}
RADII = (4.8, 6.4)  # pixels; "radius" is the scale r of the four shapes
FOREGROUND = 0.28  # distance to the background, RGB in [0, 1], from which a pixel is an object
SMALLEST = 10  # pixels of an object
LARGEST = 0.5  # share of the image from which a component is a ground, not an object
AREA = {  # of a shape of scale r = 1
    "circle": math.pi,
    "square": 1.76**2,
    "triangle": 3 * math.sqrt(3) / 4 * 1.25**2,
    "cross": 2 * 2.1 * 0.72 - 0.72**2,
}
MAX_TOKENS = 14

_COLOUR_NAMES = tuple(COLOURS)
_BACKGROUND_NAMES = tuple(BACKGROUNDS)
_PALETTE = np.array(list(COLOURS.values())) / 255
_GREYS = np.array(list(BACKGROUNDS.values())) / 255
FloatArray = NDArray[np.floating[Any]]


# ------------------------------------------------------------------------------------- scenes


def sample_scenes(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Draw scenes: every attribute independent and uniform.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int

    Returns
    -------
    DataFrame
        n rows; ``shape``, ``colour``, ``background`` (names), ``cx``, ``cy`` (pixels, from the left
        and from the top) and ``radius`` (pixels).
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    radius = rng.uniform(*RADII, n)
    margin = radius + 1.8
    return pd.DataFrame(
        {
            "shape": rng.choice(SHAPES, n),
            "colour": rng.choice(_COLOUR_NAMES, n),
            "background": rng.choice(_BACKGROUND_NAMES, n),
            "cx": rng.uniform(margin, SIZE - margin),
            "cy": rng.uniform(margin, SIZE - margin),
            "radius": radius,
        }
    )


def _distance(shape: str, x: FloatArray, y: FloatArray, r: Any) -> FloatArray:
    """Signed distance to the edge in pixels, negative inside; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * r
    if shape == "triangle":
        slope = math.sqrt(3) / 2
        sides = np.maximum(slope * abs(x) - y / 2, y)
        return sides - 1.25 * r / 2
    tall = np.maximum(abs(x) - 0.36 * r, abs(y) - 1.05 * r)
    wide = np.maximum(abs(x) - 1.05 * r, abs(y) - 0.36 * r)
    return np.minimum(tall, wide)


def _grid(size: int) -> tuple[FloatArray, FloatArray]:
    centres = np.arange(size) + 0.5
    return centres[None, :], centres[:, None]  # x (1, W), y (H, 1)


def render(scenes: pd.DataFrame, size: int = SIZE) -> Tensor:
    """Draw scenes.

    Parameters
    ----------
    scenes : DataFrame
        As :func:`sample_scenes` returns it.
    size : int
        Pixels of a side. Positions and radii are in pixels of a 24-pixel scene and are scaled.

    Returns
    -------
    Tensor, shape (B, 3, size, size), float32 in [0, 1]
    """
    allowed: dict[str, Any] = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS}
    for column, names in allowed.items():
        unknown = sorted(set(scenes[column]) - set(names))
        if unknown:
            raise ValueError(f"scenes.{column} must be among {list(names)}, got {unknown}")
    x, y = _grid(size)
    zoom = size / SIZE
    images = np.empty((len(scenes), 3, size, size))
    for i, scene in enumerate(scenes.to_dict("records")):
        inside = _distance(
            scene["shape"],
            x - zoom * scene["cx"],
            y - zoom * scene["cy"],
            zoom * scene["radius"],
        )
        alpha = np.clip(0.5 - inside, 0, 1)
        paint = np.array(COLOURS[scene["colour"]])[:, None, None] / 255
        images[i] = alpha * paint + (1 - alpha) * BACKGROUNDS[scene["background"]] / 255
    return torch.from_numpy(images).float()


# ----------------------------------------------------------------------------------- captions


def _sentence(prefix: str, colour: str, noun: str, background: str) -> str:
    words = f"{colour} {noun}" if colour else noun
    return f"{prefix}a {words}" + (f" on a {background} background" if background else "")


@lru_cache(maxsize=1)
def _captions() -> pd.DataFrame:
    rows = [
        {
            "text": _sentence(prefix, colour, noun, background),
            "shape": shape,
            "colour": colour,
            "background": background,
            "noun": noun,
        }
        for shape, nouns in NOUNS.items()
        for noun in nouns
        for prefix in PREFIXES
        for colour in ("", *COLOURS)
        for background in ("", *BACKGROUNDS)
    ]
    table = pd.DataFrame(rows)
    return table.assign(held_out=[is_held_out(text) for text in table.text])


def captions() -> pd.DataFrame:
    """List every caption that the grammar can say.

    Returns
    -------
    DataFrame
        576 rows; ``text``, ``shape``, ``colour`` and ``background`` (empty where the caption does
        not name one), ``noun``, ``held_out`` (see :func:`is_held_out`).
    """
    return _captions().copy()


def is_held_out(text: str) -> bool:
    """Say whether the base model never saw this caption: one in seven, by its checksum."""
    return zlib.crc32(text.encode()) % 7 == 0


def caption(scene: Any, rng: np.random.Generator) -> str:
    """Draw a caption of a scene that is not held out.

    Parameters
    ----------
    scene : mapping or row of :func:`sample_scenes`
        With ``shape``, ``colour`` and ``background``.
    rng : numpy.random.Generator

    Returns
    -------
    str
        The colour is left out in 10 %, the background is named in 50 %, another noun than the
        shape's name is used in 30 % and a prefix in 20 % of the captions. Position and size are
        never named.
    """
    shape = scene["shape"]
    others = NOUNS[shape][1:]
    while True:
        noun = rng.choice(others) if others and rng.random() < 0.3 else shape
        text = _sentence(
            str(rng.choice(PREFIXES[1:])) if rng.random() < 0.2 else "",
            "" if rng.random() < 0.1 else scene["colour"],
            str(noun),
            scene["background"] if rng.random() < 0.5 else "",
        )
        if not is_held_out(text):
            return text


# ------------------------------------------------------------------------------------- oracle


def _check_images(images: Any) -> FloatArray:
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim != 4 or array.shape[1] != 3 or array.shape[2] != array.shape[3]:
        raise ValueError(f"images must have shape (B, 3, H, H), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("images holds values that are not finite")
    if array.size and (array.min() < -1e-6 or array.max() > 1 + 1e-6):
        raise ValueError(f"images must lie in [0, 1], got [{array.min():.3g}, {array.max():.3g}]")
    return array.astype(float)


def _best_shape(mask: NDArray[np.bool_], cx: float, cy: float) -> tuple[str, float]:
    """Name the template of equal area that overlaps a mask best, and its overlap (IoU)."""
    x, y = _grid(mask.shape[0])
    shifts = np.array([-0.5, 0.0, 0.5])
    dx, dy, zoom = (a.reshape(-1, 1, 1) for a in np.meshgrid(shifts, shifts, [0.92, 1.0, 1.08]))
    area = mask.sum()
    best = ("none", 0.0)
    for shape in SHAPES:
        r = math.sqrt(area / AREA[shape]) * zoom
        template = _distance(shape, x - cx - dx, y - cy - dy, r) < 0
        both = (template & mask).sum((1, 2))
        overlap = (both / (template.sum((1, 2)) + area - both)).max()
        if overlap > best[1]:
            best = (shape, float(overlap))
    return best


def analyse(images: Any) -> pd.DataFrame:
    """Read scenes off images, without any learned part.

    Parameters
    ----------
    images : array_like, shape (B, 3, H, H), in [0, 1]

    Returns
    -------
    DataFrame
        One row an image: ``n_objects`` (connected components of at least 10 pixels), and of the
        largest one ``shape``, ``colour`` ("none" if there is no object), ``cx``, ``cy`` (pixels),
        ``area`` (pixels), ``iou`` (overlap with its best template; below 0.8 we call it
        disintegrated); ``background``; ``clean`` (one object, overlap above 0.8).

    Raises
    ------
    ValueError
        If the shape is another, or a value is not finite or outside [0, 1].
    """
    from scipy import ndimage

    rows: list[dict[str, Any]] = []
    for image in _check_images(images):
        border = np.concatenate(
            [image[:, 0], image[:, -1], image[:, 1:-1, 0], image[:, 1:-1, -1]], axis=1
        )
        ground = np.median(border, axis=1)  # (3,)
        background = _BACKGROUND_NAMES[int(abs(ground.mean() - _GREYS).argmin())]
        mask = np.sqrt(((image - ground[:, None, None]) ** 2).sum(0)) > FOREGROUND
        labels, _ = ndimage.label(mask)
        sizes = np.bincount(labels.ravel())[1:]
        sizes[sizes > LARGEST * mask.size] = 0
        row: dict[str, Any] = {
            "n_objects": int((sizes >= SMALLEST).sum()),
            "shape": "none",
            "colour": "none",
            "background": background,
            "cx": math.nan,
            "cy": math.nan,
            "area": 0,
            "iou": 0.0,
        }
        if row["n_objects"]:
            largest = labels == 1 + int(sizes.argmax())
            rows_, columns = np.nonzero(largest)
            row["cx"], row["cy"] = columns.mean() + 0.5, rows_.mean() + 0.5
            row["area"] = int(largest.sum())
            row["shape"], row["iou"] = _best_shape(largest, row["cx"], row["cy"])
            core = ndimage.binary_erosion(largest)
            colour = np.median(image[:, core if core.any() else largest], axis=1)
            nearest = ((_PALETTE - colour) ** 2).sum(1).argmin()
            row["colour"] = _COLOUR_NAMES[int(nearest)]
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(clean=(table.n_objects == 1) & (table.iou > 0.8))


# -------------------------------------------------------------------------------------- model


class TextEncoder(nn.Module):
    """Token states of a frozen sentence encoder, standardised, as the text encoder of a pipeline.

    Parameters
    ----------
    model : torch.nn.Module
        A `transformers` encoder whose output has ``last_hidden_state``.
    mean, sd : Tensor, shape (D,)
        Of every dimension over the training captions; `sd` at least 0.1, because a few dimensions
        have almost no spread.

    Notes
    -----
    Padding gets the state zero. ``config.use_attention_mask`` is true, so that `diffusers` and
    :func:`paperkit.concept_erasing.sampling.encode_prompts` hand the mask over.
    """

    def __init__(self, model: nn.Module, mean: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.register_buffer("mean", mean.float())
        self.register_buffer("sd", sd.float().clamp(min=0.1))
        self.config = SimpleNamespace(use_attention_mask=True)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the states."""
        return cast(Tensor, self.mean).dtype

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        """States (B, L, D) of token ids (B, L), in a tuple as `transformers` does it."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return ((states - self.mean) / self.sd * mask[:, :, None],)


class ScenePipeline(DiffusionPipeline):
    """A text-to-image pipeline without an autoencoder: its latent is the pixel-unshuffled image.

    Parameters
    ----------
    unet : diffusers.UNet2DConditionModel
    text_encoder : TextEncoder
    tokenizer : transformers.PreTrainedTokenizerBase
    scheduler : diffusers.SchedulerMixin
    """

    def __init__(self, unet: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )

    step_options: ClassVar[dict[str, Any]] = {"use_clipped_model_output": True}

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to latents (B, 12, H/2, W/2) in [-1, 1]."""
        return torch.nn.functional.pixel_unshuffle(2 * images - 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 12, H/2, W/2) to images (B, 3, H, W), cut to [0, 1]."""
        return (torch.nn.functional.pixel_shuffle(latents, 2) / 2 + 0.5).clamp(0, 1)

    def __call__(self, prompt: list[str], **settings: Any) -> Tensor:
        """Draw images: :func:`paperkit.concept_erasing.generate`."""
        from paperkit.concept_erasing.sampling import generate

        return generate(self, prompt, **settings)


def new_unet() -> UNet2DConditionModel:
    """Build the UNet with random weights: 1.2 million, attention at 6 x 6 and in the middle."""
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=12,
        out_channels=12,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=384,
        attention_head_dim=4,
    )


def new_scheduler() -> DDIMScheduler:
    """Build the DDIM scheduler: v-prediction, and exactly no signal left at the last time."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
    )


def tokenizer_and_encoder() -> tuple[Any, nn.Module]:
    """Load the tokenizer, cut to 14 tokens (the longest caption has 13), and the encoder."""
    from paperkit.models import load_sentence_encoder

    encoder = load_sentence_encoder("minilm-l6")
    encoder.tokenizer.model_max_length = MAX_TOKENS
    return encoder.tokenizer, encoder.model


def load_pipeline(device: str = "cpu") -> ScenePipeline:
    """Load the trained scene model.

    Parameters
    ----------
    device : str
        Where it goes.

    Returns
    -------
    ScenePipeline
        Weights: ours (MIT), half precision on the disk, float32 in memory. Text encoder:
        all-MiniLM-L6-v2 (Apache-2.0).
    """
    from paperkit import data
    from paperkit.models import load_checkpoint

    tensors, _ = load_checkpoint(data.path("concept_erasing/base"))
    mean, sd = tensors.pop("text.mean"), tensors.pop("text.sd")
    unet = new_unet()
    unet.load_state_dict(tensors)
    tokenizer, model = tokenizer_and_encoder()
    pipeline = ScenePipeline(
        unet.eval().requires_grad_(False),
        TextEncoder(model, mean, sd),
        tokenizer,
        new_scheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
