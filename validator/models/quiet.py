"""Keeps transformers' bars and advice off the terminal while it works for us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import transformers.modeling_gguf_pytorch_utils as gguf_loading
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and warnings inside the block, then restore the user's choice."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_silent = are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with _no_gguf_bar():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # which also enables the hub's
        if hub_silent:
            disable_progress_bars()


@contextmanager
def _no_gguf_bar() -> Iterator[None]:
    # The GGUF reader draws a bar that no setting of transformers turns off.
    bar = getattr(gguf_loading, "tqdm", None)
    if bar is None:
        yield
        return
    gguf_loading.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        gguf_loading.tqdm = bar
