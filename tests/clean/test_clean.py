"""Scores, flags and files of ``validator clean``, each against another way to get it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from validator import SpectralFeatureExtractor, ValidityClassifier
from validator.errors import FeatureMismatchError, LabelError, ParameterError, TraceError
from validator.families import learned_names
from validator.metrics import auroc
from validator.plugins.clean import (
    LOSSES,
    ExampleScores,
    clean_examples,
    flag_examples,
    planted_scores,
    read_examples,
    score_examples,
    token_losses,
    with_planted,
)
from validator.scoring import Validator
from validator.types import FeatureMatrix, Provenance, Trace


def example(i: int, text: str) -> Trace:
    return Trace(f"line{i}", f"p{i}", f"Q: {i}?\nA:", text)


TRACES = [example(i, f"\nfirst {i * 7 % 5} and\nthen {i}.\nso {i + 1}\n#### {i + 2}")
          for i in range(1, 13)]


@pytest.fixture(scope="module")
def extractor(tiny: Any) -> SpectralFeatureExtractor:
    return SpectralFeatureExtractor(tiny, feature_set="fast").fit()


@pytest.fixture(scope="module")
def found(extractor: SpectralFeatureExtractor) -> ExampleScores:
    return score_examples(Validator(extractor), TRACES)


def logprobs(model: Any, prompt: list[int], completion: list[int]) -> list[float]:
    """By hand: one pass, one softmax."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + completion])).logits[0].double()
    chances = torch.log_softmax(logits, -1)
    return [float(chances[len(prompt) + k - 1, t]) if len(prompt) + k else math.nan
            for k, t in enumerate(completion)]


def test_losses_are_those_of_one_pass_each(tiny: Any) -> None:
    model, tokenizer = tiny
    for trace, loss in zip(TRACES[:3], token_losses(model, tokenizer, TRACES[:3]), strict=True):
        prompt, completion = tokenizer(trace.prompt)["input_ids"], tokenizer(
            trace.completion)["input_ids"]
        given, alone = logprobs(model, prompt, completion), logprobs(model, [], completion)
        np.testing.assert_allclose(loss.given, given, atol=1e-5)
        np.testing.assert_allclose(loss.alone[1:], alone[1:], atol=1e-5)
        assert "".join(loss.tokens) == trace.completion
        lines = trace.completion.split("\n")
        starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
        means = [np.mean(given[a:a + len(line)])
                 for a, line in zip(starts, lines, strict=False) if line]
        tail = sorted(given)[:round(0.2 * len(given))]
        expected = (np.mean(given), min(given), np.mean(tail), min(means),
                    np.mean(np.subtract(given[1:], alone[1:])))
        np.testing.assert_allclose([loss.scores()[n] for n in LOSSES], expected, atol=1e-5)


@pytest.mark.parametrize("most", [1, 64, 10_000])
def test_batches_and_known_surprisals_change_nothing(
    tiny: Any, extractor: SpectralFeatureExtractor, most: int
) -> None:
    whole = token_losses(*tiny, TRACES)
    extractor.transform(TRACES)
    known = token_losses(*tiny, TRACES, known=extractor.token_surprisals_)
    seen: list[tuple[int, int]] = []
    parts = token_losses(*tiny, TRACES, max_batch_tokens=most,
                         progress=lambda done, total: seen.append((done, total)))
    for a, b, c in zip(whole, parts, known, strict=True):
        np.testing.assert_allclose(a.given, b.given, atol=1e-5)
        np.testing.assert_allclose(a.given, c.given, atol=1e-5)
        np.testing.assert_allclose(a.alone[1:], b.alone[1:], atol=1e-5)
    assert seen[-1] == (24, 24)


def test_a_single_token_has_no_prompt_gain(tiny: Any) -> None:
    loss, = token_losses(*tiny, [example(0, "x")])
    assert math.isnan(loss.scores()["prompt_gain"])
    assert loss.scores()["mean_logprob"] == pytest.approx(float(loss.given[0]))


def test_small_loss_is_the_mean_rank_and_baselines_are_the_features_own(
    found: ExampleScores
) -> None:
    ranks = [(rankdata(found.scores[n]) - 1) / (len(TRACES) - 1) for n in LOSSES]
    np.testing.assert_allclose(found.scores["small_loss"], np.mean(ranks, axis=0), atol=1e-12)
    assert found.features is not None
    for name in ("mean_logprob", "min_logprob", "completion_length"):
        own = found.features.select([f"{name}__baseline"])[:, 0]
        sign = -1 if name == "completion_length" else 1
        np.testing.assert_allclose(found.scores[name], sign * own, atol=1e-4)
    assert {"distance_knn", "log_self_attention"} <= set(found.scores)
    assert "p_valid" not in found.scores


def test_losses_alone_need_no_attention(extractor: SpectralFeatureExtractor) -> None:
    alone = score_examples(Validator(extractor), TRACES, attention=False)
    assert set(alone.scores) == {*LOSSES, "small_loss", "completion_length"}
    assert alone.features is None
    with pytest.raises(FeatureMismatchError, match="attention"):
        with_planted(alone, Validator(extractor), ValidityClassifier("logistic"))


def test_what_cannot_be_read_is_named_and_the_rest_scored(
    extractor: SpectralFeatureExtractor
) -> None:
    found = score_examples(Validator(extractor), [*TRACES, example(99, "x" * 400)])
    assert list(found.unscorable) == ["line99"]
    assert "positions" in found.unscorable["line99"]
    assert len(found.traces) == len(TRACES)
    with pytest.raises(TraceError, match="not one of 1"):
        score_examples(Validator(extractor), [example(99, "x" * 400)])


def test_learned_scores_rank_by_margin(extractor: SpectralFeatureExtractor) -> None:
    features = extractor.transform(TRACES)
    X = features.select(learned_names(features.names))
    classifier = ValidityClassifier("logistic", C=0.01).fit(X, np.arange(12) % 2)
    found = score_examples(Validator(extractor, classifier), TRACES)
    np.testing.assert_allclose(found.scores["p_valid"], classifier.predict_proba(X)[:, 1])
    np.testing.assert_allclose(found.ranking("p_valid"), classifier.decision_function(X))
    lowest = flag_examples(found, "p_valid", share=0.25)
    order = np.argsort(classifier.decision_function(X))[:3]
    assert [f.id for f in lowest] == [TRACES[i].id for i in order]


def test_flags_say_which_score_token_and_step(found: ExampleScores) -> None:
    flags = flag_examples(found, "mean_logprob", share=0.25)
    values = found.scores["mean_logprob"]
    assert [f.by.value for f in flags] == sorted(values)[:3]
    assert [f.by.percentile for f in flags] == pytest.approx([0, 100 / 11, 200 / 11])
    for flag in flags:
        loss = next(lo for t, lo in zip(found.traces, found.losses, strict=True)
                    if t.id == flag.id)
        assert flag.token_surprisal == pytest.approx(-loss.given.min())
        assert loss.tokens[flag.token_index] == flag.token
        assert flag.step_surprisal == pytest.approx(-loss.scores()["worst_step_logprob"])
        assert flag.step in TRACES[int(flag.id[4:]) - 1].completion.split("\n")
        assert repr(flag.token) in flag.reason
        assert all(s.percentile <= 5 for s in flag.also)
    cut = sorted(values)[4]
    assert [f.id for f in flag_examples(found, "mean_logprob", threshold=cut)] == [
        TRACES[i].id for i in np.argsort(values)[:4]]


@pytest.mark.parametrize(("options", "error"), [
    ({"by": "typo", "share": 0.1}, FeatureMismatchError), ({"by": "small_loss"}, ParameterError),
    ({"by": "small_loss", "share": 0.1, "threshold": 1.0}, ParameterError),
    ({"by": "small_loss", "share": 1.0}, ParameterError)])
def test_wrong_choices_are_refused(
    found: ExampleScores, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        flag_examples(found, **options)


LINES = [
    '{"prompt": "Q: 1?\\nA:",  "completion": " it is 1", "other": [1, {"a": null}]}\r\n',
    "\n", '{"prompt": "Q: 2?\\nA:", "completion": " it is \u00e9\\u00e9 2"}\n', "not json\n",
    '{"prompt": "Q: 3?\\nA:", "completion": ""}\n', '{"prompt": "Q: 3?\\nA:"}\n',
    '{"prompt": "Q: 4?\\nA:", "completion": " it is 4"}\n',
    '{"completion": " it is 4", "prompt": "Q: 4?\\nA:"}']


def made(tmp_path: Path, extractor: SpectralFeatureExtractor, **options: Any) -> Any:
    path = tmp_path / "train.jsonl"
    path.write_bytes("".join(LINES).encode())
    examples = read_examples(path)
    found = score_examples(Validator(extractor), [e.trace for e in examples if e.trace])
    return clean_examples(path, examples, found, "mean_logprob", share=0.25, **options)


def test_kept_lines_are_byte_for_byte_and_nothing_is_lost(
    tmp_path: Path, extractor: SpectralFeatureExtractor
) -> None:
    report = made(tmp_path, extractor)
    kept, dropped = tmp_path / "kept.jsonl", tmp_path / "flagged.jsonl"
    assert report.write_kept(kept) + report.write_flagged(dropped) == 7
    flagged = [json.loads(line) for line in dropped.read_text().splitlines()]
    gone = {r["line"] for r in flagged}
    assert len(gone) == 1
    expected = [line for n, line in enumerate(LINES, 1) if n not in gone and line.strip()]
    assert kept.read_bytes() == "".join(expected).encode()
    assert flagged[0]["text"] == LINES[flagged[0]["line"] - 1].rstrip("\r\n")
    assert set(report.unscorable) == {4, 5, 6}
    assert "empty" in report.unscorable[5]
    assert "3 examples could not be scored and are kept" in " ".join(report.notes())
    told = report.to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["examples"], told["scored"], told["flagged"], told["kept"]) == (7, 4, 1, 6)


def test_unscorable_examples_are_left_out_only_when_asked(
    tmp_path: Path, extractor: SpectralFeatureExtractor
) -> None:
    report = made(tmp_path, extractor, keep_unscorable=False)
    assert report.write_kept(tmp_path / "kept.jsonl.gz") == 3
    report.write_flagged(tmp_path / "flagged.jsonl")
    dropped = [json.loads(x) for x in (tmp_path / "flagged.jsonl").read_text().splitlines()]
    assert {r["line"] for r in dropped} >= {4, 5, 6}
    assert all(r["reason"] for r in dropped)
    report.write_scores(tmp_path / "scores.jsonl")
    rows = [json.loads(x) for x in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rows] == [1, 3, 4, 5, 6, 7, 8]
    assert all(("unscorable" in r) != ("scores" in r) for r in rows)
    again = read_examples(tmp_path / "kept.jsonl.gz")
    assert all(e.raw in "".join(LINES).encode() for e in again)


def test_the_source_is_never_written_over(
    tmp_path: Path, extractor: SpectralFeatureExtractor
) -> None:
    report = made(tmp_path, extractor)
    for write in (report.write_kept, report.write_flagged, report.write_scores):
        with pytest.raises(ParameterError, match="never changed"):
            write(tmp_path / "train.jsonl")


def test_a_length_meter_is_told(found: ExampleScores) -> None:
    report = clean_examples(Path("x.jsonl"), (), found, "small_loss", share=0.1)
    rho = report.follows_length()
    assert rho["mean_logprob"] == pytest.approx(
        spearmanr(found.scores["mean_logprob"], found.lengths).statistic)
    report = clean_examples(Path("x.jsonl"), (), found, "completion_length", share=0.1)
    assert not report.notes()
    meter = ExampleScores(found.traces, found.losses, found.lengths,
                          {"m": found.lengths * 2.0}, {})
    told = clean_examples(Path("x.jsonl"), (), meter, "m", share=0.1).notes()
    assert "flags short completions first" in told[0]


@pytest.mark.parametrize(("text", "message"), [
    ("", "it is empty"), ('{"question": "q"}\n', "expected a string under 'prompt'"),
    ('{"prompt": 3, "completion": "x"}\n', "got int"), ("[1]\n", "JSON object")])
def test_files_without_examples_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(TraceError, match=message):
        read_examples(tmp_path / "x.jsonl")


def test_other_formats_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"question": "2?", "answer": "it is 2\n#### 2"}) + "\n"
                    + json.dumps({"question": "3?", "answer": "it is 3\n#### 3"}) + "\n")
    first, = read_examples(path, format="gsm8k", limit=1)
    assert first.trace is not None
    assert first.trace.prompt == "Question: 2?\nAnswer:"
    pair = read_examples(path, prompt_key="question", completion_key="answer")[1]
    assert pair.trace is not None
    assert pair.trace.completion == "it is 3\n#### 3"
    with pytest.raises(ParameterError, match="unknown format"):
        read_examples(path, format="typo")
    with pytest.raises(ParameterError, match="limit"):
        read_examples(path, limit=0)


def matrix(values: np.ndarray, prefix: str, revision: str = "0") -> FeatureMatrix:
    return FeatureMatrix(
        values.astype(np.float32),
        tuple(f"fiedler_value__layer{i}__head_mean__completion" for i in range(values.shape[1])),
        tuple(Trace(f"{prefix}{i}", f"p{i}", "Q", "A") for i in range(len(values))),
        np.ones((len(values), 2), dtype=np.int64), Provenance("none", revision, "none", 1))


def test_planted_corruption_is_learned_and_used_on_other_problems() -> None:
    rng = np.random.default_rng(0)
    bad = rng.random(200) < 0.1
    values = rng.normal(size=(200, 4)) - 3.0 * bad[:, None] * np.array([1, 0, 0, 0])
    copies = values - np.array([3.0, 0, 0, 0])
    scores = planted_scores(matrix(values, "t"), matrix(copies, "c"), ValidityClassifier())
    assert auroc((~bad).astype(int), scores) > 0.9
    # Copies that are no different teach nothing: a memorised pairing would show as skill.
    memory = planted_scores(matrix(values, "t"), matrix(values, "c"), ValidityClassifier())
    assert np.abs(memory).max() < 0.2


def test_planted_scores_never_see_their_own_problem() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 3))
    copies = matrix(rng.normal(size=(40, 3)), "c")
    before = planted_scores(matrix(values, "t"), copies, ValidityClassifier("logistic"))
    values[0] += 50.0
    after = planted_scores(matrix(values, "t"), copies, ValidityClassifier("logistic"))
    from validator.plugins.clean.planted import problem_halves

    part = problem_halves([f"p{i}" for i in range(40)], 2, 0)
    same = part == part[0]
    same[0] = False
    np.testing.assert_array_equal(before[same], after[same])
    assert (before[part != part[0]] != after[part != part[0]]).all()


def test_planted_refusals() -> None:
    values = np.zeros((4, 2))
    with pytest.raises(FeatureMismatchError):
        planted_scores(matrix(values, "t"), matrix(values, "c", "1"), ValidityClassifier())
    with pytest.raises(LabelError, match="parts"):
        planted_scores(matrix(values[:1], "t"), matrix(values[:1], "c"), ValidityClassifier())


def test_with_planted_adds_one_score(
    found: ExampleScores, extractor: SpectralFeatureExtractor
) -> None:
    more = with_planted(found, Validator(extractor), ValidityClassifier("logistic", C=0.01))
    assert set(more.scores) - set(found.scores) == {"planted"}
    assert np.isfinite(more.scores["planted"]).all()
    assert flag_examples(more, "planted", share=0.2)
