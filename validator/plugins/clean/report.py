"""A training file -> what is kept, what is flagged and why, and what neither can be said of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from validator.audit.correlation import spearman
from validator.errors import ParameterError
from validator.plugins.clean.flagging import Flag, flag_examples
from validator.plugins.clean.lines import Example, write_lines
from validator.plugins.clean.scores import ExampleScores

__all__ = ["METER", "CleanReport", "clean_examples"]

METER = 0.5
"""|Spearman with length| above which a score is told to be a length meter."""


@dataclass(frozen=True, eq=False)
class CleanReport:
    """What was found in a training file."""

    source: Path
    examples: tuple[Example, ...]
    found: ExampleScores
    flags: tuple[Flag, ...]
    """Lowest score first."""
    unscorable: dict[int, str]
    """Line -> why nothing can be said of it."""
    by: str
    cut: dict[str, float]
    """``share`` or ``threshold``, as asked for."""
    keep_unscorable: bool

    @property
    def flagged(self) -> dict[str, Flag]:
        """Trace id -> flag."""
        return {f.id: f for f in self.flags}

    def kept(self) -> Iterator[Example]:
        """The examples of the filtered file, in the order of the source."""
        flagged = self.flagged
        for example in self.examples:
            if example.line in self.unscorable:
                if self.keep_unscorable:
                    yield example
            elif example.trace is not None and example.trace.id not in flagged:
                yield example

    def write_kept(self, path: Path) -> int:
        """Write the kept lines byte for byte; returns how many.

        Raises ParameterError where that would replace the source.
        """
        require_outputs(self.source, [path])
        return write_lines(path, (e.raw for e in self.kept()))

    def write_flagged(self, path: Path) -> int:
        """Write what is not kept as JSON Lines: ``line``, ``reason``, scores and ``text``."""
        require_outputs(self.source, [path])
        return write_lines(path, (
            (json.dumps(r, allow_nan=False) + "\n").encode() for r in self._dropped()))

    def write_scores(self, path: Path) -> int:
        """Write every score of every example as JSON Lines; an undefined one is null."""
        require_outputs(self.source, [path])
        return write_lines(path, (
            (json.dumps(r, allow_nan=False) + "\n").encode() for r in self._scored()))

    def follows_length(self) -> dict[str, float]:
        """Score -> Spearman's rho with the completion's tokens; constant scores left out."""
        names = [n for n in self.found.scores if n != "completion_length"]
        rho = spearman(np.column_stack([self.found.scores[n] for n in names]), self.found.lengths)
        return {n: float(r) for n, r in zip(names, rho, strict=True) if not np.isnan(r)}

    def notes(self) -> tuple[str, ...]:
        """What makes the flags mean less than they seem to."""
        rho = self.follows_length().get(self.by, 0.0)
        told = []
        if abs(rho) > METER:
            side = "short" if rho > 0 else "long"
            told.append(f"{self.by} follows length (Spearman {rho:+.2f}): it flags {side} "
                        "completions first, right or wrong.")
        if self.unscorable:
            done = "kept" if self.keep_unscorable else "left out, and in the flagged file"
            told.append(f"{len(self.unscorable)} examples could not be scored and are {done}.")
        undefined = int(np.isnan(self.found.scores[self.by]).sum())
        if undefined:
            told.append(f"{self.by} is undefined for {undefined} examples, which are kept.")
        return tuple(told)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        lines = {e.trace.id: e.line for e in self.examples if e.trace is not None}
        return {
            "source": self.source.name,
            "sha256": hashlib.sha256(b"".join(e.raw for e in self.examples)).hexdigest(),
            "examples": len(self.examples), "scored": len(self.found.traces),
            "flagged": len(self.flags), "kept": sum(1 for _ in self.kept()),
            "by": self.by, **self.cut, "scores": list(self.found.scores),
            "follows_length": self.follows_length(), "notes": list(self.notes()),
            "unscorable": [{"line": n, "reason": r} for n, r in sorted(self.unscorable.items())],
            "flags": [{"line": lines[f.id], **f.to_json()} for f in self.flags],
        }

    def _dropped(self) -> Iterator[dict[str, Any]]:
        flagged = self.flagged
        for example in self.examples:
            text = example.raw.decode(errors="backslashreplace").rstrip("\r\n")
            flag = None if example.trace is None else flagged.get(example.trace.id)
            if flag is not None:
                yield {"line": example.line, **flag.to_json(), "text": text}
            elif example.line in self.unscorable and not self.keep_unscorable:
                yield {"line": example.line, "reason": self.unscorable[example.line], "text": text}

    def _scored(self) -> Iterator[dict[str, Any]]:
        place = {t.id: i for i, t in enumerate(self.found.traces)}
        flagged = self.flagged
        for example in self.examples:
            i = None if example.trace is None else place.get(example.trace.id)
            if i is None:
                yield {"line": example.line, "unscorable": self.unscorable[example.line]}
                continue
            values = {n: float(v[i]) for n, v in self.found.scores.items()}
            yield {"line": example.line, "flagged": self.found.traces[i].id in flagged,
                   "scores": {n: v if v == v else None for n, v in values.items()}}


def require_outputs(source: Path, outputs: Sequence[Path]) -> None:
    """Files that may be written. Raises ParameterError for the source, or one file named twice."""
    taken: set[Path] = set()
    for path in outputs:
        if path.resolve() == source.resolve():
            raise ParameterError(f"{path} is the file that is cleaned; it is never changed, name "
                                 "another one")
        if path.resolve() in taken:
            raise ParameterError(f"{path} is to hold two things; name a file for each")
        taken.add(path.resolve())


def clean_examples(
    source: Path, examples: Sequence[Example], found: ExampleScores, by: str, *,
    share: float | None = None, threshold: float | None = None, keep_unscorable: bool = True,
) -> CleanReport:
    """Flag the examples of a file that were scored; arguments as :func:`flag_examples`."""
    flags = flag_examples(found, by, share=share, threshold=threshold)
    reasons = {e.line: e.reason or "" for e in examples if e.trace is None}
    reasons |= {e.line: found.unscorable[e.trace.id] for e in examples
                if e.trace is not None and e.trace.id in found.unscorable}
    cut = {"share": share} if share is not None else {"threshold": threshold}
    return CleanReport(source, tuple(examples), found, tuple(flags), reasons, by,
                       {k: v for k, v in cut.items() if v is not None}, keep_unscorable)
