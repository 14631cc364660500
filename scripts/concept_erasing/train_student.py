"""Train the small network of the two-dimensional model (half a minute on one core).

    python scripts/concept_erasing/train_student.py

Writes data/concept_erasing/student.safetensors (45 kB) and its row in SOURCES.csv.
"""

from pathlib import Path

from paperkit import data
from paperkit.concept_erasing import exact
from paperkit.models import save_checkpoint

SCRIPT = "scripts/concept_erasing/train_student.py"
CHECKPOINT = Path(data.__file__).parent / "concept_erasing" / "student.safetensors"
SETTINGS = {"n_steps": 3000, "seed": 0}


def main() -> None:
    student = exact.train_student(**SETTINGS)
    record = {"script": SCRIPT, "seed": SETTINGS["seed"], "settings": SETTINGS}
    save_checkpoint(
        CHECKPOINT, student.state_dict(), record=record | {"steps": SETTINGS["n_steps"]}
    )
    data.register(
        "concept_erasing/student",
        CHECKPOINT,
        source="trained here on the exact predictions of a Gaussian mixture",
        version="1",
        licence="MIT",
        script=SCRIPT,
        changes=f"{SETTINGS['n_steps']} steps of 512 points",
    )


if __name__ == "__main__":
    main()
