"""A study of heads put together: what each looks at, what it moves, what it alone can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.explain.head_ablation import Ablation, Head
from validator.explain.head_changes import Changes, mean_changes, separation_changes
from validator.explain.head_roles import AttentionRoles
from validator.explain.head_signal import HeadSignal
from validator.types import Trace

__all__ = ["HeadStudy", "study_sample"]

ON_RANDOM = ("induction", "duplicate")
ON_TRACES = ("previous", "first", "self")


@dataclass(frozen=True, slots=True, eq=False)
class HeadStudy:
    """What is known of the heads of a model; parts that were not asked for are None."""

    model: str
    classifier: str | None
    random: AttentionRoles
    """On repeated random tokens."""
    text: AttentionRoles
    """On the traces."""
    ablation: Ablation | None = None
    changes: Changes | None = None
    separation: Changes | None = None
    signal: HeadSignal | None = None

    @classmethod
    def of(cls, model: str, classifier: str | None, random: AttentionRoles, text: AttentionRoles,
           ablation: Ablation | None, signal: HeadSignal | None, seed: int = 0) -> HeadStudy:
        """The study of these parts, with the means and intervals of what ablation moved.

        Raises LabelError for an ablation over traces of one problem only.
        """
        changes = separation = None
        if ablation is not None:
            changes = mean_changes(ablation, seed=seed)
            separation = separation_changes(ablation, seed=seed)
        return cls(model, classifier, random, text, ablation, changes, separation, signal)

    @property
    def judged_by(self) -> str | None:
        """The quantity that heads are ordered by: log-odds, or log-prob without a classifier."""
        if self.ablation is None:
            return None
        return "log_odds" if self.classifier is not None else "mean_logprob"

    def role(self, name: str) -> NDArray[np.float64]:
        """(L, H) a role where it is read: induction and duplicate on random tokens."""
        return (self.random if name in ON_RANDOM else self.text).scores[name]

    def panels(self) -> dict[str, NDArray[np.float64]]:
        """Name -> (L, H) all there is to be drawn; NaN for heads that were not studied."""
        found: dict[str, NDArray[np.float64]] = {}
        if self.ablation is not None and self.changes is not None:
            quantity = self.judged_by or ""
            where = self.ablation.quantities.index(quantity)
            found[f"change of {quantity} without the head"] = self._map(
                self.ablation.heads, self.changes.mean[:, where])
        if self.signal is not None:
            found["AUROC of the head's own columns"] = self._map(
                self.signal.heads, [i.estimate for i in self.signal.auroc])
        return found | {name: self.role(name) for name in (*ON_RANDOM, *ON_TRACES)}

    def _map(
        self, heads: Sequence[Head], values: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        grid = np.full_like(self.role("self"), np.nan)
        for (layer, head), value in zip(heads, values, strict=True):
            grid[self.text.layers.index(layer), head] = value
        return grid

    def to_json(self) -> dict[str, Any]:
        """JSON values: one record a head, and what the parts are of; null where undefined."""
        return {
            "model": self.model, "classifier": self.classifier,
            "ablation": None if self.ablation is None else {
                "traces": [t.id for t in self.ablation.traces],
                "problems": len({t.problem_id for t in self.ablation.traces}),
                "heads": len(self.ablation.heads), "judged_by": self.judged_by},
            "signal": None if self.signal is None else {
                "traces": self.signal.traces, "problems": self.signal.problems,
                "valid": self.signal.valid, "columns_per_head": self.signal.columns,
                "auroc": _intervals(self.signal.beside),
                "auroc_at_equal_length": _intervals(self.signal.equal_length),
                "chosen": [list(head) for head in self.signal.chosen]},
            "heads": [self._record(i, layer, head)
                      for i, layer in enumerate(self.text.layers)
                      for head in range(self.role("self").shape[1])],
        }

    def _record(self, i: int, layer: int, head: int) -> dict[str, Any]:
        record: dict[str, Any] = {"layer": layer, "head": head, "roles": {
            name: _number(self.role(name)[i, head]) for name in (*ON_RANDOM, *ON_TRACES)}}
        if self.signal is not None and (layer, head) in self.signal.heads:
            record["auroc"] = asdict(self.signal.auroc[self.signal.heads.index((layer, head))])
        if self.ablation is not None and (layer, head) in self.ablation.heads:
            k, names = self.ablation.heads.index((layer, head)), self.ablation.quantities
            assert self.changes is not None
            record["changes"] = _changed(self.changes, k, names)
            if self.separation is not None:
                record["separation"] = _changed(self.separation, k, names)
        return record


def _changed(found: Changes, k: int, names: Sequence[str]) -> dict[str, Any]:
    return {name: {"mean": _number(found.mean[k, q]), "low": _number(found.low[k, q]),
                   "high": _number(found.high[k, q])} for q, name in enumerate(names)}


def _intervals(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if i is None else asdict(i) for name, i in found.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.6g}")


def study_sample(traces: Sequence[Trace], size: int) -> list[Trace]:
    """Up to ``size`` traces of as many problems as there are, in file order.

    Of labelled traces half are valid where there are enough. Traces of different problems say more
    than several of one, for intervals count problems. Labelled traces come before unlabelled ones.
    """
    labelled = [t for t in traces if t.label is not None]
    pool = labelled or list(traces)
    room = {1: size - size // 2, 0: size // 2, None: 0 if labelled else size}
    chosen: dict[str, Trace] = {}
    problems: set[str] = set()
    for loose in (0, 1, 2):  # a problem once and half of each label; any problem; any label
        for trace in pool:
            full = room[trace.label] <= 0 and loose < 2
            if (len(chosen) >= size or trace.id in chosen or full
                    or (trace.problem_id in problems and not loose)):
                continue
            chosen[trace.id] = trace
            problems.add(trace.problem_id)
            room[trace.label] -= 1
    return [t for t in pool if t.id in chosen]
