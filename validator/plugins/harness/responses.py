"""Scores of the responses of a task, in one batched pass over all of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from validator.errors import (
    FeatureMismatchError,
    HarnessError,
    ModelError,
    ParameterError,
)
from validator.features.encoding import encode_readable, max_positions
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import LoadedModel
from validator.plugins.harness.reader import Reader, choose_reader
from validator.plugins.harness.summary import LEARNED, problem_of
from validator.scoring import Validator, shipped_artifact
from validator.training.fit import prompt_hash
from validator.types import Progress, Trace
from validator.unsupervised import PRESETS

__all__ = ["SHOWN", "Response", "ResponseScorer", "make_scorer"]

log = logging.getLogger("lm-eval")

SHOWN = ("fiedler_value", "hfer", "smoothness", "roughness", "signal_entropy",
         "log_self_attention", "mean_logprob", "completion_length")
"""Label-free scores that are judged in the results unless ``--metadata`` says which, those of them
that the feature set has: the base paper's diagnostics, LLM-Check's attention score, and the
baselines that every score must beat. All scores of the feature set are in the logged samples."""

CPU_BATCH = 256
"""Tokens read at once on a CPU: as quick as more, and less memory than generating took."""

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
    asked: tuple[str, ...] = ()
    """Those that were asked for by name."""
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
            missing = [n for n in self.asked if n not in names]
            if missing:
                log.warning("the feature set %s does not have the scores %s",
                            self.provenance["feature_set"], ", ".join(missing))
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

    def has_seen(self, document: Mapping[str, Any], prompt: str) -> bool:
        """Whether the classifier was trained on this document or on this very prompt.

        A generated document has the ``problem_id`` that `validator sample` gives it.
        """
        known = {problem_of(document), prompt_hash(prompt), str(document.get("problem_id", ""))}
        return not known.isdisjoint(self.validator.trained_on_problems)

    def prompt_text(self, prompt: Any) -> str:
        """The prompt as the reader is shown it; a chat by the reader's own chat template.

        Raises HarnessError for what is neither text nor a chat that it can be shown.
        """
        if isinstance(prompt, str):
            return prompt
        chat = getattr(prompt, "prompt", prompt)  # lm-eval's JsonChatStr
        tokenizer = self.validator.extractor.tokenizer_
        try:
            messages = json.loads(chat) if isinstance(chat, str) else list(chat)
            return str(tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # jinja2's and transformers' errors, and no template at all
            raise HarnessError(
                f"the prompts are chats ({type(prompt).__name__}), which {self.reader.name} cannot "
                f"be shown: {error}") from error

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
        readable, reasons = encode_readable(
            traces, extractor.tokenizer_, max_positions(extractor.model_.config))
        return [(e.trace, e.completion_length) for e in readable], reasons


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
    if isinstance(reader.model, LoadedModel):  # its weights are lm-eval's, and not to be kept here
        scorer = _make(reader, metadata)
        return (scorer, "") if (unread := _unreadable(scorer)) is None else (None, unread)
    key = (reader, repr({k: metadata.get(k) for k in SETTINGS}))
    if _last is None or _last[0] != key:
        _last = key, _make(reader, metadata)
    return _last[1], ""


def _unreadable(scorer: ResponseScorer) -> str | None:
    """Why the evaluated model's attention cannot be read, found before anything is generated."""
    try:
        extractor = scorer.validator.prepare().extractor
        extractor.transform([_probe(extractor.tokenizer_)])
    except ModelError as error:
        return str(error)
    return None


def _probe(tokenizer: Any) -> Trace:
    """A short text that a tokenizer can write; one of symbols alone has none but its own."""
    try:
        tokenizer("1 + 1 = 2")
    except Exception:  # it has no type of its own
        special = set(tokenizer.all_special_tokens)
        own = [word for word in tokenizer.get_vocab() if word not in special]
        return Trace("probe", "probe", f"{own[0]} ", own[-1])
    return Trace("probe", "probe", "1 + 1 =", " 2")


def _make(reader: Reader, metadata: Mapping[str, Any]) -> ResponseScorer:
    device = dict(reader.options).get("device") or str(reader.model.model.device)
    options = {**dict(reader.options), **_settings(metadata, device == "cpu")}
    # An artifact reads with the type of numbers and the layers that it was trained on.
    own = {k: v for k, v in options.items() if k not in ("dtype", "layers")}
    named = metadata.get("artifact")
    if named:
        ignored = sorted({"layers", "reader_dtype"} & set(metadata))
        if ignored:
            log.warning("%s: left aside, because the artifact says what was trained on",
                        ", ".join(ignored))
        file = str(metadata["features"]) if "features" in metadata else None
        validator = Validator.load(str(named), model=reader.model, feature_set=file, **own)
        if validator.of_steps:
            raise HarnessError(f"artifact {named} was trained on steps, which responses do not "
                               "have; train one on whole traces")
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
    if asked == "all":
        return ResponseScorer(validator, reader, artifact, (*learned, *PRESETS))
    names = tuple(asked.split("+") if isinstance(asked, str) else asked)
    unknown = [n for n in names if n not in (*PRESETS, LEARNED)]
    if unknown:
        raise HarnessError(f"scores: unknown {', '.join(map(repr, unknown))}; known: "
                           f"{', '.join(PRESETS)}, all")
    kept = tuple(n for n in names if n != LEARNED)
    return ResponseScorer(validator, reader, artifact, (*learned, *kept), kept)


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


def _settings(metadata: Mapping[str, Any], on_cpu: bool) -> dict[str, Any]:
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
    elif on_cpu:
        found["max_batch_tokens"] = CPU_BATCH
    return found


def _number(value: float) -> float | None:
    return float(value) if value == value else None
