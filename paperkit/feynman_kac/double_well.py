r"""Four particles in the plane whose distances have two wells, and a denoiser of their positions.

.. math::

   E(x) = \sum_{i<j} \left(-4 u_{ij}^2 + 0.9 u_{ij}^4\right), \qquad u_{ij} = |x_i - x_j| - 4,

known as DW-4. The density at temperature T is :math:`\exp(-E/T)` on configurations whose centre of
mass rests at the origin. Those are written in three *relative coordinates* :math:`z = H x`, with H
the three orthonormal rows orthogonal to (1, 1, 1, 1): an isometry, so that noise in z is noise in x
without drift of the centre.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .networks import sigma_features

N_PARTICLES = 4
FIRST, SECOND = (torch.triu_indices(N_PARTICLES, N_PARTICLES, 1)[row] for row in (0, 1))
RELATIVE = torch.tensor(
    [
        [0.5, -0.5, 0.5, -0.5],
        [0.5, 0.5, -0.5, -0.5],
        [0.5, -0.5, -0.5, 0.5],
    ],
    dtype=torch.float64,
)  # (3, 4): orthonormal rows, each orthogonal to (1, 1, 1, 1)


def positions(z: Tensor) -> Tensor:
    """Return positions (..., 4, 2) of relative coordinates (..., 3, 2)."""
    return RELATIVE.to(z.device, z.dtype).T @ z


def relative(x: Tensor) -> Tensor:
    """Return relative coordinates (..., 3, 2) of positions (..., 4, 2)."""
    return RELATIVE.to(x.device, x.dtype) @ x


def pair_distances(z: Tensor) -> Tensor:
    """Return the six distances between particles, shape (..., 6), from z (..., 3, 2)."""
    x = positions(z)
    return (x[..., FIRST, :] - x[..., SECOND, :]).norm(dim=-1)


def energy(z: Tensor) -> Tensor:
    """Return the energy of relative coordinates z (..., 3, 2), shape (...)."""
    u = pair_distances(z) - 4.0
    return (0.9 * u**4 - 4.0 * u**2).sum(-1)


def force(z: Tensor) -> Tensor:
    """Return minus the gradient of the energy, shape (..., 3, 2)."""
    x = positions(z)
    gap = x[..., FIRST, :] - x[..., SECOND, :]
    distance = gap.norm(dim=-1, keepdim=True)
    u = distance - 4.0
    slope = (3.6 * u**3 - 8.0 * u) / distance * gap  # (..., 6, 2)
    pull = torch.zeros_like(x)
    pull.index_add_(-2, FIRST.to(x.device), -slope)
    pull.index_add_(-2, SECOND.to(x.device), slope)
    return relative(pull)


def langevin(
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
    z : Tensor, shape (n_kept * n_chains, 3, 2), float64
        Ordered by time.
    acceptance : float
        Share of accepted moves after burn-in.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    z = 2.0 * torch.randn(n_chains, 3, 2, dtype=torch.float64, generator=generator)
    for _ in range(200):  # out of the steepest places
        z = z + (0.01 * force(z)).clamp(-0.2, 0.2)
    kept, accepted, moves = [], 0.0, 0
    level, pull = energy(z), force(z)
    for i in range(n_burn + n_kept * spacing):
        part = min(1.0, 2 * i / n_burn) if n_burn else 1.0
        heat = start ** (1 - part) * temperature**part
        step = min(0.06, 0.02 * heat)
        drift = step / heat * pull
        noise = torch.randn(z.shape, dtype=z.dtype, generator=generator)
        there = z + drift + (2 * step) ** 0.5 * noise
        new_level, new_pull = energy(there), force(there)
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


class ParticleDenoiser(nn.Module):
    """Denoiser of the four particles that respects rotation, reflection and exchange.

    A message-passing network on the six pairs: a pair knows its distance, the noise level and the sum
    of what its two particles have gathered; the answer moves particles along the lines that join
    them. Preconditioned as in EDM.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of a relative coordinate.
    width, layers : int
        Size.
    """

    def __init__(self, sigma_data: float, *, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.register_buffer("centres", torch.linspace(0.0, 5.0, 21), persistent=False)
        self.enter = nn.Linear(21 + 16, width)
        self.nodes = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.pairs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.leave = nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Return E[clean | z] for z (n, 3, 2), sigma (n,)."""
        level = sigma.float()[:, None, None]
        total = level**2 + self.sigma_data**2
        x = positions(z.float() / total.sqrt())  # (n, 4, 2)
        gap = x[:, FIRST] - x[:, SECOND]  # (n, 6, 2)
        distance = (gap.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        bumps = torch.exp(-8.0 * (distance - self.centres) ** 2)  # (n, 6, 21)
        context = sigma_features(sigma, 16)[:, None].expand(-1, len(FIRST), -1)
        edge = torch.nn.functional.silu(self.enter(torch.cat([bumps, context], -1)))
        for node, pair in zip(self.nodes, self.pairs, strict=True):
            gathered = edge.new_zeros(len(z), N_PARTICLES, edge.shape[-1])
            gathered = gathered.index_add(1, FIRST, edge).index_add(1, SECOND, edge)
            known = torch.nn.functional.silu(node(gathered))
            both = known[:, FIRST] + known[:, SECOND]
            edge = edge + torch.nn.functional.silu(pair(torch.cat([edge, both], -1)))
        pull = self.leave(edge) * gap / (1 + distance)  # (n, 6, 2)
        moved = torch.zeros_like(x).index_add(1, FIRST, pull).index_add(1, SECOND, -pull)
        skip = self.sigma_data**2 / total
        scale = level * self.sigma_data / total.sqrt()
        return (skip * z + scale * relative(moved)).to(z.dtype)


def load_particle_denoiser() -> ParticleDenoiser:
    """Return the denoiser that was trained on configurations at temperature 2."""
    from paperkit import data
    from paperkit.models import load_checkpoint

    tensors, record = load_checkpoint(data.path("feynman_kac/double_well"))
    settings = record["settings"]
    model = ParticleDenoiser(settings["sigma_data"], width=settings["width"])
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def reference(temperature: int) -> Tensor:
    """Return stored configurations of long chains at temperature 1 or 2, shape (n, 3, 2)."""
    from paperkit import data

    if temperature not in (1, 2):
        raise ValueError(f"temperature must be 1 or 2, got {temperature}")
    stored = data.arrays("feynman_kac/double_well_reference")
    return torch.from_numpy(stored[f"temperature_{temperature}"]).double()
