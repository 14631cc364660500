"""Draw the picture of the chapter's first page, ``notebooks/concept_erasing/glance.png``, from the stored grid.

python scripts/concept_erasing/glance.py
"""

import matplotlib as mpl

mpl.use("agg")

from paperkit import plotting, profiles
from paperkit.concept_erasing import figures

TARGET = profiles.project_root() / "notebooks" / "concept_erasing" / "glance.png"


def main() -> None:
    plotting.use_style()
    figures.at_a_glance().savefig(TARGET, metadata={"Software": None})


if __name__ == "__main__":
    main()
