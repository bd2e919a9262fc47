"""Training on a feature file larger than memory: read piece by piece, judged out of fold, saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from validator.classifier import ValidityClassifier, save_artifact
from validator.classifier.external import fit_pieces
from validator.classifier.venn_abers import CALIBRATION
from validator.columns import Column
from validator.errors import FeatureMismatchError, LabelError
from validator.families import learned_names, read_by_artifact
from validator.features.table import file_metadata
from validator.splits import problem_folds
from validator.training.given_scores import GivenComparison, judge_scores
from validator.types import Progress, Provenance

__all__ = ["FeatureRows", "OutOfCoreRun", "train_out_of_core"]

ROWS = 1024
"""Rows that are in memory at a time, as many as ``validator extract`` puts into a row group."""

Rows = NDArray[np.int64]


class FeatureRows:
    """A feature file of which all but the features is in memory.

    Args:
        path: written by ``validator extract``.

    Attributes:
        names: (F,) its columns.
        labels: (N,) 1 valid, 0 invalid.
        problem_ids: (N,).
        lengths: (N,) completion tokens.

    Raises:
        FeatureMismatchError: no feature file, damaged, or written by a newer version.
        LabelError: a trace without a label.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            kept = pq.read_table(path, columns=["problem_id", "label", "completion_length"])
        except (OSError, pa.ArrowInvalid) as error:
            raise FeatureMismatchError(f"cannot read {path} as a feature file: {error}. Feature "
                                       "files are written by `validator extract`.") from error
        meta = file_metadata(kept, path)
        self.names: tuple[str, ...] = tuple(meta["names"])
        self.provenance = Provenance(**meta["provenance"])
        if missing := kept["label"].null_count:
            raise LabelError(f"{missing} of {kept.num_rows} traces of {path} have no label; "
                             "training needs all of them labelled")
        self.labels = kept["label"].to_numpy().astype(np.int64)
        self.problem_ids = np.array(kept["problem_id"].to_pylist(), dtype=np.str_)
        self.lengths = kept["completion_length"].to_numpy()

    def pieces(self, names: tuple[str, ...], rows: Rows | None = None
               ) -> Iterator[NDArray[np.float32]]:
        """(n, K) features of those of the ascending ``rows`` [all] in each piece of the file."""
        where = [self.names.index(name) for name in names]
        start = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(ROWS, columns=["features"], use_threads=False):
                flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
                values = flat.reshape(batch.num_rows, len(self.names))[:, where]
                if rows is not None:
                    low, high = np.searchsorted(rows, [start, start + batch.num_rows])
                    values = values[rows[low:high] - start]
                start += batch.num_rows
                if len(values):
                    yield values


@dataclass(frozen=True)
class OutOfCoreRun:
    """What :func:`train_out_of_core` did."""

    artifact: Path
    margins: NDArray[np.float64]
    """(N,) out-of-fold log-odds."""
    comparison: GivenComparison
    """P(valid) out of fold beside completion length and mean log-prob."""


def train_out_of_core(
    path: str | Path, classifier: ValidityClassifier, output: Path, *, n_splits: int = 5,
    seed: int = 0, cache: Path | None = None, progress: Progress | None = None,
) -> OutOfCoreRun:
    """Judge trees under problem-grouped folds, fit them on every row, and save them.

    In memory are :data:`ROWS` rows, two scores, ids and labels of all; bins of the rows, a byte for
    each value, are in ``cache``.

    Args:
        path: feature file.
        classifier: unfitted, kind ``xgboost``; see :func:`validator.classifier.external.fit_pieces`
            for what it may not ask for.
        output: folder of the artifact.
        n_splits: folds of the judgement.
        seed: of the folds and the bootstrap.
        cache: folder for the bins [the system's for temporary files].
        progress: called with (done, total) fits.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems.
        FeatureMismatchError, ParameterError, ArtifactError: the file, classifier or output.
    """
    features = FeatureRows(path)
    names, margins = learned_names(features.names), np.full(len(features.labels), np.nan)
    folds = problem_folds(features.problem_ids, features.labels, n_splits, seed)

    def fitted(rows: Rows) -> ValidityClassifier:
        return fit_pieces(classifier, lambda: features.pieces(names, rows), features.labels[rows],
                          features.problem_ids[rows], cache=cache)

    for i, (train, test) in enumerate(folds):
        model = fitted(train)
        margins[test] = np.concatenate(
            [model.decision_function(piece) for piece in features.pieces(names, test)])
        if progress is not None:
            progress(i + 1, n_splits + 1)
    comparison = _judged(features, margins, seed)
    save_artifact(output, fitted(np.arange(len(margins))), read_by_artifact(features.provenance),
                  names, {
        "evaluation": json.loads(json.dumps(comparison.to_json())),
        "training_problems": sorted(set(features.problem_ids.tolist())),
        CALIBRATION: {"margins": margins.tolist(), "labels": features.labels.tolist()}})
    if progress is not None:
        progress(n_splits + 1, n_splits + 1)
    return OutOfCoreRun(output, margins, comparison)


def _judged(features: FeatureRows, margins: NDArray[np.float64], seed: int) -> GivenComparison:
    baselines = ("completion_length", "mean_logprob")
    names = tuple(str(Column(b)) for b in baselines)
    columns = np.concatenate(list(features.pieces(names))).astype(np.float64)
    scores = {"validity": 1 / (1 + np.exp(-margins))} | dict(
        zip(baselines, columns.T, strict=True))
    return judge_scores(features.labels, features.problem_ids.tolist(), scores, features.lengths,
                        [None] * len(margins), seed=seed)
