"""N candidates of a prompt -> the one to keep, with every score and a reason.

Candidates are scored in batches that share what their prompts share, and forgotten: of each only a
few numbers stay until its problem is complete, and its text waits in a temporary file. So a problem
may have any number of candidates, and a file any number of problems.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from validator.errors import FeatureMismatchError, ParameterError, TraceError
from validator.plugins.rerank.candidates import prompt_candidates
from validator.plugins.rerank.choose import Choice, Rule, choose
from validator.scoring import Validator, shipped_artifact
from validator.training.answers import AnswerStyle, parse_answer
from validator.types import Progress, Trace, ValidityScore

__all__ = ["VALIDITY", "Candidate", "Reranked", "Reranker", "make_validator", "rerank"]

VALIDITY = "validity"
"""The learned score, P(valid)."""
BATCH = 128
"""Candidates scored at once, of one problem or of several."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is kept of a candidate."""

    id: str
    score: float | None
    """What it is ranked by; None where it could not be scored."""
    answer: str | None
    """As parsed; None does not vote."""
    interval: tuple[float, float] | None = None
    """Venn-Abers bounds of P(valid)."""
    unscored: str | None = None
    """Why there is no score, or why some feature is undefined."""
    label: int | None = None
    margin: float | None = None
    """What candidates of equal P(valid) are ranked by; None for another score."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Every score by name, ``validity`` among them where there is a classifier."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The choice among the candidates of one problem."""

    problem_id: str
    prompt: str
    completion: str
    """The chosen text."""
    candidates: tuple[Candidate, ...]
    """In the order given."""
    choice: Choice
    rule: Rule

    @property
    def chosen(self) -> Candidate:
        """The candidate that was kept."""
        return self.candidates[self.choice.index]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; candidates best first, with their ranks."""
        places = self.choice.ranking
        return {
            "problem_id": self.problem_id, "id": self.chosen.id, "completion": self.completion,
            "answer": self.chosen.answer, "score": self.chosen.score, "rule": self.rule,
            "reason": self.choice.reason, "votes": dict(self.choice.votes),
            "candidates": [{"rank": r, **asdict(self.candidates[i])}
                           for r, i in enumerate(places, start=1)],
        }


@dataclass
class Reranker:
    """Chooses among the candidates of each problem of a stream.

    Args:
        validator: what scores.
        rule: one of :data:`validator.plugins.rerank.choose.RULES`.
        score: what candidates are ranked by: ``validity``, or the name of a label-free score.
        keep: share that the rule ``filtered`` keeps.
        k: how many vote under ``top-k``.
        answer_style: how final answers are read from candidates that come without one.
        batch: candidates scored at once.
        extra: further scores by name, each of a batch of candidates, (N,).
    """

    validator: Validator
    rule: Rule = "best"
    score: str = VALIDITY
    keep: float = 0.5
    k: int = 4
    answer_style: AnswerStyle = "math"
    batch: int = BATCH
    extra: Mapping[str, Callable[[Sequence[Trace]], Sequence[float]]] = field(default_factory=dict)

    def stream(
        self, candidates: Iterable[Trace], progress: Progress | None = None
    ) -> Iterator[Reranked]:
        """One :class:`Reranked` for each problem, in order, as soon as its candidates are scored.

        Args:
            candidates: those of a problem stand together; ids distinct within it.
            progress: called with (candidates scored, candidates read).

        Raises:
            TraceError: a problem's candidates that do not stand together, or an id used twice.
            FeatureMismatchError: there is no such score.
        """
        choose([0.0], [None], self.rule, keep=self.keep, k=self.k)  # settings are refused now
        if self.score == VALIDITY and self.validator.classifier is None:
            raise FeatureMismatchError(
                "there is no classifier, so no P(valid) to rank by; give an artifact, or the name "
                "of a label-free score, e.g. score='mean_logprob'")
        if self.rule == "weighted" and self.score != VALIDITY:
            raise ParameterError(f"the rule 'weighted' sums P(valid), {self.score!r} is another "
                                 "score; vote with 'filtered' or 'top-k', which only rank")
        self.validator.prepare()
        problem = _Problem("", "")
        finished = set[str]()
        try:
            for trace, scored in self._each_scored(candidates, progress):
                if trace.problem_id != problem.id or not problem.candidates:
                    if problem.candidates:
                        yield self._close(problem)
                    finished.add(problem.id)
                    problem.texts.close()
                    problem = _opened(trace, finished)
                problem.add(scored, trace)
            if problem.candidates:
                yield self._close(problem)
        finally:
            problem.texts.close()

    def _each_scored(
        self, candidates: Iterable[Trace], progress: Progress | None
    ) -> Iterator[tuple[Trace, Candidate]]:
        source, done = iter(candidates), 0
        while batch := list(islice(source, self.batch)):
            done += len(batch)
            yield from zip(batch, self._scored(batch), strict=True)
            if progress is not None:
                progress(done, done)

    def _scored(self, batch: Sequence[Trace]) -> list[Candidate]:
        scores, reasons = self._by_position(batch)
        extra = {name: [float(v) for v in score(batch)] for name, score in self.extra.items()}
        return [self.candidate(t, scores.get(i), reasons.get(i),
                                {name: values[i] for name, values in extra.items()})
                for i, t in enumerate(batch)]

    def _by_position(
        self, batch: Sequence[Trace]
    ) -> tuple[dict[int, ValidityScore], dict[int, str]]:
        """Ids are distinct within a problem only, so that they cannot tell a batch's traces."""
        named = [replace(t, id=str(i)) for i, t in enumerate(batch)]
        scores, reasons = self.validator.score_each(named)
        said = {int(i): r.replace(f"trace '{i}'", f"candidate {batch[int(i)].id!r}")
                for i, r in reasons.items()}
        return {int(i): s for i, s in scores.items()}, said

    def candidate(
        self, trace: Trace, found: ValidityScore | None, reason: str | None,
        extra: Mapping[str, float] = MappingProxyType({}),
    ) -> Candidate:
        """What is kept of a candidate that was scored, or that could not be for a reason."""
        answer = trace.answer
        if answer is None and trace.status != "unparsed":
            answer = parse_answer(trace.completion, self.answer_style)
        if found is None:
            return Candidate(trace.id, None, answer, None, reason, trace.label,
                             scores=dict(extra))
        values = {n: v if v == v else None for n, v in found.unsupervised.items()
                  if n != "ensemble"}  # a rank among the traces of a batch
        if found.learned is not None:
            values = {VALIDITY: found.learned, **values}
        values |= extra
        if self.score not in values:
            raise FeatureMismatchError(
                f"there is no score {self.score!r}; there are: {', '.join(values)}")
        return Candidate(trace.id, values[self.score], answer, found.interval, found.nan_reason,
                         trace.label, found.margin if self.score == VALIDITY else None, values)

    def _close(self, problem: _Problem) -> Reranked:
        own = problem.candidates
        choice = choose([c.score for c in own], [c.answer for c in own], self.rule,
                        ties=[c.margin for c in own], keep=self.keep, k=self.k)
        text = problem.text(choice.index)
        return Reranked(problem.id, problem.prompt, text, tuple(own), choice, self.rule)


@dataclass
class _Problem:
    """The candidates of a problem so far."""

    id: str
    prompt: str
    candidates: list[Candidate] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    spans: list[tuple[int, int]] = field(default_factory=list)
    texts: IO[bytes] = field(
        default_factory=partial(tempfile.SpooledTemporaryFile, max_size=2**20))

    def add(self, candidate: Candidate, trace: Trace) -> None:
        if candidate.id in self.ids:
            raise TraceError(f"two candidates of problem {self.id!r} have the id "
                             f"{candidate.id!r}; give each its own", trace_id=candidate.id)
        if trace.prompt != self.prompt:
            raise TraceError(f"candidate {trace.id!r} has another prompt than the candidates of "
                             f"problem {self.id!r} before it; give each prompt a problem_id of "
                             "its own", trace_id=trace.id)
        self.ids.add(candidate.id)
        self.candidates.append(candidate)
        written = trace.completion.encode()
        self.spans.append((self.texts.tell(), len(written)))
        self.texts.write(written)

    def text(self, i: int) -> str:
        """The i-th candidate's text."""
        start, size = self.spans[i]
        self.texts.seek(start)
        return self.texts.read(size).decode()


def _opened(trace: Trace, finished: Container[str]) -> _Problem:
    if trace.problem_id in finished:
        raise TraceError(
            f"candidate {trace.id!r}: other candidates of problem {trace.problem_id!r} came before "
            "those of another problem; sort the candidates by problem_id", trace_id=trace.id)
    return _Problem(trace.problem_id, trace.prompt)


def rerank(
    prompt: str, candidates: Sequence[str], *, model: Any = "smollm2-135m-instruct",
    artifact: str | Path | None = None, validator: Validator | None = None, rule: Rule = "best",
    score: str = VALIDITY, keep: float = 0.5, k: int = 4,
    answers: Sequence[str | None] | None = None, answer_style: AnswerStyle = "math",
) -> Reranked:
    """Choose among candidates of one prompt.

    Args:
        prompt: what the candidates continue; nothing is inserted between the two.
        candidates: N >= 1 texts. One that cannot be scored ranks last and says why.
        model: reader: known name, hub id, folder, or a loaded ``(model, tokenizer)`` pair.
        artifact: folder of a classifier trained on this model (default: the one that ships for
            it).
        validator: in place of ``model`` and ``artifact``; give it when calling often, so that the
            model is loaded once.
        rule: ``best``, ``majority``, ``weighted``, ``filtered`` or ``top-k``.
        score: ``validity``, or the name of a label-free score.
        keep: share that ``filtered`` keeps.
        k: how many vote under ``top-k``.
        answers: (N,) final answers, where they are known; else they are read from the texts.
        answer_style: how.

    Raises:
        ParameterError, ScoreError: as :func:`validator.plugins.rerank.choose.choose`.
        FeatureMismatchError: no such score, or the artifact is another model's.
    """
    chosen = make_validator(model, artifact, score) if validator is None else validator
    reranker = Reranker(chosen, rule, score, keep, k, answer_style)
    return next(reranker.stream(prompt_candidates(prompt, candidates, answers=answers)))


def make_validator(
    model: Any, artifact: str | Path | None, score: str = VALIDITY, **options: Any
) -> Validator:
    """The validator of an artifact, by default of the one that ships for the model.

    ``options`` are the extractor's. Raises ParameterError where P(valid) is asked for and there is
    no artifact.
    """
    from validator.features.extractor import SpectralFeatureExtractor

    if artifact is not None:
        return Validator.load(artifact, model=model, **options)
    shipped = shipped_artifact(model) if isinstance(model, str) else None
    if shipped is not None:
        return Validator.load(shipped, model=model, **options)
    if score == VALIDITY:
        raise ParameterError(
            f"no classifier ships for {model if isinstance(model, str) else 'this model'}; give "
            "an artifact that `validator train` wrote, or rank by a label-free score, e.g. "
            "score='mean_logprob'")
    return Validator(SpectralFeatureExtractor(model, **options))
