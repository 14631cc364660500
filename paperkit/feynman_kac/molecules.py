r"""Molecules with two wanted properties: a product of two latent diffusion models.

A variational autoencoder turns a molecule into 32 numbers z and back. Two denoisers of z are
trained apart: one is told the third in which the molecule's **logP** lies (how much it prefers fat
to water), the other the third of its **TPSA** (polar surface area, in square angstroms). The product
of the two is sampled as in :mod:`.composition`, decoded, and judged by RDKit.

Molecules are written in SELFIES (Krenn, Häse, Nigam, Friederich and Aspuru-Guzik, "Self-referencing
embedded strings (SELFIES): A 100% robust molecular string representation", Machine Learning: Science
and Technology, 2020): *every* sequence of its symbols is a molecule. So validity, which is hard for
other notations, is nearly given here, and says little.
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from paperkit import claims, profiles
from paperkit.claims import Interval

from . import sampler
from .composition import Composition, composed_prior
from .networks import ImageDenoiser
from .sampler import DegeneracyWarning, FKCResult, sigma_schedule

N_LATENT = 32
LONGEST = 36
PAD = 0  # also the end of a molecule; symbols of the alphabet are 1, 2, ...
THIRDS = ("low", "middle", "high")
PROPERTIES = ("logP", "TPSA")


class MoleculeAutoencoder(nn.Module):
    """Variational autoencoder of symbol sequences: convolutions in, a recurrent network out.

    Parameters
    ----------
    n_symbols : int
        Size of the alphabet, without the end symbol.
    n_latent, width, channels, embedding : int
        Numbers of latent coordinates, of hidden units of the decoder, of channels of the encoder,
        and of coordinates of a symbol.
    """

    def __init__(
        self,
        n_symbols: int,
        *,
        n_latent: int = N_LATENT,
        width: int = 160,
        channels: int = 64,
        embedding: int = 48,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.start = n_symbols + 1
        self.symbols = nn.Embedding(n_symbols + 2, embedding)
        self.read = nn.Sequential(
            nn.Conv1d(embedding, channels, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 5, padding=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(channels * (LONGEST + 1), 2 * n_latent),
        )
        self.first = nn.Linear(n_latent, width)
        self.write = nn.GRU(embedding + n_latent, width, batch_first=True)
        self.choose = nn.Linear(width, n_symbols + 1)
        self.properties = nn.Sequential(nn.Linear(n_latent, 64), nn.GELU(), nn.Linear(64, 2))

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of z, each (n, n_latent), for tokens (n, 37)."""
        mean, log_sd = self.read(self.symbols(tokens).transpose(1, 2)).chunk(2, -1)
        return mean, log_sd.clamp(-6, 3).exp()

    def logits(self, z: Tensor, tokens: Tensor) -> Tensor:
        """Return logits of each symbol given z and those before it, (n, length, n_symbols + 1)."""
        before = torch.cat([torch.full_like(tokens[:, :1], self.start), tokens[:, :-1]], 1)
        along = z[:, None].expand(-1, tokens.shape[1], -1)
        hidden, _ = self.write(
            torch.cat([self.symbols(before), along], -1), self.first(z).tanh()[None]
        )
        return self.choose(hidden)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the symbols that are likeliest one after the other, (n, 37), for z (n, n_latent)."""
        state = self.first(z).tanh()[None]
        last = torch.full((len(z), 1), self.start)
        going = torch.ones(len(z), 1, dtype=torch.bool)
        written = []
        for _ in range(LONGEST + 1):
            hidden, state = self.write(torch.cat([self.symbols(last), z[:, None]], -1), state)
            last = torch.where(going, self.choose(hidden).argmax(-1), PAD)
            going = going & (last != PAD)
            written.append(last)
        return torch.cat(written, 1)


def autoencoder_loss(
    model: MoleculeAutoencoder,
    tokens: Tensor,
    properties: Tensor,
    noise: Tensor,
    kl_weight: float,
    property_weight: float,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, in nats a molecule, and its parts.

    Parameters
    ----------
    model : MoleculeAutoencoder
    tokens : Tensor, shape (n, 37)
    properties : Tensor, shape (n, 2)
        Standardised logP and TPSA, which a small head has to read off z.
    noise : Tensor, shape (n, n_latent)
    kl_weight, property_weight : float
    """
    mean, sd = model.encode(tokens)
    z = mean + sd * noise
    # one end symbol counts, those after it do not
    counts = torch.cat([torch.ones_like(tokens[:, :1]), (tokens[:, :-1] != PAD).long()], 1).bool()
    wrong = nn.functional.cross_entropy(model.logits(z, tokens)[counts], tokens[counts])
    spelling = wrong * counts.sum() / len(tokens)
    kl = (0.5 * (mean**2 + sd**2 - 1) - sd.log()).sum(-1).mean()
    guess = ((model.properties(z) - properties) ** 2).sum(-1).mean()
    loss = spelling + kl_weight * kl + property_weight * guess
    parts = {"spelling": spelling, "kl": kl, "properties": guess}
    return loss, {name: float(part.detach()) for name, part in parts.items()}


# ------------------------------------------------------------------------------- writing and reading


def selfies_of(tokens: Tensor, alphabet: Sequence[str]) -> list[str]:
    """Return the SELFIES string of each row of symbol numbers."""
    names = ["", *alphabet]
    return ["".join(names[i] for i in row) for row in tokens.tolist()]


def fingerprint(smiles: str) -> int:
    """Return 63 bits that stand for a canonical SMILES string."""
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "big") >> 1


def describe(smiles: str) -> tuple[str, float, float] | None:
    """Return canonical SMILES, logP and TPSA by RDKit, or None if it is no molecule for RDKit."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdMolDescriptors

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        return None
    log_p, _ = rdMolDescriptors.CalcCrippenDescriptors(molecule)
    return Chem.MolToSmiles(molecule), float(log_p), float(rdMolDescriptors.CalcTPSA(molecule))


def random_selfies(n: int, length: int, rng: np.random.Generator) -> list[str]:
    """Return SELFIES strings whose symbols are drawn blindly from the alphabet."""
    alphabet = load_molecule_models().alphabet
    return ["".join(rng.choice(alphabet, length)) for _ in range(n)]


@dataclass(frozen=True)
class MoleculeModels:
    """The trained networks and what goes with them.

    Attributes
    ----------
    autoencoder : MoleculeAutoencoder
    denoisers : dict
        ``"logP"`` and ``"TPSA"``: denoisers of standardised latents, labels 0, 1, 2 (thirds), 3 (any).
    alphabet : tuple of str
    edges : dict
        For each property the two edges of its thirds.
    centre, scale : Tensor, shape (n_latent,)
        ``z = centre + scale * latent``.
    means, variances : dict
        Of the latents, for each property a Tensor of shape (4, n_latent): the thirds, and all.
    seen : ndarray of int64
        Sorted fingerprints of the molecules of the training set.
    examples : ndarray, shape (n, 2)
        logP and TPSA of some of them.
    share_with_both : float
        Of all of them, those in the highest third of both.
    """

    autoencoder: MoleculeAutoencoder
    denoisers: dict[str, ImageDenoiser]
    alphabet: tuple[str, ...]
    edges: dict[str, tuple[float, float]]
    centre: Tensor
    scale: Tensor
    means: dict[str, Tensor]
    variances: dict[str, Tensor]
    seen: np.ndarray
    examples: np.ndarray
    share_with_both: float

    def third(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return 0, 1 or 2: the third of the training molecules in which each value lies."""
        return np.digitize(values, self.edges[name], right=True)

    def write(self, latents: Tensor) -> list[str]:
        """Return the SELFIES string of each standardised latent (n, n_latent)."""
        z = self.centre + self.scale * latents.float()
        return selfies_of(self.autoencoder.decode(z), self.alphabet)

    def judge(self, latents: Tensor) -> pd.DataFrame:
        """Decode latents (n, n_latent); one row each with what RDKit says.

        Columns: ``smiles`` (canonical; None if invalid), ``logP``, ``TPSA`` (NaN if invalid) and
        ``new`` (valid and not in the training set).
        """
        import selfies

        found = [describe(selfies.decoder(text)) for text in self.write(latents)]
        rows = [(None, math.nan, math.nan) if each is None else each for each in found]
        table = pd.DataFrame(rows, columns=["smiles", *PROPERTIES])
        marks = np.array([fingerprint(s) if s else -1 for s in table["smiles"]], dtype=np.int64)
        where = np.searchsorted(self.seen, marks).clip(max=len(self.seen) - 1)
        table["new"] = (marks >= 0) & (self.seen[where] != marks)
        return table


@functools.lru_cache(maxsize=1)
def load_molecule_models() -> MoleculeModels:
    """Return the trained networks, in evaluation mode, without gradients."""
    from paperkit import data
    from paperkit.models import load_checkpoint

    tensors, record = load_checkpoint(data.path("feynman_kac/molecules"))
    settings = record["settings"]

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): each
            for name, each in tensors.items()
            if name.startswith(prefix)
        }

    autoencoder = MoleculeAutoencoder(len(settings["alphabet"]), width=settings["width"])
    autoencoder.load_state_dict(part("autoencoder."))
    denoisers = {}
    for name in PROPERTIES:
        model = latent_denoiser(settings["denoiser_width"])
        model.load_state_dict(part(f"denoiser.{name}."))
        denoisers[name] = model.eval().requires_grad_(False)
    return MoleculeModels(
        autoencoder.eval().requires_grad_(False),
        denoisers,
        tuple(settings["alphabet"]),
        {name: (float(low), float(high)) for name, (low, high) in settings["edges"].items()},
        tensors["centre"],
        tensors["scale"],
        {name: tensors[f"mean.{name}"].double() for name in PROPERTIES},
        {name: tensors[f"variance.{name}"].double() for name in PROPERTIES},
        tensors["seen"].numpy(),
        tensors["examples"].numpy(),
        settings["share_with_both"],
    )


def latent_denoiser(width: int) -> ImageDenoiser:
    """Return an untrained denoiser of standardised latents with three labels and "any"."""
    return ImageDenoiser(len(THIRDS), 1.0, n_pixels=N_LATENT, width=width)


# ---------------------------------------------------------------------------------- what is measured

MOLECULE_SIGMAS, MOLECULE_STEPS = (3.0, 0.05), 60
POPULATIONS, SIZE = 64, 32
WANTED = {"logP": 2, "TPSA": 2}
# what is sampled -> which labels the two denoisers get, and the exponents (the last is "any")
TARGETS: dict[str, tuple[dict[str, int], bool]] = {
    "any molecule": ({}, False),
    "high logP": ({"logP": 2}, False),
    "high TPSA": ({"TPSA": 2}, False),
    "product": (WANTED, False),
    "product over any": (WANTED, True),
}


def molecule_composition(
    wanted: dict[str, int], over_any: bool, sigma: float
) -> tuple[Composition, tuple[Tensor, Tensor]]:
    """Return the product of one denoiser for each wanted third, and its Gaussian start.

    Parameters
    ----------
    wanted : dict of str to int
        Property -> third. Empty: any molecule.
    over_any : bool
        Divide by the model of any molecule.
    sigma : float
        Noise level of the start.

    Returns
    -------
    composition : Composition
    initial : (Tensor, Tensor)
        Mean and variance.
    """
    unknown = set(wanted) - set(PROPERTIES)
    if unknown:
        raise ValueError(f"properties are {', '.join(PROPERTIES)}, got {', '.join(unknown)}")
    models = load_molecule_models()
    anything = ("logP", len(THIRDS))
    experts = list(wanted.items()) or [anything]
    exponents = [1.0] * len(experts)
    if over_any:
        experts.append(anything)
        exponents.append(-1.0)
    made = Composition(
        [models.denoisers[name].conditioned(third) for name, third in experts], exponents
    )
    start = composed_prior(
        exponents,
        [models.means[name][third] for name, third in experts],
        [models.variances[name][third] for name, third in experts],
        sigma,
    )
    return made, start


def sample_molecules(
    target: str,
    correct: bool,
    generator: torch.Generator,
    *,
    populations: int = POPULATIONS,
    size: int = SIZE,
    steps: int = MOLECULE_STEPS,
    sigmas: tuple[float, float] = MOLECULE_SIGMAS,
    **options: Any,
) -> tuple[FKCResult, Tensor]:
    """Sample latents of one of :data:`TARGETS`; `options` go to :func:`~paperkit.feynman_kac.sampler.sample`.

    Returns
    -------
    result : FKCResult
    latents : Tensor, shape (populations, size, n_latent)
        The particles, equally weighted. They keep noise of the last level, far less than the
        autoencoder's own.
    """
    wanted, over_any = TARGETS[target]
    world, start = molecule_composition(wanted, over_any, sigmas[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        result = sampler.sample(
            world,
            (populations, size, N_LATENT),
            sigma_schedule(steps, *sigmas, "karras"),
            correct=correct,
            initial=start,
            generator=generator,
            dtype=torch.float32,
            **options,
        )
    return result, result.resample(generator=generator)


@functools.lru_cache(maxsize=16)
def _run(target: str, correct: bool, base: int, key: str) -> tuple[FKCResult, pd.DataFrame]:
    generator = profiles.generator("feynman_kac", key, target, int(correct))
    result, latents = sample_molecules(target, correct, generator)
    return result, judged(latents)


def molecule_run(
    target: str, correct: bool, key: str = "molecules"
) -> tuple[FKCResult, pd.DataFrame]:
    """Sample and judge with the standard settings, once for each seed; see :func:`judged`."""
    return _run(target, correct, profiles.base_seed(), key)


def judged(latents: Tensor, wanted: dict[str, int] | None = None) -> pd.DataFrame:
    """Decode populations (P, K, n_latent) and judge each molecule.

    Columns: those of :meth:`MoleculeModels.judge`, ``population``, ``has logP``, ``has TPSA`` (valid,
    and in the wanted third) and ``both``.
    """
    models = load_molecule_models()
    wanted = WANTED if wanted is None else wanted
    populations, size, _ = latents.shape
    table = models.judge(latents.flatten(0, 1))
    table.insert(0, "population", np.repeat(np.arange(populations), size))
    for name, third in wanted.items():
        right = models.third(name, table[name].to_numpy()) == third
        table[f"has {name}"] = table["smiles"].notna() & right
    table["both"] = table[[f"has {name}" for name in wanted]].all(axis=1)
    return table


def population_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up molecules (:func:`judged`): shares of a population, one row each.

    Columns: ``valid``; ``unique`` and ``new`` (different molecules, and those of them that are not in
    the training set); ``logP``, ``TPSA`` and ``both``; ``distinct`` (different molecules with both).
    """
    rows = []
    for _, own in table.groupby("population"):
        size = len(own)
        rows.append(
            {
                "valid": own["smiles"].notna().mean(),
                "unique": own["smiles"].nunique() / size,
                "new": own.loc[own["new"], "smiles"].nunique() / size,
                "logP": own["has logP"].mean(),
                "TPSA": own["has TPSA"].mean(),
                "both": own["both"].mean(),
                "distinct": own.loc[own["both"], "smiles"].nunique() / size,
            }
        )
    return pd.DataFrame(rows).astype(float)


def molecule_table(targets: Sequence[str] = tuple(TARGETS), key: str = "molecules") -> pd.DataFrame:
    """One row for each target, sampler and population: shares, and ancestors at the end."""
    parts = []
    for target in targets:
        composed = len(TARGETS[target][0]) > 1
        for correct in (False, True) if composed else (False,):
            result, table = molecule_run(target, correct, key)
            shares = population_shares(table)
            shares.insert(0, "target", target)
            shares.insert(1, "sampler", "corrected" if correct else "plain")
            shares["ancestors"] = result.n_unique_ancestors.double().numpy()
            parts.append(shares)
    return pd.concat(parts, ignore_index=True)


def _shares(table: pd.DataFrame, target: str, sampler: str, column: str) -> np.ndarray:
    chosen = (table["target"] == target) & (table["sampler"] == sampler)
    return table.loc[chosen, column].to_numpy()


def _difference(a: np.ndarray, b: np.ndarray, key: str) -> Interval:
    return claims.bootstrap(
        lambda x, y: float(x.mean() - y.mean()),
        a,
        b,
        rng=profiles.rng("feynman_kac", "molecules", key),
    )


def correction_gain(table: pd.DataFrame, target: str, column: str = "both") -> Interval:
    """Corrected minus plain, mean over populations, bootstrap over populations (f9c, f9d, f9h)."""
    corrected = _shares(table, target, "corrected", column)
    return _difference(corrected, _shares(table, target, "plain", column), f"{column} {target}")


def product_gain(table: pd.DataFrame) -> Interval:
    """Claim f9g: both properties by the plain product over any, minus by the better model alone."""
    alone = [_shares(table, name, "plain", "both") for name in ("high logP", "high TPSA")]
    best = max(alone, key=lambda shares: float(shares.mean()))
    return _difference(_shares(table, "product over any", "plain", "both"), best, "two models")


def mean_share(table: pd.DataFrame, target: str, sampler: str, column: str) -> Interval:
    """Mean over populations of a share, bootstrap over populations."""
    return claims.bootstrap(
        lambda x: float(x.mean()),
        _shares(table, target, sampler, column),
        rng=profiles.rng("feynman_kac", "molecules", "share", column, target, sampler),
    )


def validity(table: pd.DataFrame) -> float:
    """Claim f9e: share of valid molecules, the smallest of the samplers."""
    return float(table.groupby(["target", "sampler"])["valid"].mean().min())


def best_plain_share(table: pd.DataFrame) -> Interval:
    """Claim f9f: share of both properties by plain sampling, the larger of the two products."""
    made = [
        mean_share(table, target, "plain", "both") for target in ("product", "product over any")
    ]
    return max(made, key=lambda each: each.high)


def stored_table(
    batches: int = 8,
    targets: Sequence[str] = ("product", "product over any"),
    key: str = "molecules",
) -> pd.DataFrame:
    """Products with `batches` times as many populations, for the rows that are stored."""
    parts = []
    for batch in range(batches):
        part = molecule_table(targets, key=f"{key} {batch}")
        part.insert(0, "batch", batch)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def stochastic_molecule_claims() -> dict[str, tuple[float, Interval | None]]:
    """Every row that notebook 5 measures live: id -> value and interval."""
    table = molecule_table()
    room, both = best_plain_share(table), product_gain(table)
    return {
        "f9e-valid": (validity(table), None),
        "f9f-room": (room.estimate, room),
        "f9g-two-models": (both.estimate, both),
    }
