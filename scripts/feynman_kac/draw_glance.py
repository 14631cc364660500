"""Draw the picture of the chapter's first page, ``notebooks/feynman_kac/glance.png``.

python scripts/feynman_kac/draw_glance.py
"""

from pathlib import Path

from paperkit import plotting
from paperkit.feynman_kac import figures

TARGET = Path(__file__).resolve().parents[2] / "notebooks" / "feynman_kac" / "glance.png"


def main() -> None:
    plotting.use_style()
    figures.glance().savefig(TARGET, metadata={"Software": None})


if __name__ == "__main__":
    main()
