"""What attention was made of while a model decoded token by token, put together afterwards.

Each step has one query and one new key per sequence and layer. They are set aside, and which of the
earlier keys the step could see: a full layer shows all of them, a sliding window the last ones. The
rows of all steps are then formed like those of one forward pass, in blocks, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from validator.errors import NoAttentionError
from validator.features.attention import CapturedForward, repeatable_cache
from validator.features.interface import layer_paths, recording, served_by_sdpa
from validator.features.interface_rows import InterfaceCall
from validator.features.untouched import evaluating
from validator.types import AttentionRows

__all__ = ["DecodingRecorder", "Earlier"]

Earlier = Mapping[int, tuple[Tensor, Tensor]]
"""Layer -> keys (1, G, P, D) and one value channel (1, G, P, 1) of the P tokens before."""
PLAIN = (bool, int, float, str)
INTEGERS = (torch.bool, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True)
class _Sight:
    """Which keys a step's row could see: the last so many, less those that are masked."""

    keys: int
    mask: Tensor | None
    """(B or 1, 1 or H, 1, keys) bool or added."""


@dataclass
class _Steps:
    """The calls of one layer: a tensor for each step, or after :meth:`join` one for all."""

    module: torch.nn.Module
    options: dict[str, Any]
    query: list[Tensor] = field(default_factory=list)
    key: list[Tensor] = field(default_factory=list)
    value: list[Tensor] = field(default_factory=list)
    norm: list[Tensor] = field(default_factory=list)
    sights: list[_Sight] = field(default_factory=list)

    def join(self) -> None:
        """Put what was set aside step by step into one tensor each."""
        for parts, axis in ((self.query, 2), (self.key, 2), (self.value, 2), (self.norm, 1)):
            parts[:] = [torch.cat(parts, axis)]

    def keep_options(self, options: Mapping[str, Any]) -> None:
        """Drop options that differ between steps; raise where they may shape the weights."""
        for name, value in options.items():
            first = self.options.get(name)
            if value is first or (type(value) in PLAIN and value == first):
                continue
            if not isinstance(value, Tensor) or value.dtype not in INTEGERS:
                raise NoAttentionError(
                    f"{type(self.module).__name__} is given another {name!r} at each step")
            self.options.pop(name, None)  # positions, which queries and keys hold already


class DecodingRecorder:
    """Sets aside each decoding step of a model; a :class:`~validator.features.interface.Recorder`.

    What cannot be read does not disturb the decoding: it is noted and raised by :meth:`forward`.

    Args:
        model: a transformers causal LM.
        start: tokens that are in its cache when the first step begins.
        layers: true indices of the layers that are wanted; None for all.
        keep_logits: set each step's logits aside too.

    Attributes:
        count: steps so far.
        cache: what the last step returned.
    """

    def __init__(
        self, model: Any, start: int, layers: Sequence[int] | None, keep_logits: bool
    ) -> None:
        self.model, self.start, self.keep_logits = model, start, keep_logits
        self.wanted = None if layers is None else frozenset(layers)
        self.paths, self.sdpa = layer_paths(model), served_by_sdpa(model)
        self.count, self.cache, self.trouble = 0, None, ""
        self.layers: dict[int, _Steps] = {}
        self.hidden: list[dict[int, Tensor]] = []
        self.final: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.joined = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """While this is open, every forward pass of the model is a step; it is left as found."""
        hooks = (
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end))
        try:
            with recording(self.model, self), evaluating(self.model):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, call: InterfaceCall, value: Tensor) -> None:
        """Set one layer's call of this step aside."""
        if self.trouble or (self.wanted is not None and call.layer not in self.wanted):
            return
        try:
            self._require_step(call)
            steps = self.layers.setdefault(call.layer, _Steps(call.module, dict(call.options)))
            steps.keep_options(call.options)
            if len(steps.sights) != self.count - 1:
                raise NoAttentionError(f"layer {call.layer} was not called once in each step")
        except NoAttentionError as error:
            self.trouble = str(error)
            return
        # Copies: views of the last key would hold all keys of every step.
        steps.query.append(call.query.clone())
        steps.key.append(call.key[:, :, -1:].clone())
        steps.value.append(value[:, :, -1:, :1].clone())
        steps.norm.append(torch.linalg.vector_norm(value[:, :, -1:].float(), dim=(1, 3)))
        steps.sights.append(_Sight(call.key.shape[2], call.mask))

    def feed(self, tokens: Tensor) -> None:
        """One more step, of (B, 1) tokens that follow those in the cache."""
        with self.active(), torch.inference_mode():
            self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True,
                       return_dict=True)

    def require_readable(self) -> None:
        """Raise NoAttentionError where the steps' attention cannot be formed again, saying why."""
        missing = "" if self.layers else "the attention interface showed no layer"
        if not missing and not repeatable_cache(self.cache, windows=True):
            missing = f"its cache is no plain one ({type(self.cache).__name__})"
        if self.trouble or missing:
            raise NoAttentionError(
                f"attention of {type(self.model).__name__} cannot be read while it decodes: "
                f"{self.trouble or missing}")

    def forward(self, rows: Sequence[int], count: int, earlier: Earlier) -> CapturedForward:
        """The first steps of some sequences, as if one forward pass had read their tokens.

        Args:
            rows: which of the B sequences.
            count: R, how many steps; no step can be added afterwards.
            earlier: keys of the tokens before the first step; nothing where there are none.

        Raises:
            NoAttentionError: see :meth:`require_readable`.
        """
        self.require_readable()
        if not self.joined:
            for steps in self.layers.values():
                steps.join()
            self.joined = True
        index = torch.tensor(list(rows), device=self.final[0].device)
        masks: dict[tuple[tuple[int, int], ...], Tensor | None] = {}
        calls = [
            _DecodedCall(layer, self.layers[layer], index, count, earlier.get(layer), masks)
            for layer in sorted(self.layers)]
        hidden = {
            layer: torch.cat([step[layer] for step in self.hidden[:count]], 1)[index]
            for layer in sorted(self.layers)}
        final = torch.cat(self.final[:count], 1)[index]
        logits = torch.cat(self.logits[:count], 1)[index] if self.logits else final[:, :0]
        return CapturedForward(list(calls), self.start, hidden, logits, final, {}, None)

    def _require_step(self, call: InterfaceCall) -> None:
        rows, keys, total = call.query.shape[2], call.key.shape[2], self.start + self.count
        if rows != 1 or not 1 <= keys <= total:
            raise NoAttentionError(
                f"layer {call.layer} has {rows} queries and {keys} keys in step {self.count}, "
                f"expected 1 and at most {total}")
        if call.mask is not None and call.mask.shape[-2:] != (1, keys):
            raise NoAttentionError(
                f"layer {call.layer} has a mask of shape {tuple(call.mask.shape)} for {keys} keys")

    def _begin(self, module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self.count += 1
        return args, options | {"output_hidden_states": True, "output_attentions": False}

    def _end(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        hidden: Sequence[Tensor] = getattr(output, "hidden_states", None) or ()
        self.cache = getattr(output, "past_key_values", None)
        if self.trouble:
            return
        if not hidden or max(self.layers, default=0) >= len(hidden) or any(
                h.ndim != 3 or h.shape[1] != 1 for h in hidden):
            self.trouble = "it does not return the hidden states of its layers, one token a step"
            return
        self.hidden.append({layer: hidden[layer] for layer in self.layers})
        self.final.append(hidden[-1])
        if self.keep_logits:
            self.logits.append(output.logits[:, -1:])


@dataclass(frozen=True)
class _DecodedCall:
    """The steps of one layer as a :class:`~validator.features.attention.LayerCall`."""

    layer: int
    steps: _Steps
    index: Tensor
    count: int
    earlier: tuple[Tensor, Tensor] | None
    masks: dict[tuple[tuple[int, int], ...], Tensor | None]
    """Those made so far: layers that saw the same keys have the same one."""

    @property
    def value_norm(self) -> Tensor:
        return self.steps.norm[0][self.index, : self.count]

    def blocks(self) -> Iterator[AttentionRows]:
        """The weights of all rows, in blocks; their queries and keys are put together here."""
        s, last = self.steps, slice(self.count)
        key, value = s.key[0][self.index, :, last], s.value[0][self.index, :, last]
        if self.earlier is not None:
            key, value = (
                torch.cat([before.expand(len(own), -1, -1, -1), own], 2)
                for before, own in zip(self.earlier, (key, value), strict=True))
        call = InterfaceCall(
            self.layer, s.module, s.query[0][self.index, :, last], key, value,
            self._mask(key.shape[2]), s.options)
        yield from call.blocks()

    def _mask(self, total: int) -> Tensor | None:
        sights = self.steps.sights[: self.count]
        known = tuple((sight.keys, id(sight.mask)) for sight in sights)
        if known not in self.masks:
            self.masks[known] = _joint_mask(sights, self.index, total)
        return self.masks[known]


def _joint_mask(sights: Sequence[_Sight], index: Tensor, total: int) -> Tensor | None:
    """(B or 1, 1 or H, R, T) mask of the steps' rows; None where each saw all before it."""
    start = total - len(sights)
    parts = [_one_mask(sight, index) for sight in sights]
    added = next((p.dtype for p in parts if p.dtype != torch.bool), None)
    if added is None and all(
            sight.keys == start + r + 1 and bool(part.all())
            for r, (sight, part) in enumerate(zip(sights, parts, strict=True))):
        return None
    batch, heads = (max(p.shape[axis] for p in parts) for axis in (0, 1))
    hidden = False if added is None else torch.finfo(added).min
    mask = torch.full((batch, heads, len(sights), total), hidden, device=index.device,
                      dtype=added or torch.bool)
    for r, part in enumerate(parts):
        if added is not None and part.dtype == torch.bool:
            part = torch.where(part, 0.0, hidden).to(added)
        end = start + r + 1
        mask[:, :, r : r + 1, end - part.shape[-1] : end] = part
    return mask


def _one_mask(sight: _Sight, index: Tensor) -> Tensor:
    """A step's mask of the chosen sequences, with one entry for all where it is the same."""
    if sight.mask is None:
        return torch.ones(1, 1, 1, sight.keys, dtype=torch.bool, device=index.device)
    mask = sight.mask if sight.mask.shape[0] == 1 else sight.mask[index]
    return mask[:1] if bool((mask == mask[:1]).all()) else mask
