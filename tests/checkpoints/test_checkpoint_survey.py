"""Saved checkpoints: found, loaded, scored, judged; unreadable ones kept, with their reason."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fine_tuning import made_traces, save_base, train_artifact
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM

from validator.classifier import load_artifact
from validator.errors import ModelError, ModelIntegrityError, ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.checkpoints import (
    Probe,
    find_checkpoints,
    load_checkpoint,
    survey_checkpoints,
)
from validator.plugins.checkpoints.answers import Asking, own_answers, questions_of
from validator.training.decoding import Sampling

# PEFT asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
PROBE = made_traces(10, 14)


def with_lora(base: Path) -> Any:
    """An adapter of random weights on the base: PEFT's own start would change nothing."""
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False))


def moved(base: Path, seed: int, scale: float = 0.02) -> Any:
    """The base model with random steps added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def run_folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four whole models, the third with damaged weights."""
    folder = tmp_path_factory.mktemp("run")
    for step in (2, 4, 8, 10):
        moved(base, step).save_pretrained(folder / f"checkpoint-{step}")
        byte_tokenizer().save_pretrained(folder / f"checkpoint-{step}")
    damaged = folder / "checkpoint-8" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (folder / "checkpoint-x").mkdir()
    return folder


def by_hand(model: Any, artifact: Path) -> tuple[np.ndarray[Any, Any], float]:
    found = load_artifact(artifact)
    features = SpectralFeatureExtractor(
        (model, byte_tokenizer()), feature_set="fast").fit_transform(PROBE)
    logprob = features.select(["mean_logprob__baseline"])[:, 0]
    valid = [i for i, t in enumerate(PROBE) if t.label]
    chances = found.classifier.predict_proba(features.select(found.feature_names))[:, 1]
    return np.asarray(chances), -float(logprob[valid].mean())


def test_each_value_is_that_of_its_own_checkpoint(run_folder: Path, artifact: Path) -> None:
    seen: list[tuple[int, int]] = []
    truth = {"checkpoint-2": 0.1, "4": 0.5, "10": 0.3}
    survey = survey_checkpoints(run_folder, Probe(PROBE, artifact), truth=truth,
                                progress=lambda done, total: seen.append((done, total)))
    assert [r.step for r in survey.rows] == [2, 4, 8, 10]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    labels = [t.label for t in PROBE]
    good = [r for r in survey.rows if r.error is None]
    for row in good:
        model = AutoModelForCausalLM.from_pretrained(run_folder / row.name)
        chances, nll = by_hand(model, artifact)
        assert row.values["validity"] == pytest.approx(chances.mean(), abs=1e-6)
        assert row.values["validity_auroc"] == pytest.approx(roc_auc_score(labels, chances))
        assert row.values["validation_loss"] == pytest.approx(nll, abs=1e-5)
    told = {j.criterion: j for j in survey.judgements()}
    for name in ("validity", "validation_loss", "last"):
        values = [r.step if name == "last" else r.values[name] for r in good]
        sign = -1 if name == "validation_loss" else 1
        expected = spearmanr([sign * v for v in values], [0.1, 0.5, 0.3]).statistic
        assert told[name].spearman == pytest.approx(expected)
    assert told["last"].regret == pytest.approx(0.2)


def test_an_unreadable_checkpoint_is_a_row_that_ranks_last(
    run_folder: Path, artifact: Path
) -> None:
    survey = survey_checkpoints(run_folder, Probe(PROBE, artifact), truth={"8": 0.9, "2": 0.2})
    row = survey.rows[2]
    assert row.name == "checkpoint-8"
    assert "damaged" in (row.error or "")
    assert row.values == {}
    assert survey.order[-1] == 2
    assert sorted(survey.order) == [0, 1, 2, 3]
    # The best accuracy is that of the checkpoint nobody can choose: regret says so.
    assert max(j.regret or 0 for j in survey.judgements() if j.picked == 0) == pytest.approx(0.7)
    written = json.dumps(survey.to_json(), allow_nan=False)
    assert json.loads(written)["checkpoints"][2]["rank"] == 4


def test_adapters_are_read_on_their_base(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        torch.manual_seed(step)
        with_lora(base).save_pretrained(tmp_path / f"checkpoint-{step}")
    weights = tmp_path / "checkpoint-2" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    survey = survey_checkpoints(tmp_path, Probe(PROBE, artifact))
    assert "pickled adapters" in (survey.rows[1].error or "")
    for step, row in ((1, survey.rows[0]), (3, survey.rows[2])):
        torch.manual_seed(step)
        merged = with_lora(base).merge_and_unload()
        assert row.values["validity"] == pytest.approx(
            by_hand(merged.eval(), artifact)[0].mean(), abs=1e-5)
    assert survey.rows[0].values["validity"] != survey.rows[2].values["validity"]


def test_an_adapter_of_another_base_or_without_weights_is_refused(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    other = save_base(tmp_path / "other", intermediate_size=64)
    with_lora(other).save_pretrained(tmp_path / "run" / "checkpoint-1")
    checkpoint = find_checkpoints(tmp_path / "run")[0]
    assert checkpoint.adapter
    wanted = Probe(PROBE, artifact).base
    with pytest.raises(ModelError, match="not the artifact's model 'tiny-base'"):
        load_checkpoint(checkpoint, artifact_base=wanted)
    load_checkpoint(checkpoint, base=base, artifact_base=wanted)  # these layers fit both
    from safetensors.torch import load_file, save_file

    path = checkpoint.path / "adapter_model.safetensors"
    kept = dict(list(load_file(path).items())[1:])
    save_file(kept, path)
    with pytest.raises(ModelIntegrityError, match="lacks weights"):
        load_checkpoint(checkpoint)
    settings = checkpoint.path / "adapter_config.json"
    settings.write_text("{}")
    with pytest.raises(ModelError, match="does not name its base"):
        load_checkpoint(checkpoint)
    settings.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(checkpoint)


def test_a_learned_prompt_is_refused(base: Path, tmp_path: Path) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), prompt).save_pretrained(
        tmp_path / "checkpoint-1")
    with pytest.raises(ModelError, match="learns a prompt"):
        load_checkpoint(find_checkpoints(tmp_path)[0])


def test_losses_are_the_trainer_s_where_it_measured_all(base: Path, tmp_path: Path) -> None:
    history = [{"step": 0, "eval_loss": 3.0}, {"step": 5, "eval_loss": 2.0}, {"step": 5, "loss": 1}]
    for step in (0, 5):
        moved(base, step).save_pretrained(tmp_path / f"checkpoint-{step}")
        byte_tokenizer().save_pretrained(tmp_path / f"checkpoint-{step}")
    state = tmp_path / "checkpoint-5" / "trainer_state.json"
    state.write_text(json.dumps({"log_history": history}))
    assert [c.eval_loss for c in find_checkpoints(tmp_path)] == [3.0, 2.0]
    probe = Probe(PROBE, options={"feature_set": "fast"})
    survey = survey_checkpoints(tmp_path, probe, by="validation_loss")
    assert [r.values["validation_loss"] for r in survey.rows] == [3.0, 2.0]
    assert survey.order == [1, 0]
    assert survey.loss_source == "eval_loss of the Trainer"
    # one missing: another definition, for all of them
    state.write_text(json.dumps({"log_history": history[:1]}))
    survey = survey_checkpoints(tmp_path, probe, heldout=PROBE[:2])
    assert "held-out traces" in survey.loss_source
    for row in survey.rows:
        features = SpectralFeatureExtractor(
            str(tmp_path / row.name), feature_set="fast").fit_transform(PROBE[:2])
        logprob = features.select(["mean_logprob__baseline"]).mean()
        assert row.values["validation_loss"] == pytest.approx(-logprob, abs=1e-5)
    state.write_text("[1")
    noted = find_checkpoints(tmp_path)
    assert [bool(c.notes) for c in noted] == [False, True]
    assert "trainer_state.json cannot be read" in noted[1].notes[0]


def test_true_accuracy_by_asking_and_own_answers(run_folder: Path, artifact: Path) -> None:
    questions = questions_of(PROBE)
    asking = Asking(Sampling(n=1, temperature=0, max_new_tokens=4), answer_style="last-number")
    survey = survey_checkpoints(run_folder, Probe(PROBE, artifact), questions=questions,
                                asking=asking, own=True)
    row = survey.rows[0]
    model = AutoModelForCausalLM.from_pretrained(run_folder / row.name).eval()
    answers = own_answers(model, byte_tokenizer(), questions, asking)
    assert [a.problem_id for a in answers] == [q.id for q in questions]
    right = [a.answer == q.target for a, q in zip(answers, questions, strict=True)]
    assert row.accuracy == pytest.approx(np.mean(right))
    found = load_artifact(artifact)
    features = SpectralFeatureExtractor(
        (model, byte_tokenizer()), feature_set="fast").fit_transform(answers)
    chances = found.classifier.predict_proba(features.select(found.feature_names))[:, 1]
    assert row.values["own_validity"] == pytest.approx(chances.mean(), abs=1e-6)
    assert row.values["own_completion_length"] == pytest.approx(
        -features.lengths[:, 1].mean(), abs=1e-6)


def test_what_cannot_be_is_said(run_folder: Path, artifact: Path, tmp_path: Path) -> None:
    probe = Probe(PROBE, artifact)
    with pytest.raises(ParameterError, match="no folder checkpoint-<step>"):
        find_checkpoints(tmp_path)
    with pytest.raises(ParameterError, match="'checkpoint-3', which is none of"):
        survey_checkpoints(run_folder, probe, truth={"checkpoint-3": 0.1})
    with pytest.raises(ParameterError, match=r"lie in \[0, 1\]"):
        survey_checkpoints(run_folder, probe, truth={"2": 10.0})
    with pytest.raises(ParameterError, match="no criterion 'beauty'"):
        survey_checkpoints(run_folder, probe, by="beauty")
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ParameterError, match="none of 1 checkpoints could be scored"):
        survey_checkpoints(tmp_path, probe)


def test_an_artifact_of_other_columns_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = save_base(tmp_path / "deeper", num_hidden_layers=4)
    own = train_artifact(deeper, tmp_path / "a")
    moved(base, 1).save_pretrained(tmp_path / "run" / "checkpoint-1")
    byte_tokenizer().save_pretrained(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ParameterError, match="other layers or heads"):
        survey_checkpoints(tmp_path / "run", Probe(PROBE, own))


def test_no_accuracy_no_judgement(run_folder: Path) -> None:
    survey = survey_checkpoints(run_folder, Probe(PROBE, options={"feature_set": "fast"}))
    assert survey.judgements() == []
    assert survey.score == "mean_logprob"
    assert all(not math.isnan(r.values["validity"]) for r in survey.rows if not r.error)
    assert survey.verdict == f"By validity keep {survey.rows[survey.order[0]].name}."


def test_probe_knows_which_problems_the_artifact_has_seen(artifact: Path) -> None:
    assert Probe(made_traces(6, 12), artifact).seen() == 4
    assert Probe(made_traces(6, 12)).seen() == 0
    renamed = [dataclasses.replace(t, problem_id="new-" + t.problem_id) for t in made_traces(6, 12)]
    assert Probe(renamed, artifact).seen() == 4  # the same prompts under other names
