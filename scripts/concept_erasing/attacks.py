"""Attack an erased model, and count the steps that erasing takes (two CPU minutes).

    python scripts/concept_erasing/attacks.py

Run by ``nox -s full -- concept_erasing``, after ``comparison.py``, whose eraser of seed 0 it attacks. Finished pieces
lie in ``build/concept_erasing`` and are not repeated.
"""

from paperkit import data, profiles, sweeps
from paperkit.concept_erasing import experiments as ex

SCRIPT = "scripts/concept_erasing/attacks.py"
STORE = profiles.project_root() / "build" / "concept_erasing"
ERASERS = ("surgical",)
COUNTED = ("surgical", "Concept Ablation", "ESD")
RELEARNING = {"n_steps": 40, "learning_rate": 3e-4}
LEARNING = {"n_steps": 100}


def sweep(function, cases):
    return sweeps.sweep(function, cases, seeds=[0], workers=1, store=STORE)


def main() -> None:
    steps = sweep(ex.steps_needed, [{"eraser": e} for e in COUNTED])
    relearnt = sweep(ex.relearn, [{"eraser": e} | RELEARNING for e in ERASERS])
    learnt = sweep(ex.embedding_attack, [{"eraser": e} | LEARNING for e in ERASERS])
    for name, table in (
        ("steps_needed", steps), ("relearning", relearnt), ("embedding_attack", learnt),
    ):  # fmt: skip
        print(table.to_string())
        data.save_stored(
            "concept_erasing", name, table, script=SCRIPT,
            settings={"relearning": RELEARNING, "embedding": LEARNING}, seeds=[0],
        )  # fmt: skip


if __name__ == "__main__":
    main()
