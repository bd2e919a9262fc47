"""What tuning may choose: a feature set, some of its columns, and a classifier for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from validator.classifier import ValidityClassifier
from validator.classifier.estimator import DEFAULTS, KINDS, LOGIT_VARIANCE
from validator.columns import Column
from validator.errors import FeatureMismatchError, ParameterError
from validator.families import column_families

__all__ = ["Dimension", "SearchSpace", "Setting"]

THIRDS: Mapping[str, tuple[int, int]] = {
    "first third": (0, 1), "middle third": (1, 2), "last third": (2, 3),
    "first two thirds": (0, 2), "last two thirds": (1, 3),
}
"""Contiguous ranges of the layers that were read, in thirds of their number."""


class Suggester(Protocol):
    """The part of an Optuna trial that is used here."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


@dataclass(frozen=True, slots=True)
class Dimension:
    """One choice: among names, or a number in [low, high] on a logarithmic scale."""

    name: str
    default: Any
    """Of the untuned setting, which is the first that is tried."""
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    only_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other dimensions and the values they must have for this one to be asked."""

    def ask(self, trial: Suggester) -> Any:
        """A value from the trial; whole where the default is."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.default, int):
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=True)
        return trial.suggest_float(self.name, self.low, self.high, log=True)

    def describe(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        values = {"choices": list(self.choices)} if self.choices else {
            "low": self.low, "high": self.high, "scale": "log",
            "type": type(self.default).__name__}
        return {"name": self.name, **values, "default": self.default,
                "only_if": {key: list(allowed) for key, allowed in self.only_if.items()}}


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What one point of the search space stands for."""

    feature_set: str
    columns: tuple[str, ...]
    classifier: ValidityClassifier
    """Unfitted."""


class SearchSpace:
    """Every setting for some feature sets, which are known by their column names alone.

    Args:
        names: feature set -> its column names; the first is the default. Baselines and hidden
            states are never among what is chosen.
        kinds: classifiers to try; the default is logistic, or else the first.
        n_rows: traces of the smallest training part, which bounds what may be kept of the columns.
        seed: of the classifiers.
        n_jobs: threads of xgboost.

    Raises:
        ParameterError: no kind, an unknown or repeated one, or no feature set.
        FeatureMismatchError: a feature set with nothing but baselines and hidden states.
    """

    def __init__(
        self, names: Mapping[str, Sequence[str]], kinds: Sequence[str], *, n_rows: int, seed: int,
        n_jobs: int | None = None,
    ) -> None:
        if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= set(KINDS):
            raise ParameterError(
                f"kinds must be some of {', '.join(KINDS)}, each once, got {list(kinds)}")
        if not names:
            raise ParameterError("there is no feature set to tune on; give at least one")
        self.sets = {name: _Columns(name, columns) for name, columns in names.items()}
        self.seed, self.n_jobs = seed, n_jobs
        widest = max(len(s.names) for s in self.sets.values())
        every = (*self._column_dimensions(), *_reductions(widest - 1, n_rows - 1),
                 *_classifier_dimensions(kinds))
        self.dimensions = tuple(d for d in every if len(d.choices) != 1)
        self.defaults: dict[str, Any] = {
            "feature_set": next(iter(self.sets)), "reduction": "none", "class_weight": "none",
            "kind": "logistic" if "logistic" in kinds else kinds[0],
            **{d.name: d.default for d in self.dimensions}}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        """The parameters of a trial, asked for one after the other."""
        params: dict[str, Any] = {}
        for d in self.dimensions:
            known = {**self.defaults, **params}
            if all(known[key] in allowed for key, allowed in d.only_if.items()):
                params[d.name] = d.ask(trial)
        return params

    def setting(self, params: Mapping[str, Any]) -> Setting:
        """The columns and the classifier that parameters stand for; what is missing is default.

        Raises ParameterError where no column is in all the chosen parts.
        """
        p = {**self.defaults, **params}
        chosen = self.sets[p["feature_set"]]
        parts = {part: p.get(self._key(chosen.name, part), "all") for part in PARTS}
        columns = chosen.pick(**parts)
        return Setting(chosen.name, columns, self._classifier(p, len(columns)))

    def describe(self) -> list[dict[str, Any]]:
        """Every dimension as plain JSON values."""
        return [d.describe() for d in self.dimensions]

    def _key(self, feature_set: str, part: str) -> str:
        """Feature sets differ in spans and layers, so each has dimensions of its own."""
        return part if len(self.sets) == 1 else f"{part} of {feature_set}"

    def _column_dimensions(self) -> list[Dimension]:
        found = [Dimension("feature_set", next(iter(self.sets)), tuple(self.sets))]
        for name, columns in self.sets.items():
            always = {"feature_set": (name,)} if len(self.sets) > 1 else {}
            for part in PARTS:
                where = columns.spans_with(part)
                only_if = {**always, self._key(name, "spans"): where} if where else always
                found.append(Dimension(self._key(name, part), "all", columns.options(part),
                                       only_if=only_if))
        return found

    def _classifier(self, p: Mapping[str, Any], n_columns: int) -> ValidityClassifier:
        common: dict[str, Any] = {
            "class_weight": None if p["class_weight"] == "none" else p["class_weight"],
            "random_state": self.seed, "n_jobs": self.n_jobs}
        most = p.get(p["reduction"], n_columns)
        if most < n_columns:
            common[REDUCTIONS[p["reduction"]][0]] = most
        if p["reduction"] == "selected_columns":
            n_columns = min(most, n_columns)
        if p["kind"] == "logistic":
            own: dict[str, Any] = {"C": p["logistic_C_times_columns"] / n_columns}
        elif p["kind"] == "mlp":
            own = {"hidden_layer_sizes": (p["mlp_width"],),
                   "alpha": p["mlp_alpha_per_column"] * n_columns}
        else:
            own = {key: p[f"xgboost_{key}"] for key in TREES}
        return ValidityClassifier(p["kind"], **common, **own)


PARTS = ("spans", "graphs", "family", "layers")
"""The ways in which columns are chosen; what is read is what is in all the chosen parts."""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "graphs": ("all", "head_mean", "heads"), "family": ("all", "spectra")}

REDUCTIONS: Mapping[str, tuple[str, int]] = {
    "principal_components": ("n_components", 64), "selected_columns": ("n_features", 512)}
"""Ways to keep at most so many of the columns: the classifier's parameter, and the most that is
tried. Where there are no more columns than that, all are kept as they are."""

TREES: Mapping[str, tuple[float, float]] = {
    "max_depth": (1, 6), "n_estimators": (50, 500), "learning_rate": (0.01, 0.3),
    "colsample_bytree": (0.05, 1.0)}


def _reductions(n_columns: int, n_directions: int) -> list[Dimension]:
    """How many columns or components may be kept: less than there are, whatever the fold."""
    most = {"principal_components": min(n_columns, n_directions), "selected_columns": n_columns}
    found = [
        Dimension(name, min(16, cap, most[name]), low=2, high=min(cap, most[name]),
                  only_if={"reduction": (name,)})
        for name, (_, cap) in REDUCTIONS.items() if most[name] >= 2]
    return [Dimension("reduction", "none", ("none", *(d.name for d in found))), *found]


def _classifier_dimensions(kinds: Sequence[str]) -> list[Dimension]:
    """Penalties are scaled by the number of columns, as the classifier's own defaults are."""
    found = [
        Dimension("class_weight", "none", ("none", "balanced")),
        Dimension("kind", "logistic" if "logistic" in kinds else kinds[0], tuple(kinds))]
    own = {
        "logistic": [Dimension("logistic_C_times_columns", LOGIT_VARIANCE, low=0.1, high=1000.0)],
        "xgboost": [Dimension(f"xgboost_{key}", DEFAULTS["xgboost"][key], low=low, high=high)
                    for key, (low, high) in TREES.items()],
        "mlp": [Dimension("mlp_width", DEFAULTS["mlp"]["hidden_layer_sizes"][0], low=4, high=64),
                Dimension("mlp_alpha_per_column", 1 / LOGIT_VARIANCE, low=0.001, high=10.0)],
    }
    for kind in kinds:
        found += [_under(d, kind) for d in own[kind]]
    return found


def _under(d: Dimension, kind: str) -> Dimension:
    return Dimension(d.name, d.default, d.choices, d.low, d.high, {"kind": (kind,)})


class _Columns:
    """The learned columns of one feature set, and the parts they fall into."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        families = column_families(names)
        if not families["learned"].size:
            raise FeatureMismatchError(
                f"feature set {name!r} has only baselines and hidden states, which no tuned score "
                "reads; extract graph features")
        self.name = name
        self.names = tuple(names[i] for i in families["learned"])
        self.parsed = tuple(Column.parse(n) for n in self.names)
        self.spectra = frozenset(names[i] for i in families["spectra"])
        self.layers = sorted({c.layer for c in self.parsed if c.layer is not None})

    def options(self, part: str) -> tuple[str, ...]:
        """What may be chosen of a part: ``all``, and what is a real part of it."""
        if part == "spans":
            return ("all", *_subsets(sorted({c.span for c in self.parsed})))
        if part == "layers":
            return ("all", *(THIRDS if len(self.layers) >= 3 else ()))
        return OPTIONS[part] if self._differ(part, "all") else ("all",)

    def spans_with(self, part: str) -> tuple[str, ...]:
        """The spans in which graphs or families can be told apart, unless it is in all."""
        spans = self.options("spans")
        found = tuple(s for s in spans if part in OPTIONS and self._differ(part, s))
        return found if len(found) < len(spans) else ()

    def _differ(self, part: str, spans: str) -> bool:
        """Whether the columns of some spans are of two graphs, or of two families."""
        wanted = set(spans.split("+"))
        return len({
            c.head is None if part == "graphs" else name in self.spectra
            for name, c in zip(self.names, self.parsed, strict=True)
            if spans == "all" or c.span in wanted}) == 2

    def pick(self, family: str, spans: str, layers: str, graphs: str) -> tuple[str, ...]:
        """The columns that are in all the named parts. Raises ParameterError for none."""
        wanted_layers = set(_layer_range(self.layers, layers))
        wanted_spans = set(spans.split("+"))
        found = tuple(
            name for name, c in zip(self.names, self.parsed, strict=True)
            if (family == "all" or name in self.spectra)
            and (spans == "all" or c.span in wanted_spans)
            and c.layer in wanted_layers
            and (graphs == "all" or (c.head is None) == (graphs == "head_mean")))
        if not found:
            raise ParameterError(f"feature set {self.name!r} has no column of family {family}, "
                                 f"spans {spans}, layers {layers} and graphs {graphs} at once")
        return found


def _subsets(spans: Sequence[str]) -> list[str]:
    """Proper subsets of up to three spans; of more, the single ones."""
    sizes = range(1, len(spans)) if len(spans) <= 3 else (1,)
    return ["+".join(subset) for size in sizes for subset in combinations(spans, size)]


def _layer_range(layers: Sequence[int], which: str) -> list[int]:
    thirds = np.array_split(np.asarray(layers, dtype=np.int64), 3)
    first, end = (0, 3) if which == "all" else THIRDS[which]
    return [int(layer) for third in thirds[first:end] for layer in third]
