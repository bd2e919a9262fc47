"""A saved classifier: a folder of two JSON files that is whole, ours and for these features, or no.

``model.json`` holds the fitted arrays; ``manifest.json`` says where they came from and holds the
SHA-256 of ``model.json`` and of itself. Hashes find damage; they are no signature.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from validator.classifier.estimator import ValidityClassifier
from validator.classifier.folder import replace_folder, standing_folder
from validator.classifier.state import decode_classifier, encode_classifier, encode_parameters
from validator.errors import ArtifactError, FeatureMismatchError
from validator.types import Provenance

__all__ = ["FORMAT", "FORMAT_VERSION", "Artifact", "load_artifact", "save_artifact"]

FORMAT = "spectral-validator classifier"
FORMAT_VERSION = 1
PACKAGES = ("spectral-validator", "numpy", "scikit-learn", "xgboost")

_MODEL, _MANIFEST = "model.json", "manifest.json"


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A loaded classifier and what it may be used with."""

    classifier: ValidityClassifier
    provenance: Provenance
    """Of the features it was trained on."""
    feature_names: tuple[str, ...]
    """(F,) the columns it reads, in order."""
    manifest: Mapping[str, Any]
    """All of ``manifest.json``, e.g. ``manifest["metadata"]``."""


def save_artifact(path: Path | str, classifier: ValidityClassifier, provenance: Provenance,
                  feature_names: Sequence[str], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a fitted classifier to the folder ``path``, all or nothing; returns the folder.

    The same fit and arguments write the same bytes. An artifact of ours already there is replaced.
    Raises ArtifactError for a folder that holds anything else and for values JSON cannot hold,
    FeatureMismatchError unless there is one distinct name for each feature.
    """
    check_is_fitted(classifier)
    names = list(feature_names)
    if len(names) != classifier.n_features_in_ or len(set(names)) != len(names):
        raise FeatureMismatchError(
            f"expected {classifier.n_features_in_} distinct feature names, got {len(names)} of "
            f"which {len(set(names))} are distinct; pass the names of the matrix it was fitted to"
        )
    model = _render(encode_classifier(classifier))
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_sha256": _sha256(model),
        "parameters": encode_parameters(classifier),
        "seed": encode_parameters(classifier)["random_state"],
        "n_groups": classifier.n_groups_,
        "provenance": dataclasses.asdict(provenance),
        "feature_names": names,
        "packages": {"python": platform.python_version(), **_versions()},
        "metadata": _json_only(metadata or {}),
    }
    manifest["sha256"] = _sha256(_render(manifest))
    replace_folder(Path(path), {_MODEL: model, _MANIFEST: _render(manifest)}, _is_ours)
    return Path(path)


def load_artifact(path: Path | str, expect: Provenance | None = None) -> Artifact:
    """Read an artifact after checking that neither file has changed since it was written.

    ``expect``: the provenance of the features at hand; FeatureMismatchError names every difference.
    Raises ArtifactError for a folder that is missing, damaged, foreign or of a newer format.
    """
    folder = standing_folder(Path(path))
    manifest = _checked_manifest(folder)
    provenance = _provenance(manifest, folder)
    if expect is not None:
        expect.require_equal(provenance, f"classifier {folder}")
    model = _read(folder / _MODEL)
    if _sha256(model) != manifest["model_sha256"]:
        raise _damaged(folder / _MODEL)
    try:
        classifier = decode_classifier(json.loads(model))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder} is not what format version {FORMAT_VERSION} holds "
                            f"({error!r}); train again") from error
    return Artifact(classifier, provenance, tuple(manifest["feature_names"]), manifest)


def _checked_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    raw = _read(path)
    manifest = _parse(raw)
    if manifest is None:
        raise _damaged(path)
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not the manifest of a {FORMAT}; "
                            "pass a folder written by save_artifact or `validator train`")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {manifest.get('format_version')!r}, this package reads "
            f"{FORMAT_VERSION}; install the spectral-validator that wrote it, or train again"
        )
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    # compared as bytes too: a changed blank parses to the same content, and is still a change
    if manifest.get("sha256") != _sha256(_render(content)) or _render(manifest) != raw:
        raise _damaged(path)
    return manifest


def _provenance(manifest: Mapping[str, Any], folder: Path) -> Provenance:
    try:
        return Provenance(**manifest["provenance"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} does not say which features it reads ({error}); "
                            "train again") from error


def _parse(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in ``raw``, or None if there is none; NaN and infinity are not JSON."""
    try:
        value = json.loads(raw.decode("utf-8"))
        json.dumps(value, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path} ({error.strerror}); pass a folder written by "
                            "save_artifact or `validator train`") from error


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` holds an artifact, damaged or of any version, and nothing else."""
    if not {entry.name for entry in folder.iterdir()} <= {_MODEL, _MANIFEST}:
        return False
    manifest = _parse(_read(folder / _MANIFEST)) if (folder / _MANIFEST).is_file() else None
    return manifest is not None and manifest.get("format") == FORMAT


def _render(value: Mapping[str, Any]) -> bytes:
    """The one way a value is written: sorted keys, shortest digits that give the float back."""
    try:
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"the artifact holds a value JSON cannot: {error}; metadata must be "
                            "strings, finite numbers, lists and dicts") from error
    return text.encode("ascii") + b"\n"


def _json_only(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata``, provided it is read back as it is: a tuple or a key 1 would not be."""
    back: dict[str, Any] = json.loads(_render(metadata))
    if back != dict(metadata):
        raise ArtifactError("metadata would not be read back as it is; use string keys, and lists "
                            "in place of tuples")
    return back


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # run from a source tree that was never installed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: its content does not match the recorded SHA-256; "
                         "copy the folder again from where it was written, or train again")
