r"""A language model as a policy that is cheap to train: low-rank adapters in its top blocks alone.

Reinforcement learning maximises the expected reward minus a price for leaving the model one started from,

.. math:: \max_\pi\; E_{\hat y \sim \pi(\cdot \mid x)} \Big[ R(x, \hat y)
          - \beta \log \frac{\pi(\hat y \mid x)}{\pi_{ref}(\hat y \mid x)} \Big].

Each step needs samples, their log-probability under the policy with a gradient, and under the reference without one.
Adapters (Hu et al., 2022, LoRA, through ``peft``) sit in the top blocks only. What enters the lowest of these blocks
is then the same for policy and reference and at every step: it is *kept from sampling*, and both log-probabilities,
and the whole backward pass, run the top blocks alone. A prompt runs through them once for all of its responses. The
reference is the same model with its adapters switched off.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from paperkit.models import LanguageModel, as_language_model
from paperkit.models.text import Prompt, check_ids, token_ids

LINEAR_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Rollout:
    """Responses to P prompts, K each, and what is kept to score them again.

    Attributes
    ----------
    texts : list of P lists of K str
        Decoded responses without special tokens.
    token_ids : Tensor, shape (B, T), int64
        B = P K rows, the samples of a prompt side by side; 0 after the end of a response.
    response : Tensor, shape (B, T), bool
        True at tokens of the response, the first end token included, false after it.
    finished : Tensor, shape (B,), bool
        Whether the model ended the response itself.
    logprobs : Tensor, shape (B,), float32
        Log-probability of the response at the temperature it was drawn with.
    prompt_states : Tensor, shape (P, L, d)
        What enters the first trained block at the columns of the prompts, which are padded on the left.
    prompt_mask : Tensor, shape (P, L), bool
        False at padding.
    states : Tensor, shape (B, T - 1, d)
        The same at the responses, without the last token, which predicts nothing.
    """

    texts: list[list[str]]
    token_ids: torch.Tensor
    response: torch.Tensor
    finished: torch.Tensor
    logprobs: torch.Tensor
    prompt_states: torch.Tensor
    prompt_mask: torch.Tensor
    states: torch.Tensor

    @property
    def flat_texts(self) -> list[str]:
        """The B texts in the order of the rows."""
        return [text for group in self.texts for text in group]


class LanguageModelPolicy:
    """A causal language model with trainable adapters in its top blocks.

    Parameters
    ----------
    lm : LanguageModel or anything :func:`paperkit.models.as_language_model` takes
        A decoder of the Llama family (``model.model.layers``). Its weights are shared, not changed.
    top_blocks : int
        How many of the last blocks get adapters.
    rank : int
        Rank of the adapters.
    alpha : float
        The adapter's product is multiplied by ``alpha / rank``.
    seed : int
        Of the adapters' start (their product is zero).

    Raises
    ------
    ValueError
        If the model has another architecture, or a setting is out of range.
    """

    def __init__(
        self, lm: Any, *, top_blocks: int = 8, rank: int = 16, alpha: float = 16.0, seed: int
    ) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        lm = as_language_model(lm)
        blocks = getattr(getattr(lm.model, "model", None), "layers", None)
        if blocks is None:
            raise ValueError(f"{type(lm.model).__name__} has no model.layers to put adapters in")
        if not 1 <= top_blocks <= len(blocks):
            raise ValueError(f"top_blocks must lie in 1..{len(blocks)}, got {top_blocks!r}")
        if rank < 1:
            raise ValueError(f"rank must be positive, got {rank!r}")
        first = len(blocks) - top_blocks
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=[f"model.layers.{i}.{part}.{name}" for i in range(first, len(blocks))
                            for part, names in (("self_attn", LINEAR_MAPS[:4]), ("mlp", LINEAR_MAPS[4:]))
                            for name in names],
        )  # fmt: skip
        # The caller's model stays as it is: the copy shares every weight outside the top blocks.
        memo: dict[int, Any] = {id(p): p for p in lm.model.parameters()}
        memo |= {id(b): b for b in lm.model.buffers()}
        model = copy.deepcopy(lm.model, memo)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = inject_adapter_in_model(config, model)
        self.lm = LanguageModel(model.eval(), lm.tokenizer, lm.label)
        self.first = first
        self.parameters = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data = (
                    parameter.data.float()
                )  # small updates would vanish in half precision
                self.parameters.append(parameter)
        # The top blocks as a decoder of their own, with the library's rotary angles and masks.
        self._top = copy.copy(model.model)
        self._top._modules = dict(model.model._modules)
        self._top.layers = model.model.layers[first:]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the adapters are off: the model is the reference."""
        self._switch(False)
        try:
            yield
        finally:
            self._switch(True)

    def _switch(self, on: bool) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self._top.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(on)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapters' tensors by name, copied."""
        named = self.lm.model.named_parameters()
        return {name: p.detach().clone() for name, p in named if "lora_" in name}

    def load_adapter(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put the tensors of :meth:`adapter` in place; a ValueError if names or shapes differ."""
        mine = {name: p for name, p in self.lm.model.named_parameters() if "lora_" in name}
        wrong = sorted(set(mine) ^ set(tensors)) or [
            name for name, p in mine.items() if p.shape != tensors[name].shape
        ]
        if wrong:
            raise ValueError(f"adapter does not fit: {wrong[0]} and {len(wrong) - 1} more differ")
        with torch.no_grad():
            for name, p in mine.items():
                p.copy_(tensors[name])

    def merged(self) -> LanguageModel:
        """A plain model with the adapters added into its weights: a new reference to start from."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.lm.model
        memo: dict[int, Any] = {id(p): p for n, p in model.named_parameters() if "lora_" not in n}
        memo |= {id(b): b for b in model.buffers()}
        plain = copy.deepcopy(model, memo)
        del plain.peft_config
        layers = plain.model.layers[self.first :]
        for name, module in list(layers.named_modules()):
            if isinstance(module, BaseTunerLayer):
                base = module.get_base_layer()
                update = module.get_delta_weight("default").detach()
                whole = (base.weight.float() + update).to(base.weight.dtype)
                base.weight = torch.nn.Parameter(whole, requires_grad=False)
                parent, _, child = name.rpartition(".")
                setattr(layers.get_submodule(parent), child, base)
        return LanguageModel(plain.eval(), self.lm.tokenizer, self.lm.label)

    # --------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Prompt],
        k: int,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator,
    ) -> Rollout:
        """Draw ``k`` responses to each prompt.

        A prompt is read once, its keys and values are repeated ``k`` times, and the loop stops when every response
        has ended.

        Parameters
        ----------
        prompts : sequence of P texts or token-id sequences
            Ready for the model; see :func:`paperkit.models.chat_prompt`.
        k : int
            Responses a prompt.
        max_new_tokens : int
            Where a response is cut.
        temperature : float
            Divides the logits, here and in :meth:`logprobs`; part of the policy's definition.
        generator : torch.Generator
            On the model's device.

        Returns
        -------
        Rollout
        """
        if k < 1 or max_new_tokens < 1:
            raise ValueError(f"k and max_new_tokens must be positive, got {k}, {max_new_tokens}")
        _check_temperature(temperature)
        heads = [token_ids(self.lm.tokenizer, prompt) for prompt in prompts]
        if not heads:
            raise ValueError("prompts is empty")
        for i, head in enumerate(heads):
            check_ids(self.lm, head, f"prompt {i}")
        device = self.lm.device
        longest = max(map(len, heads))
        ids = torch.zeros((len(heads), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, head in enumerate(heads):
            ids[row, longest - len(head) :] = torch.tensor(head, device=device)
            mask[row, longest - len(head) :] = True
        kept: list[torch.Tensor] = []
        hook = self.lm.model.model.layers[self.first].register_forward_pre_hook(
            lambda _, args: kept.append(args[0])
        )
        ends = torch.tensor(_end_ids(self.lm), device=device)
        try:
            cache = DynamicCache(config=self.lm.model.config)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            output = self.lm.model(
                input_ids=ids, attention_mask=mask.long(), position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache.batch_repeat_interleave(k)
            prompt_mask, mask = mask, mask.repeat_interleave(k, 0)
            logits = output.logits[:, -1].repeat_interleave(k, 0)  # (B, V)
            last = positions[:, -1].repeat_interleave(k, 0)  # (B,)
            alive = torch.ones(len(mask), dtype=torch.bool, device=device)
            finished = torch.zeros_like(alive)
            total = torch.zeros(len(mask), device=device)
            tokens, response = [], []
            for t in range(max_new_tokens):
                weights = logits.float().div_(temperature).softmax(-1)  # (B, V)
                if weights[:, 0].isnan().any():  # one bad logit spoils its whole row
                    raise FloatingPointError("the policy's logits are not finite")
                draw = _draw(weights, generator)  # (B, 1)
                total += torch.where(alive, weights.gather(1, draw)[:, 0].log(), 0.0)
                token = torch.where(alive, draw[:, 0], 0)
                tokens.append(token)
                response.append(alive)
                ended = alive & torch.isin(token, ends)
                finished, alive = finished | ended, alive & ~ended
                mask = torch.cat([mask, response[-1][:, None]], 1)
                last = last + 1
                if t + 1 == max_new_tokens or not alive.any():
                    break
                logits = self.lm.model(
                    input_ids=token[:, None], attention_mask=mask.long(), position_ids=last[:, None],
                    past_key_values=cache, use_cache=True,
                ).logits[:, -1]  # fmt: skip
        finally:
            hook.remove()
        states = torch.cat([kept[0].new_zeros(len(mask), 0, kept[0].shape[2]), *kept[1:]], 1)
        sequence, inside = torch.stack(tokens, 1), torch.stack(response, 1)
        texts = [
            str(self.lm.tokenizer.decode(row[seen].tolist(), skip_special_tokens=True))
            if self.lm.tokenizer is not None
            else ""
            for row, seen in zip(sequence, inside, strict=True)
        ]
        groups = [texts[i * k : (i + 1) * k] for i in range(len(heads))]
        return Rollout(
            groups, sequence, inside, finished, total, kept[0], prompt_mask, states
        )  # fmt: skip

    # ---------------------------------------------------------------------------------- scoring

    def logprobs(
        self,
        rollout: Rollout,
        rows: torch.Tensor | slice = slice(None),
        *,
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """Log-probabilities of responses under the policy as it is now, with a gradient.

        Parameters
        ----------
        rollout : Rollout
            From :meth:`sample` or :meth:`teacher_forced`.
        rows : Tensor or slice
            Which rows.
        temperature : float
            The one of sampling.

        Returns
        -------
        Tensor, shape (rows,)
            Sums over the tokens of a response, its end token included.
        """
        _check_temperature(temperature)
        inside = rollout.response[rows]  # (b, T)
        group = len(rollout.response) // len(rollout.prompt_mask)
        prompts = torch.arange(len(rollout.response), device=inside.device)[rows] // group
        used, place = prompts.unique(return_inverse=True)  # (p,), (b,)
        seen = rollout.prompt_mask[used]
        cache = _TopCache(self.first)
        first = self._top(
            inputs_embeds=rollout.prompt_states[used], attention_mask=seen.long(),
            position_ids=(seen.cumsum(1) - 1).clamp(min=0), past_key_values=cache, use_cache=True,
        ).last_hidden_state[place, -1:]  # (b, 1, d): what predicts the first token  # fmt: skip
        states = rollout.states[rows]
        if states.shape[1]:
            cache.batch_select_indices(place)
            mask = torch.cat([seen[place], inside[:, :-1]], 1)  # (b, L + T - 1)
            later = self._top(
                inputs_embeds=states, attention_mask=mask.long(), past_key_values=cache,
                position_ids=(mask.cumsum(1) - 1)[:, seen.shape[1] :], use_cache=True,
            ).last_hidden_state  # fmt: skip
            first = torch.cat([first, later], 1)  # (b, T, d): the column before each token
        predicting = first[inside]  # (R, d)
        # The head has no bias: dividing what enters it spares a pass over all logits.
        logits = self.lm.model.lm_head(predicting / temperature).float()
        targets = rollout.token_ids[rows][inside]
        values = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        owners = inside.nonzero()[:, 0]
        return values.new_zeros(len(inside)).index_add(0, owners, values)

    @torch.no_grad()
    def teacher_forced(
        self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]
    ) -> Rollout:
        """Read given responses (token ids, one a prompt) as if they had been sampled.

        Returns
        -------
        Rollout
            With K = 1; ``logprobs`` are the policy's at temperature 1.
        """
        heads = [token_ids(self.lm.tokenizer, prompt) for prompt in prompts]
        if not heads or len(heads) != len(responses):
            raise ValueError(f"{len(heads)} prompts and {len(responses)} responses")
        longest, n_tokens = max(map(len, heads)), max(map(len, responses))
        device = self.lm.device
        ids = torch.zeros((len(heads), longest + n_tokens), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, (head, tail) in enumerate(zip(heads, responses, strict=True)):
            check_ids(self.lm, head, f"prompt {row}")
            check_ids(self.lm, tail, f"response {row}")
            whole = torch.tensor([*head, *tail], device=device)
            where = slice(longest - len(head), longest + len(tail))
            ids[row, where], mask[row, where] = whole, True
        kept: list[torch.Tensor] = []
        hook = self.lm.model.model.layers[self.first].register_forward_pre_hook(
            lambda _, args: kept.append(args[0])
        )
        try:
            self.lm.model.model(
                input_ids=ids, attention_mask=mask.long(), use_cache=False,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            )  # fmt: skip
        finally:
            hook.remove()
        tail_ids, inside = ids[:, longest:], mask[:, longest:]
        ends = torch.tensor(_end_ids(self.lm), device=device)
        finished = (torch.isin(tail_ids, ends) & inside).any(1)
        decode = self.lm.tokenizer.decode if self.lm.tokenizer is not None else lambda *_, **__: ""
        texts = [[str(decode(list(r), skip_special_tokens=True))] for r in responses]
        rollout = Rollout(
            texts, tail_ids, inside, finished, torch.zeros(len(heads)), kept[0][:, :longest],
            mask[:, :longest], kept[0][:, longest:-1],
        )  # fmt: skip
        return Rollout(**{**rollout.__dict__, "logprobs": self.logprobs(rollout)})


class _TopCache(DynamicCache):
    """Keys and values of the top blocks alone, which keep the numbers they have in the whole model."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Append to the block's keys and values, and return all of them."""
        return super().update(key_states, value_states, layer_idx - self.first, *args, **kwargs)


def _draw(weights: torch.Tensor, generator: torch.Generator, width: int = 256) -> torch.Tensor:
    """One index a row of (B, V), in proportion to its weight, from one random number a row.

    The distribution function is inverted twice: among blocks of ``width`` columns, then within one. That touches each
    weight once, where ``torch.multinomial`` draws a random number for each.
    """
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[1] % width))
    blocks = padded.unflatten(1, (-1, width))  # (B, V / width, width)
    heights = blocks.sum(2, dtype=torch.float64).cumsum(1)
    height = heights[:, -1:] * torch.rand(
        (len(weights), 1), generator=generator, device=weights.device, dtype=torch.float64
    )
    # right=True: what has no weight is not drawn
    block = torch.searchsorted(heights, height, right=True).clamp(max=heights.shape[1] - 1)
    inside = blocks.take_along_dim(block[:, :, None], 1)[:, 0].double().cumsum(1)  # (B, width)
    height = height - heights.gather(1, block) + inside[:, -1:]
    # rounding may lift the height to the last weight's: go back to the first index that reaches it
    last = torch.searchsorted(inside, inside[:, -1:].contiguous())
    return block * width + torch.searchsorted(inside, height, right=True).minimum(last)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")


def _end_ids(lm: LanguageModel) -> list[int]:
    for owner in (lm.model.generation_config, lm.model.config, lm.tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return [int(i) for i in (ids if isinstance(ids, list | tuple) else [ids])]
    return []
