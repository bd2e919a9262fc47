"""Token losses of completions, with their prompt and without it: the baselines of data cleaning.

All of them are log-probabilities, so that higher is more valid as everywhere: minus the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.features.encoding import EncodedTrace, encode_trace, max_positions
from validator.features.head import plain_head, scores_from_hidden
from validator.features.tokens import token_scores
from validator.features.untouched import evaluating
from validator.training.formats import line_spans
from validator.types import Progress, Trace

__all__ = ["LOSSES", "TokenLosses", "loss_scores", "token_losses"]

Array = NDArray[np.float64]

LOSSES = ("mean_logprob", "min_logprob", "tail_logprob", "worst_step_logprob", "prompt_gain")
"""``tail_logprob``: mean of the fifth of the tokens that are least likely (Min-K% Prob, Shi et al.
2024, arXiv 2310.16789, K = 20). ``worst_step_logprob``: the lowest mean of a step. ``prompt_gain``:
mean log-probability with the prompt less that without it, the pointwise mutual information per
token (the difference where the instruction-following difficulty of Li et al. 2024, arXiv
2308.12032, takes the ratio); over the tokens after the first, which nothing predicts without a
prompt."""

TAIL = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """What the model made of the K tokens of one completion."""

    given: Array
    """(K,) log-probability of each token after the prompt and the tokens before it, nats."""
    alone: Array
    """(K,) the same without the prompt; the first is NaN."""
    tokens: tuple[str, ...]
    """The text of each token."""
    steps: tuple[tuple[int, int], ...]
    """Token ranges of the steps that have tokens: the trace's own, else its lines."""

    def scores(self) -> dict[str, float]:
        """Name of :data:`LOSSES` -> value; ``prompt_gain`` is NaN for a single token."""
        tail = np.sort(self.given)[: max(1, round(TAIL * self.given.size))]
        gain = self.given[1:] - self.alone[1:]
        steps = [self.given[a:b].mean() for a, b in self.steps] or [self.given.mean()]
        return dict(zip(LOSSES, map(float, (
            self.given.mean(), self.given.min(), tail.mean(), min(steps),
            gain.mean() if gain.size else np.nan)), strict=True))


def token_losses(
    model: Any, tokenizer: Any, traces: Sequence[Trace], *,
    known: Mapping[str, Array] | None = None, max_batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> list[TokenLosses]:
    """Losses of each trace's completion, in order; two forward passes for each, the second shorter.

    Args:
        model: a transformers causal LM.
        tokenizer: its own, a fast one.
        traces: those that can be read.
        known: trace id -> (K,) surprisals that were computed already, e.g.
            ``SpectralFeatureExtractor.token_surprisals_``; these need the second pass alone.
        max_batch_tokens: most tokens of a batch, padding included; a longer trace runs alone.
        progress: called with (done, total) sequences after each batch.

    Raises:
        TraceError: as :func:`validator.features.encoding.encode_trace`.
    """
    limit, found = max_positions(model.config), dict(known or {})
    encoded = [encode_trace(_with_steps(t), tokenizer, limit) for t in traces]
    todo = [e for e in encoded if e.trace.id not in found]
    sequences = [(e.ids, e.prompt_length) for e in todo]
    sequences += [(e.ids[e.prompt_length:], 1) for e in encoded]
    read = _surprisals(model, sequences, max_batch_tokens, progress or (lambda done, total: None))
    found |= {e.trace.id: s for e, s in zip(todo, read, strict=False)}
    return [TokenLosses(-found[e.trace.id], np.r_[np.nan, -alone], _texts(e, tokenizer),
                        _step_ranges(e))
            for e, alone in zip(encoded, read[len(todo):], strict=True)]


def loss_scores(losses: Sequence[TokenLosses]) -> dict[str, Array]:
    """Name of :data:`LOSSES` -> (N,)."""
    each = [loss.scores() for loss in losses]
    return {name: np.array([e[name] for e in each]) for name in LOSSES}


def _with_steps(trace: Trace) -> Trace:
    if trace.steps is not None:
        return trace
    return Trace(trace.id, trace.problem_id, trace.prompt, trace.completion,
                 steps=line_spans(trace.completion))


Sequences = Sequence[tuple[Sequence[int], int]]
"""Token ids, and the first of them that is asked about."""


def _surprisals(model: Any, sequences: Sequences, most: int, progress: Progress) -> list[Array]:
    found: list[Array] = [np.empty(0)] * len(sequences)
    batch: list[int] = []
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]))
    for done, i in enumerate(order):
        if batch and (len(batch) + 1) * len(sequences[i][0]) > most:
            _run(model, sequences, batch, found)
            progress(done, len(sequences))
            batch = []
        batch.append(i)
    if batch:
        _run(model, sequences, batch, found)
    progress(len(sequences), len(sequences))
    return found


def _run(model: Any, sequences: Sequences, batch: Sequence[int], found: list[Array]) -> None:
    """Right-padded: under a causal mask no token sees the padding."""
    ids = torch.zeros(len(batch), max(len(sequences[i][0]) for i in batch), dtype=torch.long)
    for row, i in zip(ids, batch, strict=True):
        row[: len(sequences[i][0])] = torch.tensor(sequences[i][0])
    head = plain_head(model)
    with torch.inference_mode(), evaluating(model):
        output = model(input_ids=ids.to(model.device), return_dict=True,
                       **_arguments(model, head is not None))
        states = output.logits if head is None else output.hidden_states[-1]
        for row, i in enumerate(batch):
            tokens, start = sequences[i]
            if start < len(tokens):
                found[i] = _of_targets(head, states[row, start - 1 : len(tokens) - 1],
                                       torch.tensor(tokens[start:], device=model.device))


def _of_targets(head: torch.nn.Module | None, before: Tensor, targets: Tensor) -> Array:
    scores = (token_scores(before, targets) if head is None
              else scores_from_hidden(head, before, targets))
    return np.asarray(scores.surprisal.double().cpu().numpy(), dtype=np.float64)


def _arguments(model: Any, plain: bool) -> dict[str, Any]:
    """Logits of one token alone, where they are formed from the hidden states a few at a time."""
    wanted: dict[str, Any] = {"use_cache": False}
    if plain:
        wanted |= {"logits_to_keep": 1, "output_hidden_states": True}
    known = inspect.signature(model.forward).parameters
    return {k: v for k, v in wanted.items() if k in known or k == "output_hidden_states"}


def _texts(encoded: EncodedTrace, tokenizer: Any) -> tuple[str, ...]:
    return tuple(tokenizer.decode([i]) for i in encoded.ids[encoded.prompt_length:])


def _step_ranges(encoded: EncodedTrace) -> tuple[tuple[int, int], ...]:
    before = encoded.prompt_length
    return tuple((a - before, b - before) for a, b in encoded.steps or () if b > a)
