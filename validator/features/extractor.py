"""SpectralFeatureExtractor: traces in, feature matrix out, by the scikit-learn contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from validator.errors import TraceError
from validator.features.batching import Batch, plan_batches
from validator.features.encoding import EncodedTrace, encode_trace, max_positions
from validator.features.featureset import load_feature_set
from validator.features.reader import Prefix, TraceFeatures, extend_prefix, read_batch
from validator.models.loading import load_model
from validator.types import FeatureMatrix, Progress, Provenance, Trace

__all__ = ["SpectralFeatureExtractor"]

MINIMUM_NODES = 3
"""A completion with fewer tokens leaves some descriptors undefined (NaN)."""


class SpectralFeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Attention spectra and token scores of a causal LM, as a vector of fixed length per trace.

    Args:
        model: a known name, a hub id, a local folder, or a loaded ``(model, tokenizer)`` pair.
        feature_set: name of a file in ``configs/features/``.
        device: where a model that is not loaded yet is put.
        dtype: its floating-point type; spectra are computed in float32 in any case.
        max_batch_tokens: most tokens of a batch, padding included; a longer trace runs alone.
        share_prefixes: compute tokens that several traces begin with once.

    Attributes:
        model_, tokenizer_: the loaded model.
        provenance_: model, revision and feature set; features of different ones never mix.
        feature_names_: (F,) column names, known after the first transform.
    """

    def __init__(
        self,
        model: Any = "smollm2-135m-instruct",
        *,
        feature_set: str = "default",
        device: str = "cpu",
        dtype: str = "float32",
        max_batch_tokens: int = 1024,
        share_prefixes: bool = True,
    ) -> None:
        self.model = model
        self.feature_set = feature_set
        self.device = device
        self.dtype = dtype
        self.max_batch_tokens = max_batch_tokens
        self.share_prefixes = share_prefixes

    def fit(self, traces: Sequence[Trace] | None = None, y: Any = None) -> SpectralFeatureExtractor:
        """Load the model; nothing is learned from the traces."""
        loaded = load_model(self.model, dtype=self.dtype, device=self.device)
        self.features_ = load_feature_set(self.feature_set)
        self.model_, self.tokenizer_ = loaded.model, loaded.tokenizer
        self.provenance_ = Provenance(
            model=loaded.name, revision=loaded.revision, feature_set=self.features_.name,
            feature_version=self.features_.version, dtype=self.dtype,
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
            TraceError: a trace without tokens, or longer than the context, naming it; a value
                that is not finite for no documented reason.
            NoAttentionError: the model has no attention that can be read.
        """
        check_is_fitted(self, "model_")
        if not traces:
            raise TraceError("no traces to extract features from; expected at least one")
        limit = max_positions(self.model_.config)
        encoded = [encode_trace(t, self.tokenizer_, limit) for t in traces]
        rows: dict[int, TraceFeatures] = {}
        for members, features in self._batches(encoded):
            rows.update(zip(members, features, strict=True))
            if progress is not None:
                progress(len(rows), len(encoded))
        return self._assemble(encoded, rows)

    def fit_transform(
        self, X: Sequence[Trace], y: Any = None, **options: Any
    ) -> FeatureMatrix:
        """Load the model, then extract."""
        return self.fit(X).transform(X, **options)

    def _batches(
        self, encoded: Sequence[EncodedTrace]
    ) -> Iterator[tuple[tuple[int, ...], list[TraceFeatures]]]:
        stack: list[Prefix] = []
        share = self.share_prefixes
        for batch in plan_batches(encoded, self.max_batch_tokens, share):
            members = [encoded[i] for i in batch.members]
            if share and batch.prefixes:
                share = self._descend(stack, batch, members[0].ids)
            prefix = stack[-1] if share and batch.prefixes else None
            yield batch.members, read_batch(self.model_, members, prefix, self.features_)

    def _descend(self, stack: list[Prefix], batch: Batch, ids: Sequence[int]) -> bool:
        """Make ``stack`` hold the batch's nested prefixes; False where they cannot be shared."""
        wanted = [tuple(ids[:length]) for length in batch.prefixes]
        while stack and [p.ids for p in stack] != wanted[: len(stack)]:
            stack.pop()
        for prefix_ids in wanted[len(stack) :]:
            longer = extend_prefix(self.model_, stack[-1] if stack else None, prefix_ids)
            if longer is None:
                return False
            stack.append(longer)
        return True

    def _assemble(
        self, encoded: Sequence[EncodedTrace], rows: dict[int, TraceFeatures]
    ) -> FeatureMatrix:
        values = np.stack([rows[i].values for i in range(len(encoded))]).astype(np.float32)
        self.feature_names_ = rows[0].names
        lengths = np.array([[e.prompt_length, e.completion_length] for e in encoded])
        return FeatureMatrix(
            values, self.feature_names_, tuple(e.trace for e in encoded), lengths.astype(np.int64),
            self.provenance_, _nan_reasons(encoded, values, self.feature_names_),
        )


def _nan_reasons(
    encoded: Sequence[EncodedTrace], values: NDArray[np.float32], names: Sequence[str]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for trace, row in zip(encoded, values, strict=True):
        bad = np.flatnonzero(~np.isfinite(row))
        if not bad.size:
            continue
        if trace.completion_length >= MINIMUM_NODES or np.isinf(row).any():
            raise TraceError(
                f"trace {trace.trace.id!r}: {bad.size} features are not finite, first "
                f"{names[bad[0]]!r}; this should not happen, please report it",
                trace_id=trace.trace.id)
        reasons[trace.trace.id] = f"completion_of_{trace.completion_length}_tokens"
    return reasons
