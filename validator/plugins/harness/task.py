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
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from tqdm import tqdm

from validator.errors import HarnessError, ValidatorError
from validator.plugins.harness.data import FOLDER
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

__all__ = ["SPECTRAL", "UNDEFINED", "SpectralTask"]

log = logging.getLogger("lm-eval")

SPECTRAL = "spectral"
"""The metric whose column in the logged samples holds a document's scores; its value is the share
of responses that have one."""
UNDEFINED = "N/A"
"""What stands in place of a metric that the data leave undefined, e.g. an AUROC of one class: the
string lm-eval itself uses for a standard error that it does not have."""
INVALID = "[invalid]"
"""What lm-eval's filters return where they find no answer."""
SHAPING = ("data_files", "problem_count", "problem_seed", "problems", "repeats", "tunnel", "style")
"""Keys of ``--metadata`` that change a task's requests, which lm-eval's cache of them ignores."""


class SpectralTask(ConfigurableTask):  # type: ignore[misc]
    """An upstream ``generate_until`` task that also reports validity scores.

    Prompts, filters and metrics are the upstream task's; what is added stands beside them, and
    where responses cannot be scored, upstream's metrics stand alone and the run says why. The
    configuration's ``metadata`` (model arguments and ``--metadata``) says who reads the responses
    and how: see :func:`validator.plugins.harness.responses.make_scorer`.
    """

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        self._options, overrides = split_options(config)
        super().__init__(config=derive(self._options, overrides), **kwargs)
        self._scorer: ResponseScorer | None = None
        self._documents: dict[tuple[str, int], _Document] = {}
        self._order: Iterator[str] | None = None
        self._place: tuple[str, int] | None = None
        self._summary: dict[str, Metric] = {}
        if self.config.repeats > 1 and not (self.config.generation_kwargs or {}).get("do_sample"):
            log.warning("%s: %d responses of each document, and no sampling: they will be the same;"
                        " --gen_kwargs do_sample=True,temperature=0.6 samples them",
                        self.config.task, self.config.repeats)

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval's, once the reader is chosen, so that a wrong one fails before generation."""
        shaped = [k for k in SHAPING if k in (self.config.metadata or {})]
        if kwargs.get("cache_requests") and (shaped or os.environ.get(FOLDER)):
            log.warning("%s: requests are not cached, because lm-eval's cache does not tell apart "
                        "requests that differ by %s", self.config.task, ", ".join(shaped) or FOLDER)
            kwargs = {**kwargs, "cache_requests": False}
        if not self._predicts_only:
            self._require_label_metric()
            self._choose_scorer()
        super().build_all_requests(**kwargs)

    def apply_filters(self) -> list[Instance] | None:
        """As lm-eval's, then every response is scored."""
        result: list[Instance] | None = super().apply_filters()
        self._documents = {}
        if not self._predicts_only and self._scorer is not None:
            try:
                self._documents = self._scored_documents(self._scorer)
            except ValidatorError as error:  # hours of generation are not to be lost with it
                self._not_scored(str(error))
        self._order = iter(list(self._instances[0].filtered_resps))
        return result

    def doc_iterator(self, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """As lm-eval's; notes which document and filter ``process_results`` is then asked about."""
        name = next(self._order, None) if self._order is not None else None
        for doc_id, doc in super().doc_iterator(**kwargs):
            self._place = None if name is None else (name, doc_id)
            yield doc_id, doc

    def process_results(self, doc: Any, results: Sequence[Any]) -> dict[str, Any]:
        """Upstream's metrics of one document, then ours."""
        if not self._documents:
            return dict(super().process_results(doc, results))
        found = None if self._place is None else self._documents.get(self._place)
        if found is None or found.results != list(results) or found.problem != problem_of(doc):
            raise HarnessError(
                f"{self.config.task}: lm-eval asked for results in an order that is not that of "
                "lm-eval 0.4, or of other documents; install lm-eval>=0.4.13,<0.5")
        return {**found.base, **self._metrics(found.column)}

    def aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        """lm-eval's functions by metric; ours read what that of :data:`SPECTRAL` computed."""
        return dict(super().aggregation()) | self._own_aggregation()

    def higher_is_better(self) -> dict[str, bool]:
        """Whether more is better, by metric."""
        return dict(super().higher_is_better()) | {
            name: not name.startswith(LOWER_IS_BETTER) for name in self._own_aggregation()
            if not name.endswith("_stderr")}

    @property
    def _predicts_only(self) -> bool:
        return "bypass" in self._metric_fn_list

    @property
    def _label_metric(self) -> str:
        told = (self.config.metadata or {}).get("label_metric")
        return str(told or self._options.get("label_metric", "exact_match"))

    def _require_label_metric(self) -> None:
        """Fail before generation where the metric is known not to come."""
        known = list(self._metric_fn_list)
        if self.config.process_results is None and self._label_metric not in known:
            raise HarnessError(
                f"{self.config.task}: no metric {self._label_metric!r} says whether a response is "
                f"right; metrics: {', '.join(known)}. Another one is named by `label_metric` in "
                "the task's YAML or in --metadata")

    def _choose_scorer(self) -> None:
        self._scorer, reason = make_scorer(self.config.metadata or {})
        if self._scorer is None:
            self._not_scored(f"{reason}. Name a model that reads them: "
                             "--metadata '{\"reader\": \"NAME_OR_FOLDER\"}'")

    def _not_scored(self, reason: str) -> None:
        self._scorer = None
        log.warning("%s: responses are not scored, because %s", self.config.task, reason)
        self._tell({"reader": None, "reason": reason})

    def _tell(self, about: Mapping[str, Any]) -> None:
        """What the results say of the scores."""
        self.config.metadata = {**(self.config.metadata or {}), "spectral": dict(about)}

    def _scored_documents(self, scorer: ResponseScorer) -> dict[tuple[str, int], _Document]:
        scorer.validator.prepare()
        traces = [t for inst in self._instances for t in self._traces(inst, scorer)]
        with tqdm(total=len(traces), desc=f"Scoring responses of {self.config.task}") as bar:
            found = scorer.score(traces, lambda done, total: bar.update(done - bar.n) and None)
            bar.update(len(traces) - bar.n)
        blank = [r for r in found if r.tokens == 0]
        if blank:
            log.warning("%s: %d of %d responses have no score, the first because: %s; they rank "
                        "below all others", self.config.task, len(blank), len(found),
                        blank[0].unscored)
        documents, start, seen = {}, 0, 0
        for instance in self._instances:
            count = len(_responses(instance))
            own, prompt = found[start:start + count], traces[start].prompt
            known = scorer.has_seen(instance.doc, prompt)
            seen += known
            for name in instance.filtered_resps:
                documents[name, instance.doc_id] = self._document(instance, own, name, known)
            start += count
        if seen:
            log.warning("%s: the classifier was trained on %d of these documents; the learned "
                        "score is judged on the others", self.config.task, seen)
        self._tell(scorer.describe())
        return documents

    def _traces(self, instance: Instance, scorer: ResponseScorer) -> list[Trace]:
        prompt = scorer.prompt_text(instance.args[0])
        name, problem = f"{self.config.task}/{instance.doc_id}", problem_of(instance.doc)
        return [Trace(f"{name}#{k}", problem, prompt, str(response))
                for k, response in enumerate(_responses(instance))]

    def _document(self, instance: Instance, responses: Sequence[Response], name: str,
                  seen: bool) -> _Document:
        """A document under one filter: upstream's metrics, and the column that we add."""
        upstream = super().process_results
        base = dict(upstream(instance.doc, [instance.filtered_resps[name]]))
        each = self._each(instance, name)
        if len(responses) == 1:
            valid = [self._valid(base)]
        else:
            valid = [self._valid(upstream(instance.doc, [r])) for r in each]
        column: dict[str, Any] = {
            "valid": valid, "answer": [self._answer(r) for r in each],
            "tokens": [r.tokens for r in responses],
            "score": {n: [r.scores[n] for r in responses] for n in responses[0].scores},
        }
        if any(r.interval is not None for r in responses):
            column["interval"] = [None if r.interval is None else list(r.interval)
                                  for r in responses]
        if seen:
            column["seen"] = True
        reasons = {str(k): r.unscored for k, r in enumerate(responses) if r.unscored is not None}
        if reasons:
            column["unscored"] = reasons
        return _Document(problem_of(instance.doc), [instance.filtered_resps[name]], base, column)

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
        value = metrics.get(self._label_metric)
        if value not in (0, 1):
            raise HarnessError(
                f"metric {self._label_metric!r} says whether a response is right and must be 0 or "
                f"1, got {value!r}; metrics: {', '.join(metrics)}. Another one is named by "
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
        found: dict[str, Any] = {SPECTRAL: column}
        if self.config.repeats > 1:
            found |= chosen(column, self._scorer.shown)
        for name in metric_names(self._scorer.shown, self.config.repeats):
            found.setdefault(name, None)
            found[f"{name}_stderr"] = None
        return found

    def _own_aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        if self._scorer is None or not self._documents:
            return {}
        shown, repeats = self._scorer.shown, self.config.repeats
        found: dict[str, Callable[[Sequence[Any]], Any]] = {SPECTRAL: self._summarise}
        if repeats > 1:
            blank = {"valid": [0], "answer": [None], "score": {s: [0.0] for s in shown}}
            found |= dict.fromkeys(chosen(blank, shown), mean)  # the learned score's: see below
        for name in metric_names(shown, repeats):
            # bound now: lm-eval calls these one after the other, filter by filter
            found[name] = lambda _, n=name: _or_undefined(  # type: ignore[misc]
                self._summary[n].value)
            found[f"{name}_stderr"] = lambda _, n=name: _or_undefined(  # type: ignore[misc]
                self._summary[n].stderr)
        return found

    def _summarise(self, columns: Sequence[Mapping[str, Any]]) -> float:
        assert self._scorer is not None
        self._summary = summarise(columns, self._scorer.shown, self.config.repeats)
        tokens = [n for c in columns for n in c["tokens"]]
        return float(sum(n > 0 for n in tokens) / len(tokens))


@dataclass(frozen=True)
class _Document:
    """What is said of one document under one filter."""

    problem: str
    results: list[Any]
    """What lm-eval's filter made of the responses."""
    base: Mapping[str, Any]
    """Upstream's metrics."""
    column: Mapping[str, Any]


def _responses(instance: Instance) -> list[Any]:
    """A document's responses; under data parallelism short ranks have copies behind them."""
    count = instance.repeats or 1
    return list(instance.resps[:count])


def _or_undefined(value: float | None) -> float | str:
    return UNDEFINED if value is None else value
