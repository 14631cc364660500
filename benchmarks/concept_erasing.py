"""A training step of the surgical eraser against the loop that samples a trajectory for each step, and against ESD's.

The first peer is written here in the way the published loop of ESD works: for every step it samples the frozen model
from fresh noise to a random time, takes its predictions there, and then makes the student's update. The second peer is
one step of ESD on recorded states, with as many forward passes of the student as a surgical step has. Both sides use
one thread; CPU time. Writes ``benchmarks/results/concept_erasing.json`` and the stored result behind claims c9a, c9b.
"""

import copy

import torch
from _record import cpu_seconds, row, save

from paperkit import data
from paperkit.concept_erasing import erase_concept, record_states
from paperkit.concept_erasing import experiments as ex
from paperkit.concept_erasing.erasing import trainable_parameters
from paperkit.concept_erasing.guidance import classifier_free_guidance, surgical_loss
from paperkit.concept_erasing.sampling import copy_scheduler, encode_prompts, step_options

SCRIPT = "benchmarks/concept_erasing.py"
BATCH, STEPS = 16, 12
N_PEER, N_OURS = 4, 16


def trajectory_loop(pipe, erase, alternative, n_steps) -> None:
    """Surgical training with a fresh trajectory of the frozen model for every step."""
    generator = torch.Generator().manual_seed(0)
    student = copy.deepcopy(pipe.unet).requires_grad_(False)
    chosen = list(trainable_parameters(student, "cross_attention").values())
    for p in chosen:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam(chosen, lr=1e-3)
    empty, named, other = (
        encode_prompts(pipe, [text]).expand(BATCH, -1, -1) for text in ("", erase, alternative)
    )
    for step in range(n_steps):
        scheduler = copy_scheduler(pipe)
        scheduler.set_timesteps(STEPS)
        options = step_options(pipe, scheduler)
        stop = (2 * step + 1) * STEPS // (2 * n_steps)  # spread over the trajectory
        x = torch.randn(BATCH, 12, 12, 12, generator=generator)
        with torch.no_grad():
            for t in scheduler.timesteps[:stop]:
                both = pipe.unet(torch.cat([x, x]), t, torch.cat([empty, named])).sample
                field = classifier_free_guidance(*both.chunk(2), 3.0)
                x = scheduler.step(field, t, x, **options).prev_sample
            t = scheduler.timesteps[stop]
            e0, _, ea = (pipe.unet(x, t, c).sample for c in (empty, named, other))
        u, c = student(torch.cat([x, x]), t, torch.cat([empty, named])).sample.chunk(2)
        loss, _ = surgical_loss(c, u, ea - e0, e0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    pipe, replacement = ex.pipeline(), ex.BARE
    states, recording = cpu_seconds(
        lambda: record_states(pipe, replacement, generator=torch.Generator().manual_seed(0))
    )

    def per_step(method: str, batch: int) -> float:
        def work(n: int):
            return erase_concept(pipe, replacement, method, states=states, n_steps=n,
                                 batch_size=batch, generator=torch.Generator().manual_seed(0))  # fmt: skip

        work(1)
        return work(N_OURS).seconds / N_OURS

    first = per_step("surgical", BATCH)
    esd = per_step("esd", 2 * BATCH)
    again = per_step("surgical", BATCH)  # before and after, because machines slow down
    ours = (first + again) / 2
    _, theirs = cpu_seconds(
        lambda: trajectory_loop(pipe, replacement.erase, replacement.alternative, N_PEER)
    )
    theirs /= N_PEER
    with_recording = ours + recording / 80
    note = "batch 16, 12 sampling steps"
    rows = [
        row("surgical step, states recorded", "a trajectory for each step", ours, theirs, "CPU s", note),
        row("the same with its share of recording, 80 steps", "a trajectory for each step",
            with_recording, theirs, "CPU s", note),
        row("surgical step, 2 x 16 forward passes", "ESD step, 32 forward passes", ours, esd, "CPU s"),
    ]  # fmt: skip
    save("concept_erasing", rows, "torch", "diffusers")
    data.save_stored(
        "concept_erasing",
        "benchmark",
        {
            "trajectory_loop": theirs / ours,
            "with_recording": theirs / with_recording,
            "esd_step": ours / esd,
            "seconds": {"surgical": ours, "esd": esd, "loop": theirs, "recording": recording},
        },
        script=SCRIPT,
        settings={"batch": BATCH, "steps": STEPS, "repetitions": [N_PEER, N_OURS]},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
