"""Draw the picture of the chapter's first page, ``notebooks/risk_scores/glance.png``.

python scripts/risk_scores/draw_glance.py
"""

from pathlib import Path

from paperkit import plotting
from paperkit.risk_scores import experiments as ex
from paperkit.risk_scores import figures, polarise

TARGET = Path(__file__).resolve().parents[2] / "notebooks" / "risk_scores" / "glance.png"


def main() -> None:
    plotting.use_style()
    y, s = ex.calibrated_scores("employment", seed=0)
    figures.at_a_glance(y, s, polarise(s, 0.25)).savefig(TARGET, metadata={"Software": None})


if __name__ == "__main__":
    main()
