"""The callback in real Trainers: what it adds, chooses, logs, and leaves as it was."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fine_tuning import made_traces, save_base, trainer_of
from sklearn.metrics import roc_auc_score
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM, EarlyStoppingCallback

from validator.classifier import load_artifact
from validator.errors import FeatureMismatchError, ParameterError, ValidatorWarning
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.checkpoints import ValidityCallback
from validator.plugins.checkpoints.answers import Asking
from validator.training.decoding import Sampling
from validator.types import Trace
from validator.unsupervised import score_label_free

PROBE = made_traces(10, 14)


def fresh(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base)


def by_hand(model: Any, artifact: Path, traces: list[Trace] = PROBE) -> np.ndarray[Any, Any]:
    """P(valid) with no code of the plugin: the extractor, the columns, the classifier."""
    found = load_artifact(artifact)
    features = SpectralFeatureExtractor(
        (model, byte_tokenizer()), feature_set="fast").fit_transform(traces)
    X = features.select(found.feature_names)
    return np.asarray(found.classifier.predict_proba(X)[:, 1])


def test_it_selects_the_checkpoint_that_an_oracle_selects_afterwards(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path / "run", fresh(base), load_best_model_at_end=True,
                         metric_for_best_model="eval_validity", learning_rate=0.05, max_steps=8)
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    trainer.train()
    oracle = {step: by_hand(fresh(tmp_path / "run" / f"checkpoint-{step}"), artifact).mean()
              for step in range(1, 9)}
    logged = {e["step"]: e["eval_validity"] for e in trainer.state.log_history
              if "eval_validity" in e}
    assert logged.keys() == oracle.keys()
    np.testing.assert_allclose([logged[s] for s in oracle], list(oracle.values()), atol=1e-6)
    assert np.ptp(list(oracle.values())) > 1e-3  # else any choice would do
    best = max(oracle, key=lambda s: oracle[s])
    assert best not in (1, 8)  # neither first nor last: the choice is the metric's
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{best}")
    assert trainer.state.best_metric == pytest.approx(oracle[best], abs=1e-6)
    np.testing.assert_allclose(
        by_hand(trainer.model, artifact), by_hand(
            fresh(tmp_path / "run" / f"checkpoint-{best}"), artifact), atol=1e-6)


def test_metrics_are_means_over_the_probe(base: Path, artifact: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, fresh(base))
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    found = trainer.evaluate()
    features = SpectralFeatureExtractor(str(base), feature_set="fast").fit_transform(PROBE)
    chances = by_hand(fresh(base), artifact)
    assert found["eval_validity"] == pytest.approx(chances.mean(), abs=1e-6)
    assert found["eval_validity_auroc"] == pytest.approx(
        roc_auc_score([t.label for t in PROBE], chances), abs=1e-9)
    free = score_label_free(features)
    told = {n.removeprefix("eval_validity_") for n in found if n.startswith("eval_validity_")}
    assert told - {"auroc", "runtime"} == set(free) - {"ensemble", "completion_length"}
    for name in told - {"auroc", "runtime"}:
        assert found[f"eval_validity_{name}"] == pytest.approx(np.nanmean(free[name]), rel=1e-5)
    assert 0 < found["eval_validity_runtime"] < 60


def test_without_artifact_and_labels_a_label_free_score(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, fresh(base))
    probe = made_traces(10, 12, labelled=False)
    ValidityCallback(probe, options={"feature_set": "fast", "layers": [1]}).attach(trainer)
    found = trainer.evaluate()
    assert found["eval_validity"] == found["eval_validity_mean_logprob"]
    assert "eval_validity_auroc" not in found
    trainer = trainer_of(tmp_path, fresh(base))
    ValidityCallback(probe, score="hfer", options={"feature_set": "fast"}).attach(trainer)
    with pytest.raises(ParameterError, match="no label-free score 'hfer' in feature set 'fast'"):
        trainer.evaluate()
    with pytest.raises(ParameterError, match="needs an artifact"):
        ValidityCallback(probe, score="learned")


def test_the_event_file_of_tensorboard_holds_the_values(
    base: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader's own imports
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = trainer_of(tmp_path / "run", fresh(base), report_to="tensorboard", max_steps=3)
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    trainer.train()
    events = accumulator(str(tmp_path / "logs"))
    events.Reload()
    told = {e.step: e.value for e in events.Scalars("eval/validity")}
    kept = {e["step"]: e["eval_validity"] for e in trainer.state.log_history
            if "eval_validity" in e}
    assert told.keys() == kept.keys() == {1, 2, 3}
    np.testing.assert_allclose(list(told.values()), list(kept.values()), atol=1e-6)
    assert {"eval/validity_auroc", "eval/validity_mean_logprob", "eval/loss"} <= set(
        events.Tags()["scalars"])


def test_given_in_the_list_it_chooses_but_says_that_no_logger_is_told(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    callback = ValidityCallback(PROBE, artifact=artifact)
    trainer = trainer_of(tmp_path, fresh(base), callbacks=[callback], max_steps=2,
                         load_best_model_at_end=True, metric_for_best_model="eval_validity")
    with pytest.warns(ValidatorWarning, match="attach"):
        trainer.train()
    assert trainer.state.best_metric is not None
    last = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    entries = [e for e in last["log_history"] if "eval_validity" in e]
    assert [e["step"] for e in entries] == [1, 2]
    assert all("epoch" in e for e in entries)


def test_early_stopping_sees_the_metric(base: Path, artifact: Path, tmp_path: Path) -> None:
    stopper = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1.0)
    trainer = trainer_of(tmp_path, fresh(base), callbacks=[stopper], max_steps=6,
                         load_best_model_at_end=True, metric_for_best_model="eval_validity")
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 2  # nothing improves by a whole 1


def test_several_evaluation_sets_and_other_prefixes(
    base: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, fresh(base), max_steps=2)
    trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
    callback = ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    calls = []
    score = callback._score
    monkeypatch.setattr(callback, "_score", lambda *a: calls.append(1) or score(*a))
    trainer.train()
    assert len(calls) == 2  # once a step, not once a set
    found = trainer.evaluate()
    assert "eval_validity" in found
    assert len(calls) == 4  # weights may have changed by other hands: nothing is remembered
    test = trainer.evaluate(trainer.train_dataset, metric_key_prefix="test")
    assert test["test_validity"] == pytest.approx(found["eval_validity"])
    assert "eval_validity" not in test


def state_of(model: Any) -> dict[str, Any]:
    return {
        "training": [m.training for m in model.modules()],
        "grad": [p.requires_grad for p in model.parameters()],
        "implementation": model.config._attn_implementation,
        "checkpointing": model.is_gradient_checkpointing,
        "random": torch.get_rng_state().tolist(), "threads": torch.get_num_threads(),
        "weights": [p.detach().clone() for p in model.parameters()],
        "generation": model.generation_config.to_dict(),
    }


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
def test_the_model_is_found_again_as_it_was(
    base: Path, artifact: Path, generate: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[1].eval()
    model.model.layers[0].mlp.requires_grad_(False)
    before = state_of(model)
    asking = Asking(Sampling(n=1, temperature=0, max_new_tokens=4)) if generate else False
    callback = ValidityCallback(PROBE, artifact=artifact, generate=asking)
    found = callback._score(model, byte_tokenizer())
    assert 0 < found["validity"] < 1
    after = state_of(model)
    for a, b in zip(before.pop("weights"), after.pop("weights"), strict=True):
        assert torch.equal(a, b)
    assert after == before
    loss = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()  # gradients still flow
    assert model.model.layers[2].self_attn.q_proj.weight.grad is not None


def test_training_goes_the_same_way_with_the_callback(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    ends = []
    for watched in (False, True):
        trainer = trainer_of(tmp_path / str(watched), fresh(base), max_steps=3)
        if watched:
            ValidityCallback(PROBE, artifact=artifact).attach(trainer)
        trainer.train()
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_own_answers_are_scored_and_checked(base: Path, artifact: Path, tmp_path: Path) -> None:
    asking = Asking(Sampling(n=1, temperature=0, max_new_tokens=5), stop=("\n",))
    trainer = trainer_of(tmp_path, fresh(base))
    ValidityCallback(PROBE, artifact=artifact, generate=asking).attach(trainer)
    found = trainer.evaluate()
    model, tokenizer = fresh(base), byte_tokenizer()
    prompts = list(dict.fromkeys(t.prompt for t in PROBE))
    own = []
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=5, pad_token_id=0)[0, ids.shape[1]:]
        text = tokenizer.decode(out, skip_special_tokens=True).split("\n")[0] or " "
        own.append(Trace(f"o{i}", f"o{i}", prompt, text))
    assert found["eval_validity"] == pytest.approx(
        by_hand(model, artifact, own).mean(), abs=1e-6)
    assert found["eval_validity_accuracy"] == 0.0  # a random model's bytes are no numbers
    assert "eval_validity_completion_length" in found


def test_a_fine_tune_of_another_model_is_refused(
    base: Path, artifact: Path, tmp_path: Path
) -> None:
    other = save_base(tmp_path / "other", intermediate_size=64)
    trainer = trainer_of(tmp_path / "run", fresh(other))
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    with pytest.raises(FeatureMismatchError, match="fine-tune of 'other'"):
        trainer.evaluate()
    trainer = trainer_of(tmp_path / "run", fresh(other))
    ValidityCallback(PROBE, artifact=artifact, base=base).attach(trainer)
    assert "eval_validity" in trainer.evaluate()  # who says so answers for it
    deeper = save_base(tmp_path / "deeper", num_hidden_layers=4)
    trainer = trainer_of(tmp_path / "run", fresh(deeper))
    ValidityCallback(PROBE, artifact=artifact, base=base).attach(trainer)
    with pytest.raises(FeatureMismatchError, match="other layers or heads"):
        trainer.evaluate()
    nameless = fresh(base)
    nameless.config._name_or_path = ""
    trainer = trainer_of(tmp_path / "run", nameless)
    ValidityCallback(PROBE, artifact=artifact).attach(trainer)
    with pytest.raises(FeatureMismatchError, match="pass base="):
        trainer.evaluate()


def test_no_tokenizer_and_no_traces(base: Path, artifact: Path) -> None:
    with pytest.raises(ParameterError, match="processing_class"):
        ValidityCallback(PROBE, artifact=artifact)._score(fresh(base), None)
    with pytest.raises(Exception, match="at least one trace"):
        ValidityCallback([])
