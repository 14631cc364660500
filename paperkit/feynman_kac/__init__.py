"""Feynman-Kac correctors: sampling powers and products of diffusion models with exact weights.

Skreta, Akhound-Sadegh, Ohanesian, Bondesan, Aspuru-Guzik, Doucet, Brekelmans, Tong and Neklyudov,
"Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts", ICML 2025.

:mod:`.composition` states the target and the weight, :mod:`.sampler` simulates, :mod:`.adapters`
makes denoisers of networks, :mod:`.analytic` and :class:`paperkit.models.GaussianMixture` are models
with known scores, :mod:`.networks`, :mod:`.particles` and :mod:`.molecules` hold the small learned
ones.
"""

from paperkit.models.mixture import GaussianMixture

from .adapters import from_diffusers, from_epsilon_model, timestep_of
from .analytic import KernelDensity, stack_mixtures
from .composition import (
    Composition,
    StackedDenoiser,
    annealed,
    composed_prior,
    generic_weight_rate,
    guided,
    log_weight_rate,
    product,
    stack_denoisers,
    tilted,
)
from .sampler import (
    DegeneracyWarning,
    FKCResult,
    effective_sample_size,
    resample_indices,
    sample,
    sigma_schedule,
)

__all__ = [
    "Composition",
    "DegeneracyWarning",
    "FKCResult",
    "GaussianMixture",
    "KernelDensity",
    "StackedDenoiser",
    "annealed",
    "composed_prior",
    "effective_sample_size",
    "from_diffusers",
    "from_epsilon_model",
    "generic_weight_rate",
    "guided",
    "log_weight_rate",
    "product",
    "resample_indices",
    "sample",
    "sigma_schedule",
    "stack_denoisers",
    "stack_mixtures",
    "tilted",
    "timestep_of",
]
