from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from validator.errors import ModelError, ModelIntegrityError, UnknownModelError
from validator.models import loading
from validator.models.fetch import fetch
from validator.models.loading import load_model
from validator.models.reading import read_folder


@pytest.fixture
def pair(tiny, tiny_folder):
    return type(tiny.model).from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("form", [str, Path])
def test_a_folder_is_identified_by_its_weights(tiny, tiny_folder, form):
    loaded = load_model(form(tiny_folder))
    weights = (tiny_folder / "model.safetensors").read_bytes()
    assert loaded.revision == f"sha256:{hashlib.sha256(weights).hexdigest()}"
    assert loaded.name == "tiny-folder"
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, tiny.model(ids).logits)


def test_weights_are_hashed_once_until_they_change(tiny_folder, monkeypatch):
    hashed = []
    real = loading.sha256_file
    monkeypatch.setattr(loading, "sha256_file", lambda p: hashed.append(p) or real(p))
    first = load_model(tiny_folder).revision
    assert load_model(tiny_folder).revision == first
    assert len(hashed) == 1
    rewrite(tiny_folder, lambda w: w["model.norm.weight"].add_(1))
    assert load_model(tiny_folder).revision != first


def test_shards_are_identified_together(tiny, tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    tiny.model.save_pretrained(tiny_folder, max_shard_size="20KB")
    shards = sorted(tiny_folder.glob("*.safetensors"))
    assert len(shards) > 1
    lines = "".join(
        f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in shards
    )
    expected = f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert load_model(tiny_folder).revision == expected


def test_a_fetched_model_is_the_same_by_name_and_by_path(shelf, tmp_path):
    by_name, folder = load_model("tiny-lm"), fetch("tiny-lm")
    by_path = load_model(folder)
    assert (by_path.name, by_path.revision) == (by_name.name, by_name.revision)
    changed = tmp_path / "tuned"
    shutil.copytree(folder, changed)
    rewrite(changed, lambda w: w["model.norm.weight"].add_(1))
    tuned = load_model(changed)
    assert tuned.name == "tuned"
    assert tuned.revision.startswith("sha256:")


def test_a_pair_is_used_as_it_is(pair):
    model, tokenizer = pair
    loaded = load_model((model.train(), tokenizer))
    assert loaded.model is model
    assert loaded.tokenizer is tokenizer
    assert not model.training
    assert loaded.name == "LlamaForCausalLM"


def test_a_pairs_revision_depends_on_every_weight_and_only_on_them(pair):
    model, tokenizer = pair
    first = load_model((model, tokenizer)).revision
    assert load_model((model, tokenizer)).revision == first
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    assert load_model((model, tokenizer)).revision != first


def test_a_pairs_revision_reads_bfloat16_too(pair):
    model, tokenizer = pair
    full = load_model((model, tokenizer)).revision
    half = load_model((model.to(torch.bfloat16), tokenizer))
    assert half.model.dtype == torch.bfloat16
    assert half.revision != full


def test_a_pair_of_something_else_is_refused():
    with pytest.raises(ModelError, match=r"\(model, tokenizer\), got \(str, str\)"):
        load_model(("a", "b"))


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
def test_dtype_is_what_was_asked(tiny_folder, name):
    assert load_model(tiny_folder, dtype=name).model.dtype == getattr(torch, name)


@pytest.mark.parametrize(("options", "message"), [
    ({"dtype": "int8"}, "dtype must be one of float32"),
    ({"device": "toaster"}, "device 'toaster' cannot be used"),
])
def test_impossible_options_are_refused(tiny_folder, options, message):
    with pytest.raises(ModelError, match=message):
        load_model(tiny_folder, **options)


def test_pickled_weights_are_not_read(tiny, tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), tiny_folder / "pytorch_model.bin")
    for load in (load_model, read_folder):  # by identity, and as a hub snapshot is read
        with pytest.raises(ModelError, match="can run code"):
            load(tiny_folder)


def test_truncated_weights_are_an_integrity_error(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelIntegrityError, match="damaged"):
        load_model(tiny_folder)


def test_missing_weights_are_never_replaced_by_random_ones(tiny_folder):
    rewrite(tiny_folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelIntegrityError, match=r"1 missing keys.*layers\.1\.mlp\.up_proj"):
        load_model(tiny_folder)


def test_weights_beyond_the_model_are_reported(tiny_folder, caplog):
    rewrite(tiny_folder, lambda w: w.update({"extra.weight": torch.ones(2)}))
    load_model(tiny_folder)
    assert "1 weights are not part of the model, first extra.weight" in caplog.text


def test_a_folder_without_tokenizer_is_refused(tiny_folder):
    for path in tiny_folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(tiny_folder)


def test_a_malformed_tokenizer_is_refused(tiny_folder):
    (tiny_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(tiny_folder)


def test_code_in_a_folder_is_not_run(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {
        "AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (tiny_folder / "config.json").write_text(json.dumps(config))
    (tiny_folder / "code.py").write_text(
        f"open({str(tiny_folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError, match="does not load as a causal language model"):
        load_model(tiny_folder)
    assert not (tiny_folder / "ran").exists()


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(UnknownModelError, match=r"without config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(UnknownModelError, match="no folder"):
        load_model(tmp_path / "absent")
