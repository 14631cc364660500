"""Write the five texts on which nothing is trained, each an excerpt of 45,000 characters.

Run once. It needs three Debian packages, unpacked side by side into one folder (``dpkg-deb -x``):
r-cran-janeaustenr 1.0.0-1, dict-devil 1.0-13.1, dict-jargon 4.4.7-3.1; and the Python package rdata,
which reads the novels. ``python scripts/absorbing_diffusion/extract_zero_shot.py FOLDER``.
The other two texts come with Python and with scikit-learn.
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
import platform
import re
import sys
import zlib
from pathlib import Path

import sklearn

from paperkit import data

FOLDER = Path(data.FOLDER) / "absorbing_diffusion"
SCRIPT = "scripts/absorbing_diffusion/extract_zero_shot.py"
SIZE = 45_000


def persuasion(root: Path) -> str:
    """Decode one object of an R lazy-load database."""
    import rdata

    base = root / "usr/lib/R/site-library/janeaustenr/data"
    index = rdata.conversion.convert(
        rdata.parser.parse_data(gzip.decompress((base / "Rdata.rdx").read_bytes()))
    )
    offset, length = (int(v) for v in index["variables"]["persuasion"])
    chunk = (base / "Rdata.rdb").read_bytes()[offset : offset + length][4:]
    if chunk[:1] == b"2":
        raw = bz2.decompress(chunk[1:])
    elif chunk[:1] == b"Z":
        raw = lzma.decompress(
            chunk[1:],
            format=lzma.FORMAT_RAW,
            filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}],
        )
    else:
        raw = zlib.decompress(chunk)
    lines = rdata.conversion.convert(rdata.parser.parse_data(raw))
    return "\n".join(lines)


def dictionary(root: Path, name: str, skip: str) -> str:
    """Return a dictionary's text from the first line that starts with `skip`."""
    raw = gzip.decompress((root / f"usr/share/dictd/{name}.dict.dz").read_bytes()).decode("utf-8")
    return raw[raw.index("\n" + skip) :]


def python_reference() -> str:
    from pydoc_data.topics import topics

    kept = "\n".join(topics[key] for key in sorted(topics))
    return re.sub(r"[*+=~^-]{4,}", " ", kept)


def sklearn_notes() -> str:
    spec = importlib.util.find_spec("sklearn.datasets")
    folder = Path(spec.origin).parent / "descr"
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.rst")))


def clean(text: str) -> str:
    """Collapse white space, drop rules of repeated signs, cut at a word."""
    text = re.sub(r"([=\-~_*.#|])\1{3,}", " ", text)
    text = " ".join(text.split())
    return text[:SIZE].rsplit(" ", 1)[0] + "\n"


def main() -> None:
    if len(sys.argv) == 1:
        print("the five texts are committed; give the folder of the unpacked packages")
        return
    root = Path(sys.argv[1])
    psf = FOLDER / "LICENSE-PSF-2.0.txt"
    psf.write_text(str(license_of_python()), encoding="utf-8")
    bsd = FOLDER / "LICENSE-scikit-learn.txt"
    bsd.write_text(license_of_sklearn(), encoding="utf-8")
    rows = [
        (
            "persuasion",
            persuasion(root),
            "Jane Austen, Persuasion (1817), as in the R package janeaustenr",
            "janeaustenr 1.0.0-1 (Debian)",
            "public domain",
            "",
        ),
        (
            "devil",
            dictionary(root, "devil", "ABASEMENT"),
            "Ambrose Bierce, The Devil's Dictionary (1911), as in the Debian package dict-devil",
            "dict-devil 1.0-13.1",
            "public domain",
            "",
        ),
        (
            "python",
            python_reference(),
            "Python language reference, pydoc_data.topics of the standard library",
            f"Python {platform.python_version()}",
            "PSF-2.0",
            f"absorbing_diffusion/{psf.name}",
        ),
        (
            "jargon",
            dictionary(root, "jargon", "1TBS"),
            "The Jargon File 4.4.7 (29 Dec 2003), as in the Debian package dict-jargon",
            "dict-jargon 4.4.7-3.1",
            "public domain",
            "",
        ),
        (
            "sklearn",
            sklearn_notes(),
            "Notes on the data sets of scikit-learn, sklearn/datasets/descr",
            f"scikit-learn {sklearn.__version__}",
            "BSD-3-Clause",
            f"absorbing_diffusion/{bsd.name}",
        ),
    ]
    for name, text, source, version, licence, licence_file in rows:
        file = FOLDER / f"{name}.txt"
        excerpt = clean(text)
        if len(excerpt) < 0.8 * SIZE:
            raise SystemExit(f"{name} has only {len(excerpt)} characters")
        file.write_text(excerpt, encoding="utf-8")
        data.register(
            f"absorbing_diffusion/{name}",
            file,
            source=source,
            version=version,
            licence=licence,
            licence_file=licence_file,
            script=SCRIPT,
            changes=f"the first {SIZE:,} characters after white space was collapsed and rules dropped",
        )


def license_of_python() -> str:
    """Return the licence text that the interpreter carries."""
    for base in (Path(sys.base_prefix), Path(*Path(platform.__file__).parts[:-1])):
        for file in [*base.glob("LICENSE*"), *base.glob("share/doc/python*/LICENSE*")]:
            return file.read_text(encoding="utf-8")
    raise SystemExit("the interpreter has no LICENSE file; take it from its source")


def license_of_sklearn() -> str:
    from importlib.metadata import files

    for file in files("scikit-learn") or []:
        if file.name.upper().startswith(("COPYING", "LICENSE")):
            return Path(str(file.locate())).read_text(encoding="utf-8")
    raise SystemExit("scikit-learn has no licence file")


if __name__ == "__main__":
    main()
