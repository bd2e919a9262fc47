"""SpectralFeatureExtractor: traces in, feature matrix out, by the scikit-learn contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from validator.errors import ParameterError, TraceError
from validator.features.batching import Batch, plan_batches
from validator.features.encoding import EncodedTrace, encode_trace, first_tokens, max_positions
from validator.features.feature_set_files import load_feature_set
from validator.features.featureset import FeatureSet
from validator.features.plan import ReadPlan, View
from validator.features.reader import Prefix, extend_prefix, read_batch
from validator.features.reading import TraceFeatures
from validator.features.recipe import extraction_recipe
from validator.features.rowset import RowSet
from validator.features.solvers import make_solver, solver_errors, warn_if_long
from validator.features.spectra import Solver
from validator.features.store import FeatureStore
from validator.models.loading import load_model
from validator.types import FeatureMatrix, Progress, Provenance, Trace

__all__ = ["SpectralFeatureExtractor"]


class SpectralFeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Attention spectra and token scores of a causal LM, as a vector of fixed length per trace.

    Args:
        model: a known name, a hub id, a local folder, a loaded ``(model, tokenizer)`` pair, or a
            :class:`validator.models.loading.LoadedModel`.
        feature_set: a name (``default``, ``fast``, ``monitor``, ``paper``, ``lapeigvals``,
            ``full``), the path of a YAML file, or a
            :class:`validator.features.featureset.FeatureSet`.
        solver: ``exact`` (dense eigendecomposition) or ``lanczos`` (matrix-vector products only:
            for long traces; some columns are estimates, and ``signal_entropy`` is not among them),
            or a :class:`validator.features.lanczos.LanczosSolver` with settings of its own.
        layers: true indices of the layers that are read; None for all.
        heads: indices of the heads that are read; None for all. The head mean is over these.
        device: where a model that is not loaded yet is put.
        dtype: its floating-point type; attention is formed and spectra are computed in float32 or
            better in any case.
        max_batch_tokens: most tokens of a batch, padding included; a longer trace runs alone.
        share_prefixes: compute tokens that several traces begin with once.
        num_threads: CPU threads while features are extracted; None for torch's setting.
        store: folder or URL of a feature store, or a function that opens one for a recipe; rows
            that are in it are not computed again.
        random_state: seed of the Lanczos solver's probes.

    Attributes:
        model_, tokenizer_: the loaded model.
        provenance_: model, revision and feature set; features of different ones never mix.
        feature_names_: (F,) column names, known after the first transform.
        forward_passes_: batches the last transform ran the model on; 0 if all rows were stored.
        rows_from_store_: rows the last transform found in the store.
        token_surprisals_: trace id -> (K,) surprisal of each token of the completion, nats, of the
            traces that the last transform ran the model on.
        solver_errors_: largest errors of the rows the last transform estimated; empty for
            ``exact``. See :class:`validator.features.lanczos.SolverErrors`.
    """

    def __init__(
        self,
        model: Any = "smollm2-135m-instruct",
        *,
        feature_set: str | Path | FeatureSet = "default",
        solver: str | Solver = "exact",
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        max_batch_tokens: int = 1024,
        share_prefixes: bool = True,
        num_threads: int | None = None,
        store: str | Path | Callable[[Mapping[str, Any]], FeatureStore] | None = None,
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.feature_set = feature_set
        self.solver = solver
        self.layers = layers
        self.heads = heads
        self.device = device
        self.dtype = dtype
        self.max_batch_tokens = max_batch_tokens
        self.share_prefixes = share_prefixes
        self.num_threads = num_threads
        self.store = store
        self.random_state = random_state

    def fit(self, traces: Sequence[Trace] | None = None, y: Any = None) -> SpectralFeatureExtractor:
        """Load the model; nothing is learned from the traces."""
        solver = make_solver(self.solver, self.random_state)
        features = load_feature_set(self.feature_set)
        loaded = load_model(self.model, dtype=self.dtype, device=self.device)
        self.model_, self.tokenizer_ = loaded.model, loaded.tokenizer
        self.plan_ = ReadPlan(
            features, solver, _indices(self.layers, "layers"), _indices(self.heads, "heads"))
        self.provenance_ = Provenance(
            model=loaded.name, revision=loaded.revision, feature_set=features.name,
            feature_version=features.version, dtype=str(loaded.model.dtype).removeprefix("torch."),
            solver=solver.label, layers=_listed(self.plan_.layers), heads=_listed(self.plan_.heads),
        )
        return self

    def transform(
        self, traces: Sequence[Trace], *, progress: Progress | None = None
    ) -> FeatureMatrix:
        """Features of each trace, in input order.

        Args:
            traces: at least one, ids distinct.
            progress: called with (done, total) after each batch.

        Raises:
            TraceError: a trace without tokens, or longer than the context, naming it.
            NoAttentionError: the model has no attention that can be read.
            ModelError: attention or hidden states that are not finite.
        """
        return self._extract(traces, self._plan(by_step=False), progress)

    def transform_steps(
        self, traces: Sequence[Trace], *, progress: Progress | None = None
    ) -> FeatureMatrix:
        """Features of each step, seen from all that precedes it: one row per step.

        The rows' traces have ids ``<trace id>#step<k>``, the text before the step as prompt, the
        step as completion and the step's label; they are read from one pass over each trace.

        Raises:
            TraceError: a trace without steps, or a step without tokens; as :meth:`transform`.
        """
        for trace in traces:
            if not trace.steps:
                raise TraceError(f"trace {trace.id!r} has no steps; give traces with steps, or use "
                                 "`transform`", trace_id=trace.id)
        return self._extract(traces, self._plan(by_step=True), progress)

    def transform_prefixes(
        self, traces: Sequence[Trace], tokens: Sequence[int], *, progress: Progress | None = None
    ) -> FeatureMatrix:
        """Features of completions that are still being written: one row per prefix.

        The row of a prefix is what a trace cut off there would get.

        Args:
            traces: at least one, ids distinct; their steps are not looked at.
            tokens: numbers of tokens, ascending; those that a completion has not more tokens than
                are passed over. The whole completion is the last row of each trace.
            progress: called with (done, total) after each batch.

        Returns:
            Rows trace by trace, ids ``<trace id>#token<k>``, of whole completions ``<trace id>``.

        Raises ParameterError for other numbers of tokens, and what :meth:`transform` raises.
        """
        if list(tokens) != sorted(set(tokens)) or not tokens or tokens[0] < 1:
            raise ParameterError(
                f"expected numbers of tokens, ascending, at least 1; got {list(tokens)}")
        plan = dataclasses.replace(self._plan(by_step=False), prefixes=tuple(tokens))
        found = self._extract([dataclasses.replace(t, steps=None, step_labels=None)
                               for t in traces], plan, progress)
        cut = (first_tokens(trace, self.tokenizer_, int(k)) for trace, (_, k)
               in zip(found.traces, found.lengths, strict=True))
        return dataclasses.replace(found, traces=tuple(cut))

    def fit_transform(
        self, X: Sequence[Trace], y: Any = None, **options: Any
    ) -> FeatureMatrix:
        """Load the model, then extract."""
        return self.fit(X).transform(X, **options)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """(F,) column names. Raises NotFittedError before the first transform."""
        check_is_fitted(self, "feature_names_")
        return np.array(self.feature_names_, dtype=object)

    def recipe(self) -> dict[str, Any]:
        """All that decides rows besides tokens, as JSON values: what a store files them under."""
        plan = self._plan(by_step=False)
        return extraction_recipe(self.model_, self.tokenizer_, self.provenance_, plan)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _plan(self, by_step: bool) -> ReadPlan:
        check_is_fitted(self, "model_")
        plan: ReadPlan = self.plan_
        solver = make_solver(self.solver, self.random_state)
        return ReadPlan(plan.features, solver, plan.layers, plan.heads, by_step)

    def _extract(
        self, traces: Sequence[Trace], plan: ReadPlan, progress: Progress | None
    ) -> FeatureMatrix:
        if not traces:
            raise TraceError("no traces to extract features from; expected at least one")
        limit = max_positions(self.model_.config)
        encoded = [encode_trace(t, self.tokenizer_, limit) for t in traces]
        views = [plan.views(e) for e in encoded]
        rows = RowSet(views, self._open_store())
        self.rows_from_store_ = len(rows.found)
        todo = [i for i, own in enumerate(views) if not rows.has(own)]
        if progress is not None:
            progress(len(traces) - len(todo), len(traces))
        with _threads(self.num_threads):
            self._compute(
                [encoded[i] for i in todo], [views[i] for i in todo], plan, rows, progress)
        self.feature_names_ = rows.names
        self.solver_errors_ = solver_errors(plan.solver)
        return rows.matrix(self.provenance_)

    def _layer_count(self, plan: ReadPlan) -> int:
        config = self.model_.config.get_text_config()
        return len(plan.layers) if plan.layers else int(config.num_hidden_layers)

    def _open_store(self) -> FeatureStore | None:
        if self.store is None:
            return None
        recipe = self.recipe()
        return self.store(recipe) if callable(self.store) else FeatureStore(self.store, recipe)

    def _compute(
        self, encoded: Sequence[EncodedTrace], views: Sequence[Sequence[View]], plan: ReadPlan,
        rows: RowSet, progress: Progress | None,
    ) -> None:
        self.forward_passes_ = 0
        self.token_surprisals_: dict[str, NDArray[np.float64]] = {}
        known = len(rows.views) - len(encoded)
        warn_if_long(views, plan, self._layer_count(plan))
        done = 0
        for members, features in self._batches(encoded, plan):
            self.forward_passes_ += 1
            for i, found in zip(members, features, strict=True):
                rows.add(views[i], found)
                self.token_surprisals_[encoded[i].trace.id] = found[0].surprisal
            done += len(members)
            if progress is not None:
                progress(known + done, len(rows.views))
        rows.flush()

    def _batches(
        self, encoded: Sequence[EncodedTrace], plan: ReadPlan
    ) -> Iterator[tuple[tuple[int, ...], list[list[TraceFeatures]]]]:
        stack: list[Prefix] = []
        share = self.share_prefixes
        for batch in plan_batches(encoded, self.max_batch_tokens, share):
            members = [encoded[i] for i in batch.members]
            if share and batch.prefixes:
                share = self._descend(stack, batch, members[0].ids, plan)
            prefix = stack[-1] if share and batch.prefixes else None
            yield batch.members, read_batch(self.model_, members, prefix, plan)

    def _descend(
        self, stack: list[Prefix], batch: Batch, ids: Sequence[int], plan: ReadPlan
    ) -> bool:
        """Make ``stack`` hold the batch's nested prefixes; False where they cannot be shared."""
        wanted = [tuple(ids[:length]) for length in batch.prefixes]
        while stack and [p.ids for p in stack] != wanted[: len(stack)]:
            stack.pop()
        for prefix_ids in wanted[len(stack) :]:
            longer = extend_prefix(self.model_, stack[-1] if stack else None, prefix_ids, plan)
            if longer is None:
                return False
            stack.append(longer)
        return True


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before if count is None else count)
        yield
    finally:
        torch.set_num_threads(before)


def _indices(chosen: Sequence[int] | None, what: str) -> tuple[int, ...] | None:
    if chosen is None:
        return None
    indices = tuple(sorted(set(chosen)))
    if not indices or indices[0] < 0 or not all(isinstance(i, int) for i in indices):
        raise ParameterError(
            f"expected {what} as a list of indices, 0 or larger, at least one; got {chosen!r}")
    return indices


def _listed(chosen: tuple[int, ...] | None) -> str:
    return "all" if chosen is None else ",".join(map(str, chosen))
