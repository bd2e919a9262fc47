"""Whether candidates are single tokens of the evaluated model, before it is run.

Only then is a candidate's log-likelihood one number of the next-token distribution, so that
renormalising over candidates means something.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection, Mapping
from typing import Any

from lm_eval.api.model import TemplateLM

from validator.errors import HarnessError

__all__ = ["require_readable", "require_single_tokens"]

log = logging.getLogger("lm-eval")


def require_single_tokens(
    asked: Mapping[str, Collection[str]], metadata: Mapping[str, Any], task: str
) -> None:
    """Check the candidates of every prefix with the evaluated model's own tokenizer.

    Where lm-eval's model has none in this process (an API, say), the run warns that nothing was
    checked.

    Args:
        asked: prefix -> its candidates.
        metadata: of the task; model arguments are in it.
        task: its name.

    Raises:
        HarnessError: a candidate that is not one token after its prefix, two that are the same one,
            text the tokenizer cannot write, or a prefix beyond the context.
    """
    model, reason = _evaluated(metadata)
    if model is None:
        log.warning("%s: it is not checked that candidates are single tokens, because %s", task,
                    reason)
        return
    known: set[tuple[str, ...]] = set()
    for prefix, candidates in asked.items():
        before = _encoded(model, prefix)
        _require_room(model, prefix, len(before))
        # Candidates begin with a space: nothing but the word before them can matter.
        key = prefix.split()[-1], *candidates
        if key not in known:
            _require_one_each(model, prefix, before, candidates)
            known.add(key)


def require_readable(text: str, metadata: Mapping[str, Any]) -> None:
    """Fail early where the evaluated model's tokenizer cannot write a text at all.

    Raises HarnessError: a tokenizer of symbols and a text in another style, say.
    """
    model, _ = _evaluated(metadata)
    if model is not None:
        _encoded(model, text)


def _evaluated(metadata: Mapping[str, Any]) -> tuple[Any, str]:
    """The one living model of lm-eval that has a tokenizer, or None and why."""
    # lm-eval hands its model to no task. Types, not isinstance: that would wake lazy proxies.
    found = [o for o in gc.get_objects() if issubclass(type(o), TemplateLM)
             and getattr(o, "tokenizer", None) is not None]
    named = metadata.get("pretrained")
    if len(found) > 1 and named is not None:
        found = [o for o in found if str(getattr(o, "pretrained", None)) == str(named)]
    if not found:
        return None, "the evaluated model has no tokenizer in this process"
    if len(found) > 1:
        return None, f"{len(found)} models live in this process: which is meant is not known"
    return found[0], ""


def _name(model: Any) -> str:
    pretrained = getattr(model, "pretrained", None)
    return pretrained if isinstance(pretrained, str) else type(model).__name__


def _encoded(model: Any, text: str) -> list[int]:
    try:
        return list(model.tok_encode(text))
    except Exception as error:  # what a tokenizer of symbols raises has no type of its own
        raise HarnessError(
            f"the tokenizer of {_name(model)} cannot write {text[:40]!r} ({error}). A model of a "
            "tunnel's symbols reads the style it was trained on: "
            "--metadata '{\"style\": \"STYLE\"}'") from error


def _require_room(model: Any, prefix: str, tokens: int) -> None:
    most = getattr(model, "max_length", None)
    if not tokens or (isinstance(most, int) and tokens > most):
        raise HarnessError(f"the prefix that ends in {prefix[-20:]!r} has {tokens} tokens; "
                           f"{_name(model)} reads 1 to {most}. Take a smaller tunnel.")


def _require_one_each(
    model: Any, prefix: str, before: list[int], candidates: Collection[str]
) -> None:
    added = []
    for candidate in candidates:
        after = _encoded(model, prefix + candidate)
        if after[:-1] != before:
            raise HarnessError(
                f"{candidate!r} is not one token after {prefix[-20:]!r} in the vocabulary of "
                f"{_name(model)}, so its log-likelihood is not one number of the next-token "
                "distribution. Take another style, or a tunnel with other or fewer symbols.")
        added.append(after[-1])
    if len(set(added)) < len(added):
        raise HarnessError(f"two of {', '.join(map(repr, candidates))} are the same token in the "
                           f"vocabulary of {_name(model)}: it does not know these symbols")
