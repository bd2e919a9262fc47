"""Corruption planted in training examples whose answers are otherwise taken as they are.

Four kinds, each as small as it can be: three of them keep the length in characters, the fourth
keeps the completion. All draws come from the seed and the trace's id, so that neither the order nor
the number of the traces changes what is done to one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from validator.errors import ParameterError
from validator.training.formats import line_spans
from validator.types import Trace

__all__ = ["KINDS", "plant", "plant_each", "plant_share"]

KINDS = ("altered_number", "swapped_step", "wrong_answer", "mismatched_question")
"""``altered_number``: a number of a step before the last becomes one of as many digits, everywhere
in the step. ``swapped_step``: two neighbouring steps before the last change places (steps that do
not depend on each other may be swapped without harm). ``wrong_answer``: the last number,
everywhere in the last step, becomes another. ``mismatched_question``: the prompt is that of another
problem."""

_NUMBER = re.compile(r"(?<![\d.,])\d[\d,]*(?:\.\d+)?")


def plant(trace: Trace, kind: str, donors: Sequence[str] = (), seed: int = 0) -> Trace | None:
    """The trace with one corruption, label 0 and its kind as ``meta["planted"]``.

    None where there is nothing to corrupt: no number, fewer than three steps, no other prompt.
    Steps are the trace's own, else its lines.

    Args:
        trace: what is corrupted.
        kind: one of :data:`KINDS`.
        donors: prompts of other problems, for ``mismatched_question``.
        seed: of the draws.

    Raises:
        ParameterError: an unknown kind.
    """
    if kind not in KINDS:
        raise ParameterError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    random = Random(f"{seed} {kind} {trace.id}")
    if kind == "mismatched_question":
        others = [d for d in donors if d != trace.prompt]
        found = replace(trace, prompt=random.choice(others)) if others else None
    else:
        found = {"altered_number": _altered, "swapped_step": _swapped,
                 "wrong_answer": _wrong_answer}[kind](trace, random)
    if found is None:
        return None
    labels = None if kind == "mismatched_question" else found.step_labels
    return replace(found, label=0, step_labels=labels, meta={**trace.meta, "planted": kind})


def plant_each(
    traces: Sequence[Trace], donors: Sequence[str] = (), seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> list[Trace]:
    """A corrupted copy of each trace that allows one, kinds in turn; ids end in ``#planted``.

    Where a trace does not allow its kind, the next one that it allows is taken.
    """
    copies = []
    for i, trace in enumerate(traces):
        turned = [*kinds[i % len(kinds):], *kinds[: i % len(kinds)]]
        found = next((p for k in turned if (p := plant(trace, k, donors, seed))), None)
        if found is not None:
            copies.append(replace(found, id=f"{trace.id}#planted"))
    return copies


def plant_share(
    traces: Sequence[Trace], share: float, donors: Sequence[str] = (), seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> list[Trace]:
    """The traces in their order, ``share`` of them corrupted (label 0), the others with label 1.

    Equal numbers of each kind, as far as they divide: round(share N) in all.

    Raises:
        ParameterError: a share outside (0, 1), or too few traces that allow a kind.
    """
    if not 0 < share < 1:
        raise ParameterError(f"share must lie in (0, 1), got {share}")
    count = round(share * len(traces))
    order = Random(f"{seed} share").sample(range(len(traces)), len(traces))
    result = [replace(t, label=1) for t in traces]
    for k in range(count):
        kind = kinds[k % len(kinds)]
        for place, i in enumerate(order):
            found = plant(traces[i], kind, donors, seed)
            if found is not None:
                result[i] = found
                order.pop(place)
                break
        else:
            raise ParameterError(f"only {k} of {count} corruptions could be planted: no further "
                                 f"trace allows {kind!r}; ask for a smaller share")
    return result


def _spans(trace: Trace) -> tuple[tuple[int, int], ...]:
    return trace.steps if trace.steps is not None else line_spans(trace.completion)


def _altered(trace: Trace, random: Random) -> Trace | None:
    numbers = [(span, m[0]) for span in _spans(trace)[:-1]
               for m in _NUMBER.finditer(trace.completion[slice(*span)])]
    if not numbers:
        return None
    span, number = random.choice(sorted(set(numbers)))
    return _renumbered(trace, span, number, random)


def _wrong_answer(trace: Trace, random: Random) -> Trace | None:
    spans = _spans(trace)
    found = _NUMBER.findall(trace.completion[slice(*spans[-1])]) if spans else []
    return _renumbered(trace, spans[-1], found[-1], random) if found else None


def _renumbered(trace: Trace, span: tuple[int, int], number: str, random: Random) -> Trace:
    """``number`` becomes another of as many characters, wherever it stands in the span."""
    places = [i for i, c in enumerate(number) if c.isdigit()]
    place = random.choice(places)
    leading = place == places[0] and len(places) > 1 and number[1:2] not in (".", ",", "")
    digit = random.choice([d for d in "0123456789"[leading:] if d != number[place]])
    other = number[:place] + digit + number[place + 1:]
    text = trace.completion
    step = _NUMBER.sub(lambda m: other if m[0] == number else m[0], text[slice(*span)])
    return replace(trace, completion=text[: span[0]] + step + text[span[1]:], answer=None)


def _swapped(trace: Trace, random: Random) -> Trace | None:
    spans, text = _spans(trace), trace.completion
    pairs = [(a, b) for a, b in pairwise(spans[:-1])
             if text[slice(*a)] != text[slice(*b)]]
    if not pairs:
        return None
    (a, b), (c, d) = random.choice(pairs)
    swapped = text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]
    first, second = (a, a + d - c), (d - b + a, d)
    steps = None if trace.steps is None else tuple(
        {(a, b): first, (c, d): second}.get(s, s) for s in trace.steps)
    return replace(trace, completion=swapped, steps=steps, step_labels=None)
