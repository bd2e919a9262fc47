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
from small_benchmark import N, Parrot, questions, right_or_wrong

from validator.errors import HarnessError
from validator.plugins.harness.summary import problem_of
from validator.plugins.harness.upstream import tasks_root

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

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
    assert [s["spectral"]["valid"] for s in logged] == [[int(v)] for v in labels]
    for name in ("mean_logprob", "completion_length"):
        scores = [s["spectral"]["score"][name][0] for s in logged]
        assert results[f"auroc_{name},{STRICT}"] == pytest.approx(roc_auc_score(labels, scores))
        assert 0 < results[f"auroc_{name}_stderr,{STRICT}"] < 0.5
    assert [s["spectral"]["tokens"][0] for s in logged] == [
        -s["spectral"]["score"]["completion_length"][0] for s in logged]
    assert results[f"spectral,{STRICT}"] == 1.0
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
        assert sample["spectral"]["valid"] == [int(right), 0, int(right), 0]
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
    within = [roc_auc_score(s["spectral"]["valid"], s["spectral"]["score"]["mean_logprob"])
              for s in logged if 0 < sum(s["spectral"]["valid"]) < 4]
    assert results[f"auroc_within_mean_logprob,{STRICT}"] == pytest.approx(np.mean(within))


def test_a_response_that_cannot_be_read_is_kept_and_ranked_last(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(prompt: str, k: int) -> str:
        i = int(prompt.rsplit("Question: ", 1)[1].split()[2])
        return "" if i == 4 else "x" * 4000 if i == 5 else right_or_wrong(prompt, k)

    found = evaluate(answer=answer)
    logged = samples(found, "gsm8k_spectral")
    assert logged[4]["spectral"]["unscored"] == {"0": "empty response"}
    assert "positions for" in logged[5]["spectral"]["unscored"]["0"]
    assert logged[4]["spectral"]["score"]["mean_logprob"] == [None]
    results = found["results"]["gsm8k_spectral"]
    assert results[f"spectral,{STRICT}"] == pytest.approx((N - 2) / N)
    ranked = [s["spectral"]["score"]["mean_logprob"][0] for s in logged]
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
    assert not [k for k in results if k.startswith(("auroc", "spectral"))]
    assert len(found["samples"]["gsm8k_spectral"]) == 2 * N


@pytest.mark.parametrize(
    "options", [{"limit": 5}, {"samples": {"gsm8k_spectral": [1, 3, 4, 6, 7]}}])
def test_limits_and_chosen_samples(evaluate: Evaluate, options: dict[str, Any]) -> None:
    found = evaluate(**options)
    logged = samples(found, "gsm8k_spectral")
    wanted = range(5) if "limit" in options else [1, 3, 4, 6, 7]
    assert [s["doc"]["question"] for s in logged] == [questions()[i]["question"] for i in wanted]
    whole = {s["doc"]["question"]: s["spectral"]["score"]
             for s in samples(evaluate(num_fewshot=0), "gsm8k_spectral")}
    for sample in samples(evaluate(num_fewshot=0, **options), "gsm8k_spectral"):
        for name, values in sample["spectral"]["score"].items():  # its own scores, no neighbour's
            assert values == pytest.approx(whole[sample["doc"]["question"]][name], abs=1e-5)


def test_system_prompt_and_few_shot_reach_the_reader(evaluate: Evaluate) -> None:
    few = evaluate(num_fewshot=2)
    told = evaluate(num_fewshot=2, system_instruction="Think first.")
    values = [[s["spectral"]["score"]["mean_logprob"][0] for s in samples(f, "gsm8k_spectral")]
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
        for name, values in sample["spectral"]["score"].items():
            assert values[0] == pytest.approx(score.unsupervised[name], abs=1e-5)


def test_choice_of_scores(evaluate: Evaluate) -> None:
    results = evaluate(metadata={"scores": "mean_logprob+paper_hfer"})["results"]["gsm8k_spectral"]
    assert {k.split(",")[0] for k in results if k.startswith("auroc_") and "stderr" not in k} == {
        "auroc_mean_logprob", "auroc_matched_mean_logprob", "auroc_paper_hfer"}
    with pytest.raises(HarnessError, match="unknown 'hfre'; known: fiedler_value"):
        evaluate(metadata={"scores": ["hfre"]})


def never(prompt: str, k: int) -> str:
    raise AssertionError("generated, though it was known that nothing can come of it")


def test_a_label_metric_that_cannot_come_is_refused_before_generation(evaluate: Evaluate) -> None:
    with pytest.raises(HarnessError, match=r"no metric 'bleu' says .* metrics: exact_match"):
        evaluate(answer=never, metadata={"label_metric": "bleu"})


def test_a_fractional_metric_costs_the_scores_not_the_run(
    evaluate: Evaluate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "half.py").write_text("def half(doc, results):\n    return {'exact_match': 0.5}\n")
    (folder / "half.yaml").write_text(
        "task: half_spectral\nclass: !function validator.plugins.harness.task.SpectralTask\n"
        "upstream: gsm8k/gsm8k.yaml\nprocess_results: !function half.half\n")
    found = evaluate("half_spectral", include=folder)
    results = found["results"]["half_spectral"]
    assert results[f"exact_match,{STRICT}"] == 0.5
    assert not [k for k in results if k.startswith(("auroc", "spectral"))]
    assert "must be 0 or 1, got 0.5" in caplog.text
    assert "0.5" in found["configs"]["half_spectral"]["metadata"]["spectral"]["reason"]


def test_requests_that_metadata_shapes_are_not_taken_from_lm_evals_cache(
    evaluate: Evaluate, benchmark: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.caching import cache

    monkeypatch.setattr(cache, "PATH", str(tmp_path / "lm-cache"))
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("".join(f"{line}\n" for line in benchmark.read_text().splitlines()[::-1]))
    for file in (benchmark, backwards):
        found = evaluate(cache_requests=True, metadata={"data_files": str(file)})
        assert found["results"]["gsm8k_spectral"][f"exact_match,{STRICT}"] == pytest.approx(2 / 3)
    assert "requests are not cached" in caplog.text


def test_responses_from_lm_evals_cache_have_the_same_scores(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    parrot, again = Parrot(right_or_wrong), Parrot(right_or_wrong)
    first, second = (evaluate(lm=lm, use_cache=str(tmp_path / "cache")) for lm in (parrot, again))
    assert (parrot.asked, again.asked) == (12, 0)
    assert second["results"]["gsm8k_spectral"] == first["results"]["gsm8k_spectral"]
    scores = [[s["spectral"]["score"] for s in found["samples"]["gsm8k_spectral"]]
              for found in (first, second)]
    assert scores[0] == scores[1]
    assert any(scores[0])


def test_chats_are_shown_by_the_readers_template_or_not_scored(
    evaluate: Evaluate, reader: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.models.api_models import JsonChatStr


    class ChatParrot(Parrot):
        def apply_chat_template(self, chat: Any, add_generation_prompt: bool = True) -> Any:
            return JsonChatStr(json.dumps([dict(m) for m in chat]))

        tokenizer_name = "chat"

        def chat_template(self, chat_template: Any = False) -> str:
            return "x"

    def answer(prompt: Any, k: int) -> str:
        return right_or_wrong(json.loads(prompt.prompt)[-1]["content"], k)

    found = evaluate(lm=ChatParrot(answer), apply_chat_template=True, num_fewshot=0)
    assert found["results"]["gsm8k_spectral"][f"exact_match,{STRICT}"] == pytest.approx(2 / 3)
    assert "which tiny-reader cannot be shown" in caplog.text  # it has no chat template
    assert not [k for k in found["results"]["gsm8k_spectral"] if k.startswith("auroc")]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    path = reader / "chat_template.jinja"
    path.write_text(template)
    try:
        from validator.plugins.harness import responses

        responses._last = None
        found = evaluate(lm=ChatParrot(answer), apply_chat_template=True, num_fewshot=0)
    finally:
        path.unlink()
        responses._last = None
    assert len(samples(found, "gsm8k_spectral")) == N
    assert "auroc_mean_logprob,strict-match" in found["results"]["gsm8k_spectral"]


def test_a_model_without_attention_keeps_its_usual_metrics(
    evaluate: Evaluate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.models.huggingface import HFLM
    from tiny_models import byte_tokenizer
    from transformers import AutoModelForCausalLM, MambaConfig

    model = AutoModelForCausalLM.from_config(MambaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, pad_token_id=0, eos_token_id=2))
    lm = HFLM(pretrained=model.eval(), tokenizer=byte_tokenizer(), device="cpu", max_length=2048)
    found = evaluate(lm=lm, read=False, limit=2, num_fewshot=0, gen_kwargs="max_gen_toks=3")
    assert f"exact_match,{STRICT}" in found["results"]["gsm8k_spectral"]
    assert "responses are not scored, because" in caplog.text
    assert found["configs"]["gsm8k_spectral"]["metadata"]["spectral"]["reader"] is None


def test_a_shown_prompt_is_a_seen_document(evaluate: Evaluate, reader: Path, tmp_path: Path
                                           ) -> None:
    """Trained under other ids, on the same text: as `validator sample | train` would."""
    from validator import SpectralFeatureExtractor, Trace, ValidityClassifier
    from validator.training.fit import train

    plain = samples(evaluate(num_fewshot=0), "gsm8k_spectral")
    traces = [Trace(f"own{i}#{k}", f"own{i}", s["arguments"][0][0], f" {k} makes {i}", label=k % 2)
              for i, s in enumerate(plain[:8]) for k in range(4)]
    features = SpectralFeatureExtractor(str(reader), feature_set="paper").fit_transform(traces)
    done = train(features, ValidityClassifier("logistic"), tmp_path / "artifact", n_splits=2)
    found = samples(evaluate(num_fewshot=0, metadata={"artifact": str(done.artifact)}),
                    "gsm8k_spectral")
    assert [s["spectral"].get("seen", False) for s in found] == [True] * 8 + [False] * 4


def test_the_same_answers_again_and_again_are_warned_of(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(metadata={"repeats": 2}, limit=3)
    assert "no sampling: they will be the same" in caplog.text


def test_ends_of_data_parallelism_are_not_scored_twice(evaluate: Evaluate) -> None:
    """A short rank runs its last request again; copies stand behind the responses."""
    from lm_eval.api.instance import Instance

    from validator.plugins.harness.task import _responses

    instance = Instance("generate_until", {}, ("p", {}), 0, ("t", 0, 2))
    instance.resps = ["a", "b", "a", "b"]
    assert _responses(instance) == ["a", "b"]


def test_another_order_of_calls_is_an_error_not_a_wrong_score(evaluate: Evaluate) -> None:
    from validator.plugins.harness.task import SpectralTask

    original = SpectralTask.process_results

    def shifted(self: SpectralTask, doc: Any, results: Any) -> Any:
        if self._place is not None and self._place[1] == 3:
            self._place = (self._place[0], 4)
        return original(self, doc, results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpectralTask, "process_results", shifted)
        with pytest.raises(HarnessError, match=r"in an order that is not that of lm-eval 0\.4"):
            evaluate()


def test_documents_that_the_classifier_was_trained_on_are_not_judged(
    evaluate: Evaluate, reader: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact, seen = trained_on(reader, questions()[:6], tmp_path)
    found = evaluate(metadata={"artifact": str(artifact), "repeats": 2})
    results, logged = found["results"]["gsm8k_spectral"], samples(found, "gsm8k_spectral")
    assert [s["spectral"].get("seen", False) for s in logged] == [True] * 6 + [False] * 6
    assert {problem_of(q) for q in questions()[:6]} == seen
    fresh = logged[6:]
    labels = [v for s in fresh for v in s["spectral"]["valid"]]
    scores = [v for s in fresh for v in s["spectral"]["score"]["validity"]]
    assert results[f"auroc_validity,{STRICT}"] == pytest.approx(roc_auc_score(labels, scores))
    assert results[f"best_of_n_validity,{STRICT}"] == pytest.approx(
        np.mean([s["best_of_n_validity"] for s in fresh]))
    assert results[f"auroc_mean_logprob,{STRICT}"] == pytest.approx(roc_auc_score(
        [v for s in logged for v in s["spectral"]["valid"]],
        [v for s in logged for v in s["spectral"]["score"]["mean_logprob"]]))
    assert "trained on 6 of these documents" in caplog.text
    about = found["configs"]["gsm8k_spectral"]["metadata"]["spectral"]
    assert about["artifact"] == "artifact"


def test_an_artifact_of_another_model_is_refused_before_generation(
    evaluate: Evaluate, reader: Path, tmp_path: Path, make_tiny: Callable[..., Any]
) -> None:
    from tiny_models import byte_tokenizer

    from validator.errors import FeatureMismatchError

    artifact, _ = trained_on(reader, questions()[:6], tmp_path)
    other = tmp_path / "other-model"
    make_tiny(num_hidden_layers=2, max_position_embeddings=2048).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
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
