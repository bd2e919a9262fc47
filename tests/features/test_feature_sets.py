"""Feature sets by name, from files, and what is refused in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from validator.configs.loading import names
from validator.errors import FeatureMismatchError
from validator.features.extractor import SpectralFeatureExtractor
from validator.features.feature_set_files import load_feature_set
from validator.features.featureset import FeatureSet, GraphFeatures, HeadFeatures
from validator.types import Trace

OWN = """
heads:
  spans: [completion]
  descriptors: [attention_entropy]
graphs:
  - spans: [completion]
    descriptors: [fiedler_value]
"""


@pytest.mark.parametrize("name", names("features"))
def test_shipped_sets_load_and_keep_their_names(name: str) -> None:
    found = load_feature_set(name)
    assert found.name == name
    assert load_feature_set(found) is not None
    assert load_feature_set(found).name == name


def test_own_files_have_a_digest_in_their_name(tmp_path: Path) -> None:
    first, second = tmp_path / "mine.yaml", tmp_path / "other" / "mine.yaml"
    first.write_text(OWN, encoding="utf-8")
    second.parent.mkdir()
    second.write_text(OWN.replace("fiedler_value", "eigenvalue_entropy"), encoding="utf-8")
    a, b = load_feature_set(first), load_feature_set(str(second))
    assert a.name.startswith("mine@")
    assert b.name.startswith("mine@")
    assert a.name != b.name
    assert load_feature_set(a) == a
    assert load_feature_set(first) == a


@pytest.mark.parametrize("source", ["default+probe", "mine.yaml+probe"])
def test_the_probe_adds_hidden_states_to_any_set(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found, plain = load_feature_set(source), load_feature_set(source.removesuffix("+probe"))
    assert found.states is not None
    assert replace(found, name=plain.name, states=None) == plain
    assert found.name == plain.name + "+probe"
    assert load_feature_set(found) == found
    assert load_feature_set(replace(found, last_tokens=8)).name != found.name


def test_a_changed_shipped_set_does_not_keep_its_name() -> None:
    changed = replace(load_feature_set("default"), last_tokens=16)
    assert load_feature_set(changed).name.startswith("default@")


def test_an_own_set_is_extracted_and_named(
    tiny: Any, traces: list[Trace], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN, encoding="utf-8")
    found = SpectralFeatureExtractor(tiny, feature_set=path).fit_transform(traces)
    assert found.provenance.feature_set == load_feature_set(path).name
    kinds = {n.split("__")[0] for n in found.names if "baseline" not in n}
    assert kinds == {"fiedler_value", *(f"attention_entropy_quantile_q{q:g}"
                                        for q in (0.25, 0.5, 0.75))}
    same = SpectralFeatureExtractor(tiny, feature_set=FeatureSet(
        "mine", 1, HeadFeatures(spans=("completion",), descriptors=("attention_entropy",)),
        (GraphFeatures(descriptors=("fiedler_value",)),))).fit_transform(traces)
    assert same.provenance == found.provenance


@pytest.mark.parametrize(("text", "message"), [
    ("- a", "expected keys and values"),
    ("graphs: [3]", "expected keys and values, got 3"),
    ("heds: {}", "unknown key 'heds'; did you mean 'heads'"),
    ("zzz: 1", "unknown key 'zzz'; known: name"),
    ("graphs: [{spans: completion}]", "spans must be tuple"),
    ("graphs: [{deltas: 1}]", "deltas must be bool"),
    ("graphs: [{null_draws: true}]", "null_draws must be int"),
    ("graphs: [{eigenvalue_quantiles: [a]}]", "eigenvalue_quantiles must be"),
    ("graphs: [{descriptors: [fiedler]}]", "unknown descriptor 'fiedler'"),
    ("graphs: [{preprocess: [clip2]}]", "unknown preprocessing"),
    ("{}", "neither heads nor graphs"),
    ("a: [", "cannot be read"),
])
def test_what_a_file_may_not_say(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FeatureMismatchError, match=message):
        load_feature_set(path)


def test_a_name_or_file_that_is_not_there() -> None:
    with pytest.raises(FeatureMismatchError, match="Did you mean 'default'"):
        load_feature_set("defualt")
    with pytest.raises(FeatureMismatchError, match="cannot be read"):
        load_feature_set("missing.yaml")
