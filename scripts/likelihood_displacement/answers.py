"""Single-token preferences in SmolLM2: exact rates at 12 prompts, and training runs (about eight CPU minutes).

    python scripts/likelihood_displacement/answers.py

Run by ``nox -s full -- likelihood_displacement``. Stores ``results/token_rates`` (132 ordered pairs at each prompt),
``results/preference_runs`` (8 steps; each close pair at the first prompts with a negative rate, and No over Never at
every second prompt) and
``results/loss_curves`` (one pair under three losses). Finished cells are kept in ``build/`` and not repeated.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from paperkit import data, profiles, sweeps
from paperkit.likelihood_displacement import experiments

SCRIPT = "scripts/likelihood_displacement/answers.py"
STORE = profiles.project_root() / "build" / "likelihood_displacement"
STATEMENTS = profiles.pick(quick=experiments.PROMPTS, full=tuple(range(24)))
LOSSES = {"dpo": 0.1, "ipo": 0.05, "hinge": 0.1}
CURVE = {"statement": 3, "chosen": "Not", "rejected": "No", "n_steps": 6, "margin": 0.3}
RUNS_A_PAIR = profiles.pick(quick=3, full=24)


def rates(*, statement: int, seed: int) -> list[dict[str, Any]]:
    return experiments.rate_table(experiments.smollm2(), statement).to_dict("records")


def run(*, statement: int, chosen: str, rejected: str, seed: int) -> list[dict[str, Any]]:
    table, _, alignment = experiments.preference_run(
        experiments.smollm2(), statement, chosen, rejected
    )
    return table.assign(alignment=alignment).to_dict("records")


def curve(*, loss: str, seed: int) -> list[dict[str, Any]]:
    table, _, _ = experiments.preference_run(
        experiments.smollm2(), CURVE["statement"], CURVE["chosen"], CURVE["rejected"], loss=loss,
        beta=LOSSES[loss], n_steps=CURVE["n_steps"], first_step_margin=CURVE["margin"],
    )  # fmt: skip
    return table.to_dict("records")


def keep(name: str, table: pd.DataFrame, settings: dict[str, Any]) -> None:
    data.save_stored(
        "likelihood_displacement", name, table.drop(columns="seed"),
        script=SCRIPT, settings={"model": "SmolLM2-135M-Instruct, 4-bit weights", **settings},
        seeds=[],
    )  # fmt: skip


def main() -> None:
    table = sweeps.sweep(rates, [{"statement": s} for s in STATEMENTS], store=STORE)
    keep("token_rates", table, {"statements": STATEMENTS, "question": experiments.QUESTION})
    falling = table[table["blocks"] < 0]
    every = profiles.pick(quick=2, full=1)
    cases = [{"statement": s, "chosen": "No", "rejected": "Never"} for s in STATEMENTS[::every]]
    for chosen, rejected in experiments.CLOSE:
        rows = falling[(falling["chosen"] == chosen) & (falling["rejected"] == rejected)]
        cases += [
            {"statement": int(s), "chosen": chosen, "rejected": rejected}
            for s in rows["statement"].head(RUNS_A_PAIR)
        ]
    keep("preference_runs", sweeps.sweep(run, cases, store=STORE), dict(experiments.RUN))
    curves = sweeps.sweep(curve, [{"loss": loss} for loss in LOSSES], store=STORE)
    keep("loss_curves", curves, {"beta": LOSSES, **CURVE})


if __name__ == "__main__":
    main()
