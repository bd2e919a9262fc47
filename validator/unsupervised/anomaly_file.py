"""An anomaly reference as a folder of two files, JSON and arrays: nothing in them can run.

Models are not written. They are fitted again, from the same rows and seed, and what they say of
these rows is compared with what was said when they were saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from validator.classifier.design import Design
from validator.classifier.folder import replace_folder
from validator.errors import ArtifactError
from validator.types import Provenance
from validator.unsupervised.anomaly import AnomalyReference
from validator.unsupervised.reference import ReferenceDistance

__all__ = ["load_anomaly", "save_anomaly"]

FORMAT = "spectral-validator anomaly reference"
FORMAT_VERSION = 1
CHECKED = 16
"""Rows whose scores are compared on loading."""
TOLERANCE = 1e-6

_ARRAYS, _MANIFEST = "reference.npz", "manifest.json"


def save_anomaly(path: Path | str, reference: AnomalyReference) -> Path:
    """Write the folder ``path``, all or nothing; returns it.

    Raises ArtifactError for a folder that holds anything else.
    """
    arrays = _arrays(reference)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    distance = reference.distance
    manifest = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "scikit-learn": sklearn.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "provenance": dataclasses.asdict(reference.provenance),
        "parameters": _parameters(distance), "columns": list(distance.columns_ or ()),
        "n_features": distance.n_features_in_, "n_components": distance.n_components_,
        "trace_ids": sorted(distance._ids), "median_length": reference.median_length,
        "lengths": list(reference.lengths), "calibration": sorted(reference.calibration),
        "seed": reference.seed,
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    replace_folder(Path(path), {_ARRAYS: content, _MANIFEST: text.encode()}, _is_ours)
    return Path(path)


def load_anomaly(path: Path | str) -> AnomalyReference:
    """Read what :func:`save_anomaly` wrote.

    Raises ArtifactError for a folder that is missing, damaged, foreign or of another format, and
    where the installed scikit-learn fits another model to the same rows.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    content = _read(folder / _ARRAYS)
    if hashlib.sha256(content).hexdigest() != manifest.get("sha256"):
        raise ArtifactError(f"{folder / _ARRAYS} is damaged: its content does not match the "
                            "recorded SHA-256; copy the folder again, or fit again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        reference = _decoded(manifest, arrays)
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{folder} is not what format version {FORMAT_VERSION} holds "
                            f"({error!r}); fit again") from error
    _require_same(folder, manifest, reference, arrays["checked"])
    return reference


def _arrays(reference: AnomalyReference) -> dict[str, NDArray[Any]]:
    design, rows = reference.distance.design_, reference.distance.rows_
    arrays = {"median": design.median, "gaps": design.gaps, "center": design.center,
              "scale": design.scale, "rows": rows,
              "checked": _own_scores(reference.distance)}
    if design.components is not None:
        arrays["components"] = design.components
    return arrays | {f"calibration_{k}": v for k, v in reference.calibration.items()}


def _own_scores(distance: ReferenceDistance) -> NDArray[np.float64]:
    return distance.score_rows(distance.rows_[:CHECKED])


def _parameters(distance: ReferenceDistance) -> dict[str, Any]:
    chosen = distance.get_params()
    columns = chosen.pop("columns")
    return {**chosen, "columns": None if columns is None else list(columns)}


def _decoded(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> AnomalyReference:
    distance = ReferenceDistance(**manifest["parameters"])
    distance.provenance_ = Provenance(**manifest["provenance"])
    distance.columns_ = tuple(manifest["columns"])
    distance._ids = frozenset(manifest["trace_ids"])
    distance.n_features_in_ = int(manifest["n_features"])
    distance.n_components_ = manifest["n_components"]
    distance.design_ = Design(arrays["median"], arrays["gaps"], arrays["center"], arrays["scale"],
                              arrays.get("components"))
    distance.rows_ = arrays["rows"]
    distance.model_ = distance._model().fit(distance.rows_)
    calibration = {name: arrays[f"calibration_{name}"] for name in manifest["calibration"]}
    shortest, longest = manifest["lengths"]
    return AnomalyReference(distance, float(manifest["median_length"]), calibration,
                            (int(shortest), int(longest)), int(manifest["seed"]))


def _require_same(
    folder: Path, manifest: Mapping[str, Any], reference: AnomalyReference,
    expected: NDArray[np.float64],
) -> None:
    found = _own_scores(reference.distance)
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise ArtifactError(
            f"{folder}: scikit-learn {sklearn.__version__} fits another model to the same traces "
            f"than {manifest.get('scikit-learn')}, by which it was saved; fit again")


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(folder / _MANIFEST))
    except ValueError as error:
        raise ArtifactError(f"{folder / _MANIFEST} is damaged ({error}); fit again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ArtifactError(f"{folder} is no {FORMAT}; pass a folder written by "
                            "`validator anomaly fit`")
    if value.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder} has format version {value.get('format_version')!r}, this package reads "
            f"{FORMAT_VERSION}; install the spectral-validator that wrote it, or fit again")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path} ({error.strerror}); pass a folder written by "
                            "`validator anomaly fit`") from error


def _is_ours(folder: Path) -> bool:
    if not {entry.name for entry in folder.iterdir()} <= {_ARRAYS, _MANIFEST}:
        return False
    try:
        return bool(_manifest(folder))
    except ArtifactError:
        return False
