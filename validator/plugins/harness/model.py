"""``--model hf-spectral``: lm-eval's transformers model, known to the tasks that read it."""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM

from validator.plugins.harness.reader import remember

__all__ = ["SpectralHFLM"]


class SpectralHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's ``hf`` model in every respect; spectral tasks read its attention in place.

    The attention implementation is changed only while responses are scored, and put back.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        remember(self)
