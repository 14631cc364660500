import copy
import math
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel

from paperkit.concept_erasing import (
    Replacement,
    cfg_error,
    encode_prompts,
    erase_concept,
    generate,
    invert,
    purify,
    record_states,
    trainable_parameters,
)

PIG = Replacement("a picture of pig", "a picture of cow")
FEW = {"n_trajectories": 4, "num_inference_steps": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def states(tiny):
    return record_states(tiny, PIG, generator=seeded(), **FEW)


@pytest.mark.parametrize("scale", [1.0, 3.0, 7.5])
def test_generate_equals_the_pipeline_itself(tiny, scale):
    noise = torch.randn(2, 4, 8, 8, generator=seeded())
    prompts = ["a picture of pig", "laptop style"]
    ours = generate(tiny, prompts, noise=noise, guidance_scale=scale, num_inference_steps=4,
                    output="latent")  # fmt: skip
    theirs = tiny(prompts, latents=noise, guidance_scale=scale, num_inference_steps=4,
                  output_type="latent").images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    images = generate(tiny, prompts, noise=noise, guidance_scale=scale, num_inference_steps=4)
    assert images.shape == (2, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_negative_prompt_equals_the_pipelines(tiny):
    noise = torch.randn(1, 4, 8, 8, generator=seeded())
    kw = {"guidance_scale": 3.0, "num_inference_steps": 3, "negative_prompt": "pig"}
    ours = generate(tiny, ["cow"], noise=noise, output="latent", **kw)
    theirs = tiny("cow", latents=noise, output_type="latent", **kw).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    kw["negative_prompt"] = ""
    empty = generate(tiny, ["cow"], noise=noise, output="latent", **kw)
    del kw["negative_prompt"]
    assert torch.equal(empty, generate(tiny, ["cow"], noise=noise, output="latent", **kw))


def test_an_image_does_not_depend_on_its_batch(tiny):
    kw = {"num_inference_steps": 3, "output": "latent"}
    together = generate(tiny, ["pig", "cow", "pig"], seeds=[5, 6, 7], **kw)
    alone = generate(tiny, ["pig"], seeds=[7], **kw)
    torch.testing.assert_close(together[2:], alone, rtol=1e-5, atol=1e-5)
    split = generate(tiny, ["pig", "cow", "pig"], seeds=[5, 6, 7], batch_size=2, **kw)
    torch.testing.assert_close(together, split, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 1), (1.0, 1), (3.0, 2)])
def test_one_branch_where_one_is_enough(tiny, scale, rows):
    seen = []
    handle = tiny.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    generate(tiny, ["pig"], guidance_scale=scale, num_inference_steps=3)
    handle.remove()
    assert seen == [rows] * 3


def test_recorded_trajectories_are_those_of_generate(tiny, states):
    last = states.x[states.t == states.t.min()]
    seeds = torch.randint(2**31, (4,), generator=seeded()).tolist()
    tiny_copy = copy.copy(tiny)
    seen = []
    handle = tiny_copy.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    generate(tiny_copy, [PIG.erase] * 4, seeds=seeds, num_inference_steps=3)
    handle.remove()
    torch.testing.assert_close(seen[-1].chunk(2)[1], last)
    assert len(states) == 12
    assert set(states.index.tolist()) == {0}


def test_cached_targets_equal_fresh_ones(tiny, states):
    condition = encode_prompts(tiny, ["", PIG.erase, PIG.alternative])
    kept = (states.eps_uncond, states.eps_erase, states.eps_alternative)
    with torch.no_grad():
        for states_of, cached in zip(condition, kept, strict=True):
            fresh = tiny.unet(states.x[5:6], states.t[5:6],
                              encoder_hidden_states=states_of[None]).sample  # fmt: skip
            torch.testing.assert_close(fresh, cached[5:6], rtol=1e-5, atol=1e-6)


def test_several_replacements_share_the_trajectories(tiny):
    other = Replacement("laptop")
    both = record_states(tiny, [PIG, other], generator=seeded(), trajectory="unconditional", **FEW)
    assert both.index.bincount().tolist() == [6, 6]
    nothing = both.index == 1
    assert torch.equal(both.eps_alternative[nothing], both.eps_uncond[nothing])


@pytest.mark.parametrize("method", ["surgical", "esd", "concept_ablation", "anchored_ablation",
                                    "sdd"])  # fmt: skip
def test_every_method_learns_and_leaves_the_pipeline_alone(tiny, states, method):
    before = {k: v.clone() for k, v in tiny.unet.state_dict().items()}
    result = erase_concept(tiny, PIG, method, states=states, n_steps=30, batch_size=12,
                           learning_rate=1e-2, generator=seeded())  # fmt: skip
    for name, value in tiny.unet.state_dict().items():
        assert torch.equal(value, before[name])
    after = result.unet.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all("attn2" in name for name in changed)
    assert result.history.loss.iloc[-5:].mean() < result.history.loss.iloc[:3].mean()
    assert not any(p.requires_grad for p in result.unet.parameters())


def test_the_same_generator_gives_the_same_result(tiny):
    runs = [erase_concept(tiny, PIG, n_steps=3, batch_size=4, generator=seeded(3), **FEW)
            for _ in range(2)]  # fmt: skip
    for a, b in zip(runs[0].unet.parameters(), runs[1].unet.parameters(), strict=True):
        assert torch.equal(a, b)
    pd.testing.assert_frame_equal(runs[0].history, runs[1].history)


def test_the_loss_starts_at_the_guidance_gap(tiny, states):
    """At the frozen model the anchor is zero, and the guidance term is |g(c_e) - g(c_a)|^2."""
    result = erase_concept(tiny, PIG, states=states, n_steps=1, batch_size=4096,
                           generator=seeded())  # fmt: skip
    first = result.history.iloc[0]
    gap = (states.eps_erase - states.eps_alternative).square().mean()
    assert first["unconditional"] == pytest.approx(0, abs=1e-10)
    assert first["guidance"] == pytest.approx(float(gap), rel=0.05)


def test_the_identity_holds_on_a_fine_tuned_network(tiny, states):
    result = erase_concept(tiny, PIG, states=states, n_steps=5, generator=seeded())
    table = cfg_error(tiny, result.unet, states, scales=(0, 1, 3, 7.5))
    assert table.identity.max() < 1e-5
    assert (table.error <= table.bound * (1 + 1e-6)).all()
    at_one = table[table.scale == 1]
    assert at_one.error.to_numpy() == pytest.approx(at_one.r2.to_numpy(), rel=1e-3)
    frozen = cfg_error(tiny, tiny.unet, states)
    assert frozen.u2.max() < 1e-10


def test_subsets(tiny):
    every = trainable_parameters(tiny.unet, "all")
    x, rest = (trainable_parameters(tiny.unet, s) for s in ("cross_attention",
                                                            "non_cross_attention"))  # fmt: skip
    assert not set(x) & set(rest)
    assert set(x) | set(rest) < set(every)
    assert all("attn2" in n for n in x)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"parameters": "head"}, ValueError, "parameters must be one of"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"drift_weight": -1}, ValueError, "drift_weight"),
        ({"trajectory": "sideways"}, ValueError, "trajectory"),
        ({"guidance_scale": -1.0}, ValueError, "guidance_scale"),
        ({"n_trajectories": 0}, ValueError, "n_trajectories"),
        ({"num_inference_steps": 2.5}, TypeError, "num_inference_steps"),
    ],
)
def test_bad_settings_are_rejected_before_any_work(tiny, monkeypatch, changes, error, message):
    def forward(*_, **__):
        raise AssertionError("the UNet was run")

    monkeypatch.setattr(tiny.unet, "forward", forward)
    with pytest.raises(error, match=message):
        erase_concept(tiny, PIG, generator=seeded(), **changes)


def test_bad_replacements_and_states(tiny, states):
    with pytest.raises(ValueError, match="nothing to erase"):
        erase_concept(tiny, [], generator=seeded())
    with pytest.raises(TypeError, match="Replacement"):
        erase_concept(tiny, ["a pig"], generator=seeded())
    with pytest.raises(ValueError, match="other replacements"):
        erase_concept(tiny, Replacement("cow", "pig"), states=states, generator=seeded())
    with pytest.raises(ValueError, match="states are given"):
        erase_concept(tiny, PIG, states=states, n_trajectories=3, generator=seeded())


def test_a_unet_that_reads_no_prompt_is_rejected(tiny):
    pipe = copy.copy(tiny)
    object.__setattr__(pipe, "unet", UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ))  # fmt: skip
    with pytest.raises(ValueError, match="no cross-attention"):
        erase_concept(pipe, PIG, generator=seeded())
    with pytest.raises(ValueError, match="no parameter"):
        trainable_parameters(pipe.unet, "cross_attention")


def test_prompts_are_checked(tiny):
    with pytest.raises(TypeError, match="list of texts"):
        encode_prompts(tiny, "a pig")
    with pytest.raises(ValueError, match="empty"):
        encode_prompts(tiny, [])
    with pytest.raises(TypeError, match=r"prompts\[1\]"):
        encode_prompts(tiny, ["pig", 3])
    with pytest.warns(UserWarning, match="is cut to 12"):
        encode_prompts(tiny, ["a picture of pig " * 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompts(tiny, ["a picture of pig"])


def test_sampling_is_checked(tiny):
    with pytest.raises(ValueError, match="seeds or noise, not both"):
        generate(tiny, ["pig"], seeds=[1], noise=torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="1 prompts, but 2"):
        generate(tiny, ["pig"], seeds=[1, 2])
    with pytest.raises(ValueError, match="not finite"):
        generate(tiny, ["pig"], noise=torch.full((1, 4, 8, 8), math.nan))
    with pytest.raises(ValueError, match="output"):
        generate(tiny, ["pig"], output="film")
    with pytest.raises(ValueError, match="not finite"):
        invert(tiny, torch.full((1, 3, 16, 16), math.inf), ["pig"])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        invert(tiny, torch.full((1, 3, 16, 16), 2.0), ["pig"])
    with pytest.raises(ValueError, match="1 images, but 2"):
        invert(tiny, torch.zeros(1, 3, 16, 16), ["pig", "cow"])


class Gaussian(torch.nn.Module):
    """The exact prediction for data from N(0, 1): eps = sqrt(1 - abar) x, the image sqrt(abar) x, v = 0."""

    def __init__(self, pipe, kind="epsilon"):
        super().__init__()
        self.kind = kind
        self.config = pipe.unet.config
        self.alphas = pipe.scheduler.alphas_cumprod
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, encoder_hidden_states):
        abar = self.alphas[t]
        part = {"epsilon": (1 - abar).sqrt(), "sample": abar.sqrt(), "v_prediction": 0}[self.kind]
        return SimpleNamespace(sample=part * x)


def test_inversion_undoes_sampling(tiny):
    pipe = copy.copy(tiny)
    object.__setattr__(pipe, "unet", Gaussian(tiny))
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    prompts = ["pig", "cow"]
    with torch.no_grad():
        start = tiny.vae.encode(2 * images - 1).latent_dist.mode() * tiny.vae.config.scaling_factor
    errors = []
    for steps in (5, 20, 100):
        noise = invert(pipe, images, prompts, num_inference_steps=steps)
        back = generate(pipe, prompts, noise=noise, guidance_scale=1, num_inference_steps=steps,
                        output="latent")  # fmt: skip
        errors.append(float((back - start).square().mean().sqrt() / start.std()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05
    out = purify(tiny, images, "pig", tiny.unet, num_inference_steps=3)
    assert out.shape == images.shape


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_inversion_does_not_depend_on_what_the_network_predicts(tiny, kind):
    """Three networks that say the same about x in three ways lead to one noise."""
    images = torch.rand(2, 3, 16, 16, generator=seeded())
    found = []
    for said in ("epsilon", kind):
        pipe = copy.copy(tiny)
        object.__setattr__(pipe, "unet", Gaussian(tiny, said))
        config = {"prediction_type": said}
        pipe.scheduler = type(tiny.scheduler).from_config(tiny.scheduler.config, **config)
        found.append(invert(pipe, images, ["pig", "cow"], num_inference_steps=5))
    assert torch.allclose(*found, atol=1e-5)
