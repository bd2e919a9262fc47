"""A spectral term in the loss of a transformers or TRL trainer, through ``compute_loss``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import isnan
from typing import Any

from torch import Tensor

from validator.training.regularizer import SpectralRegularizer

__all__ = ["SpectralLossMixin", "regularized"]


def regularized(trainer_class: type, regularizer: SpectralRegularizer) -> Any:
    """The trainer class with the regularizer's term in its training loss.

    Args:
        trainer_class: ``transformers.Trainer`` or a class that derives from it and runs the model
            once with gradients in ``compute_loss``, such as TRL's ``SFTTrainer``.
        regularizer: what is added.

    Returns:
        A subclass, made and used like the class itself.

    Example::

        trainer = regularized(Trainer, SpectralRegularizer({"hfer": "minimize"}))(
            model=model, args=args, train_dataset=data)
    """
    return type(f"Spectral{trainer_class.__name__}", (SpectralLossMixin, trainer_class),
                {"spectral_regularizer": regularizer, "__module__": __name__})


class SpectralLossMixin:
    """Adds the term of ``spectral_regularizer`` to the loss in training, and logs it.

    With gradient accumulation each batch's term counts as its share of the step. The loss of
    evaluations is left as it is, so that runs with different weights can be compared by it. Beside
    each logged ``loss``, which includes the term, stand ``spectral_term`` (as it was added, its
    weight in it), ``spectral_<descriptor>`` and ``spectral_undefined`` (see
    :attr:`.regularizer.SpectralTerm.undefined`): means over the batches since the last.
    """

    spectral_regularizer: SpectralRegularizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **options: Any
    ) -> Any:
        """The trainer's own loss, plus the term if the model is in training."""
        own: Any = super()
        if not model.training:
            return own.compute_loss(model, inputs, return_outputs=return_outputs, **options)
        labels = inputs.get("labels")
        with self.spectral_regularizer.watch(model) as term:
            found = own.compute_loss(model, inputs, return_outputs=return_outputs, **options)
            added = term(labels)
        self._spectral_log().append({**term.values, "undefined": float(term.undefined)})
        share = self._spectral_share(options.get("num_items_in_batch"))
        if return_outputs:
            loss, outputs = found
            return _plus(loss, added, share), outputs
        return _plus(found, added, share)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, with the term's means where a training loss is logged."""
        if "loss" in logs:
            logs.update(_means(self._spectral_log()))
            self._spectral_log().clear()
        own: Any = super()
        own.log(logs, *args, **options)

    def _spectral_log(self) -> list[Mapping[str, float]]:
        log: list[Mapping[str, float]] = self.__dict__.setdefault("_spectral_batches", [])
        return log

    def _spectral_share(self, items: Any) -> float:
        """What the term is multiplied by: the Trainer divides by the accumulation steps itself
        only where the loss is a mean over one batch."""
        trainer: Any = self
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = (trainer.model_accepts_loss_kwargs and items is not None) or (
                trainer.compute_loss_func is not None)
        return 1.0 / trainer.current_gradient_accumulation_steps if scaled else 1.0


def _plus(loss: Tensor, added: Tensor, share: float) -> Tensor:
    return loss + (added * share).to(loss)


def _means(batches: list[Mapping[str, float]]) -> dict[str, float]:
    known = defaultdict(list)
    for batch in batches:
        for name, value in batch.items():
            if not isnan(value):
                known[f"spectral_{name}"].append(value)
    return {name: sum(values) / len(values) for name, values in known.items()}
