"""Features of sampled sequences, read while the model decodes them: no second prefill.

The prompt, all but its last token, is read once for all its samples. From then on each decoding
step leaves its row behind (:mod:`validator.features.decoding_rows`), so that when the last token
has been drawn everything is there that a teacher-forced pass over the same tokens would read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig

from validator.errors import NoAttentionError
from validator.features.attention import captured_forward
from validator.features.decoding_rows import DecodingRecorder, Earlier
from validator.features.encoding import EncodedTrace
from validator.features.head import plain_head
from validator.features.interface_rows import InterfaceCall
from validator.features.plan import ReadPlan, prefix_request
from validator.features.reader import describe, layer_sums, like_weights
from validator.features.reading import TraceFeatures
from validator.features.reduction import LayerSums
from validator.features.untouched import evaluating

__all__ = ["Decoded", "Draw", "ReadPrompt", "decode", "plain_generation", "read_prompt"]

CHECKED = 8
"""Tokens of the first prompt over which a model's two ways are compared, and then remembered."""
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1
"""Most difference of the last hidden states, relative to their norm."""

Draw = Callable[[Tensor, Any], Tensor]
"""(B, P) prompts, and a cache of their first P - 1 tokens or None -> (B, K) tokens drawn; must feed
the model one token a step."""


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt of which all tokens but the last have been read."""

    ids: tuple[int, ...]
    cache: Any
    """Keys and values of all but the last token; None for a prompt of one."""
    sums: tuple[LayerSums, ...] | None
    earlier: Earlier


@dataclass(frozen=True)
class Decoded:
    """Sequences that a model has drawn after a prompt, and what it left behind."""

    model: Any
    prompt: ReadPrompt
    plan: ReadPlan
    tokens: Tensor
    """(B, K) drawn, padded on the right."""
    recorder: DecodingRecorder

    def read(
        self, traces: Mapping[int, EncodedTrace], max_tokens: int
    ) -> dict[int, TraceFeatures]:
        """Columns of some of the sequences; this can be done once.

        Args:
            traces: number of the sequence -> its trace: the prompt and the first of its drawn
                tokens, or all of them.
            max_tokens: most tokens, padding included and the prompt not, described at once.

        Raises:
            NoAttentionError: the model's attention cannot be read while it decodes.
            ModelError: attention or hidden states that are not finite.
        """
        if not traces:
            return {}
        self.recorder.require_readable()
        steps = 1 + max(t.completion_length for t in traces.values())
        while self.recorder.count < steps:  # a token that was drawn last has not been fed
            fed = self.recorder.count
            self.recorder.feed(self.tokens[:, fed - 1 : fed])
        found: dict[int, TraceFeatures] = {}
        for rows in _groups(traces, max_tokens):
            own = [traces[row] for row in rows]
            forward = self.recorder.forward(
                rows, 1 + max(t.completion_length for t in own), self.prompt.earlier)
            described = describe(self.model, forward, own, self.prompt.sums, self.plan)
            found |= {row: views[0] for row, views in zip(rows, described, strict=True)}
        return found


def read_prompt(model: Any, ids: Sequence[int], plan: ReadPlan) -> ReadPrompt:
    """Read all tokens of a prompt but the last, whose row is the first that decoding forms.

    Raises:
        NoAttentionError: the architecture does not use the attention interface, or its cache keeps
            other things than keys and values, or ``generate`` feeds it otherwise than one pass
            over all tokens does.
    """
    _require_alike(model, ids[:CHECKED])
    if len(ids) == 1:
        return ReadPrompt(tuple(ids), None, None, {})
    tokens = torch.tensor([list(ids[:-1])], device=model.device)
    forward = captured_forward(
        model, tokens, keep_logits=1, keep_cache=True, keep_windows=True, layers=plan.layers)
    calls = [call for call in forward.calls if isinstance(call, InterfaceCall)]
    if forward.cache is None or len(calls) < len(forward.calls):
        raise NoAttentionError(
            f"attention of {type(model).__name__} cannot be read while it decodes: it does not use "
            "the transformers attention interface, or its cache is no plain one")
    earlier = {call.layer: (call.key, call.value) for call in calls}
    request = prefix_request(plan, 0, tokens.shape[1], like_weights(model))
    sums = tuple(layer_sums(forward, None, request, plan))
    return ReadPrompt(tuple(ids), forward.cache, sums, earlier)


def decode(model: Any, prompt: ReadPrompt, plan: ReadPlan, n: int, draw: Draw) -> Decoded:
    """Draw n sequences after a prompt and set aside what their attention is made of.

    Args:
        model: a transformers causal LM; it is left as it was found.
        prompt: from :func:`read_prompt`, with the same plan; it can be used again.
        plan: which columns; one row per trace.
        n: how many.
        draw: draws them.
    """
    keep_logits = plain_head(model) is None
    recorder = DecodingRecorder(model, len(prompt.ids) - 1, plan.layers, keep_logits)
    ids = torch.tensor([list(prompt.ids)] * n, device=model.device)
    cache = copy.deepcopy(prompt.cache)
    if cache is not None:
        cache.batch_repeat_interleave(n)
    with recorder.active():
        tokens = draw(ids, cache)
    return Decoded(model, prompt, plan, tokens, recorder)


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """``generate`` fills what it is not told from the model's own generation settings.

    A repetition penalty or suppressed tokens from there would shape the samples without standing
    in the manifest.
    """
    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


_alike: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def _require_alike(model: Any, ids: Sequence[int]) -> None:
    """Compare decoding with one pass over the same tokens.

    Of some architectures ``generate`` counts positions from another number than the model itself.
    """
    if not model._can_set_attn_implementation():
        return
    if model not in _alike:
        _alike[model] = _decodes_alike(model, torch.tensor([list(ids)], device=model.device))
    if not _alike[model]:
        raise NoAttentionError(
            f"attention of {type(model).__name__} cannot be read while it decodes: step by step "
            "it gives other hidden states than in one pass over the same tokens")


def _decodes_alike(model: Any, ids: Tensor) -> bool:
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0,
                              return_dict_in_generate=True, output_hidden_states=True)
    with torch.inference_mode(), evaluating(model), plain_generation(model):
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        steps = [hidden[-1] for hidden in output.hidden_states]
        whole = model(input_ids=output.sequences[:, :-1], output_hidden_states=True,
                      return_dict=True).hidden_states[-1].float()
    found = torch.cat(steps, 1).float()
    if found.shape != whole.shape:
        return False
    wide = steps[0].dtype in (torch.float32, torch.float64)
    gap = torch.linalg.vector_norm(found - whole) / torch.linalg.vector_norm(whole)
    return bool(gap <= (TOLERANCE if wide else HALF_TOLERANCE))


def _groups(traces: Mapping[int, EncodedTrace], max_tokens: int) -> Iterator[list[int]]:
    """Sequences of similar length, so that little is padded."""
    group: list[int] = []
    for row in sorted(traces, key=lambda r: traces[r].completion_length):
        if group and (len(group) + 1) * (1 + traces[row].completion_length) > max_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
