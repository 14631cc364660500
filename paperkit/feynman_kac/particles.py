r"""Particles that attract and repel each other in pairs, and a denoiser of their positions.

.. math::

   E(x) = \sum_{i<j} V(|x_i - x_j|) + \tfrac{k}{2} \sum_i |x_i - \bar x|^2 .

The density at temperature T is :math:`\exp(-E/T)` on configurations whose centre of mass rests at
the origin. Those of n particles are written in n - 1 *relative coordinates* :math:`z = H x`, with H
orthonormal rows orthogonal to (1, ..., 1): an isometry, so that noise in z is noise in x without
drift of the centre.

Two systems:

- :data:`double_well`, known as DW-4: four particles in the plane,
  :math:`V = -4u^2 + 0.9u^4` with :math:`u = d - 4`, no trap;
- :data:`lennard_jones`, known as LJ-13: thirteen in space, :math:`V = 2(d^{-12} - 2d^{-6})`, so that
  a pair is deepest, at -2, at distance 1, and a trap of strength 1 (units and strength are our choice).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.linalg import helmert
from torch import Tensor, nn

from .networks import sigma_features


@dataclass(frozen=True, eq=False)
class ParticleSystem:
    """Equal particles with an energy of pairs.

    Attributes
    ----------
    name : str
        Of its files.
    basis : Tensor, shape (n - 1, n), float64
        The rows of H.
    n_dimensions : int
        Of space.
    potential : callable
        Distances -> energies of pairs, and their slopes.
    trap : float
        Strength k of the pull to the centre of mass.
    size : float
        Standard deviation of a coordinate where chains start.
    step : float
        Step of the Langevin algorithm at temperature 1.
    temperatures : tuple of float
        Those with stored configurations; the denoiser was trained at the last.
    """

    name: str
    basis: Tensor
    n_dimensions: int
    potential: Callable[[Tensor], tuple[Tensor, Tensor]]
    trap: float
    size: float
    step: float
    temperatures: tuple[float, ...]

    @property
    def n_particles(self) -> int:
        """Number of particles."""
        return self.basis.shape[1]

    @property
    def event(self) -> tuple[int, int]:
        """Shape of the relative coordinates of one configuration."""
        return self.n_particles - 1, self.n_dimensions

    @functools.cached_property
    def pairs(self) -> Tensor:
        """Matrix (m, n) that takes positions to the m differences x_i - x_j, i < j."""
        first, second = torch.triu_indices(self.n_particles, self.n_particles, 1)
        table = torch.eye(self.n_particles, dtype=torch.float64)
        return table[first] - table[second]

    def positions(self, z: Tensor) -> Tensor:
        """Return positions (..., n, d) of relative coordinates (..., n - 1, d)."""
        return self.basis.to(z.device, z.dtype).T @ z

    def relative(self, x: Tensor) -> Tensor:
        """Return relative coordinates (..., n - 1, d) of positions (..., n, d)."""
        return self.basis.to(x.device, x.dtype) @ x

    def _gaps(self, z: Tensor) -> Tensor:
        return (self.pairs @ self.basis.T).to(z.device, z.dtype) @ z  # (..., m, d)

    def pair_distances(self, z: Tensor) -> Tensor:
        """Return the m = n(n - 1)/2 distances between particles, shape (..., m), from z."""
        return self._gaps(z).norm(dim=-1)

    def energy(self, z: Tensor) -> Tensor:
        """Return the energy of relative coordinates z (..., n - 1, d), shape (...)."""
        pull = 0.5 * self.trap * z.square().sum((-1, -2))
        return self.potential(self.pair_distances(z))[0].sum(-1) + pull

    def force(self, z: Tensor) -> Tensor:
        """Return minus the gradient of the energy, shape (..., n - 1, d)."""
        gap = self._gaps(z)
        distance = gap.norm(dim=-1, keepdim=True)
        slope = self.potential(distance)[1] / distance * gap
        back = (self.basis @ self.pairs.T).to(z.device, z.dtype)
        return -(back @ slope) - self.trap * z

    def langevin(
        self,
        temperature: float,
        n_chains: int,
        n_kept: int,
        generator: torch.Generator,
        *,
        n_burn: int = 1000,
        spacing: int = 25,
        start: float = 8.0,
    ) -> tuple[Tensor, float]:
        """Draw configurations by the Metropolis-adjusted Langevin algorithm.

        Parameters
        ----------
        temperature : float
            T of the result, > 0.
        n_chains, n_kept : int
            Independent chains, and configurations kept of each.
        generator : torch.Generator
        n_burn : int
            Steps during which the temperature falls from `start` to T (first half) and settles.
        spacing : int
            Steps between kept configurations.
        start : float
            Temperature of the first step.

        Returns
        -------
        z : Tensor, shape (n_kept * n_chains, n - 1, d), float64
            Ordered by time.
        acceptance : float
            Share of accepted moves after burn-in.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        shape = (n_chains, *self.event)
        z = self.size * torch.randn(shape, dtype=torch.float64, generator=generator)
        for _ in range(200):  # out of the steepest places
            z = z + (0.5 * self.step * self.force(z)).clamp(-10 * self.step, 10 * self.step)
        kept, accepted, moves = [], 0.0, 0
        level, pull = self.energy(z), self.force(z)
        for i in range(n_burn + n_kept * spacing):
            part = min(1.0, 2 * i / n_burn) if n_burn else 1.0
            heat = start ** (1 - part) * temperature**part
            step = self.step * min(3.0, heat)
            drift = step / heat * pull
            noise = torch.randn(shape, dtype=z.dtype, generator=generator)
            there = z + drift + (2 * step) ** 0.5 * noise
            new_level, new_pull = self.energy(there), self.force(there)
            back = there + step / heat * new_pull
            forth = ((there - z - drift) ** 2).sum((-1, -2))
            ratio = (level - new_level) / heat
            ratio = ratio - (((z - back) ** 2).sum((-1, -2)) - forth) / (4 * step)
            coin = torch.rand(n_chains, dtype=z.dtype, generator=generator)
            yes = coin.log() < ratio
            z = torch.where(yes[:, None, None], there, z)
            level = torch.where(yes, new_level, level)
            pull = torch.where(yes[:, None, None], new_pull, pull)
            if i >= n_burn:
                accepted, moves = accepted + float(yes.double().mean()), moves + 1
                if (i - n_burn + 1) % spacing == 0:
                    kept.append(z)
        return torch.cat(kept), accepted / max(moves, 1)

    def load_denoiser(self) -> ParticleDenoiser:
        """Return the denoiser that was trained on configurations at temperature 2."""
        from paperkit import data
        from paperkit.models import load_checkpoint

        tensors, record = load_checkpoint(data.path(f"feynman_kac/{self.name}"))
        settings = record["settings"]
        size = {
            key: settings[key]
            for key in ("width", "layers", "bumps", "logarithmic", "core")
            if key in settings
        }
        model = ParticleDenoiser(self, settings["sigma_data"], **size)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    def reference(self, temperature: float) -> Tensor:
        """Return stored configurations of long chains, shape (N, n - 1, d)."""
        from paperkit import data

        if temperature not in self.temperatures:
            allowed = ", ".join(f"{each:g}" for each in self.temperatures)
            raise ValueError(f"temperature must be one of {allowed}, got {temperature}")
        stored = data.arrays(f"feynman_kac/{self.name}_reference")
        return torch.from_numpy(stored[f"temperature_{temperature:g}"]).double()


def _two_wells(distance: Tensor) -> tuple[Tensor, Tensor]:
    u = distance - 4.0
    return 0.9 * u**4 - 4.0 * u**2, 3.6 * u**3 - 8.0 * u


def _lennard_jones(distance: Tensor) -> tuple[Tensor, Tensor]:
    near = distance**-6
    return 2.0 * (near**2 - 2.0 * near), 24.0 * (near - near**2) / distance


double_well = ParticleSystem(
    name="double_well",
    basis=torch.tensor(
        [[0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]],
        dtype=torch.float64,
    ),
    n_dimensions=2,
    potential=_two_wells,
    trap=0.0,
    size=2.0,
    step=0.02,
    temperatures=(1.0, 2.0),
)

lennard_jones = ParticleSystem(
    name="lennard_jones",
    basis=torch.from_numpy(helmert(13)),
    n_dimensions=3,
    potential=_lennard_jones,
    trap=1.0,
    size=1.0,
    step=0.0008,
    temperatures=(1.5, 2.0),
)


class ParticleDenoiser(nn.Module):
    """Denoiser of particles that respects rotation, reflection and exchange.

    A message-passing network on pairs: a pair knows its distance, the noise level and the sum of what
    its two particles have gathered; the answer moves particles along the lines that join them.
    Preconditioned as in EDM.

    Parameters
    ----------
    system : ParticleSystem
    sigma_data : float
        Standard deviation of a relative coordinate.
    width, layers, bumps : int
        Size: hidden units, rounds of messages, and functions that a distance is expanded in.
    logarithmic : bool
        Space those functions evenly in the logarithm of the distance, for a hard core.
    core : float
        In evaluation, two particles that are closer than this by more than twice the noise level are
        moved apart to that distance: the network has never seen such a pair. 0 for none.
    """

    centres: Tensor
    gaps: Tensor
    gather: Tensor

    def __init__(
        self,
        system: ParticleSystem,
        sigma_data: float,
        *,
        width: int = 64,
        layers: int = 3,
        bumps: int = 21,
        logarithmic: bool = False,
        core: float = 0.0,
    ) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.core = core
        self.logarithmic = logarithmic
        centres = torch.linspace(*((-1.2, 2.1) if logarithmic else (0.0, 5.0)), bumps)
        self.sharpness = 0.5 / float(centres[1] - centres[0]) ** 2
        table = system.pairs
        for name, tensor in (
            ("centres", centres),
            ("gaps", table @ system.basis.T),  # (m, n - 1): pairs from relative coordinates
            ("gather", table.T.abs()),  # (n, m): sum over the pairs of a particle
        ):
            self.register_buffer(name, tensor.float(), persistent=False)
        self.enter = nn.Linear(bumps + 16, width)
        self.nodes = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.pairs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.leave = nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return E[clean | z] for z (N, n - 1, d), sigma (N,)."""
        silu = nn.functional.silu
        level = sigma.float()[:, None, None]
        total = level**2 + self.sigma_data**2
        gap = self.gaps @ (z.float() / total.sqrt())  # (N, m, d)
        distance = (gap.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        place = distance.log() if self.logarithmic else distance
        bumps = torch.exp(-self.sharpness * (place - self.centres) ** 2)
        context = sigma_features(sigma, 16)[:, None].expand(-1, len(self.gaps), -1)
        edge = silu(self.enter(torch.cat([bumps, context], -1)))  # (N, m, width)
        for node, pair in zip(self.nodes, self.pairs, strict=True):
            known = silu(node(self.gather @ edge))  # (N, n, width)
            edge = edge + silu(pair(torch.cat([edge, self.gather.T @ known], -1)))
        skip = self.sigma_data**2 / total
        scale = level * self.sigma_data / total.sqrt()
        pull = scale * self.leave(edge) * gap / (1 + distance)
        if self.core and not self.training:
            overlap = (self.core - 2 * level - distance * total.sqrt()).clamp(min=0)
            pull = pull + 0.5 * overlap * gap / distance
        moved = self.gaps.T @ pull  # (N, n - 1, d)
        return (skip * z + moved).to(z.dtype)
