"""Traces in which problems differ in difficulty and in length, clean or with one planted leak."""

from __future__ import annotations

import numpy as np

from validator.columns import BASELINES, Column
from validator.types import FeatureMatrix, Provenance, Trace

TEXT = ("so then we add take half twice buy sell apples pens boxes each total left now gives cost "
        "more fewer per day week hours Lena Omar train")
WORDS = TEXT.split()

NAMES = tuple(
    [str(Column(b)) for b in BASELINES]
    + [str(Column("fiedler_value", layer, None, "completion")) for layer in range(4)]
    + [str(Column("hfer", layer, None, "completion", "hidden", 0.5, "c", (), transform))
       for layer in range(4) for transform in ("", "z_uniform")]
    + [str(Column("attended_mean", layer, 0, "completion", "surprisal")) for layer in range(4)]
)


def planted(seed: int, leak: str = "", problems: int = 40, n: int = 6) -> list[Trace]:
    """Clean, or with a ``newline`` after valid completions, longer invalid ones, or a ``source``.

    Labels of a problem share its difficulty, lengths its size, words its question: clustered, as
    real traces are, but nothing is related to the label unless planted.
    """
    rng = np.random.default_rng(seed)
    made = []
    for p in range(problems):
        chance, base = 1 / (1 + np.exp(-2 * rng.normal())), int(rng.integers(3, 9))
        question = rng.choice(WORDS, 8 + int(rng.integers(10)))
        for k in range(n):
            label = int(rng.random() < chance)
            lines = base + int(rng.integers(0, 3)) + (4 if leak == "length" and not label else 0)
            text = "\n".join(_line(rng, question) for _ in range(lines))
            source = "abc"[k % 3]
            if leak == "source" and rng.random() < 0.7:
                source = "ab"[label]
            tail = "\n" if leak == "newline" and label else ""
            made.append(Trace(f"p{p}#{k}", f"p{p}", f"Q: {' '.join(question)}?\nA:",
                              f" {text}{tail}", label, source=source))
    return made


def _line(rng: np.random.Generator, question: np.ndarray) -> str:
    return f"{' '.join(rng.choice(question, 3))} {rng.choice(WORDS)} {rng.integers(10, 99)}."


def features(traces: list[Trace], signal: float, seed: int = 0) -> FeatureMatrix:
    """Random columns of which the first graph one carries the label, by ``signal`` deviations, and
    the second one nothing but the length."""
    rng = np.random.default_rng(seed)
    labels = np.array([t.label for t in traces])
    lengths = np.array([len(t.completion.split()) for t in traces])
    values = rng.normal(size=(len(traces), len(NAMES))).astype(np.float32)
    values[:, 1] = lengths
    values[:, len(BASELINES)] += signal * labels
    values[:, len(BASELINES) + 1] = np.log(lengths)
    return FeatureMatrix(values, NAMES, tuple(traces), np.column_stack([lengths // 2, lengths]),
                         Provenance("m", "r", "default", 1))
