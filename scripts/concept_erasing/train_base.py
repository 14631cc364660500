"""Train the text-to-image model of the chapter on captioned scenes, and gate it.

    python scripts/concept_erasing/train_base.py          # as often as it says "run again"

About 15 minutes on one core, in two stages: a one-cycle schedule laid out for 3,500 steps, of which
2,250 are made, then 600 steps in which the learning rate falls to zero. (The cut saved time: by then
the model used every word of its captions.) The state of the run lies in a temporary folder; set
SECONDS_A_PIECE to stop after so many processor seconds and go on with the next call. Writes the checkpoint
(data/concept_erasing/base.safetensors, half precision), its row in SOURCES.csv and the results
"base_training" (learning curve); ``gate.py`` then stores the accuracy of the shipped model.

The gate: on images of held-out captions at guidance 3 and 12 steps, shape and colour are right in
at least 95 % and 90 % are clean (one component, overlap above 0.8); else nothing is registered.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from paperkit import data
from paperkit.concept_erasing import scenes
from paperkit.models import save_checkpoint, train

SCRIPT = "scripts/concept_erasing/train_base.py"
CHECKPOINT = Path(data.__file__).parent / "concept_erasing" / "base.safetensors"
STATE = Path(tempfile.gettempdir()) / "concept_erasing_base_training.safetensors"
LAST = STATE.with_name("concept_erasing_base_annealing.safetensors")
CURVE = STATE.with_suffix(".csv")
SEED = 0
BATCH = 32
DROPOUT = 0.1
SETTINGS = {
    "n_steps": 3500,
    "learning_rate": 2e-3,
    "schedule": "onecycle",
    "optimizer": "adamw",
    "weight_decay": 1e-3,
    "clip_norm": 1.0,
    "ema_decay": 0.996,
}
CUT = 2250
ANNEALING = SETTINGS | {
    "n_steps": 600,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "ema_decay": 0.99,
}
EVERY = 250
PIECE = float(os.environ.get("SECONDS_A_PIECE", "inf"))


class EndOfStage(Exception):
    """The first stage has made its steps."""


def caption_states(tokenizer, encoder):
    """States of every caption and of the empty one, standardised; and mean, sd of that."""
    table = scenes.captions()
    encoded = tokenizer(
        [*table.text, ""], padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = encoder(
            input_ids=encoded.input_ids, attention_mask=encoded.attention_mask
        ).last_hidden_state
    seen = encoded.attention_mask.bool()[:-1][~torch.tensor(table.held_out.to_numpy())]
    rows = states[:-1][~torch.tensor(table.held_out.to_numpy())][seen]
    mean, sd = rows.mean(0), rows.std(0).clamp(min=0.1)
    return (states - mean) / sd * encoded.attention_mask[:, :, None], mean, sd


def sample(pipe, states, rows, generator, scale=3.0, steps=12):
    """Images of caption rows, all with noise from one generator."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = torch.randn(len(rows), 12, 12, 12, generator=generator)
    condition = torch.cat([states[-1:].expand(len(rows), -1, -1), states[rows]])
    with torch.no_grad():
        for t in scheduler.timesteps:
            empty, named = pipe.unet(torch.cat([x, x]), t, condition).sample.chunk(2)
            v = empty + scale * (named - empty)
            x = scheduler.step(v, t, x, use_clipped_model_output=True).prev_sample
    return pipe.decode(x)


def measure(pipe, states, rows, generator):
    """Share of right attributes of images drawn for caption rows."""
    table = scenes.captions().iloc[rows].reset_index(drop=True)
    seen = scenes.analyse(sample(pipe, states, rows, generator))
    found = {"shape": (seen["shape"] == table["shape"]).mean(), "clean": seen.clean.mean()}
    for name in ("colour", "background"):
        said = table[name] != ""
        found[name] = (seen[name] == table[name])[said].mean()
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    tokenizer, encoder = scenes.tokenizer_and_encoder()
    states, mean, sd = caption_states(tokenizer, encoder)
    table = scenes.captions()
    row_of = {text: i for i, text in enumerate(table.text)} | {"": len(table)}
    held_out = np.flatnonzero(table.held_out)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        unet = scenes.new_unet()
    scheduler = scenes.new_scheduler()
    abar = scheduler.alphas_cumprod
    text = scenes.TextEncoder(encoder, mean, sd)
    pipe = scenes.ScenePipeline(unet, text, tokenizer, scheduler)
    curve = CURVE.read_text().splitlines() if CURVE.exists() and STATE.exists() else []
    start = time.process_time()

    def batch(rng):
        drawn = scenes.sample_scenes(rng, BATCH)
        words = [
            "" if rng.random() < DROPOUT else scenes.caption(scene, rng)
            for scene in drawn.to_dict("records")
        ]
        return pipe.encode(scenes.render(drawn)), states[[row_of[w] for w in words]]

    def first(i, generator):
        if i == CUT:
            raise EndOfStage
        return step(i, generator)

    def step(i, generator):
        if i % EVERY == 0 and time.process_time() - start > PIECE:
            print(f"paused after {i} steps: run again", flush=True)
            sys.exit(3)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        x0, condition = batch(np.random.default_rng(seed))
        # stratified times: one in each of BATCH equal parts of the 1,000 steps
        u = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = (u * 1000).long().clamp(max=999)
        a = abar[t][:, None, None, None]
        noise = torch.randn(x0.shape, generator=generator)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        target = a.sqrt() * noise - (1 - a).sqrt() * x0
        error = (unet(x, t, condition).sample - target).square().mean((1, 2, 3))
        return (abar[t].clamp(min=0.05) * error).mean()

    def report(i, loss, before=0):
        if (i + 1) % (2 * EVERY) and not before:
            return
        generator = torch.Generator().manual_seed(1)
        rng = np.random.default_rng(1)
        found = measure(pipe, states, rng.choice(held_out, 48), generator)
        drawn = scenes.sample_scenes(rng, 64)
        right = [row_of[f"a {s['colour']} {s['shape']}"] for s in drawn.to_dict("records")]
        other = dict(zip(scenes.SHAPES, (*scenes.SHAPES[1:], scenes.SHAPES[0]), strict=True))
        wrong = [row_of[f"a {s['colour']} {other[s['shape']]}"] for s in drawn.to_dict("records")]
        x0, a = pipe.encode(scenes.render(drawn)), abar[416]
        noise = torch.randn(x0.shape, generator=generator)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        with torch.no_grad():
            errors = [
                (a.sqrt() * x - (1 - a).sqrt() * unet(x, 416, states[rows]).sample - x0)
                .square()
                .mean()
                for rows in (right, wrong)
            ]
        ratio = float(errors[1] / errors[0])
        row = {"step": before + i + 1, "loss": loss} | found | {"wrong_shape_error_ratio": ratio}
        print({k: round(v, 3) for k, v in row.items()}, round(time.process_time() - start),
              flush=True)  # fmt: skip
        if not curve:
            curve.append(",".join(row))
        curve.append(",".join(str(v) for v in row.values()))
        CURVE.write_text("\n".join(curve) + "\n")

    try:
        train(first, unet.parameters(), seed=SEED, resume=STATE, every=EVERY,
              callback=report, **SETTINGS)  # fmt: skip
    except EndOfStage:
        print("first stage done", flush=True)
    history = train(step, unet.parameters(), seed=SEED + 1, resume=LAST, every=EVERY,
                    callback=lambda i, loss: report(i, loss, CUT), **ANNEALING)  # fmt: skip
    history.copy_ema_to(unet.parameters())
    tensors = {k: v.half() for k, v in unet.state_dict().items()}
    unet.load_state_dict({k: v.float() for k, v in tensors.items()})  # measure what is shipped
    rng, generator = np.random.default_rng(2), torch.Generator().manual_seed(2)
    gate = {}
    for name in scenes.SHAPES:
        rows = np.flatnonzero(table.held_out & (table["shape"] == name))
        gate[name] = measure(pipe, states, rng.choice(rows, 64), generator)
        print(name, gate[name], flush=True)
    mean_of = {k: float(np.mean([g[k] for g in gate.values()])) for k in gate["circle"]}
    print("gate", mean_of, flush=True)
    if min(mean_of["shape"], mean_of["colour"]) < 0.95 or mean_of["clean"] < 0.9:
        sys.exit("the gate does not hold: train longer")
    record = {
        "script": SCRIPT,
        "seed": SEED,
        "settings": {"first": SETTINGS | {"made": CUT}, "then": ANNEALING, "batch": BATCH},
    }
    save_checkpoint(
        CHECKPOINT,
        tensors | {"text.mean": mean, "text.sd": sd},
        record=record | {"steps": CUT + ANNEALING["n_steps"]},
    )
    data.register(
        "concept_erasing/base",
        CHECKPOINT,
        source="trained here on scenes that the book draws",
        version="1",
        licence="MIT",
        script=SCRIPT,
        changes=f"{CUT + ANNEALING['n_steps']} steps of {BATCH} images; half precision",
    )
    data.save_stored("concept_erasing", "base_training", pd.read_csv(CURVE), script=SCRIPT,
                     settings=record["settings"], seeds=[SEED])  # fmt: skip


if __name__ == "__main__":
    main()
