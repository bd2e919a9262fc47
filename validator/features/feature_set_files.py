"""Feature sets by name, from ``configs/features/``, and from files of a user's own."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from validator.configs.loading import names, read_yaml
from validator.errors import FeatureMismatchError
from validator.families import PROBE
from validator.features.featureset import (
    FeatureSet,
    GraphFeatures,
    HeadFeatures,
    StateFeatures,
)

__all__ = ["load_feature_set"]


def load_feature_set(source: str | Path | FeatureSet) -> FeatureSet:
    """A feature set by name, from a YAML file, or as it is.

    A set that does not ship with the package gets a digest of its settings into its name, so that
    features of two files of the same name never mix: ``mine@1f0c2a9e``.

    Args:
        source: a name, see ``validator extract --help``; a path that ends in ``.yaml``, with the
            keys of :class:`FeatureSet`; either followed by ``+probe``; or a set.

    Raises:
        FeatureMismatchError: there is no such set or file, or it has an unknown key or value.
    """
    if isinstance(source, FeatureSet):
        return _marked(source)
    if str(source).endswith(PROBE):
        plain = load_feature_set(str(source).removesuffix(PROBE))
        return plain if plain.states else _with_probe(plain)
    if str(source).endswith((".yaml", ".yml")):
        return _marked(_from_file(Path(source)))
    known = names("features")
    if source not in known:
        near = difflib.get_close_matches(str(source), known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FeatureMismatchError(
            f"unknown feature set {str(source)!r}; known: {', '.join(known)}; or give a path that "
            f"ends in .yaml.{hint}")
    return _parsed(read_yaml(f"features/{source}.yaml"), str(source))


def _from_file(path: Path) -> FeatureSet:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FeatureMismatchError(f"feature set {path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise FeatureMismatchError(f"feature set {path}: expected keys and values, see docs")
    return _parsed({"name": path.stem, "version": 1} | raw, str(path))


def _marked(features: FeatureSet) -> FeatureSet:
    """The set with its digest in its name, unless it is one that ships."""
    if features.name.endswith(PROBE) and features.states == StateFeatures():
        return _with_probe(_marked(replace(
            features, name=features.name.removesuffix(PROBE), states=None)))
    name = features.name.partition("@")[0]
    plain = replace(features, name=name)
    if name in names("features") and plain == load_feature_set(name):
        return plain
    content = json.dumps(plain.to_dict(), sort_keys=True).encode()
    return replace(plain, name=f"{name}@{hashlib.sha256(content).hexdigest()[:8]}")


def _with_probe(plain: FeatureSet) -> FeatureSet:
    return replace(plain, name=plain.name + PROBE, states=StateFeatures())


def _parsed(raw: dict[str, Any], source: str) -> FeatureSet:
    heads, graphs, states = raw.get("heads"), raw.get("graphs") or (), raw.get("states")
    given = raw | {
        "states": None if states is None else StateFeatures(
            **_settings(states, StateFeatures, source)),
        "heads": None if heads is None else HeadFeatures(**_settings(heads, HeadFeatures, source)),
        "graphs": tuple(GraphFeatures(**_settings(g, GraphFeatures, source)) for g in graphs),
    }
    return FeatureSet(**_settings(given, FeatureSet, source))


def _settings(given: Mapping[str, Any], kind: type, source: str) -> dict[str, Any]:
    """Keyword arguments of a dataclass, lists as tuples; unknown keys and odd types refused."""
    if not isinstance(given, Mapping):
        raise FeatureMismatchError(f"feature set {source}: expected keys and values, got {given!r}")
    types = {f.name: str(f.type) for f in fields(kind)}
    for key, value in given.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(types)}"
            raise FeatureMismatchError(f"feature set {source}: unknown key {key!r}{hint}")
        if not _fits(value, types[key]):
            raise FeatureMismatchError(
                f"feature set {source}: {key} must be {types[key]}, got {value!r}")
    return {str(k): tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value from YAML fits the annotation of the field it is for."""
    items: dict[str, Any] = {
        "tuple[str, ...]": str, "tuple[float, ...]": (int, float), "tuple[int, ...]": int}
    if annotation in items:
        return isinstance(value, list | tuple) and all(
            isinstance(v, items[annotation]) for v in value)
    simple = {"str": str, "int": int, "bool": bool}
    if annotation not in simple:
        return True
    return isinstance(value, simple[annotation]) and (
        annotation == "bool" or not isinstance(value, bool))
