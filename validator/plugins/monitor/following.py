"""What is seen of a model while it decodes: each step's attention rows, added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from validator.errors import NoAttentionError, ParameterError
from validator.features.interface import recording
from validator.features.plan import ReadPlan
from validator.features.tokens import token_scores
from validator.features.untouched import evaluating
from validator.plugins.monitor.rows import StepRows
from validator.plugins.monitor.running import RunningRows

__all__ = ["Following"]


class Following:
    """Follows the sequences of one ``generate``, or of several that go on with the same cache.

    Forward passes before the first call of :meth:`drawn` are those of the prompt; each pass after
    it feeds the token that was drawn before.

    Args:
        model: a transformers causal LM.
        plan: what is kept.

    Attributes:
        open: whether the model is being followed.
        cache: what the last step returned.
        layers: (L,) the layers that are followed, known after the first step.
    """

    def __init__(self, model: Any, plan: ReadPlan) -> None:
        self.model, self.plan = model, plan
        self.rows = StepRows(model, plan.layers)
        self.open = False
        self.cache: Any = None
        self.layers: tuple[int, ...] = ()
        self._running: RunningRows | None = None
        self._logits: Tensor | None = None
        self._signals: Tensor | None = None
        """(B, 2) of the token that was drawn last; None once it has been fed."""
        self._seen: Tensor | None = None
        self._options: Mapping[str, Any] = {}
        self._told = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, the model's forward passes are followed; it is left as found."""
        hooks = (
            self.model.register_forward_pre_hook(self._before),
            self.model.register_forward_hook(self._after, with_kwargs=True))
        self.open = True
        try:
            with recording(self.model, self.rows), evaluating(self.model):
                yield
        finally:
            self.open = False
            for hook in hooks:
                hook.remove()

    @property
    def count(self) -> int:
        """Tokens of the completion whose rows have been read."""
        return 0 if self._running is None else self._running.count

    @property
    def running(self) -> RunningRows:
        """What the rows add up to; once a token has been drawn."""
        assert self._running is not None
        return self._running

    def drawn(self, input_ids: Tensor) -> None:
        """Take the tokens that were just drawn, the last column of (B, T) ids.

        Raises:
            ParameterError: the model has not run while it was followed.
            NoAttentionError: the other columns are not the sequences of the step before.
        """
        if self._logits is None:
            raise ParameterError(
                "the monitor was attached to another model than the one that generates")
        if len(input_ids) != len(self._logits) or (
                self._seen is not None and not torch.equal(input_ids[:, :-1], self._seen)):
            raise NoAttentionError(
                "the sequences are not those of the step before: beam search, which reorders "
                "them, cannot be followed; sample or decode greedily")
        if self._running is None:
            self._running = RunningRows(self.plan, input_ids.shape[1] - 1)
            self.rows.open = True
        with torch.inference_mode():
            found = token_scores(self._logits, input_ids[:, -1])
            self._signals = torch.stack([found.surprisal, found.entropy], -1)
        self._seen = input_ids

    def fed(self) -> list[int]:
        """(B,) the tokens whose rows were read since this was asked last; none if none were."""
        if self.count == self._told:
            return []
        self._told = self.count
        assert self._seen is not None
        tokens: list[int] = self._seen[:, self.running.border + self.count - 1].tolist()
        return tokens

    def last(self, row: int) -> int:
        """The token of a sequence that was drawn last."""
        assert self._seen is not None
        return int(self._seen[row, -1])

    def feed(self) -> bool:
        """One more step of the model, of the tokens drawn last; False where they were fed."""
        if self._signals is None or self._seen is None:
            return False
        with torch.inference_mode():
            self.model(input_ids=self._seen[:, -1:], past_key_values=self.cache, use_cache=True,
                       return_dict=True, **self._next_options())
        return True

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the sequences; the cache is cut down too."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.model.device)
        assert self._seen is not None
        assert self.cache is not None
        self.running.keep(rows)
        self.cache.batch_select_indices(index)
        self._seen = self._seen[index]
        self._signals = None if self._signals is None else self._signals[index]

    def _before(self, module: Any, args: Any) -> None:
        self.rows.begin()

    def _after(self, module: Any, args: Any, options: Mapping[str, Any], output: Any) -> None:
        self._logits = output.logits[:, -1]
        self.cache, self._options = getattr(output, "past_key_values", None), options
        if self._running is None:
            return
        if self._signals is None or not self.rows.layers:
            raise NoAttentionError(
                f"{type(module).__name__} showed no attention in a decoding step, or took two "
                "steps for one token; it cannot be followed")
        with torch.inference_mode():
            weights, entropy = self.rows.rows(self._running.border + self._running.count + 1)
            self._running.add(weights, entropy, self._signals)
        self.layers, self._signals = self.rows.layers, None

    def _next_options(self) -> dict[str, Any]:
        """Mask and positions of one more token, where the last step was given any."""
        found: dict[str, Any] = {}
        mask, positions = (self._options.get(n) for n in ("attention_mask", "position_ids"))
        if isinstance(mask, Tensor) and mask.ndim == 2:
            found["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if isinstance(positions, Tensor):
            found["position_ids"] = positions[:, -1:] + 1
        return found
