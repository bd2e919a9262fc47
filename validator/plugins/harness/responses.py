"""Scores of the responses of a task, in one batched pass over all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from validator.errors import (
    FeatureMismatchError,
    HarnessError,
    ParameterError,
    TraceError,
)
from validator.features.encoding import encode_trace, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import LoadedModel
from validator.plugins.harness.reader import Reader, choose_reader
from validator.plugins.harness.summary import LEARNED
from validator.scoring import Validator, shipped_artifact
from validator.types import Progress, Trace
from validator.unsupervised import PRESETS

__all__ = ["SHOWN", "Response", "ResponseScorer", "make_scorer"]

log = logging.getLogger("lm-eval")

SHOWN = ("fiedler_value", "hfer", "smoothness", "roughness", "signal_entropy",
         "log_self_attention", "mean_logprob", "completion_length")
"""Label-free scores that are judged in the results unless ``--metadata`` says which, those of them
that the feature set has: the base paper's diagnostics, LLM-Check's attention score, and the
baselines that every score must beat. All scores of the feature set are in the logged samples."""

EMPTY = "empty response"

SETTINGS = ("reader", "reader_device", "reader_dtype", "artifact", "features", "solver", "layers",
            "scores", "max_batch_tokens")
"""Keys of ``--metadata`` that say how responses are scored."""

_last: tuple[Any, ResponseScorer] | None = None  # tasks of one run share a reader's weights


@dataclass(frozen=True)
class Response:
    """The scores of one response."""

    scores: Mapping[str, float | None]
    tokens: int
    """Of the completion, by the reader's tokenizer; 0 where it has none."""
    interval: tuple[float, float] | None = None
    unscored: str | None = None
    """Why there are no scores, or why some are undefined."""


@dataclass
class ResponseScorer:
    """Reads responses with one reader, and says in the results which."""

    validator: Validator
    reader: Reader
    artifact: str | None
    """Name of the classifier's folder, or None for label-free scores alone."""
    shown: tuple[str, ...]
    """Names of the scores that are judged, the learned one first."""
    advice: str = ""
    """What to do for more: how to train a classifier, say."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def score(self, traces: Sequence[Trace], progress: Progress | None = None) -> list[Response]:
        """A :class:`Response` for each trace; none is dropped, one that cannot be read says why."""
        self.validator.prepare()
        readable, reasons = self._readable(traces)
        lengths = {t.id: n for t, n in readable}
        todo = [t for t, _ in readable]
        scores = self.validator.score(todo, progress=progress) if todo else []
        found = {s.trace_id: s for s in scores}
        self.provenance = asdict(self.validator.extractor.provenance_)
        names = sorted({n for s in scores for n in s.unsupervised} - {"ensemble"})
        if scores:
            self.shown = tuple(n for n in self.shown if n == LEARNED or n in names)
        responses = []
        for trace in traces:
            own = found.get(trace.id)
            if own is None:
                blank = dict.fromkeys([*self._learned(), *(names or self.shown)])
                responses.append(Response(blank, 0, None, reasons[trace.id]))
                continue
            values: dict[str, float | None] = dict.fromkeys(self._learned(), own.learned)
            values |= {n: _number(own.unsupervised[n]) for n in names}
            responses.append(Response(values, lengths[trace.id], own.interval, own.nan_reason))
        return responses

    @property
    def trained_on(self) -> frozenset[str]:
        """Ids of the problems that the classifier was trained on."""
        return self.validator.training_problems

    def describe(self) -> dict[str, Any]:
        """What stands in the results: reader, revision, feature set, solver, artifact."""
        about = {"reader": self.reader.name, "revision": self.reader.revision,
                 "origin": self.reader.origin, "artifact": self.artifact}
        told = {k: v for k, v in self.provenance.items() if k not in ("model", "revision")}
        return {**about, **told, **({"advice": self.advice} if self.advice else {})}

    def _learned(self) -> tuple[str, ...]:
        return () if self.artifact is None else (LEARNED,)

    def _readable(
        self, traces: Iterable[Trace]
    ) -> tuple[list[tuple[Trace, int]], dict[str, str]]:
        """Traces with the tokens of their completions, and why each of the others is none."""
        extractor = self.validator.extractor
        limit = max_positions(extractor.model_.config)
        readable: list[tuple[Trace, int]] = []
        reasons: dict[str, str] = {}
        for trace in traces:
            if not trace.completion:
                reasons[trace.id] = EMPTY
                continue
            try:
                encoded = encode_trace(trace, extractor.tokenizer_, limit)
            except TraceError as error:
                reasons[trace.id] = str(error)
            else:
                readable.append((trace, encoded.completion_length))
        return readable, reasons


def make_scorer(metadata: Mapping[str, Any]) -> tuple[ResponseScorer | None, str]:
    """The scorer that model arguments and ``--metadata`` ask for, or None and why.

    ``artifact``: folder of a trained classifier (default: the one that ships for the reader);
    ``features``: feature set of label-free scores (default: the artifact's, or ``default``);
    ``solver``; ``layers``; ``scores``: names of the scores that are judged, or ``all``.
    Weights of a reader of its own are not loaded yet; what can be refused is refused now.

    Raises:
        FeatureMismatchError: the artifact is another model's.
        ArtifactError: the artifact is damaged or none.
        HarnessError: a setting that is not understood.
    """
    global _last
    reader, reason = choose_reader(metadata)
    if reader is None:
        return None, reason
    key = (reader.name, reader.revision, reader.origin, id(reader.model.model) if isinstance(
        reader.model, LoadedModel) else 0, repr({k: metadata.get(k) for k in SETTINGS}))
    if _last is None or _last[0] != key:
        _last = key, _make(reader, metadata)
    return _last[1], ""


def _make(reader: Reader, metadata: Mapping[str, Any]) -> ResponseScorer:
    options = {**reader.options, **_settings(metadata)}
    # An artifact reads with the type of numbers and the layers that it was trained on.
    own = {k: v for k, v in options.items() if k not in ("dtype", "layers")}
    named = metadata.get("artifact")
    if named:
        file = str(metadata["features"]) if "features" in metadata else None
        validator = Validator.load(str(named), model=reader.model, feature_set=file, **own)
        _require_own(validator, reader, str(named))
        return _scorer(validator, reader, Path(str(named)).resolve().name, metadata)
    shipped = shipped_artifact(reader.name)
    if shipped is not None and not {"features", "layers", "solver"} & set(metadata):
        validator = Validator.load(shipped, model=reader.model, **own)
        try:
            _require_own(validator, reader, shipped.name)
        except FeatureMismatchError as error:
            log.warning("the classifier that ships for %s is not used: %s", reader.name, error)
        else:
            return _scorer(validator, reader, shipped.name, metadata)
    features = str(metadata.get("features", "default"))
    extractor = SpectralFeatureExtractor(reader.model, feature_set=features, **options)
    scorer = _scorer(Validator(extractor), reader, None, metadata)
    scorer.advice = (
        f"no classifier for {reader.name}, so its scores need no label and P(valid) is not among "
        "them. To train one: run with --log_samples --output_path DIR, then "
        "`validator train --from-lm-eval DIR -o ARTIFACT`, then run again with "
        "--metadata '{\"artifact\": \"ARTIFACT\"}' on other documents.")
    log.warning(scorer.advice)
    return scorer


def _scorer(validator: Validator, reader: Reader, artifact: str | None,
            metadata: Mapping[str, Any]) -> ResponseScorer:
    learned = () if artifact is None else (LEARNED,)
    asked = metadata.get("scores")
    if asked is None:
        return ResponseScorer(validator, reader, artifact, (*learned, *SHOWN))
    names = tuple(PRESETS) if asked == "all" else tuple(
        asked.split("+") if isinstance(asked, str) else asked)
    unknown = [n for n in names if n not in (*PRESETS, LEARNED)]
    if unknown:
        raise HarnessError(f"scores: unknown {', '.join(map(repr, unknown))}; known: "
                           f"{', '.join(PRESETS)}, all")
    kept = tuple(n for n in names if n != LEARNED)
    return ResponseScorer(validator, reader, artifact, (*learned, *kept))


def _require_own(validator: Validator, reader: Reader, artifact: str) -> None:
    """Refuse another model's artifact before anything is generated."""
    if reader.origin == "evaluated model":
        validator.prepare()
        return
    trained = validator.trained_on
    assert trained is not None
    if (trained.model, trained.revision) != (reader.name, reader.revision):
        raise FeatureMismatchError(
            f"artifact {artifact} was trained on {trained.model} ({trained.revision}), the reader "
            f"is {reader.name} ({reader.revision}); train one for this reader, or name the "
            "artifact's model as reader")


def _settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "solver" in metadata:
        found["solver"] = str(metadata["solver"])
    if "layers" in metadata:
        try:
            given = metadata["layers"]
            found["layers"] = [int(i) for i in (
                given.split("+") if isinstance(given, str) else given)]
        except (TypeError, ValueError) as error:
            raise ParameterError(f"layers must be a list of indices, got {given!r}") from error
    if "max_batch_tokens" in metadata:
        found["max_batch_tokens"] = int(metadata["max_batch_tokens"])
    return found


def _number(value: float) -> float | None:
    return float(value) if value == value else None
