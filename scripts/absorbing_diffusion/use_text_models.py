"""Store what the text models do: bounds on six texts, a gap in a verse, generated text.

``python scripts/absorbing_diffusion/use_text_models.py`` reads the checkpoints that
``train_text.py`` wrote, and takes about six CPU minutes.
"""

from __future__ import annotations

import torch

from paperkit import data
from paperkit.absorbing_diffusion import experiments

SCRIPT = "scripts/absorbing_diffusion/use_text_models.py"


def main() -> None:
    torch.set_num_threads(1)
    networks = experiments.load_text_models()
    parts = {
        "text_bounds": experiments.evaluate_texts(networks, repeats=2),
        "text_infilling": experiments.evaluate_infilling(networks),
        "text_samples": experiments.evaluate_samples(networks),
    }
    parts["text_bounds"]["replicate"] = experiments.replicate_bound(networks)
    for name, value in parts.items():
        data.save_stored(
            "absorbing_diffusion", name, value, script=SCRIPT, settings={"repeats": 2}, seeds=[0]
        )
        print(name, {k: v for k, v in value.items() if k not in ("bounds", "examples")}, flush=True)
    judged = experiments.judge_independently(parts["text_samples"])
    data.save_stored(
        "absorbing_diffusion",
        "text_judge",
        judged,
        script=SCRIPT,
        settings={"texts": 24},
        seeds=[0],
    )
    print("text_judge", judged)


if __name__ == "__main__":
    main()
