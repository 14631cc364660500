"""Noise-, velocity- and data-predicting networks, diffusers models, and the small networks."""

import pytest
import torch

from paperkit.feynman_kac import (
    GaussianMixture,
    annealed,
    from_diffusers,
    from_epsilon_model,
    networks,
    sample,
    sigma_schedule,
    timestep_of,
)
from paperkit.feynman_kac.particles import ParticleDenoiser, double_well, lennard_jones

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
MIX = GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 1.0]], [[0.2, 0.1], [0.3, 0.4]])


def network(kind):
    """The exact network of a mixture, in the variance-preserving scale."""

    def model(x, t):
        left = t.floor().long().clamp(0, 998)
        log_ratio = ((1 - ALPHAS) / ALPHAS).log() / 2
        sigma = (log_ratio[left] + (t - left) * (log_ratio[left + 1] - log_ratio[left])).exp()
        signal = (1 + sigma**2).rsqrt()[:, None]
        y = x / signal
        clean = MIX.denoise(y, sigma)
        noise = (y - clean) / sigma[:, None]
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return clean
        return signal * noise - signal * sigma[:, None] * clean

    return model


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_three_predictions_one_denoiser(kind):
    denoiser = from_epsilon_model(network(kind), ALPHAS, prediction_type=kind)
    y = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    for sigma in (0.05, 0.7, 20.0):
        level = torch.full((30,), sigma, dtype=torch.float64)
        torch.testing.assert_close(denoiser(y, level), MIX.denoise(y, level), rtol=1e-5, atol=1e-5)


def test_times_and_levels():
    sigmas = ((1 - ALPHAS) / ALPHAS).sqrt()
    which = torch.tensor([0, 1, 500, 999])
    torch.testing.assert_close(timestep_of(sigmas[which], ALPHAS), which.double())
    assert torch.equal(timestep_of(sigmas[which] * 1.0001, ALPHAS, "nearest"), which)
    assert float(timestep_of(torch.tensor([1e9]), ALPHAS)) == pytest.approx(999)
    assert float(timestep_of(torch.tensor([1e-9]), ALPHAS)) == pytest.approx(0)


class Unet(torch.nn.Module):
    """Answers like a diffusers model."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.seen = {}

    def forward(self, x, t, **options):
        self.seen = options
        return type("Output", (), {"sample": self.function(x, t)})


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_diffusers_schedulers(name, kind):
    import diffusers

    scheduler = getattr(diffusers, name)(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type=kind
    )
    unet = Unet(network(kind))
    denoiser = from_diffusers(unet, scheduler, class_labels=3)
    y = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level = torch.full((10,), 1.3, dtype=torch.float64)
    torch.testing.assert_close(denoiser(y, level), MIX.denoise(y, level), rtol=1e-4, atol=1e-4)
    assert unet.seen["class_labels"].tolist() == [3] * 10


def test_diffusers_edm():
    import diffusers

    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    y = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    sample_ = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    scheduler.set_timesteps(10)
    sigma = scheduler.sigmas[3].double()
    denoiser = from_diffusers(Unet(lambda x, t: sample_ + 0 * x), scheduler)
    ours = denoiser(y, sigma.expand(6))
    theirs = scheduler.precondition_outputs(y, sample_, sigma)
    torch.testing.assert_close(ours, theirs)
    seen = {}
    from_diffusers(Unet(lambda x, t: seen.update(x=x, t=t) or x), scheduler)(y, sigma.expand(6))
    torch.testing.assert_close(seen["x"], scheduler.precondition_inputs(y, sigma))
    torch.testing.assert_close(seen["t"], scheduler.precondition_noise(sigma).expand(6))


def test_a_real_unet_is_sampled():
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=3,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    denoiser = from_diffusers(unet, diffusers.DDPMScheduler(), class_labels=1)
    result = sample(
        annealed(denoiser, 1.5),
        (2, 3, 1, 8, 8),
        sigma_schedule(4, 20.0, 0.1),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(0),
    )
    assert result.particles.shape == (2, 3, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((None, ALPHAS), {}, TypeError, "callable"),
        ((network("sample"), ALPHAS), {"prediction_type": "score"}, ValueError, "prediction_type"),
        ((network("sample"), ALPHAS), {"timesteps": "all"}, ValueError, "timesteps"),
        ((network("sample"), ALPHAS.flip(0)), {}, ValueError, "falling"),
        ((network("sample"), torch.tensor([1.5, 0.5])), {}, ValueError, "between 0 and 1"),
    ],
)
def test_bad_networks(arguments, options, error, words):
    with pytest.raises(error, match=words):
        from_epsilon_model(*arguments, **options)


def test_unknown_scheduler():
    with pytest.raises(TypeError, match="alphas_cumprod"):
        from_diffusers(Unet(network("sample")), object())
    with pytest.raises(TypeError, match="callable"):
        from_diffusers(None, object())


# ------------------------------------------------------------------------------- small networks


@pytest.mark.parametrize("system", [double_well, lennard_jones], ids=lambda each: each.name)
def test_coordinates_energy_and_force_of_particles(system):
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(5, *system.event, dtype=torch.float64, generator=generator)
    x = system.positions(z)
    assert x.shape == (5, system.n_particles, system.n_dimensions)
    assert x.mean(-2).abs().max() < 1e-12
    torch.testing.assert_close(system.relative(x), z)
    torch.testing.assert_close(x.square().sum((-1, -2)), z.square().sum((-1, -2)))
    z.requires_grad_(True)
    gradient = torch.autograd.grad(system.energy(z).sum(), z)[0]
    torch.testing.assert_close(system.force(z.detach()), -gradient)
    first, second = torch.triu_indices(system.n_particles, system.n_particles, 1)
    d = (x[:, first] - x[:, second]).norm(dim=-1)
    torch.testing.assert_close(system.pair_distances(z.detach()), d)


def test_energies_of_particles():
    """The formulas, and a pair of Lennard-Jones particles at its deepest."""
    d = torch.tensor([0.9, 1.0, 3.0], dtype=torch.float64)
    u = d - 4
    torch.testing.assert_close(double_well.potential(d)[0], 0.9 * u**4 - 4 * u**2)
    torch.testing.assert_close(lennard_jones.potential(d)[0], 2 * (d**-12 - 2 * d**-6))
    energy, slope = lennard_jones.potential(torch.ones(1))
    assert (float(energy), float(slope)) == (-2.0, 0.0)
    far = 50.0 * torch.arange(13.0)[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
    z = lennard_jones.relative(far)  # only the trap is left
    assert float(lennard_jones.energy(z)) == pytest.approx(float(z.square().sum()) / 2)


@pytest.mark.parametrize(
    ("system", "burn", "spacing"), [(double_well, 400, 10), (lennard_jones, 500, 20)]
)
def test_langevin_knows_the_virial_theorem(system, burn, spacing):
    """For exp(-E/T) in n coordinates, the mean of <z, grad E> is n T."""
    generator = torch.Generator().manual_seed(0)
    z, accepted = system.langevin(2.0, 400, 20, generator, n_burn=burn, spacing=spacing)
    virial = -(z * system.force(z)).sum((-1, -2)).reshape(20, 400).mean(0)
    wanted = 2.0 * system.event[0] * system.event[1]
    assert abs(float(virial.mean()) - wanted) < 5 * float(virial.std()) / 20
    assert 0.3 < accepted < 0.95
    with pytest.raises(ValueError, match="temperature"):
        system.langevin(0.0, 2, 2, generator)


def test_denoisers_at_the_ends():
    """Little noise: the identity. Much noise: close to the mean of the data (zero)."""
    torch.manual_seed(0)
    particles = ParticleDenoiser(double_well, 2.0, width=16)
    z = torch.randn(4, 3, 2)
    torch.testing.assert_close(particles(z, torch.full((4,), 1e-4)), z, atol=1e-3, rtol=0)
    assert particles(z * 100, torch.full((4,), 100.0)).abs().max() < 1
    images = networks.ImageDenoiser(10, 0.7)
    y = torch.randn(4, 64)
    labels = torch.arange(4)
    torch.testing.assert_close(images(y, torch.full((4,), 1e-4), labels), y, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="label must"):
        images.conditioned(11)


def test_overlapping_particles_are_moved_apart_in_evaluation_only():
    torch.manual_seed(0)
    model = ParticleDenoiser(lennard_jones, 1.26, width=16, layers=1, logarithmic=True, core=0.8)
    x = 3.0 * torch.randn(1, 13, 3, generator=torch.Generator().manual_seed(1))
    x[0, 1] = x[0, 0] + torch.tensor([0.3, 0.0, 0.0])
    z, sigma = lennard_jones.relative(x), torch.full((1,), 0.01)

    def first_pair():
        return float(lennard_jones.pair_distances(model(z, sigma))[0, 0].detach())

    assert first_pair() == pytest.approx(0.3, abs=0.01)
    model.eval()
    assert first_pair() == pytest.approx(0.78, abs=0.01)  # the core less twice the noise


def test_digits():
    train, judge = networks.load_digit_parts()
    assert len(train.images) + len(judge.images) == 1797
    assert train.images.min() == -1
    assert train.images.max() == 1
    share = torch.bincount(train.inks).double() / len(train.inks)
    assert (share - 1 / 3).abs().max() < 0.02
    assert networks.digit_judge().accuracy > 0.93
    assert networks.digit_judge().frechet(judge.images) < 1e-3


def test_unknown_checkpoints():
    with pytest.raises(ValueError, match="which"):
        networks.load_digit_denoiser("colour")
    with pytest.raises(ValueError, match="temperature"):
        double_well.reference(3)
    with pytest.raises(ValueError, match=r"1\.5, 2"):
        lennard_jones.reference(1)
