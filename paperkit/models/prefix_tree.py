r"""Log-probabilities of many prompts that share beginnings, each shared token computed once.

The tokenised prompts form a tree (a trie): prompts with the same first k tokens share k nodes. A
causal language model's state at a token depends on that token's ancestors only, so one forward
pass over the *nodes* gives what a pass over every token of every prompt would give. The nodes, in
preorder, are cut into pieces of ``max_tokens``; each piece is one packed sequence without padding,
in which

- ``position_ids`` are depths in the tree,
- the attention mask lets a node see its ancestors and itself, nothing else, and
- ancestors computed in earlier pieces are read from the key-value cache, of which only the path
  from the root to the piece's first node is kept.

In preorder every ancestor of a later node lies either in that node's own piece or on that path, so
no token is ever computed twice: the number of computed tokens *is* the number of nodes. The
vocabulary projection runs at the positions whose log-probabilities are wanted, and nowhere else.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paperkit.models.loading import LanguageModel, as_language_model, forward_parameters
from paperkit.models.text import Prompt, check_ids, token_ids

# a sequence, a position in it, and the tokens whose log-probability after that position is wanted
Query = tuple[tuple[int, ...], int, list[int]]
Piece = tuple[int, list[Any], torch.Tensor]


@dataclass(frozen=True)
class TokenCounts:
    """What a call of :class:`PrefixTreeScorer` computed.

    Attributes
    ----------
    method : str
        ``"tree"`` or ``"plain"`` (one forward pass per distinct sequence).
    sequences : int
        Sequences that were asked for.
    sequence_tokens : int
        Their tokens, repetitions included: what a per-sequence loop would compute.
    distinct_sequences : int
        Sequences that differ.
    computed_tokens : int
        Tokens that went through the model.
    forward_passes : int
        Calls of the model.
    vocabulary_rows : int
        Positions at which the V logits were computed.
    """

    method: str
    sequences: int
    sequence_tokens: int
    distinct_sequences: int
    computed_tokens: int
    forward_passes: int
    vocabulary_rows: int

    @property
    def token_ratio(self) -> float:
        """Tokens of a per-sequence loop per computed token."""
        return self.sequence_tokens / max(self.computed_tokens, 1)


@dataclass(frozen=True)
class _Tree:
    """A trie in preorder: arrays over its M nodes, and the path of each sequence."""

    token: np.ndarray  # (M,) token id
    parent: np.ndarray  # (M,) preorder index of the parent, -1 at the top
    depth: np.ndarray  # (M,) position in the sequence, 0 at the top
    paths: dict[tuple[int, ...], np.ndarray]  # sequence -> its nodes, top first

    @classmethod
    def build(cls, sequences: Sequence[tuple[int, ...]]) -> _Tree:
        token: list[int] = []
        parent: list[int] = []
        depth: list[int] = []
        paths: dict[tuple[int, ...], np.ndarray] = {}
        before: tuple[int, ...] = ()
        path: list[int] = []
        for sequence in sorted(set(sequences)):
            shared = 0
            for a, b in zip(sequence, before, strict=False):
                if a != b:
                    break
                shared += 1
            del path[shared:]
            for d in range(shared, len(sequence)):
                parent.append(path[-1] if path else -1)
                path.append(len(token))
                token.append(sequence[d])
                depth.append(d)
            paths[sequence] = np.array(path)
            before = sequence
        return cls(np.array(token, int), np.array(parent, int), np.array(depth, int), paths)

    def ancestors(self, node: int) -> np.ndarray:
        """Return the nodes above ``node``, top first."""
        above = []
        while (node := int(self.parent[node])) >= 0:
            above.append(node)
        return np.array(above[::-1], int)


class PrefixTreeScorer:
    """Score next tokens and completions with a causal language model, sharing common prefixes.

    Parameters
    ----------
    lm : LanguageModel or anything :func:`as_language_model` takes
        Any causal language model of transformers with ordinary attention. Before the first call a
        probe of a few tokens compares the tree with plain forward passes; a model whose mask or
        positions work otherwise is scored by plain passes, with a warning.
    max_tokens : int
        New tokens in one forward pass. 512 suits a CPU; the values do not depend on it beyond
        rounding.
    naive : bool
        Score each distinct sequence by a forward pass of its own: the oracle of the tests and the
        peer of the benchmark.

    Attributes
    ----------
    counts : TokenCounts or None
        What the last call computed.

    Notes
    -----
    Texts are tokenised whole, never by joining tokenised pieces. Prompts may also be sequences of
    token ids. Results are float64, normalised over the whole vocabulary. Scoring is deterministic
    and needs no gradient; a model in training mode is put in evaluation mode for the call.
    """

    def __init__(self, lm: Any, *, max_tokens: int = 512, naive: bool = False) -> None:
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError(f"max_tokens must be a positive integer, got {max_tokens!r}")
        self.lm: LanguageModel = as_language_model(lm)
        self.max_tokens = max_tokens
        self.naive = naive
        self.counts: TokenCounts | None = None
        self._tree_is_exact: bool | None = None

    def next_token_logprobs(self, prompts: Sequence[Prompt], tokens: Sequence[int]) -> np.ndarray:
        """Return the log-probability of each wanted token after each prompt.

        Parameters
        ----------
        prompts : sequence of n texts or token-id sequences
        tokens : sequence of k token ids
            The same for every prompt.

        Returns
        -------
        ndarray, shape (n, k), float64
            Natural logarithms.

        Raises
        ------
        ValueError
            If a prompt is empty or longer than the context, or an id lies outside the vocabulary.
        FloatingPointError
            If the model's logits are not finite; the message names the prompt.
        """
        wanted = [int(t) for t in tokens]
        check_ids_in_vocabulary(self.lm, wanted, "tokens")
        sequences = self._tokenise(prompts)
        queries = [(s, len(s) - 1, wanted) for s in sequences]
        names = [f"prompt {i}" for i in range(len(sequences))]
        return np.array(self._score(queries, names), float).reshape(len(sequences), len(wanted))

    def completion_logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[str] | Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Return the log-probability of each completion given each prompt, summed over its tokens.

        Parameters
        ----------
        prompts : sequence of n texts
        completions : sequence of c texts, or n sequences of c texts
            The same for every prompt, or each prompt's own. A completion is appended as it stands:
            begin it with a space where the prompt's last word ends.

        Returns
        -------
        ndarray, shape (n, c), float64
            Natural logarithms.

        Raises
        ------
        ValueError
            If the tokens of a prompt are not the first tokens of prompt + completion, because the
            tokenizer merges across the seam; if a completion adds no token; or for the reasons of
            :meth:`next_token_logprobs`.
        """
        if isinstance(prompts, str):
            raise TypeError("prompts must be a sequence of prompts, got one text")
        texts = list(prompts)
        if not all(isinstance(p, str) for p in texts):
            raise TypeError(
                "completion_logprobs tokenises prompt + completion: prompts must be texts"
            )
        rows = _completion_rows(completions, len(texts))
        heads = self._tokenise(texts)
        queries: list[Query] = []
        names: list[str] = []
        for i, (text, head, row) in enumerate(zip(texts, heads, rows, strict=True)):
            for j, completion in enumerate(row):
                name = f"prompt {i} with completion {j} ({completion!r})"
                whole = tuple(token_ids(self.lm.tokenizer, str(text) + completion))
                check_ids(self.lm, whole, name)
                if whole[: len(head)] != head:
                    raise ValueError(
                        f"{name}: the prompt's tokens are not a prefix of the whole text's tokens; "
                        f"move the boundary (the prompt ends in {str(text)[-12:]!r})"
                    )
                if len(whole) == len(head):
                    raise ValueError(f"{name}: the completion adds no token")
                # token t of the completion is predicted at position t - 1
                for position in range(len(head) - 1, len(whole) - 1):
                    queries.append((whole[:-1], position, [whole[position + 1]]))
                    names.append(name)
        values = np.array(self._score(queries, names), float).reshape(-1)
        sums = np.zeros(sum(map(len, rows)))
        owners = {name: k for k, name in enumerate(dict.fromkeys(names))}
        np.add.at(sums, [owners[name] for name in names], values)
        return sums.reshape(len(texts), -1 if texts else 0)

    def plan(self, prompts: Sequence[Prompt]) -> TokenCounts:
        """Return what :meth:`next_token_logprobs` would compute by the tree, without computing it.

        Parameters
        ----------
        prompts : sequence of texts or token-id sequences
        """
        sequences = self._tokenise(prompts)
        nodes = len(_Tree.build(sequences).token)
        return TokenCounts(
            "tree",
            len(sequences),
            sum(map(len, sequences)),
            len(set(sequences)),
            nodes,
            -(-nodes // self.max_tokens),
            len(set(sequences)),
        )

    # --- internals -------------------------------------------------------------------------

    def _tokenise(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        if isinstance(prompts, str):
            raise TypeError("prompts must be a sequence of prompts, got one text")
        sequences = [tuple(token_ids(self.lm.tokenizer, prompt)) for prompt in prompts]
        for i, sequence in enumerate(sequences):
            check_ids(self.lm, sequence, f"prompt {i}")
        return sequences

    def _score(self, queries: list[Query], names: list[str]) -> list[np.ndarray]:
        """Return log p(tokens | sequence[: position + 1]) for each (sequence, position, tokens)."""
        model = self.lm.model
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return self._score_tree_or_plain(queries, names)
        finally:
            model.train(training)

    def _score_tree_or_plain(self, queries: list[Query], names: list[str]) -> list[np.ndarray]:
        distinct = {sequence for sequence, _, _ in queries}
        if not self.naive and distinct and self._tree_works(max(map(len, distinct))):
            tree = _Tree.build(sorted(distinct))
            nodes = [int(tree.paths[s][p]) for s, p, _ in queries]
            run = _run_tree(self.lm, tree, np.unique(nodes), self.max_tokens)
            # Attention multiplies a masked value by zero, so one prompt's NaN reaches its whole
            # piece: plain passes then tell which prompt it belongs to.
            with contextlib.suppress(FloatingPointError):
                return self._collect("tree", run, nodes, queries, names)
        pairs = [(s, p) for s, p, _ in queries]
        return self._collect("plain", _run_plain(self.lm, pairs), pairs, queries, names)

    def _collect(
        self,
        method: str,
        run: Iterable[Piece],
        keys: Sequence[Any],
        queries: list[Query],
        names: list[str],
    ) -> list[np.ndarray]:
        """Read the wanted columns off the passes of ``run`` and count what was computed."""
        members: dict[Any, list[int]] = {}
        for k, key in enumerate(keys):
            members.setdefault(key, []).append(k)
        results: list[np.ndarray] = [np.empty(0)] * len(queries)
        tokens = passes = rows = 0
        for new_tokens, found, logits in run:
            tokens, passes, rows = tokens + new_tokens, passes + 1, rows + len(found)
            for key, values, total in zip(found, logits, _logsumexp(logits), strict=True):
                if not np.isfinite(total):
                    raise FloatingPointError(
                        f"the model's logits are not finite after {names[members[key][0]]}"
                    )
                for k in members[key]:
                    columns = torch.tensor(queries[k][2], device=values.device, dtype=torch.long)
                    results[k] = values[columns].double().cpu().numpy() - total
        # the queries of one name are the tokens of one completion
        asked = {name: query[0] for name, query in zip(names, queries, strict=True)}
        self.counts = TokenCounts(
            method=method,
            sequences=len(asked),
            sequence_tokens=sum(map(len, asked.values())),
            distinct_sequences=len(set(asked.values())),
            computed_tokens=tokens,
            forward_passes=passes,
            vocabulary_rows=rows,
        )
        return results

    def _tree_works(self, longest: int) -> bool:
        if self._tree_is_exact is None:
            self._tree_is_exact = self._probe()
            if not self._tree_is_exact:
                warnings.warn(
                    f"{type(self.lm.model).__name__} does not follow a 4-D attention mask with "
                    "explicit positions: scoring by plain forward passes, without sharing prefixes",
                    RuntimeWarning,
                    stacklevel=6,
                )
        window = _attention_window(self.lm.text_config)
        return self._tree_is_exact and (window is None or longest <= window)

    def _probe(self) -> bool:
        """Compare the tree with plain passes on six short sequences with shared beginnings."""
        model = self.lm.model
        needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
        if not needed <= forward_parameters(model):
            return False
        if getattr(model.config, "_attn_implementation", "eager") not in ("eager", "sdpa"):
            return False
        v = self.lm.vocabulary_size
        base = [tuple((7 * i * i + 3 * i + s) % v for i in range(5)) for s in (1, 2)]
        tails = [(3,), (4, 5, 6), (4, 8, 9)]
        sequences = [b + tuple(t % v for t in tail) for b in base for tail in tails]
        if self.lm.context_length is not None and self.lm.context_length < 8:
            return False
        tree = _Tree.build(sequences)
        last = {int(tree.paths[s][-1]): s for s in sequences}
        try:
            packed = {
                last[int(node)]: row.double()
                for _, nodes, rows in _run_tree(self.lm, tree, np.array(sorted(last)), 4)
                for node, row in zip(nodes, rows, strict=True)
            }
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            return False
        gap = scale = 0.0
        for _, ((sequence, _),), rows in _run_plain(self.lm, [(s, len(s) - 1) for s in sequences]):
            gap = max(gap, float((packed[sequence] - rows[0].double()).abs().max()))
            scale = max(scale, float(rows[0].double().std()))
        exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
        # NaN logits say nothing about the mask; the scoring call itself reports them
        return not gap > (1e-3 if exact else 0.1) * max(scale, 1e-6)


def check_ids_in_vocabulary(lm: LanguageModel, ids: Sequence[int], name: str) -> None:
    """Raise ValueError if ``ids`` is empty or leaves the vocabulary."""
    if len(ids) == 0:
        raise ValueError(f"{name} is empty")
    if min(ids) < 0 or max(ids) >= lm.vocabulary_size:
        raise ValueError(f"{name} must lie in [0, {lm.vocabulary_size - 1}], got {list(ids)}")


def _completion_rows(
    completions: Sequence[str] | Sequence[Sequence[str]], n: int
) -> list[list[str]]:
    if isinstance(completions, str):
        raise TypeError("completions must be a sequence of texts, got one text")
    items = list(completions)
    if not items and n:
        raise ValueError("completions is empty")
    if all(isinstance(c, str) for c in items):
        return [[str(c) for c in items]] * n
    if any(isinstance(c, str) for c in items):
        raise TypeError("completions must be all texts or all sequences of texts")
    rows = [[str(c) for c in row] for row in items]
    if len(rows) != n or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(
            f"completions must hold one equally long, non-empty row for each of {n} prompts, "
            f"got rows of lengths {[len(row) for row in rows]}"
        )
    return rows


def _logsumexp(logits: torch.Tensor, block: int = 32) -> list[float]:
    """Return the float64 log-sum-exp of each row of ``logits`` (R, V), a few rows at a time."""
    return [
        total
        for start in range(0, len(logits), block)
        for total in logits[start : start + block].double().logsumexp(-1).tolist()
    ]


def _attention_window(config: Any) -> int | None:
    """Return the width beyond which a layer of the model no longer sees every ancestor."""
    kinds = set(getattr(config, "layer_types", None) or [])
    local = {kind for kind in kinds if "sliding" in kind or "chunked" in kind}
    if kinds and not local:
        return None
    widths = [
        getattr(config, name, None)
        for name in ("sliding_window", "attention_chunk_size", "window_size")
    ]
    known = [int(w) for w in widths if isinstance(w, int) and w > 0]
    return min(known) if known else None


def _run_tree(
    lm: LanguageModel, tree: _Tree, wanted: np.ndarray, max_tokens: int
) -> Iterator[Piece]:
    """Yield (new tokens, wanted nodes, logits (R, V)) for each piece of the packed tree."""

    def here(start: int, stop: int) -> np.ndarray:
        return wanted[(wanted >= start) & (wanted < stop)]

    def logits(start: int, stop: int) -> dict[str, Any]:
        rows = here(start, stop) - start
        rows = rows if len(rows) else np.array([0])
        return {"logits_to_keep": torch.as_tensor(rows, device=lm.device)}

    for start, stop, output in _walk_tree(lm.model, tree, max_tokens, logits):
        found = here(start, stop)
        yield stop - start, [int(node) for node in found], output.logits[0, : len(found)]


def _walk_tree(
    model: Any,
    tree: _Tree,
    max_tokens: int,
    options: Callable[[int, int], dict[str, Any]] = lambda start, stop: {},
) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, stop, output of the model) for each piece of the packed tree.

    ``options(start, stop)`` are further arguments of the forward pass over the nodes start..stop-1.
    """
    from transformers import DynamicCache

    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    hidden = torch.finfo(dtype).min
    m = len(tree.token)
    path = np.empty(0, int)  # the nodes whose keys and values the cache holds, top first
    cache = DynamicCache()
    for start in range(0, m, max_tokens):
        stop = min(start + max_tokens, m)
        above = tree.ancestors(start)
        if start:
            # the cache holds the old path and the last piece; keep the new path
            held = np.concatenate([path, np.arange(start - max_tokens, start)])
            keep = torch.as_tensor(np.searchsorted(held, above), device=device)
            cache = DynamicCache(
                [(k.index_select(2, keep), v.index_select(2, keep)) for k, v, *_ in cache]
            )
        path = above
        p, q = len(path), stop - start
        visible = np.zeros((q, p + q), bool)
        for j in range(q):
            parent = tree.parent[start + j]
            if parent >= start:
                visible[j] = visible[parent - start]
            else:
                visible[j, : tree.depth[start + j]] = True
            visible[j, p + j] = True
        mask = torch.zeros((q, p + q), dtype=dtype)
        mask[torch.from_numpy(~visible)] = hidden
        output = model(
            input_ids=torch.as_tensor(tree.token[start:stop], device=device)[None],
            attention_mask=mask[None, None].to(device),
            position_ids=torch.as_tensor(tree.depth[start:stop], device=device)[None],
            past_key_values=cache,
            use_cache=True,
            **options(start, stop),
        )
        cache = output.past_key_values
        yield start, stop, output


def shared_states(
    model: Any, sequences: Sequence[tuple[int, ...]], *, max_tokens: int = 512
) -> tuple[torch.Tensor, dict[tuple[int, ...], np.ndarray]]:
    """Final hidden states of many sequences, every shared beginning computed once, without logits.

    Parameters
    ----------
    model : transformers causal language model
        A model without ordinary attention over a four-dimensional mask (and one whose attention
        window is shorter than a sequence) gets one pass a sequence.
    sequences : sequence of token-id tuples
        None empty, all within the vocabulary and the context: the caller has checked.
    max_tokens : int
        New tokens in one forward pass; the values do not depend on it beyond rounding.

    Returns
    -------
    states : Tensor, shape (M, d)
        One row a node, in the model's dtype.
    paths : dict
        Sequence to the rows of its tokens, in order.
    """
    base = model.base_model
    window = _attention_window(model.config)
    shares = (
        {"attention_mask", "position_ids", "past_key_values"} <= forward_parameters(base)
        and getattr(model.config, "_attn_implementation", "eager") in ("eager", "sdpa")
        and (window is None or max(map(len, sequences)) <= window)
    )
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if shares:
                tree = _Tree.build(sequences)
                parts = [out.last_hidden_state[0] for *_, out in _walk_tree(base, tree, max_tokens)]
                return torch.cat(parts), tree.paths
            device = next(model.parameters()).device
            parts, paths, total = [], {}, 0
            for sequence in dict.fromkeys(sequences):
                ids = torch.tensor([sequence], device=device)
                parts.append(base(input_ids=ids, use_cache=False).last_hidden_state[0])
                paths[sequence] = np.arange(total, total + len(sequence))
                total += len(sequence)
            return torch.cat(parts), paths
    finally:
        model.train(training)


def _run_plain(lm: LanguageModel, wanted: Sequence[tuple[tuple[int, ...], int]]) -> Iterator[Piece]:
    """Yield (tokens, wanted (sequence, position) pairs, logits (R, V)), one pass per sequence."""
    positions: dict[tuple[int, ...], set[int]] = {}
    for sequence, position in wanted:
        positions.setdefault(sequence, set()).add(position)
    for sequence, at in positions.items():
        output = lm.model(input_ids=torch.tensor([sequence], device=lm.device), use_cache=False)
        rows = sorted(at)
        yield len(sequence), [(sequence, r) for r in rows], output.logits[0, rows]
