"""Which model reads, and under what name."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from validator.errors import UnknownModelError
from validator.models.loading import identify_model, load_model
from validator.plugins.harness import reader as module
from validator.plugins.harness.reader import choose_reader

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr(module, "_live", None)


def harness_model(folder: Path, spectral: bool = False, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    from validator.plugins.harness.model import SpectralHFLM

    return (SpectralHFLM if spectral else HFLM)(
        pretrained=str(folder), device="cpu", batch_size=1, **options)


def test_the_evaluated_model_is_read_in_place_under_its_folders_identity(reader: Path) -> None:
    lm = harness_model(reader)
    found, reason = choose_reader({"pretrained": str(reader)})
    assert found is not None, reason
    assert found.model.model is lm.model  # no second copy
    assert (found.name, found.revision) == identify_model(str(reader))
    assert found.origin == "evaluated model"


def test_hf_spectral_is_known_though_another_model_lives(reader: Path) -> None:
    other = harness_model(reader)
    lm = harness_model(reader, spectral=True)
    found, _ = choose_reader({"pretrained": str(reader)})
    assert found is not None
    assert found.model.model is lm.model is not other.model
    del lm, found
    gc.collect()
    found, _ = choose_reader({"pretrained": str(reader)})
    assert found is not None
    assert found.model.model is other.model


def test_of_two_models_none_is_guessed(reader: Path) -> None:
    both = [harness_model(reader), harness_model(reader)]
    found, reason = choose_reader({"pretrained": str(reader)})
    assert found is None
    assert "2 transformers models live" in reason
    assert len(both) == 2


def test_changed_weights_are_not_taken_for_the_folders(reader: Path) -> None:
    lm = harness_model(reader)
    found, _ = choose_reader({"pretrained": str(reader), "peft": "some-adapter"})
    assert found is not None
    assert found.revision.startswith("state-sha256:")
    own = load_model((lm.model, lm.tokenizer))
    assert found.revision == own.revision


def test_a_model_given_as_an_object_is_known_by_its_state(reader: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    model = AutoModelForCausalLM.from_pretrained(reader)
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(reader), device="cpu")
    found, _ = choose_reader({})
    assert found is not None
    assert found.model.model is lm.model
    assert found.revision.startswith("state-sha256:")


def test_a_named_reader_comes_first_and_a_wrong_name_fails_at_once(reader: Path) -> None:
    lm = harness_model(reader)
    found, _ = choose_reader({"pretrained": str(reader), "reader": str(reader),
                              "reader_dtype": "bfloat16"})
    assert found is not None
    assert (found.model, found.origin) == (str(reader), "reader")
    assert dict(found.options)["dtype"] == "bfloat16"
    with pytest.raises(UnknownModelError, match="smolm2-135m"):
        choose_reader({"reader": "smolm2-135m"})
    assert lm is not None


def test_without_any_model_the_reason_is_said() -> None:
    found, reason = choose_reader({"pretrained": "somewhere"})
    assert found is None
    assert "does not run in this process" in reason


@pytest.mark.slow
def test_registering_ours_hides_none_of_lm_evals_models() -> None:
    """In a process of its own: what is imported first decides."""
    code = ("from validator.plugins.harness.command import register_model\n"
            "register_model()\n"
            "from lm_eval.api.registry import get_model\n"
            "print(*(get_model(n).__name__ for n in ('hf', 'dummy', 'hf-spectral')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["HFLM", "DummyLM", "SpectralHFLM"], done.stderr[-2000:]
