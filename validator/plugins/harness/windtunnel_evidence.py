"""The tasks ``bijection_windtunnel``, ``hmm_windtunnel`` and ``sula_windtunnel``.

A document is a problem: at each of its queries the model's log-likelihoods of the candidates, each
one token, are renormalised and compared with the exact posterior. A document's value is the mean
over its queries and a task's the mean over documents, all of which have as many queries: so lm-eval
itself computes standard errors over problems, inside which queries are not independent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from validator.errors import HarnessError
from validator.metrics import Resampler
from validator.plugins.harness.upstream import split_options
from validator.plugins.harness.windtunnel_curves import curve_mae, position_mae
from validator.plugins.harness.windtunnel_tokens import require_single_tokens
from validator.windtunnels.entropy import compare

__all__ = ["COLUMNS", "QUERIES", "EvidenceTask", "judge_queries"]

log = logging.getLogger("lm-eval")

QUERIES = "queries"
"""The metric whose column in the logged samples holds what was found at each query of a document;
its value is the number of queries judged."""
COLUMNS = ("posterior_entropy", "model_entropy", "entropy_error", "kl", "support_mass",
           "candidate_mass")
"""Of that column, after ``position``: a number for each query, entropies and KL in bits."""
CURVES: Mapping[str, Callable[..., Any]] = {
    "curve_mae_bits": curve_mae, "position_mae_bits": position_mae}
MASS_ERROR = 0.01
"""Candidates with more mass than 1 and this are not of one distribution."""
RESAMPLES = 1000


class EvidenceTask(ConfigurableTask):  # type: ignore[misc]
    """A wind tunnel that asks for distributions, as log-likelihoods of candidates.

    The model reads a problem's own text and nothing before it, so there are no demonstrations, no
    system prompt and no chat template.
    """

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(config=split_options(config)[1], **kwargs)
        self._exact = self._found = np.empty((0, 0))  # (P, Q) bits, of the posterior and the model

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval's; a candidate that is not one token is found before the model is run.

        Raises:
            HarnessError: for such a candidate, a prefix beyond the model's context, a chat template
                or a system prompt.
        """
        if kwargs.get("apply_chat_template") or kwargs.get("system_instruction"):
            raise HarnessError(f"{self.config.task}: the posterior is that of the problem's own "
                               "text; run it without --apply_chat_template and without "
                               "--system_instruction")
        if kwargs.get("cache_requests"):
            log.warning("%s: requests are not cached, because lm-eval's cache does not tell apart "
                        "what was drawn with other settings", self.config.task)
        super().build_all_requests(**{**kwargs, "cache_requests": False})
        asked: dict[str, dict[str, None]] = {}  # documents may begin alike
        for instance in self._instances:
            asked.setdefault(instance.args[0], {})[instance.args[1]] = None
        require_single_tokens(asked, self.config.metadata or {}, str(self.config.task))

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **kwargs: Any
                           ) -> list[Instance]:
        """One request for each candidate of each query, in order."""
        pairs = [(prefix, candidate)
                 for prefix, candidates in zip(doc["prefix"], doc["candidates"], strict=True)
                 for candidate in candidates]
        return [Instance(request_type="loglikelihood", doc=doc, arguments=pair, idx=i,
                         metadata=kwargs["metadata"]) for i, pair in enumerate(pairs)]

    def process_results(self, doc: Any, results: Sequence[Any]) -> dict[str, Any]:
        """:func:`judge_queries`; nothing where lm-eval only predicts."""
        if "bypass" in self._metric_fn_list:
            return {}
        return dict(super().process_results(doc, results))

    def aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        """lm-eval's functions by metric, and those that need all documents at once."""
        found = dict(super().aggregation())
        if "bypass" in self._metric_fn_list:
            return found
        found[QUERIES] = self._count
        for name, statistic in CURVES.items():
            # bound now: lm-eval calls these one after the other, after that of the queries
            found[name] = lambda _, s=statistic: self._curve(s)
            found[f"{name}_stderr"] = lambda _, s=statistic: self._curve_error(s)
        return found

    def higher_is_better(self) -> dict[str, bool]:
        """Whether more is better, by metric."""
        return dict(super().higher_is_better()) | dict.fromkeys(CURVES, False)

    def _count(self, columns: Sequence[Mapping[str, Any]]) -> int:
        self._exact = np.array([c["posterior_entropy"] for c in columns])
        self._found = np.array([c["model_entropy"] for c in columns])
        mass = max(max(c["candidate_mass"]) for c in columns)
        if mass > 1 + MASS_ERROR:
            log.warning("%s: at some query the candidates have a mass of %.3g together, so these "
                        "are not log-likelihoods of single tokens", self.config.task, mass)
        return int(self._exact.size)

    def _curve(self, statistic: Callable[..., Any]) -> float:
        ones = np.ones((1, len(self._exact)), dtype=np.int64)
        return float(statistic(self._exact, self._found, ones)[0])

    def _curve_error(self, statistic: Callable[..., Any]) -> float | str:
        """The standard deviation over resamples of problems."""
        problems = len(self._exact)
        if problems < 2:
            return "N/A"
        counts = Resampler(range(problems), RESAMPLES).counts
        return float(np.std(statistic(self._exact, self._found, counts), ddof=1))


def judge_queries(document: Mapping[str, Any], results: Sequence[tuple[float, bool]]
                  ) -> dict[str, Any]:
    """A document's metrics from the log-likelihoods of its candidates; ``process_results``.

    Args:
        document: a row of :mod:`.windtunnel_data`.
        results: (log-likelihood in nats, whether greedy) of each candidate of each query in turn.

    Returns:
        Means over the queries, bits or shares in [0, 1]; the column of :data:`QUERIES`; and None
        for what needs all documents.

    Raises:
        HarnessError: a log-likelihood that is no finite number.
    """
    given = np.array([value for value, _ in results], dtype=np.float64)
    ends = np.cumsum([len(posterior) for posterior in document["posterior"]])
    rows = []
    for prefix, posterior, logs in zip(
            document["prefix"], document["posterior"], np.split(given, ends[:-1]), strict=True):
        if not np.isfinite(logs).all():
            raise HarnessError(
                f"problem {document['problem_id']}: the model's log-likelihoods after "
                f"{prefix[-20:]!r} are {logs.tolist()}, not all of them finite; run it with "
                "dtype=float32")
        chances = np.exp(logs - logs.max())
        rows.append((*compare(np.array(posterior), chances / chances.sum()),
                     float(np.exp(logs).sum())))
    column = {name: [value + 0.0 for value in values] for name, values in zip(  # -0.0 is 0
        COLUMNS, zip(*rows, strict=True), strict=True)}
    mean = {name: math.fsum(values) / len(values) for name, values in column.items()}
    return {"entropy_mae_bits": mean["entropy_error"], "posterior_kl_bits": mean["kl"],
            "mass_on_support": mean["support_mass"], "candidate_mass": mean["candidate_mass"],
            QUERIES: {"position": document["position"], **column},
            **{key: None for name in CURVES for key in (name, f"{name}_stderr")}}
