from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from validator.errors import ModelError, ModelIntegrityError
from validator.models.cache import (
    Manifest,
    cache_root,
    is_complete,
    model_folder,
    read_manifest,
    record_files,
    sha256_file,
    verify,
    write_manifest,
)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path, Manifest(
        name="m", source="wheel", revision="gguf-sha256:00", origin=("m==1",), gguf_sha256="00",
        files=record_files(tmp_path), proof={"difference": 0.0}, versions={"torch": "2"},
    ))
    return tmp_path


def test_cache_root_prefers_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("VALIDATOR_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


def test_cache_root_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("VALIDATOR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "spectral-validator"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "spectral-validator"


def test_sources_never_share_a_folder(tmp_path):
    assert model_folder("m", "wheel", tmp_path) == tmp_path / "models" / "m--wheel"
    assert model_folder("m", "hub", tmp_path) == tmp_path / "models" / "m--hub"


def test_manifest_survives_the_round_trip(entry):
    weights = (entry / "model.safetensors").read_bytes()
    manifest = read_manifest(entry)
    assert manifest.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert manifest.files["model.safetensors"].size == len(weights)
    assert set(manifest.files) == {"model.safetensors", "config.json"}
    assert (manifest.origin, manifest.proof) == (("m==1",), {"difference": 0.0})


def test_sha256_of_more_than_one_chunk(entry):
    path = entry / "model.safetensors"
    assert path.stat().st_size > 1 << 20
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_or_shortened_file_makes_it_incomplete(entry):
    assert is_complete(entry)
    (entry / "model.safetensors").write_bytes(b"short")
    assert not is_complete(entry)
    (entry / "model.safetensors").unlink()
    assert not is_complete(entry)


def test_no_manifest_is_incomplete(entry):
    (entry / "manifest.json").unlink()
    assert not is_complete(entry)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"a": {"size": 1}}}'])
def test_malformed_manifest_is_a_typed_error(entry, text):
    (entry / "manifest.json").write_text(text)
    assert not is_complete(entry)
    with pytest.raises(ModelError, match="manifest"):
        read_manifest(entry)


def test_verify_finds_one_flipped_bit_that_sizes_cannot_show(entry):
    seen = []
    verify(entry, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    path = entry / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[1_500_000] ^= 1
    path.write_bytes(damaged)
    assert is_complete(entry)
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors.*expected sha256"):
        verify(entry)


def test_verify_names_a_missing_file(entry):
    (entry / "config.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"config\.json.*no file"):
        verify(entry)
