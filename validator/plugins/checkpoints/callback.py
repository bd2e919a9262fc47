"""A callback of the transformers Trainer: validity of a probe set at every evaluation."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from validator.errors import ParameterError, ValidatorWarning
from validator.plugins.checkpoints.answers import Asking, accuracy, own_answers, questions_of
from validator.plugins.checkpoints.live import agreed, live_model, require_base
from validator.plugins.checkpoints.probe import Probe
from validator.types import Trace

__all__ = ["ValidityCallback"]


class ValidityCallback(TrainerCallback):  # type: ignore[misc]
    """Scores a fixed set of traces with the model in training, at every evaluation.

    Adds to the metrics of the evaluation, so that ``metric_for_best_model="eval_validity"`` with
    ``load_best_model_at_end=True`` chooses by it, and logs through the Trainer:

    - ``eval_validity``: mean P(valid) of the traces by the artifact's classifier, applied to the
      features of a model it was not trained on (see
      :func:`validator.plugins.checkpoints.as_read_by_base`); without an artifact the mean of the
      label-free score ``score``.
    - ``eval_validity_<name>``: mean of each label-free score, higher being more valid.
    - ``eval_validity_auroc``: how well ``validity`` tells the valid traces from the others, where
      all are labelled and there are both.
    - ``eval_validity_accuracy``: with ``generate``, share of right answers where the traces'
      ``meta`` has a ``target``.
    - ``eval_validity_runtime``: seconds all this took.

    Where the evaluation has another prefix than ``eval`` (``trainer.evaluate(metric_key_prefix=
    "test")``), so have these. With several evaluation sets the probe is scored once and its
    metrics are the same for each, under ``eval``.

    The model is read in evaluation mode and found again as it was: training flags, attention
    implementation, gradient checkpointing, ``requires_grad`` and random numbers. PEFT adapters are
    read as they are, not merged. In distributed training every process that holds the whole model
    scores the whole probe, and the first one's numbers are then everybody's, so that all choose the
    same checkpoint; a model whose weights are spread over processes is refused.

    Args:
        probe: traces, labelled or not, none of which the model is trained on.
        artifact: folder of a classifier trained on the model that training begins with.
        score: what ``eval_validity`` is: ``learned`` (default with an artifact) or the name of a
            label-free score (default without: ``mean_logprob``).
        generate: score the model's own answers to the traces' prompts instead of the traces:
            dearer, since it decodes. True asks greedily; an :class:`Asking` says how.
        base: what training began with, as :func:`validator.models.loading.load_model` takes it;
            default: where the model's configuration says it was loaded from. It must be the
            artifact's model.
        tokenizer: default: the Trainer's ``processing_class``.
        options: of :class:`validator.SpectralFeatureExtractor`, e.g. ``max_batch_tokens``; without
            an artifact also ``feature_set`` or ``layers``.

    Example::

        callback = ValidityCallback(load_traces("probe.jsonl"), artifact="runs/gsm8k")
        callback.attach(trainer)
        trainer.train()
    """

    def __init__(
        self, probe: Sequence[Trace], *, artifact: str | Path | None = None,
        score: str | None = None, generate: bool | Asking = False, base: str | Path | None = None,
        tokenizer: Any = None, options: Mapping[str, Any] | None = None,
    ) -> None:
        self.probe = Probe(tuple(probe), artifact, score, dict(options or {}))
        self.asking = Asking() if generate is True else generate or None
        self.base = base
        self.tokenizer = tokenizer
        self._trainer: weakref.ref[Any] | None = None
        self._found: dict[str, float] | None = None
        self._training = self._base_is_right = False

    def attach(self, trainer: Any) -> ValidityCallback:
        """Add this to a Trainer, before its other callbacks, and log through it. Returns self.

        Given as ``Trainer(callbacks=[...])`` instead, the metrics choose the best checkpoint and
        stand in ``trainer_state.json``, but no logger is told: the Trainer hands its callbacks no
        way to log. Before the others, because early stopping looks at the metrics as it finds them.
        """
        handler = trainer.callback_handler
        if self not in handler.callbacks:
            trainer.add_callback(self)
        handler.callbacks.remove(self)
        handler.callbacks.insert(0, self)
        self._trainer = weakref.ref(trainer)
        return self

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights are about to change: what was found is no longer theirs."""
        self._training, self._found = True, None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The best checkpoint may have been loaded, and nothing tells of changes from now on."""
        self._training, self._found = False, None

    def on_evaluate(
        self, args: Any, state: Any, control: Any,
        metrics: MutableMapping[str, float] | None = None, model: Any = None,
        processing_class: Any = None, **kwargs: Any,
    ) -> None:
        """Score the probe, add to ``metrics``, log."""
        metrics = {} if metrics is None else metrics
        found = self._found or self._score(model, processing_class)
        named = {f"{_prefix(metrics)}_{name}": value for name, value in found.items()}
        metrics.update(named)
        if self._found is None:
            self._log(named, state)
        self._found = found if self._training else None  # for the step's next evaluation set

    def _score(self, model: Any, processing_class: Any) -> dict[str, float]:
        started = time.perf_counter()
        tokenizer = processing_class if self.tokenizer is None else self.tokenizer
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if tokenizer is None:
            raise ParameterError("the Trainer has no tokenizer; make it with processing_class="
                                 "tokenizer, or pass tokenizer= to ValidityCallback")
        network = live_model(model)
        if self.probe.base is not None and not self._base_is_right:
            require_base(network, self.base, self.probe.base)
            self._base_is_right = True
        traces = None
        if self.asking is not None:
            questions = questions_of(self.probe.traces)
            traces = own_answers(network, tokenizer, questions, self.asking)
        found = self.probe.read(network, tokenizer, traces).means()
        right = None if traces is None else accuracy(traces)
        if right is not None:
            found["validity_accuracy"] = right
        named = {n if n.startswith("validity") else f"validity_{n}": v for n, v in found.items()}
        return agreed({**named, "validity_runtime": time.perf_counter() - started})

    def _log(self, found: Mapping[str, float], state: Any) -> None:
        trainer = None if self._trainer is None else self._trainer()
        if trainer is not None:
            trainer.log(dict(found))
            return
        epoch = {} if state.epoch is None else {"epoch": state.epoch}
        state.log_history.append({**found, **epoch, "step": state.global_step})
        warnings.warn(
            "eval_validity chooses the best checkpoint and is kept in the Trainer's state, but no "
            "logger is told of it; use ValidityCallback(...).attach(trainer) instead of "
            "callbacks=[...]", ValidatorWarning, stacklevel=2)


def _prefix(metrics: Mapping[str, float]) -> str:
    """``eval``, or another prefix that was asked for; the Trainer tells it by a metric's name."""
    timed = [name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")]
    own = [name for name in timed if not name.endswith("_validity")]
    return own[0] if own and not own[0].startswith("eval") else "eval"
