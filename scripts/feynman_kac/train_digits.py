"""Train the two denoisers of handwritten digits: by class, and by ink (about 5 CPU minutes).

Run by ``nox -s full -- feynman_kac``. Writes ``paperkit/data/feynman_kac/digits_<which>.safetensors``.
An interrupted run goes on from its file in ``build/feynman_kac``.
"""

from __future__ import annotations

import sys
import time

import torch

from paperkit import data, profiles
from paperkit.feynman_kac import networks
from paperkit.models import save_checkpoint, train

SCRIPT = "scripts/feynman_kac/train_digits.py"
STEPS, BATCH, RATE, DROPOUT, MEAN, SD, SEED = 12_000, 128, 2e-3, 0.2, -0.7, 1.2, 0


def fit(which: str) -> None:
    part, _ = networks.load_digit_parts()
    labels, n_labels = (
        (part.classes, networks.N_CLASSES) if which == "class" else (part.inks, networks.N_INKS)
    )
    _, sigma_data = networks.digit_moments(part)
    torch.manual_seed(SEED)
    model = networks.ImageDenoiser(n_labels, sigma_data)

    def step(i: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(part.images), (BATCH,), generator=generator)
        clean = part.images[rows]
        sigma = networks.log_normal(BATCH, MEAN, SD, generator)
        noise = torch.randn(clean.shape, generator=generator)
        hide = torch.rand(BATCH, generator=generator) < DROPOUT
        label = torch.where(hide, n_labels, labels[rows])
        return networks.denoising_loss(model, clean, sigma, noise, sigma_data, label)

    work = profiles.project_root() / "build" / "feynman_kac"
    work.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    history = train(
        step,
        model.parameters(),
        n_steps=STEPS,
        learning_rate=RATE,
        weight_decay=1e-2,
        ema_decay=0.999,
        seed=SEED,
        resume=work / f"digits_{which}.safetensors",
        every=1000,
        callback=lambda i, loss: print(which, i + 1, f"{loss:.4f}", flush=True),
    )
    history.copy_ema_to(model.parameters())
    file = data.FOLDER / "feynman_kac" / f"digits_{which}.safetensors"
    settings = {
        "n_labels": n_labels,
        "sigma_data": sigma_data,
        "batch": BATCH,
        "learning_rate": RATE,
        "label_dropout": DROPOUT,
        "log_sigma": [MEAN, SD],
        "ema_decay": 0.999,
        "weight_decay": 1e-2,
        "mean_loss_of_last_1000_steps": float(history.losses[-1000:].mean()),
        "cpu_seconds": round(time.process_time() - start),
    }
    save_checkpoint(
        file,
        dict(model.state_dict()),
        record={"script": SCRIPT, "seed": SEED, "settings": settings, "steps": STEPS},
    )
    data.register(
        f"feynman_kac/digits_{which}",
        file,
        source=(
            "trained for this book on 60 % of the optical digits of E. Alpaydin and C. Kaynak (UCI,"
            " CC BY 4.0) that scikit-learn ships"
        ),
        version=f"{STEPS} steps, seed {SEED}",
        licence="MIT",
        script=SCRIPT,
        changes="moving average of the weights",
    )
    print(which, settings, flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("class", "ink"):
        fit(name)
