"""The task class: an upstream task whose responses are scored once all of them are there.

lm-eval hands a task nothing but its prompts and responses, so scoring hooks into the one method
that runs once after generation, ``apply_filters``. Two more facts of lm-eval 0.4 are relied on.
After filtering, it walks ``doc_iterator`` once for every filter, in the order of
``filtered_resps``, and calls ``process_results`` for each document between two steps of the walk;
this is checked as it runs. And it aggregates metrics in the order in which ``process_results``
returned them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from tqdm import tqdm

from validator.errors import HarnessError
from validator.plugins.harness.responses import Response, ResponseScorer, make_scorer
from validator.plugins.harness.summary import (
    LOWER_IS_BETTER,
    Metric,
    chosen,
    metric_names,
    problem_of,
    summarise,
)
from validator.plugins.harness.upstream import derive, split_options
from validator.training.answers import parse_answer
from validator.types import Trace

__all__ = ["SCORES", "UNDEFINED", "SpectralTask"]

log = logging.getLogger("lm-eval")

SCORES = "scores"
"""The metric whose column in the logged samples holds a document's scores; its value is the share
of responses that have one."""
UNDEFINED = "N/A"
"""What stands in place of a metric that the data leave undefined, e.g. an AUROC of one class: the
string lm-eval itself uses for a standard error that it does not have."""
INVALID = "[invalid]"
"""What lm-eval's filters return where they find no answer."""


class SpectralTask(ConfigurableTask):  # type: ignore[misc]
    """An upstream ``generate_until`` task that also reports validity scores.

    Prompts, filters and metrics are the upstream task's; what is added stands beside them. The
    configuration's ``metadata`` (model arguments and ``--metadata``) says who reads the responses
    and how: see :func:`validator.plugins.harness.responses.make_scorer`.
    """

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        self._options, overrides = split_options(config)
        super().__init__(config=derive(self._options, overrides), **kwargs)
        self._scorer: ResponseScorer | None = None
        self._scored: dict[int, list[Response]] = {}
        self._order: Iterator[str] | None = None
        self._place: _Place | None = None
        self._summary: dict[str, Metric] = {}

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval's, once the reader is chosen, so that a wrong one fails before generation."""
        if not self._predicts_only:
            self._choose_scorer()
        super().build_all_requests(**kwargs)

    def apply_filters(self) -> list[Instance] | None:
        """As lm-eval's, then every response is scored."""
        result: list[Instance] | None = super().apply_filters()
        self._scored = {}
        if not self._predicts_only and self._scorer is not None:
            self._score(self._scorer)
        self._order = iter(list(self._instances[0].filtered_resps))
        return result

    def doc_iterator(self, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """As lm-eval's; notes which document and filter ``process_results`` is then asked about."""
        name = next(self._order, None) if self._order is not None else None
        for doc_id, doc in super().doc_iterator(**kwargs):
            self._place = None if name is None else _Place(doc_id, name)
            yield doc_id, doc

    def process_results(self, doc: Any, results: Sequence[Any]) -> dict[str, Any]:
        """Upstream's metrics of one document, then ours."""
        base: dict[str, Any] = super().process_results(doc, results)
        if not self._scored:
            return base
        instance = self._instance(results)
        assert self._place is not None
        column = self._column(instance, self._scored[self._place.doc_id], self._place.filter, base)
        return {**base, **self._metrics(column)}

    def aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        """lm-eval's functions by metric; ours read what that of :data:`SCORES` computed."""
        return dict(super().aggregation()) | self._own_aggregation()

    def higher_is_better(self) -> dict[str, bool]:
        """Whether more is better, by metric."""
        return dict(super().higher_is_better()) | {
            name: not name.startswith(LOWER_IS_BETTER) for name in self._own_aggregation()}

    @property
    def _predicts_only(self) -> bool:
        return "bypass" in self._metric_fn_list

    def _choose_scorer(self) -> None:
        self._scorer, reason = make_scorer(self.config.metadata or {})
        if self._scorer is None:
            reason = (f"{self.config.task}: responses are not scored, because {reason}. Name a "
                      "model that reads them: --metadata '{\"reader\": \"NAME_OR_FOLDER\"}'")
            log.warning(reason)
            self.config.metadata = {**(self.config.metadata or {}), "spectral": {"reader": None,
                                                                                 "reason": reason}}

    def _score(self, scorer: ResponseScorer) -> None:
        traces = [t for inst in self._instances for t in self._traces(inst)]
        with tqdm(total=len(traces), desc=f"Scoring responses of {self.config.task}") as bar:
            found = scorer.score(traces, lambda done, total: bar.update(done - bar.n) and None)
            bar.update(len(traces) - bar.n)
        start = 0
        for instance in self._instances:
            count = len(_responses(instance))
            self._scored[instance.doc_id] = found[start:start + count]
            start += count
        seen = {problem_of(i.doc) for i in self._instances} & scorer.trained_on
        if seen:
            log.warning("%s: the classifier was trained on %d of these documents; the learned "
                        "score is judged on the others", self.config.task, len(seen))
        blank = [r for r in found if r.tokens == 0]
        if blank:
            log.warning("%s: %d of %d responses have no score, the first because: %s; they rank "
                        "below all others", self.config.task, len(blank), len(found),
                        blank[0].unscored)
        self.config.metadata = {**(self.config.metadata or {}), "spectral": scorer.describe()}

    def _traces(self, instance: Instance) -> list[Trace]:
        prompt = instance.args[0]
        if not isinstance(prompt, str):
            raise HarnessError(f"{self.config.task}, document {instance.doc_id}: the prompt is a "
                               f"{type(prompt).__name__}, not text, so it cannot be read")
        name, problem = f"{self.config.task}/{instance.doc_id}", problem_of(instance.doc)
        return [Trace(f"{name}#{k}", problem, prompt, str(response))
                for k, response in enumerate(_responses(instance))]

    def _instance(self, results: Sequence[Any]) -> Instance:
        """The instance that lm-eval asks about; raises if it is not the one that it must be."""
        place = self._place
        found = [] if place is None else [
            i for i in self._instances if i.doc_id == place.doc_id]
        if place is None or len(found) != 1 or [
            i.filtered_resps.get(place.filter) for i in found] != list(results):
            raise HarnessError(
                f"{self.config.task}: lm-eval asked for results in an order that is not that of "
                "lm-eval 0.4; install lm-eval>=0.4.13,<0.5")
        return found[0]

    def _column(self, instance: Instance, responses: Sequence[Response], name: str,
                base: Mapping[str, Any]) -> dict[str, Any]:
        """What :mod:`validator.plugins.harness.summary` and the logged samples have of a document.
        """
        each = self._each(instance, name)
        if len(responses) == 1:
            valid = [self._valid(base)]
        else:
            valid = [self._valid(super(SpectralTask, self).process_results(instance.doc, [r]))
                     for r in each]
        names = list(responses[0].scores)
        column: dict[str, Any] = {
            "valid": valid, "answer": [self._answer(r) for r in each],
            "tokens": [r.tokens for r in responses],
            "score": {n: [r.scores[n] for r in responses] for n in names},
        }
        if any(r.interval is not None for r in responses):
            column["interval"] = [None if r.interval is None else list(r.interval)
                                  for r in responses]
        if self._scorer is not None and problem_of(instance.doc) in self._scorer.trained_on:
            column["seen"] = True
        reasons = {str(k): r.unscored for k, r in enumerate(responses) if r.unscored is not None}
        return {**column, "unscored": reasons} if reasons else column

    def _each(self, instance: Instance, name: str) -> list[Any]:
        """What the filter makes of each response alone.

        A filter may vote over the responses, or insist on several: each is shown to it as if all
        had been the same.
        """
        responses = _responses(instance)
        if len(responses) == 1:
            return [instance.filtered_resps[name]]
        ensemble = next(f for f in self._filters if f.name == name)
        shadows = []
        for response in responses:
            shadow = copy(instance)
            shadow.resps, shadow.filtered_resps = [response] * len(responses), {}
            shadows.append(shadow)
        ensemble.apply(shadows)
        return [s.filtered_resps[name] for s in shadows]

    def _valid(self, metrics: Mapping[str, Any]) -> int:
        name = (self.config.metadata or {}).get(
            "label_metric", self._options.get("label_metric", "exact_match"))
        value = metrics.get(name)
        if value not in (0, 1):
            raise HarnessError(
                f"{self.config.task}: metric {name!r} says whether a response is right and must be "
                f"0 or 1, got {value!r}; metrics: {', '.join(metrics)}. Another one is named by "
                "`label_metric` in the task's YAML or in --metadata")
        return int(value)

    def _answer(self, filtered: Any) -> str | None:
        text = filtered if isinstance(filtered, str) else str(filtered)
        style = self._options.get("answer_style")
        found = text.strip() if style is None else parse_answer(text, style)
        return found if found and found != INVALID else None

    def _metrics(self, column: Mapping[str, Any]) -> dict[str, Any]:
        """Values of one document: its column, its choices, and nothing for what needs them all."""
        assert self._scorer is not None
        found: dict[str, Any] = {SCORES: column}
        if self.config.repeats > 1:
            found |= chosen(column, self._scorer.shown)
        for name in metric_names(self._scorer.shown, self.config.repeats):
            found.setdefault(name, None)
            found[f"{name}_stderr"] = None
        return found

    def _own_aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        if self._scorer is None or self._predicts_only:
            return {}
        shown, repeats = self._scorer.shown, self.config.repeats
        found: dict[str, Callable[[Sequence[Any]], Any]] = {SCORES: self._summarise}
        if repeats > 1:
            blank = {"valid": [0], "answer": [None], "score": {s: [0.0] for s in shown}}
            found |= dict.fromkeys(chosen(blank, shown), mean)  # the learned score's: see below
        for name in metric_names(shown, repeats):
            # bound now: lm-eval calls these one after the other, filter by filter
            found[name] = lambda _, n=name: _known(self._summary[n].value)  # type: ignore[misc]
            found[f"{name}_stderr"] = (
                lambda _, n=name: _known(self._summary[n].stderr))  # type: ignore[misc]
        return found

    def _summarise(self, columns: Sequence[Mapping[str, Any]]) -> float:
        assert self._scorer is not None
        self._summary = summarise(columns, self._scorer.shown, self.config.repeats)
        tokens = [n for c in columns for n in c["tokens"]]
        return float(sum(n > 0 for n in tokens) / len(tokens))


@dataclass(frozen=True)
class _Place:
    """Where lm-eval is in its walk over documents and filters."""

    doc_id: int
    filter: str


def _responses(instance: Instance) -> list[Any]:
    """A document's responses; under data parallelism short ranks have copies behind them."""
    count = instance.repeats or 1
    return list(instance.resps[:count])


def _known(value: float | None) -> float | str:
    return UNDEFINED if value is None else value
