"""A language with two kinds of refusal, small enough to know every probability.

A prompt names a severity and a topic. A response is one opener, one to four body tokens and the end token. The opener
tells its kind: compliance, soft refusal or hard refusal. Which kind is usual depends on the severity, by an ordered
logit with the order comply, soft, hard. A small transformer learns this language; because it stores the order as a
direction, *softer than hard* points towards compliance, the way *No rather than Never* points towards Yes.

The world is ours; it stands in for the paper's refusal experiment (Razin et al. 2025, section 6), which needs a
language model that refuses well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import Tensor

from paperkit import models
from paperkit.likelihood_displacement.pairs import TokenPair

KINDS: tuple[str, ...] = ("comply", "soft", "hard")
JUDGES: tuple[str, ...] = ("soft", "hard", "random")


@dataclass(frozen=True)
class RefusalLanguage:
    """The vocabulary and the exact law of the language.

    Attributes
    ----------
    n_severities, n_topics, n_training_topics
        Numbers of severities and topics; topics from ``n_training_topics`` on are held out of preference training.
    """

    n_severities: int = 5
    n_topics: int = 24
    n_training_topics: int = 16
    openers: tuple[tuple[str, ...], ...] = (
        ("Sure", "Here", "First"),
        ("Sorry", "Afraid", "Unfortunately"),
        ("Never", "Cannot", "Refuse"),
    )
    n_bodies: int = 6
    max_body: int = 4
    tokens: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        tokens = (
            *(f"s{i}" for i in range(self.n_severities)),
            *(f"t{i}" for i in range(self.n_topics)),
            *(word for kind in self.openers for word in kind),
            *(f"r{i}" for i in range(self.n_bodies)),
            *(f"c{i}" for i in range(self.n_bodies)),
            "<end>",
        )
        object.__setattr__(self, "tokens", tokens)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def end(self) -> int:
        """Id of the end token."""
        return self.vocabulary - 1

    def opener_ids(self, kind: int) -> list[int]:
        """Token ids of the openers of a kind (0 comply, 1 soft, 2 hard)."""
        width = len(self.openers[0])
        first = self.n_severities + self.n_topics + kind * width
        return list(range(first, first + width))

    def kind_of(self, response: Sequence[int]) -> int | None:
        """Kind of a response by its opener; ``None`` if it does not start with an opener."""
        for kind in range(len(KINDS)):
            if response and response[0] in self.opener_ids(kind):
                return kind
        return None

    def prompt(self, severity: int, topic: int) -> tuple[int, int]:
        """Token ids of a prompt."""
        if not (0 <= severity < self.n_severities and 0 <= topic < self.n_topics):
            raise ValueError(f"no severity {severity} or topic {topic} in this language")
        return severity, self.n_severities + topic

    def kind_probabilities(self, severity: int) -> np.ndarray:
        """Probabilities of comply, soft, hard in the language itself, (3,)."""
        x = 1.6 * (severity - 2)
        comply, hard = expit(-0.3 - x), expit(x - 2.0)
        return np.array([comply, 1 - comply - hard, hard])

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``n`` prompts with responses: token ids (n, 2 + 1 + max_body + 1), padded with -1, and their lengths."""
        width = 2 + 1 + self.max_body + 1
        severity, topic = (
            rng.integers(self.n_severities, size=n),
            rng.integers(self.n_topics, size=n),
        )
        law = np.array([self.kind_probabilities(s) for s in range(self.n_severities)]).cumsum(1)
        kind = (rng.random(n)[:, None] > law[severity]).sum(1).clip(max=2)
        size = rng.integers(1, self.max_body + 1, size=n)
        place = np.arange(self.max_body)
        body = rng.integers(self.n_bodies, size=(n, self.max_body))
        topical = (topic[:, None] + place) % self.n_bodies  # an answer depends on the topic
        comply = (kind == 0)[:, None]
        body = (
            np.where(comply & (rng.random(body.shape) < 0.7), topical, body)
            + comply * self.n_bodies
        )
        openers = np.array([self.opener_ids(k) for k in range(3)])
        rows = np.full((n, width), -1)
        rows[:, 0], rows[:, 1] = severity, self.n_severities + topic
        rows[:, 2] = openers[kind, rng.integers(openers.shape[1], size=n)]
        inside = place < size[:, None]
        rows[:, 3:-1][inside] = (openers.max() + 1 + body)[inside]
        rows[np.arange(n), 3 + size] = self.end
        lengths = 4 + size
        return rows, lengths


def _new_model(language: RefusalLanguage) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=language.vocabulary,
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=language.end,
            pad_token_id=language.end,
        )
    )


@dataclass(frozen=True)
class RefusalWorld:
    """The language and a small transformer that has learnt it."""

    language: RefusalLanguage
    model: Any

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RefusalWorld:
        """A world whose model was saved by :meth:`save`, in the standard language."""
        tensors, _ = models.load_checkpoint(path)
        language = RefusalLanguage()
        model = _new_model(language)
        model.load_state_dict(tensors)
        return cls(language, model.eval())

    def save(self, path: str | os.PathLike[str], *, record: Mapping[str, Any]) -> None:
        """Write the model as :func:`paperkit.models.save_checkpoint` does."""
        tensors = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        models.save_checkpoint(path, tensors, record=record)

    @classmethod
    def pretrain(
        cls,
        *,
        seed: int,
        n_steps: int = 500,
        batch_size: int = 64,
        language: RefusalLanguage | None = None,
    ) -> RefusalWorld:
        """Train a two-block Llama (width 32, untied head) on the language by next-token prediction."""
        if n_steps < 1 or batch_size < 1:
            raise ValueError(
                f"n_steps and batch_size must be at least 1; got {n_steps}, {batch_size}"
            )
        language = RefusalLanguage() if language is None else language
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _new_model(language)
        rng = np.random.default_rng([seed, 1])

        def step(i: int, generator: torch.Generator) -> Tensor:
            rows, lengths = language.sample(batch_size, rng)
            labels = torch.as_tensor(rows)
            mask = torch.arange(labels.shape[1])[None] < torch.as_tensor(lengths)[:, None]
            labels = labels.masked_fill(~mask, -100)
            labels[:, :2] = -100  # the prompt is given, not predicted
            ids = torch.as_tensor(rows).masked_fill(~mask, language.end)
            return model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss

        model.train()
        models.train(
            step,
            model.parameters(),
            n_steps=n_steps,
            learning_rate=2e-3,
            schedule="linear",
            optimizer="adamw",
            clip_norm=1.0,
            seed=seed,
            every=n_steps,
        )
        return cls(language, model.eval())

    def kind_mass(
        self, model: Any | None = None, *, severity: int = 3, held_out: bool = True
    ) -> dict[str, float]:
        """Exact probability of each kind of opener, averaged over topics; ``other`` is what none of them has."""
        model = self.model if model is None else model
        low, high = (
            (self.language.n_training_topics, self.language.n_topics)
            if held_out
            else (0, self.language.n_training_topics)
        )
        prompts = torch.tensor(
            [self.language.prompt(severity, topic) for topic in range(low, high)]
        )
        with torch.no_grad():
            p = torch.softmax(model(input_ids=prompts).logits[:, -1].double(), -1)
        mass = {
            kind: float(p[:, self.language.opener_ids(k)].sum(1).mean())
            for k, kind in enumerate(KINDS)
        }
        mass["refuse"] = mass["soft"] + mass["hard"]
        mass["other"] = 1.0 - mass["comply"] - mass["refuse"]
        return mass

    def sample_responses(
        self, prompts: Tensor, generator: torch.Generator
    ) -> list[tuple[int, ...]]:
        """One response (temperature 1, end token included) to each prompt (n, 2)."""
        ids = prompts
        alive = torch.ones(len(ids), dtype=torch.bool)
        for _ in range(self.language.max_body + 3):
            with torch.no_grad():
                p = torch.softmax(self.model(input_ids=ids).logits[:, -1], -1)
            draw = torch.multinomial(p, 1, generator=generator)
            draw[~alive] = self.language.end
            ids = torch.cat([ids, draw], 1)
            alive &= draw[:, 0] != self.language.end
        responses = []
        for row in ids[:, prompts.shape[1] :].tolist():
            stop = row.index(self.language.end) + 1 if self.language.end in row else len(row)
            responses.append(tuple(row[:stop]))
        return responses

    def preference_pairs(
        self, *, judge: str = "soft", severity: int = 3, repeats: int = 24, seed: int = 0
    ) -> tuple[list[TokenPair], pd.DataFrame]:
        """On-policy pairs: two responses to each prompt, labelled by a judge.

        A refusal beats compliance. Between two refusals the judge prefers the softer (``"soft"``), the harder
        (``"hard"``) or tosses a coin (``"random"``); so it does between equals. Equal responses, and responses
        without an opener, are dropped.

        Returns
        -------
        The pairs, and a DataFrame with ``chosen_kind``, ``rejected_kind`` and ``category`` (``both-refuse``,
        ``mixed`` or ``both-comply``), one row a pair.
        """
        if judge not in JUDGES:
            raise ValueError(f"judge must be one of {', '.join(JUDGES)}; got {judge!r}")
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1; got {repeats}")
        generator = torch.Generator().manual_seed(seed)
        rng = np.random.default_rng([seed, 2])
        topics = range(self.language.n_training_topics)
        prompts = torch.tensor([self.language.prompt(severity, t) for t in topics]).repeat(
            repeats, 1
        )
        first = self.sample_responses(prompts, generator)
        second = self.sample_responses(prompts, generator)
        pairs, rows = [], []
        for prompt, a, b in zip(prompts.tolist(), first, second, strict=True):
            kinds = self.language.kind_of(a), self.language.kind_of(b)
            if a == b or None in kinds:
                continue
            if self._prefers_second(kinds, judge, rng):  # type: ignore[arg-type]
                a, b, kinds = b, a, kinds[::-1]
            pairs.append(TokenPair(tuple(prompt), a, b))
            refusals = sum(kind != 0 for kind in kinds)
            rows.append(
                {
                    "chosen_kind": KINDS[kinds[0]],  # type: ignore[index]
                    "rejected_kind": KINDS[kinds[1]],  # type: ignore[index]
                    "category": ("both-comply", "mixed", "both-refuse")[refusals],
                }
            )
        if not pairs:
            raise ValueError(
                "every pair of samples was equal or without an opener: nothing to prefer"
            )
        return pairs, pd.DataFrame(rows)

    @staticmethod
    def _prefers_second(kinds: tuple[int, int], judge: str, rng: np.random.Generator) -> bool:
        toss = bool(rng.random() < 0.5)  # drawn for every pair, so that judges see the same coin
        a, b = kinds
        if (a == 0) != (b == 0):
            return a == 0
        if a == b or judge == "random":
            return toss
        return (a > b) if judge == "soft" else (a < b)
