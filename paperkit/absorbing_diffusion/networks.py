"""Three transformers on one trunk: RADD, its time-conditioned twin, and an autoregressive one.

All read ids from 0 to V, where V is the mask, and give V numbers a position: a mask cannot be an
output. ``hidden`` is the trunk and ``head`` the vocabulary layer, apart, so that the vocabulary
layer need run only at the positions that are wanted. The blocks are pre-norm transformer blocks
with rotary positions. Every projection into the residual stream starts at zero.

A head of the first block may begin by looking at a neighbour: with rotary positions a constant
query and a constant key already make it prefer one offset, so the biases of query and key are set
to such constants (:attr:`TransformerConfig.neighbours`). Masked models otherwise spend their first
million tokens learning where the next word is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "NETWORKS",
    "CausalTransformer",
    "MaskedTransformer",
    "TimeConditionedTransformer",
    "TransformerConfig",
    "time_conditioning_parameters",
]

FREQUENCIES = 64  # numbers in the sinusoidal embedding of log total noise
CONDITION = 64  # width of the vector that modulates the blocks


@dataclass(frozen=True)
class TransformerConfig:
    """Size of a network.

    Attributes
    ----------
    vocab_size : int
        V, the number of clean tokens; the mask is id V.
    width : int
        Numbers per position; divisible by 2 ``heads``.
    depth : int
        Blocks.
    heads : int
        Attention heads of a block.
    dropout : float
        On the outputs of attention and of the feed-forward layers, in [0, 1).
    rotary_base : float
        Base of the rotary angles; the slowest turns once in about ``2 pi base`` positions.
    neighbours : float
        How strongly the heads of the first block look at a neighbour when training starts; 0
        leaves the start to chance.
    """

    vocab_size: int
    width: int = 128
    depth: int = 3
    heads: int = 4
    dropout: float = 0.0
    rotary_base: float = 10_000.0
    neighbours: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not divisible by 2 x {self.heads} heads")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if not self.rotary_base > 1:
            raise ValueError(f"rotary_base must exceed 1, got {self.rotary_base!r}")
        if not 0 <= self.neighbours < math.inf:
            raise ValueError(f"neighbours must not be negative, got {self.neighbours!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, as a checkpoint records them."""
        return asdict(self)


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, causal
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=self.causal
        )
        return self.out(y.transpose(1, 2).reshape(B, L, D))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)  # (B, L, H, D/2H)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig, causal: bool, modulated: bool) -> None:
        super().__init__()
        D = config.width
        self.norm1 = nn.LayerNorm(D, elementwise_affine=not modulated)
        self.attention = _Attention(config, causal)
        self.norm2 = nn.LayerNorm(D, elementwise_affine=not modulated)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.dropout = nn.Dropout(config.dropout)
        self.modulation = nn.Linear(CONDITION, 6 * D) if modulated else None

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        if self.modulation is None or condition is None:
            x = x + self.dropout(self.attention(self.norm1(x), cos, sin))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        # shift, scale and gate of both branches, one vector a sequence
        b1, a1, g1, b2, a2, g2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        y = self.attention(self.norm1(x) * (1 + a1) + b1, cos, sin)
        x = x + (1 + g1) * self.dropout(y)
        y = self.feed_forward(self.norm2(x) * (1 + a2) + b2)
        return x + (1 + g2) * self.dropout(y)


class _Trunk(nn.Module):
    causal = False
    time_conditioned = False

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"config must be a TransformerConfig, got {type(config).__name__}")
        self.config = config
        D, V = config.width, config.vocab_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(V + 1, D)
            self.blocks = nn.ModuleList(
                _Block(config, self.causal, self.time_conditioned) for _ in range(config.depth)
            )
            self.norm = nn.LayerNorm(D)
            self.vocabulary = nn.Linear(D, V)
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.normal_(self.vocabulary.weight, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.down.weight)
            if block.modulation is not None:
                nn.init.zeros_(block.modulation.weight)
        if self.config.neighbours:
            self._look_at_neighbours()

    @torch.no_grad()
    def _look_at_neighbours(self) -> None:
        """Set query and key biases of the first block so that head h prefers its offset."""
        D, H = self.config.width, self.config.heads
        half = D // H // 2
        frequency = self.config.rotary_base ** (-torch.arange(half) / half)
        for h in range(H):
            step = h // 2 + 1
            offset = -(h + 1) if self.causal else (-step if h % 2 == 0 else step)
            # after rotation the score at distance delta is sum_f w_f cos(frequency (delta - offset))
            size = math.sqrt(self.config.neighbours) * frequency.sqrt()
            q = torch.cat((size, torch.zeros(half)))
            # a key at distance delta is turned by delta: turn it back by the wanted offset
            k = torch.cat(
                (size * torch.cos(-offset * frequency), size * torch.sin(-offset * frequency))
            )
            bias = self.blocks[0].attention.qkv.bias.view(3, H, 2 * half)
            bias[0, h], bias[1, h] = q, k

    def _angles(self, length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.config.width // self.config.heads // 2
        frequency = self.config.rotary_base ** (
            -torch.arange(half, device=like.device, dtype=torch.float32) / half
        )
        angle = torch.arange(length, device=like.device)[:, None] * frequency
        return angle.cos()[:, None].to(like.dtype), angle.sin()[:, None].to(like.dtype)

    def _run(self, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        if x.ndim != 2 or x.is_floating_point():
            raise TypeError(
                f"tokens must be integers [batch, length], got {x.dtype} {tuple(x.shape)}"
            )
        h = self.embedding(x)
        cos, sin = self._angles(x.shape[1], h)
        for block in self.blocks:
            h = block(h, cos, sin, condition)
        return self.norm(h)

    def head(self, h: torch.Tensor) -> torch.Tensor:
        """Return the logits ``[..., V]`` of hidden states ``[..., width]``."""
        return self.vocabulary(h)

    def parameter_count(self) -> int:
        """Return the number of trained numbers."""
        return sum(p.numel() for p in self.parameters())


class MaskedTransformer(_Trunk):
    """RADD: the conditional law of every clean token given the visible ones, without a time.

    Parameters
    ----------
    config : TransformerConfig
    seed : int
        Of the starting values.
    """

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Return hidden states ``[batch, length, width]`` of tokens ``[batch, length]``."""
        return self._run(x, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, length, V]``; their softmax is the model's conditional law."""
        return self.head(self.hidden(x))


class CausalTransformer(_Trunk):
    """The same trunk reading from left to right; the mask id opens every sequence.

    Parameters
    ----------
    config : TransformerConfig
    seed : int
        Of the starting values.
    """

    causal = True

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Return hidden states; state i has read the opening symbol and the tokens before i."""
        start = torch.full_like(x[:, :1], self.config.vocab_size)
        return self._run(torch.cat((start, x[:, :-1]), dim=1), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, length, V]`` of each token given those before it."""
        return self.head(self.hidden(x))


class TimeConditionedTransformer(_Trunk):
    """The twin that is told the noise level, in the manner of SEDD.

    The sinusoidal embedding of log total noise goes through a small network and modulates every
    block (shift, scale and gate of both branches). The output is not normalised: it is the log of
    the estimated conditional law, whose sum is close to 1 only after training. It starts at
    ``1 / V``.

    Parameters
    ----------
    config : TransformerConfig
    seed : int
        Of the starting values.
    """

    time_conditioned = True

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        super().__init__(config, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.time = nn.Sequential(
                nn.Linear(FREQUENCIES, CONDITION), nn.SiLU(), nn.Linear(CONDITION, CONDITION)
            )

    def hidden(self, x: torch.Tensor, *, sigma: torch.Tensor) -> torch.Tensor:
        """Return hidden states of tokens ``[batch, length]`` at total noise ``sigma`` ``[batch]``."""
        if sigma.shape != x.shape[:1]:
            raise ValueError(
                f"sigma must have one value a sequence, got {tuple(sigma.shape)} for {x.shape[0]}"
            )
        dtype = self.embedding.weight.dtype
        frequency = torch.exp(
            -math.log(1000.0) * torch.arange(FREQUENCIES // 2, device=x.device) / (FREQUENCIES // 2)
        )
        angle = 10.0 * torch.log(sigma.double().clamp(1e-6, 40.0))[:, None] * frequency
        embedded = torch.cat((angle.cos(), angle.sin()), dim=1).to(dtype)
        return self._run(x, F.silu(self.time(embedded)))

    def head(self, h: torch.Tensor) -> torch.Tensor:
        """Return log estimates ``[..., V]``, not normalised."""
        return self.vocabulary(h) - math.log(self.config.vocab_size)

    def forward(self, x: torch.Tensor, *, sigma: torch.Tensor) -> torch.Tensor:
        """Return log estimates ``[batch, length, V]`` of the conditional law at this noise."""
        return self.head(self.hidden(x, sigma=sigma))


NETWORKS: dict[str, type[_Trunk]] = {
    "radd": MaskedTransformer,
    "time": TimeConditionedTransformer,
    "ar": CausalTransformer,
}
"""The three networks by the short names that scripts and stored tables use."""


def time_conditioning_parameters(config: TransformerConfig) -> int:
    """Return how many parameters the time input costs, in closed form.

    The time network has ``(F + 1) C + (C + 1) C`` parameters for F sinusoids and a condition of
    width C; every block has ``6 D (C + 1)`` for its modulation and saves the ``4 D`` of its two
    norms, which the modulation replaces.

    Parameters
    ----------
    config : TransformerConfig
    """
    D, C = config.width, CONDITION
    network = (FREQUENCIES + 1) * C + (C + 1) * C
    return network + config.depth * (6 * D * (C + 1) - 4 * D)
