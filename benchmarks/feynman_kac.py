"""What the correction costs: a U-Net of 8 x 8 images, two experts in one batch, guidance of strength 2.

Corrected and plain sampling make the same calls of the network; the difference is two reductions, a resampling and a
gather. Beside them: the loop that a user of diffusers would write for plain guidance (its Euler scheduler, the same
network and steps), and what a weight with a divergence in it would cost (Hutchinson's estimate, one random direction).
Runs alternate, and the smallest of five is taken. If ``particles`` is installed its systematic resampling is timed too.
"""

import itertools
import warnings

import numpy as np
import torch
from _record import cpu_seconds, row, save

from paperkit import data
from paperkit.feynman_kac import (
    Composition,
    DegeneracyWarning,
    from_diffusers,
    resample_indices,
    sample,
    sigma_schedule,
    stack_denoisers,
)

PARTICLES, STEPS, REPEATS = 64, 8, 5
SHAPE = (1, PARTICLES, 1, 8, 8)
SIGMAS = sigma_schedule(STEPS, 20.0, 0.1, "karras")


def network():
    """Return a U-Net with random weights, and the scheduler that says how to call it."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        num_class_embeds=11,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return unet.eval().requires_grad_(False), diffusers.EulerDiscreteScheduler()


def run(world, correct: bool, resample: str | None = "ess") -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        return sample(
            world,
            SHAPE,
            SIGMAS,
            correct=correct,
            resample=resample,
            dtype=torch.float32,
            generator=torch.Generator().manual_seed(1),
        ).particles


def by_diffusers(unet, scheduler) -> torch.Tensor:
    """Plain guidance as a user of diffusers writes it."""
    scheduler.set_timesteps(STEPS)
    x = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(1))
    x = x * scheduler.init_noise_sigma
    labels = torch.tensor([10, 3]).repeat_interleave(PARTICLES)
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]), t)
            free, bound = unet(both, t, class_labels=labels).sample.chunk(2)
            x = scheduler.step(free + 2.0 * (bound - free), t, x).prev_sample
    return x


def with_divergence(world) -> torch.Tensor:
    """Corrected sampling whose weight takes a divergence by one random direction a step."""
    generator = torch.Generator().manual_seed(1)
    y = 20.0 * torch.randn(SHAPE[1:], generator=generator)
    log_w = torch.zeros(PARTICLES)
    for now, after in itertools.pairwise(SIGMAS.tolist()):
        delta = now**2 - after**2
        here = y.requires_grad_(True)
        scores = world.scores(here, now)
        total = -scores[0] + 2.0 * scores[1]
        probe = torch.randn(y.shape, generator=generator)
        bent = torch.autograd.grad((total * probe).sum(), here)[0]
        y, total = here.detach(), total.detach()
        divergence = (bent * probe).flatten(1).sum(1)
        log_w = log_w + delta * (0.5 * divergence + 0.5 * total.flatten(1).square().sum(1))
        kick = torch.randn(y.shape, generator=generator)
        y = y + delta * total + delta**0.5 * kick
    return y


def main() -> dict:
    torch.set_num_threads(1)
    unet, scheduler = network()

    def model(y, sigma, labels):
        return from_diffusers(unet, scheduler, class_labels=labels)(y, sigma)

    world = Composition(stack_denoisers(model, [10, 3]), [-1.0, 2.0])
    ways = {
        "corrected": lambda: run(world, True),
        "plain": lambda: run(world, False),
        "diffusers": lambda: by_diffusers(unet, scheduler),
        "divergence": lambda: with_divergence(world),
    }
    same = run(world, True, resample=None)
    if not torch.equal(same, run(world, False)):
        raise AssertionError("weights alone moved a particle")
    for work in ways.values():
        work()
    times = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, work in ways.items():
            times[name].append(cpu_seconds(work)[1])
    best = {name: min(each) for name, each in times.items()}
    n = sum(p.numel() for p in unet.parameters())
    note = f"U-Net of {n / 1e6:.1f} million weights, {PARTICLES} particles, {STEPS} steps"
    label = "corrected sampling"
    lines = [
        row(label, "our plain sampling", best["corrected"], best["plain"], "CPU s", note),
        row(
            label, "diffusers, plain guidance", best["corrected"], best["diffusers"], "CPU s", note
        ),
        row(
            label, "weight with a divergence", best["corrected"], best["divergence"], "CPU s", note
        ),
    ]
    try:
        from particles import resampling
    except ImportError:
        print("particles is not installed: its resampling is not timed")
    else:
        logw = torch.randn(
            64, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        weights = torch.softmax(logw, -1).numpy()
        ours = min(cpu_seconds(lambda: resample_indices(logw))[1] for _ in range(REPEATS))
        theirs = min(
            cpu_seconds(lambda: [resampling.systematic(np.ascontiguousarray(w)) for w in weights])[
                1
            ]
            for _ in range(REPEATS)
        )
        lines.append(
            row(
                "systematic resampling",
                "particles",
                ours,
                theirs,
                "CPU s",
                "64 populations of 4,096",
            )
        )
    result = save("feynman_kac", lines, "torch", "diffusers")
    data.save_stored(
        "feynman_kac",
        "speed",
        {
            "time ratio": best["corrected"] / best["plain"],
            "divergence ratio": best["divergence"] / best["corrected"],
            "all divergence ratios": [
                d / c for d, c in zip(times["divergence"], times["corrected"], strict=True)
            ],
            "seconds": best,
        },
        script="benchmarks/feynman_kac.py",
        settings={"particles": PARTICLES, "steps": STEPS, "repeats": REPEATS, "weights": n},
        seeds=[0],
    )
    return result


if __name__ == "__main__":
    main()
