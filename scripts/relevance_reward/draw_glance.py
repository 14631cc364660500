"""Draw the picture of the chapter's first page, ``notebooks/relevance_reward/glance.png``.

python scripts/relevance_reward/draw_glance.py
"""

from pathlib import Path

from paperkit import plotting
from paperkit.relevance_reward import figures

TARGET = Path(__file__).resolve().parents[2] / "notebooks" / "relevance_reward" / "glance.png"


def main() -> None:
    plotting.use_style()
    figures.at_a_glance().savefig(TARGET, metadata={"Software": None})


if __name__ == "__main__":
    main()
