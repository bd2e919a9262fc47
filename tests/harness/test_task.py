"""Spectral tasks inside lm-eval, with a model that answers by heart and a tiny reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.harness.conftest import N, questions, right_or_wrong
from validator.errors import HarnessError
from validator.plugins.harness.summary import problem_of
from validator.plugins.harness.upstream import tasks_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Evaluate = Callable[..., dict[str, Any]]
STRICT = "strict-match"


def upstream_task(folder: Path, benchmark: Path) -> Path:
    """Upstream's gsm8k on the same file, made by hand."""
    folder.mkdir()
    (folder / "plain.yaml").write_text(
        f"include: {tasks_root() / 'gsm8k' / 'gsm8k.yaml'}\ntask: plain\ntag: null\n"
        f"dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n"
        f"    test: {benchmark}\ntraining_split: null\nfewshot_split: test\n", encoding="utf-8")
    return folder


def samples(found: dict[str, Any], task: str, filter: str = STRICT) -> list[dict[str, Any]]:
    return [s for s in found["samples"][task] if s["filter"] == filter]


def test_exact_match_and_prompts_are_upstreams(
    evaluate: Evaluate, benchmark: Path, tmp_path: Path
) -> None:
    ours = evaluate()
    plain = evaluate("plain", include=upstream_task(tmp_path / "t", benchmark))
    mine, theirs = ours["results"]["gsm8k_spectral"], plain["results"]["plain"]
    shared = [k for k in theirs if k.startswith("exact_match")]
    assert {k: mine[k] for k in shared} == {k: theirs[k] for k in shared}
    assert len(shared) == 4  # two filters and their standard errors
    assert mine["exact_match,strict-match"] == pytest.approx(2 / 3)
    assert [s["arguments"] for s in samples(ours, "gsm8k_spectral")] == [
        s["arguments"] for s in samples(plain, "plain")]


def test_metrics_are_those_of_the_logged_scores(evaluate: Evaluate) -> None:
    found = evaluate()
    results, logged = found["results"]["gsm8k_spectral"], samples(found, "gsm8k_spectral")
    assert len(logged) == N
    labels = [s["exact_match"] for s in logged]
    assert [s["scores"]["valid"] for s in logged] == [[int(v)] for v in labels]
    for name in ("mean_logprob", "completion_length"):
        scores = [s["scores"]["score"][name][0] for s in logged]
        assert results[f"auroc_{name},{STRICT}"] == pytest.approx(roc_auc_score(labels, scores))
        assert 0 < results[f"auroc_{name}_stderr,{STRICT}"] < 0.5
    assert [s["scores"]["tokens"][0] for s in logged] == [
        -s["scores"]["score"]["completion_length"][0] for s in logged]
    assert results[f"scores,{STRICT}"] == 1.0
    assert not [k for k in results if "validity" in k]  # no classifier for this reader
    json.dumps(found["results"], allow_nan=False)


def test_the_reader_stands_in_the_results_with_how_to_train(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    about = evaluate()["configs"]["gsm8k_spectral"]["metadata"]["spectral"]
    assert about["reader"] == "tiny-reader"
    assert about["origin"] == "reader"
    assert about["revision"].startswith("sha256:")
    assert (about["feature_set"], about["solver"], about["artifact"]) == ("paper", "exact", None)
    assert "validator train --from-lm-eval" in about["advice"]
    assert "validator train --from-lm-eval" in caplog.text


def test_without_a_reader_exact_match_stands_and_the_reason_is_said(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluate(read=False)
    results = found["results"]["gsm8k_spectral"]
    assert results["exact_match,strict-match"] == pytest.approx(2 / 3)
    assert not [k for k in results if k.startswith("auroc")]
    about = found["configs"]["gsm8k_spectral"]["metadata"]["spectral"]
    assert about["reader"] is None
    assert "does not run in this process" in about["reason"]
    assert "--metadata" in caplog.text


def test_several_responses_are_judged_one_by_one(evaluate: Evaluate) -> None:
    found = evaluate("gsm8k_spectral", metadata={"repeats": 4})
    results, logged = found["results"]["gsm8k_spectral"], samples(found, "gsm8k_spectral")
    for i, sample in enumerate(logged):
        right = i % 3 != 0
        assert sample["scores"]["valid"] == [int(right), 0, int(right), 0]
        assert len(sample["resps"][0]) == 4
        # two of four say the same, the others differ from it and from each other
        assert sample["majority_vote"] == float(right)
        assert sample["pass_at_1"] == (0.5 if right else 0.0)
        assert sample["oracle"] == float(right)
    share = 2 / 3
    assert results[f"oracle,{STRICT}"] == pytest.approx(share)
    assert results[f"pass_at_1,{STRICT}"] == pytest.approx(share / 2)
    # lm-eval's standard error of a mean over documents
    values = [s["oracle"] for s in logged]
    assert results[f"oracle_stderr,{STRICT}"] == pytest.approx(np.std(values, ddof=1) / N**0.5)
    assert results[f"exact_match,{STRICT}"] == pytest.approx(share)  # upstream's: the first one
    within = [roc_auc_score(s["scores"]["valid"], s["scores"]["score"]["mean_logprob"])
              for s in logged if 0 < sum(s["scores"]["valid"]) < 4]
    assert results[f"auroc_within_mean_logprob,{STRICT}"] == pytest.approx(np.mean(within))


def test_a_response_that_cannot_be_read_is_kept_and_ranked_last(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(prompt: str, k: int) -> str:
        i = int(prompt.rsplit("Question: ", 1)[1].split()[2])
        return "" if i == 4 else "x" * 4000 if i == 5 else right_or_wrong(prompt, k)

    found = evaluate(answer=answer)
    logged = samples(found, "gsm8k_spectral")
    assert logged[4]["scores"]["unscored"] == {"0": "empty response"}
    assert "positions for" in logged[5]["scores"]["unscored"]["0"]
    assert logged[4]["scores"]["score"]["mean_logprob"] == [None]
    results = found["results"]["gsm8k_spectral"]
    assert results[f"scores,{STRICT}"] == pytest.approx((N - 2) / N)
    ranked = [s["scores"]["score"]["mean_logprob"][0] for s in logged]
    lowest = min(r for r in ranked if r is not None) - 1
    assert results[f"auroc_mean_logprob,{STRICT}"] == pytest.approx(roc_auc_score(
        [s["exact_match"] for s in logged], [lowest if r is None else r for r in ranked]))
    assert "2 of 12 responses have no score" in caplog.text


def test_one_class_is_a_stated_value_never_a_bare_nan(evaluate: Evaluate) -> None:
    found = evaluate(answer=lambda prompt, k: "no idea")
    results = found["results"]["gsm8k_spectral"]
    assert results[f"exact_match,{STRICT}"] == 0
    assert results[f"auroc_mean_logprob,{STRICT}"] == "N/A"
    assert results[f"auroc_mean_logprob_stderr,{STRICT}"] == "N/A"
    assert not [v for v in results.values() if isinstance(v, float) and math.isnan(v)]
    json.dumps(found["results"], allow_nan=False)


def test_predict_only_scores_nothing(evaluate: Evaluate) -> None:
    found = evaluate(predict_only=True)
    results = found["results"]["gsm8k_spectral"]
    assert not [k for k in results if k.startswith(("auroc", "scores"))]
    assert len(found["samples"]["gsm8k_spectral"]) == 2 * N


@pytest.mark.parametrize(
    "options", [{"limit": 5}, {"samples": {"gsm8k_spectral": [1, 3, 4, 6, 7]}}])
def test_limits_and_chosen_samples(evaluate: Evaluate, options: dict[str, Any]) -> None:
    found = evaluate(**options)
    logged = samples(found, "gsm8k_spectral")
    wanted = range(5) if "limit" in options else [1, 3, 4, 6, 7]
    assert [s["doc"]["question"] for s in logged] == [questions()[i]["question"] for i in wanted]
    for sample in logged:
        assert sample["scores"]["valid"] == [int(sample["exact_match"])]


def test_system_prompt_and_few_shot_reach_the_reader(evaluate: Evaluate) -> None:
    few = evaluate(num_fewshot=2)
    told = evaluate(num_fewshot=2, system_instruction="Think first.")
    values = [[s["scores"]["score"]["mean_logprob"][0] for s in samples(f, "gsm8k_spectral")]
              for f in (few, told)]
    assert values[0] != values[1]
    assert samples(told, "gsm8k_spectral")[0]["arguments"][0][0].startswith("Think first.")


def test_scores_are_those_of_the_validator_on_the_same_text(
    evaluate: Evaluate, reader: Path
) -> None:
    from validator import SpectralFeatureExtractor, Trace, Validator

    logged = samples(evaluate(), "gsm8k_spectral")
    traces = [Trace(str(i), str(i), s["arguments"][0][0], s["resps"][0][0])
              for i, s in enumerate(logged)]
    own = Validator(SpectralFeatureExtractor(str(reader), feature_set="paper")).score(traces)
    for sample, score in zip(logged, own, strict=True):
        for name, values in sample["scores"]["score"].items():
            assert values[0] == pytest.approx(score.unsupervised[name], abs=1e-5)


def test_choice_of_scores(evaluate: Evaluate) -> None:
    results = evaluate(metadata={"scores": "mean_logprob+paper_hfer"})["results"]["gsm8k_spectral"]
    assert {k.split(",")[0] for k in results if k.startswith("auroc_") and "stderr" not in k} == {
        "auroc_mean_logprob", "auroc_matched_mean_logprob", "auroc_paper_hfer"}
    with pytest.raises(HarnessError, match="unknown 'hfre'; known: fiedler_value"):
        evaluate(metadata={"scores": ["hfre"]})


def test_label_metric_must_exist_and_be_zero_or_one(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"metric 'bleu' says whether .* metrics: exact_match"):
        evaluate(metadata={"label_metric": "bleu"})


def test_ends_of_data_parallelism_are_not_scored_twice(evaluate: Evaluate) -> None:
    """A short rank runs its last request again; copies stand behind the responses."""
    from lm_eval.api.instance import Instance

    from validator.plugins.harness.task import _responses

    instance = Instance("generate_until", {}, ("p", {}), 0, ("t", 0, 2))
    instance.resps = ["a", "b", "a", "b"]
    assert _responses(instance) == ["a", "b"]


def test_another_order_of_calls_is_an_error_not_a_wrong_score(evaluate: Evaluate) -> None:
    from validator.plugins.harness.task import SpectralTask, _Place

    kept: list[SpectralTask] = []
    original = SpectralTask.process_results

    def shifted(self: SpectralTask, doc: Any, results: Any) -> Any:
        kept.append(self)
        if self._place is not None and self._place.doc_id == 3:
            self._place = _Place(4, self._place.filter)
        return original(self, doc, results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpectralTask, "process_results", shifted)
        with pytest.raises(HarnessError, match=r"in an order that is not that of lm-eval 0\.4"):
            evaluate()
    assert kept


def test_documents_that_the_classifier_was_trained_on_are_not_judged(
    evaluate: Evaluate, reader: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact, seen = trained_on(reader, questions()[:6], tmp_path)
    found = evaluate(metadata={"artifact": str(artifact), "repeats": 2})
    results, logged = found["results"]["gsm8k_spectral"], samples(found, "gsm8k_spectral")
    assert [s["scores"].get("seen", False) for s in logged] == [True] * 6 + [False] * 6
    assert {problem_of(q) for q in questions()[:6]} == seen
    fresh = logged[6:]
    labels = [v for s in fresh for v in s["scores"]["valid"]]
    scores = [v for s in fresh for v in s["scores"]["score"]["validity"]]
    assert results[f"auroc_validity,{STRICT}"] == pytest.approx(roc_auc_score(labels, scores))
    assert results[f"best_of_n_validity,{STRICT}"] == pytest.approx(
        np.mean([s["best_of_n_validity"] for s in fresh]))
    assert results[f"auroc_mean_logprob,{STRICT}"] == pytest.approx(roc_auc_score(
        [v for s in logged for v in s["scores"]["valid"]],
        [v for s in logged for v in s["scores"]["score"]["mean_logprob"]]))
    assert "trained on 6 of these documents" in caplog.text
    about = found["configs"]["gsm8k_spectral"]["metadata"]["spectral"]
    assert about["artifact"] == "artifact"


def test_an_artifact_of_another_model_is_refused_before_generation(
    evaluate: Evaluate, reader: Path, tmp_path: Path, make_tiny: Callable[..., Any]
) -> None:
    from tests.conftest import byte_tokenizer
    from validator.errors import FeatureMismatchError

    artifact, _ = trained_on(reader, questions()[:6], tmp_path)
    other = tmp_path / "other-model"
    make_tiny(num_hidden_layers=2, max_position_embeddings=2048).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)

    def never(prompt: str, k: int) -> str:
        raise AssertionError("generated before the artifact was refused")

    with pytest.raises(FeatureMismatchError, match=r"trained on tiny-reader .* is other-model"):
        evaluate(answer=never, metadata={"artifact": str(artifact), "reader": str(other)})


def trained_on(reader: Path, documents: list[dict[str, str]], folder: Path
               ) -> tuple[Path, set[str]]:
    """An artifact of the tiny reader, trained on responses to these documents."""
    from validator import SpectralFeatureExtractor, Trace, ValidityClassifier
    from validator.training.fit import train

    traces = []
    for document in documents:
        for k in range(4):
            text = right_or_wrong(f"Question: {document['question']}", k)
            traces.append(Trace(f"{document['question']}#{k}", problem_of(document),
                                f"Question: {document['question']}\nAnswer:", text, label=k % 2))
    features = SpectralFeatureExtractor(str(reader), feature_set="paper").fit_transform(traces)
    done = train(features, ValidityClassifier("logistic"), folder / "artifact", n_splits=2)
    return done.artifact, set(features.problem_ids.tolist())
