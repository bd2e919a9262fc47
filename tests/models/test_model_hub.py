from __future__ import annotations

import shutil
import socket
import time

import pytest
from huggingface_hub import constants

from validator.errors import UnknownModelError
from validator.models import hub
from validator.models.hub import snapshot
from validator.models.loading import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def private_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def downloaded(private_hub_cache, tiny_folder):
    repo = private_hub_cache / "models--nobody--tiny-lm"
    shutil.copytree(tiny_folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return repo / "snapshots" / COMMIT


def test_offline_uses_what_was_downloaded(downloaded):
    assert snapshot("nobody/tiny-lm") == (downloaded, COMMIT)
    loaded = load_model("nobody/tiny-lm")
    assert (loaded.name, loaded.revision) == ("nobody/tiny-lm", COMMIT)


def test_offline_without_a_download_explains_at_once():
    start = time.monotonic()
    with pytest.raises(UnknownModelError, match="no known model") as caught:
        load_model("smollm2-135m-instrukt")
    assert time.monotonic() - start < 2
    for said in ("did you mean 'smollm2-135m-instruct'", "no local folder", "hub", "connection"):
        assert said in str(caught.value)


def test_a_hub_that_never_answers_is_given_up_on(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub, "_SECONDS", 0.3)
        start = time.monotonic()
        with pytest.raises(UnknownModelError, match="Timeout"):
            snapshot("nobody/tiny-lm")
        assert time.monotonic() - start < 5


def test_an_impossible_hub_id_is_unknown():
    with pytest.raises(UnknownModelError, match="no such/model name"):
        load_model("no such/model name")
