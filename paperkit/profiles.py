"""Scale, seed, device and workers of a run, in one place.

Every chapter asks this module how large an experiment may be and where its random numbers come
from; nothing else in the library reads the environment for that.

====================  =================================  ==================================
variable              default                            meaning
====================  =================================  ==================================
``PAPERKIT_PROFILE``  ``quick``                          ``quick`` (a minute) or ``full``
``PAPERKIT_SEED``     ``0``                              what every seed is derived from
``PAPERKIT_DEVICE``   ``cpu``; in ``full`` a GPU if any  ``cpu``, ``cuda``, ``cuda:1``, ``mps``
``PAPERKIT_WORKERS``  the usable processor cores         processes that a sweep may use
``PAPERKIT_ROOT``     the clone that is installed        the folder that holds ``notebooks/``
``PAPERKIT_BOOK``     unset                              set while the book is executed
====================  =================================  ==================================

Seeds are derived by hashing ``PAPERKIT_SEED`` together with a *key* of the caller's choice, so that
two experiments never share random numbers by accident, adding an experiment changes no other, and
``PAPERKIT_SEED=1..20`` repeats the whole book with fresh randomness.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Profile",
    "base_seed",
    "current",
    "generator",
    "pick",
    "project_root",
    "rng",
    "seeds",
]

NAMES = ("quick", "full")
T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """What this run may use.

    Attributes
    ----------
    name : {"quick", "full"}
        Scale of the experiments.
    device : str
        A torch device that exists on this machine, for example ``"cpu"`` or ``"cuda:0"``.
    workers : int
        Processes that a sweep may start.
    threads : int
        Threads that one process may use: ``OMP_NUM_THREADS`` if it is set, else the usable cores.
    interactive : bool
        Whether somebody is watching, so that progress bars make sense.
    """

    name: str
    device: str
    workers: int
    threads: int
    interactive: bool


def current() -> Profile:
    """Read the profile from the environment.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError
        If a variable has a value that is not allowed, or names a device that is not there. The
        message names the variable, its value and what is allowed.
    """
    name = _name()
    return Profile(
        name=name,
        device=_device(name),
        workers=_positive("PAPERKIT_WORKERS") or _cores(),
        threads=_positive("OMP_NUM_THREADS") or _cores(),
        interactive=_interactive(),
    )


def pick(*, quick: T, full: T) -> T:
    """Return the argument that belongs to the current profile.

    Parameters
    ----------
    quick, full : object
        The values for the two profiles, for example a number of seeds.

    Raises
    ------
    ValueError
        If ``PAPERKIT_PROFILE`` is neither ``quick`` nor ``full``.
    """
    return full if _name() == "full" else quick


def base_seed() -> int:
    """Return ``PAPERKIT_SEED`` (0 if unset); a ValueError if it is not an integer from 0 on."""
    text = os.environ.get("PAPERKIT_SEED", "").strip()
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"PAPERKIT_SEED={text!r}: must be an integer >= 0")
    return int(text)


def rng(*key: str | int | float) -> np.random.Generator:
    """Return a numpy generator that belongs to `key`.

    Parameters
    ----------
    *key : str, int or float
        Names the use, for example ``rng("risk_scores", "permutation", 3)``. The same key and the
        same ``PAPERKIT_SEED`` always give the same stream, on every machine.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    ValueError
        If the key is empty.
    TypeError
        If a part of the key is neither text nor a finite number.
    """
    import numpy as np

    return np.random.default_rng(_digest(key, bits=128))


def generator(*key: str | int | float, device: str = "cpu") -> torch.Generator:
    """Return a torch generator that belongs to `key`; see :func:`rng`.

    Parameters
    ----------
    *key : str, int or float
        Names the use.
    device : str
        Where the generator lives. Streams differ between kinds of device.

    Returns
    -------
    torch.Generator
    """
    import torch

    return torch.Generator(device=device).manual_seed(_digest(key, bits=63))


def seeds(n: int, *key: str | int | float) -> list[int]:
    """Return `n` different seeds that belong to `key`.

    Parameters
    ----------
    n : int
        How many, at least 1. A longer list begins with the shorter one.
    *key : str, int or float
        Names the use, as in :func:`rng`.

    Returns
    -------
    list of int
        Each in ``0 .. 2**31 - 1``, so that every library accepts them.
    """
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"n must be an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    found: dict[int, None] = {}
    draw = 0
    while len(found) < n:
        found.setdefault(_digest((*_checked(key), draw), bits=31))
        draw += 1
    return list(found)


def project_root() -> Path:
    """Return the folder that holds ``notebooks/``.

    Returns
    -------
    pathlib.Path
        ``PAPERKIT_ROOT`` if it is set, else the parent of the installed package, which is the
        clone when the package was installed as editable.

    Raises
    ------
    FileNotFoundError
        If there is no ``notebooks`` folder.
    """
    named = os.environ.get("PAPERKIT_ROOT")
    root = Path(named) if named else Path(__file__).resolve().parent.parent
    if not any((root / sign).exists() for sign in ("notebooks", "pyproject.toml")):
        raise FileNotFoundError(
            f"no folder 'notebooks' in {root}: work from a clone of the book that is installed with"
            " `pip install -e .`, or set PAPERKIT_ROOT to the clone"
        )
    return root


def _name() -> str:
    name = os.environ.get("PAPERKIT_PROFILE", "").strip() or "quick"
    if name not in NAMES:
        raise ValueError(f"PAPERKIT_PROFILE={name!r}: must be one of {', '.join(NAMES)}")
    return name


def _device(profile: str) -> str:
    wanted = os.environ.get("PAPERKIT_DEVICE", "").strip()
    if wanted == "cpu" or (not wanted and profile == "quick"):
        return "cpu"
    kind, _, index = wanted.partition(":")
    if wanted and (kind not in ("cuda", "mps") or (":" in wanted and not index.isdigit())):
        raise ValueError(f"PAPERKIT_DEVICE={wanted!r}: must be cpu, cuda, cuda:<number> or mps")
    import torch

    if not wanted:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    else:
        there = int(torch.backends.mps.is_available())
    if int(index or 0) >= there:
        raise ValueError(
            f"PAPERKIT_DEVICE={wanted!r}: this machine has {there} {kind} device(s); use cpu"
        )
    return wanted


def _positive(variable: str) -> int | None:
    """The integer in an environment variable, None if unset."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    # OMP_NUM_THREADS may list one number for each level of nesting; the first is the outer one.
    first = text.split(",")[0].strip() if variable == "OMP_NUM_THREADS" else text
    if not first.isascii() or not first.isdigit() or int(first) < 1:
        raise ValueError(f"{variable}={text!r}: must be an integer >= 1")
    return int(first)


def _cores() -> int:
    import joblib

    # joblib looks at the processor mask and the container's quota, not only at the hardware.
    return int(joblib.cpu_count())


def _interactive() -> bool:
    if os.environ.get("PAPERKIT_BOOK") or "PYTEST_CURRENT_TEST" in os.environ:
        return False
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        return True
    return bool(sys.stderr) and sys.stderr.isatty()


def _checked(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The key with numpy numbers turned into Python's; errors as :func:`rng` says."""
    if not key:
        raise ValueError("the key is empty: name the use, for example rng('chapter', 'split')")
    plain: list[Any] = []
    for part in key:
        if isinstance(part, str):
            plain.append(str(part))
        elif isinstance(part, numbers.Integral) and not isinstance(part, bool):
            plain.append(int(part))
        elif isinstance(part, numbers.Real) and math.isfinite(part) and not isinstance(part, bool):
            plain.append(float(part))
        else:
            raise TypeError(f"a key consists of text and finite numbers, got {part!r}")
    return tuple(plain)


def _digest(key: tuple[Any, ...], *, bits: int) -> int:
    text = json.dumps([base_seed(), *_checked(key)], ensure_ascii=True, separators=(",", ":"))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return number >> (128 - bits)
