"""The autoencoder of molecules, the product of latent denoisers, and the judge."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import profiles
from paperkit.feynman_kac import molecule_figures, molecules, sampler
from paperkit.feynman_kac.molecules import PAD, MoleculeAutoencoder

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def models():
    return molecules.load_molecule_models()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return MoleculeAutoencoder(5, n_latent=4, width=16, channels=8, embedding=6)


def words(n, seed=0):
    """Random rows of symbols 1 to 5 that end at random places."""
    rng = np.random.default_rng(seed)
    made = rng.integers(1, 6, (n, molecules.LONGEST + 1))
    for row, length in zip(made, rng.integers(1, molecules.LONGEST, n), strict=True):
        row[length:] = PAD
    return torch.from_numpy(made)


def test_the_writer_sees_only_what_came_before(small):
    tokens, z = words(3), torch.randn(3, 4)
    changed = tokens.clone()
    changed[:, 7] = changed[:, 7] % 5 + 1
    before, after = small.logits(z, tokens), small.logits(z, changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8], after[:, 8])


def test_decoding_takes_the_likeliest_symbol_each_time_and_stops_at_the_end(small):
    z = torch.randn(50, 4)
    written = small.decode(z)
    best = small.logits(z, written).argmax(-1)
    ended = (written == PAD).cumsum(1) > 1  # after the first end symbol
    assert torch.equal(written[~ended], best[~ended])
    assert bool((written[ended] == PAD).all())


def test_the_loss_counts_each_symbol_and_one_end(small):
    tokens, noise = words(6), torch.zeros(6, 4)
    loss, parts = molecules.autoencoder_loss(
        small, tokens, torch.zeros(6, 2), noise, kl_weight=0.5, property_weight=2.0
    )
    mean, sd = small.encode(tokens)
    logs = small.logits(mean, tokens).log_softmax(-1)
    spelling = 0.0
    for row in range(6):
        length = int((tokens[row] != PAD).sum())
        for place in range(length + 1):
            spelling -= float(logs[row, place, tokens[row, place]].detach()) / 6
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, sd), torch.distributions.Normal(0.0, 1.0)
    )
    assert parts["spelling"] == pytest.approx(spelling, rel=1e-4)
    assert parts["kl"] == pytest.approx(float(exact.sum(-1).mean().detach()), rel=1e-4)
    total = parts["spelling"] + 0.5 * parts["kl"] + 2 * parts["properties"]
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


def test_rdkit_describes_a_molecule_that_chemists_know():
    smiles, log_p, surface = molecules.describe(ASPIRIN)
    assert molecules.describe("OC(=O)c1ccccc1OC(C)=O")[0] == smiles
    assert log_p == pytest.approx(1.3101, abs=1e-3)
    assert surface == pytest.approx(63.6, abs=0.01)


@pytest.mark.parametrize("text", ["C(C", "CN(C)(C)C", "", "not a molecule"])
def test_what_is_no_molecule_is_not_described(text):
    assert molecules.describe(text) is None


def test_fingerprints_differ_and_fit_into_an_integer(models):
    marks = {molecules.fingerprint("C" * n) for n in range(1, 200)}
    assert len(marks) == 199
    assert max(marks) < 2**63
    assert np.all(np.diff(models.seen) >= 0)
    assert len(models.seen) == 200_000


def test_any_symbols_in_any_order_are_a_molecule(models):
    import selfies

    texts = molecules.random_selfies(40, 20, profiles.rng("test"))
    assert all(molecules.describe(selfies.decoder(text)) for text in texts)


def test_thirds_have_their_edges(models):
    low, high = models.edges["TPSA"]
    values = np.array([low - 1, low, low + 1e-3, high, high + 1e-3])
    assert models.third("TPSA", values).tolist() == [0, 0, 1, 1, 2]
    for name, column in zip(molecules.PROPERTIES, models.examples.T, strict=True):
        share = np.bincount(models.third(name, column), minlength=3) / len(column)
        assert np.allclose(share, 1 / 3, atol=0.05)


def test_the_networks_have_learned_something(models):
    """A denoiser that is told "high" makes molecules that are, more often than a third."""
    generator = profiles.generator("test")
    for name in molecules.PROPERTIES:
        _, latents = molecules.sample_molecules(
            f"high {name}", False, generator, populations=2, size=64
        )
        table = molecules.judged(latents)
        assert table[f"has {name}"].mean() > 0.5, name


def test_the_start_is_the_product_of_gaussians(models):
    world, (mean, variance) = molecules.molecule_composition({"logP": 2, "TPSA": 0}, True, 3.0)
    assert list(world.exponents) == [1.0, 1.0, -1.0]
    parts = [("logP", 2, 1), ("TPSA", 0, 1), ("logP", 3, -1)]
    precision = sum(b / (models.variances[n][t] + 9) for n, t, b in parts)
    pull = sum(b * models.means[n][t] / (models.variances[n][t] + 9) for n, t, b in parts)
    assert torch.allclose(variance, 1 / precision)
    assert torch.allclose(mean, pull / precision)


def test_the_product_over_any_has_the_weight_of_the_formula(models):
    """Sum of exponents 1: the rate is half of |S|^2 - |s1|^2 - |s2|^2 + |s0|^2."""
    world, _ = molecules.molecule_composition(molecules.WANTED, True, 3.0)
    y = torch.randn(5, molecules.N_LATENT, generator=torch.Generator().manual_seed(0))
    s1, s2, s0 = world.scores(y, 0.7)
    rate = sampler.log_weight_rate(torch.stack([s1, s2, s0]), world.exponents_at(0.7))
    squares = [(each.double() ** 2).sum(-1) for each in (s1 + s2 - s0, s1, s2, s0)]
    assert torch.allclose(rate, 0.5 * (squares[0] - squares[1] - squares[2] + squares[3]))


def test_unknown_property():
    with pytest.raises(ValueError, match="logP, TPSA, got weight"):
        molecules.molecule_composition({"weight": 1}, False, 3.0)


def test_shares_of_a_population_count_different_molecules():
    table = pd.DataFrame(
        {
            "population": [0, 0, 0, 0, 1, 1, 1, 1],
            "smiles": ["C", "C", "CC", None, "C", "CC", "CCC", "CCCC"],
            "new": [True, True, False, False, False, False, False, True],
            "has logP": [True, True, True, False, True, True, False, False],
            "has TPSA": [True, True, False, False, True, False, False, True],
            "both": [True, True, False, False, True, False, False, False],
        }
    )
    first, second = molecules.population_shares(table).to_dict("records")
    assert first == {
        "valid": 0.75,
        "unique": 0.5,
        "new": 0.25,
        "logP": 0.75,
        "TPSA": 0.5,
        "both": 0.5,
        "distinct": 0.25,
    }
    assert second["unique"] == 1
    assert second["distinct"] == 0.25


def test_judging_is_repeatable_and_knows_the_training_molecules(models):
    latents = torch.randn(1, 8, molecules.N_LATENT, generator=torch.Generator().manual_seed(1))
    one, two = molecules.judged(latents), molecules.judged(latents)
    pd.testing.assert_frame_equal(one, two)
    marks = [molecules.fingerprint(s) for s in one["smiles"]]
    assert one["new"].tolist() == [mark not in set(models.seen.tolist()) for mark in marks]
    assert math.isfinite(one["logP"].sum())


def test_drawings_have_a_name_and_load_nothing(models):
    row = pd.DataFrame({"smiles": [ASPIRIN], "logP": [1.3], "TPSA": [63.6]})
    made = molecule_figures.drawn(row, alt="Aspirin.")
    assert made.html.count("<img") == 1
    assert 'alt="Molecule CC(=O)Oc1ccccc1C(=O)O"' in made.html
    assert 'src="data:image/svg+xml;base64,' in made.html
    with pytest.raises(ValueError, match="alt is empty"):
        molecule_figures.drawn(row, alt=" ")
    with pytest.raises(ValueError, match="does not read"):
        molecule_figures.drawn(row.assign(smiles="C(("), alt="Nothing.")
