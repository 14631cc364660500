"""Judge the image model on 256 images of held-out captions (a quarter of a CPU minute).

    python scripts/concept_erasing/gate.py

Run by ``nox -s full -- concept_erasing``. Writes the results "base_gate"; ``train_base.py`` has a gate of its own,
before it writes the model.
"""

import pandas as pd

from paperkit import data
from paperkit.concept_erasing import experiments

SCRIPT = "scripts/concept_erasing/gate.py"
SETTINGS = {"n": 256}


def main() -> None:
    table = pd.DataFrame(experiments.held_out_accuracy(**SETTINGS))
    print(table.to_string())
    data.save_stored("concept_erasing", "base_gate", table, script=SCRIPT, settings=SETTINGS,
                     seeds=[0])  # fmt: skip


if __name__ == "__main__":
    main()
