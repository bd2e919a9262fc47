"""The wind tunnels' tasks inside lm-eval, with models that are made here."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small_benchmark import Parrot
from tiny_models import byte_tokenizer, tiny_model

from validator.cli.main import main
from validator.errors import HarnessError
from validator.models.fetch import fetch
from validator.models.loading import LoadedModel
from validator.plugins.harness.command import TASKS
from validator.plugins.harness.logs import read_run
from validator.plugins.harness.windtunnel_data import draw, treepath
from validator.plugins.harness.windtunnel_evidence import QUERIES
from validator.windtunnels.answers import exact_accuracy, greedy_answers
from validator.windtunnels.bayes_training import reference_model, save_reference
from validator.windtunnels.edge_model import baked
from validator.windtunnels.entropy import measure_entropy
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.tree_text import node_name
from validator.windtunnels.tree_training import path_model, save_path_model, train_paths

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lm-eval and its dependencies say of each other
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning"),
              pytest.mark.filterwarnings("ignore::UserWarning")]

TREE = {"nodes": [4, 5], "depth": [2, 2], "dummies": [0, 1], "labels": 6}
SEEDED = {"problem_count": 8, "problem_seed": 2, "tunnel": TREE}
MEASURES = ("entropy_mae_bits", "posterior_kl_bits", "mass_on_support", "candidate_mass")


@pytest.fixture(scope="module", autouse=True)
def _what_was_there() -> Iterator[None]:
    """Left out of what the collector looks through: it is asked for living models again and again.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def run(lm: Any, task: str, metadata: dict[str, Any], **options: Any) -> dict[str, Any]:
    """lm-eval's own evaluation, less what it says of the machine."""
    manager = TaskManager(include_path=[str(TASKS)], include_defaults=False, metadata=metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, Any] = evaluate(lm, manager.load([task]), bootstrap_iters=100, **options)
    json.dumps(found["results"], allow_nan=False)
    return found


def symbols_model(name: str, metadata: dict[str, Any]) -> LoadedModel:
    """An untrained reference model of a tunnel."""
    drawn = draw(name, metadata)
    model = reference_model(drawn.tunnel, drawn.style, seed=0, width=16).eval()
    return LoadedModel(model, symbol_tokenizer(drawn.tunnel.symbols(drawn.style)), "m", "r")


def evaluated(loaded: LoadedModel) -> Any:
    """As lm-eval holds it; that of an earlier test is gone, for a task looks for the only one."""
    gc.collect()
    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, device="cpu", batch_size=16)


@pytest.mark.parametrize(("name", "asked"), [
    ("bijection", {"style": "pairs", "tunnel": {"size": 4, "repeat": True}}),
    ("hmm", {"style": "symbols", "tunnel": {"length": 5, "banded": True}}),
    ("hmm", {"style": "symbols", "tunnel": {
        "states": 3, "outputs": 3, "length": 4, "given": True, "levels": 10}}),
    ("sula", {"style": "answer", "tunnel": {"examples": 3}}),
])
def test_metrics_are_those_of_measure_entropy(name: str, asked: dict[str, Any]) -> None:
    asked = {**asked, "problem_count": 5, "problem_seed": 3}
    loaded, drawn = symbols_model(name, asked), draw(name, asked)
    found = run(evaluated(loaded), f"{name}_windtunnel", asked)
    results, logged = found["results"][f"{name}_windtunnel"], found["samples"][f"{name}_windtunnel"]
    wanted = measure_entropy(loaded, drawn.tunnel, drawn.problems, drawn.style)
    for measure in MEASURES:
        value = getattr(wanted.overall, measure)
        assert results[f"{measure},none"] == pytest.approx(value, abs=1e-6)
        assert results[f"{measure}_stderr,none"] == pytest.approx(
            np.std([s[measure] for s in logged], ddof=1) / 5**0.5)
    assert results["queries,none"] == wanted.overall.queries
    assert results["curve_mae_bits,none"] == pytest.approx(wanted.curve_mae_bits, abs=1e-6)
    assert results["position_mae_bits,none"] == pytest.approx(wanted.position_mae_bits, abs=1e-6)
    assert 0 <= results["position_mae_bits_stderr,none"] < 0.5
    by_position = [s[QUERIES]["kl"][1] for s in logged]
    assert np.mean(by_position) == pytest.approx(wanted.by_position[1].posterior_kl_bits, abs=1e-5)
    assert found["higher_is_better"][f"{name}_windtunnel"] == {
        "entropy_mae_bits": False, "posterior_kl_bits": False, "mass_on_support": True,
        "candidate_mass": True, "curve_mae_bits": False, "position_mae_bits": False}


def test_a_limit_is_of_problems() -> None:
    asked = {"style": "answer", "tunnel": {"examples": 2}, "problem_count": 4}
    loaded, drawn = symbols_model("sula", asked), draw("sula", asked)
    results = run(evaluated(loaded), "sula_windtunnel", asked, limit=1)["results"]
    wanted = measure_entropy(loaded, drawn.tunnel, drawn.problems[:1], "answer").overall
    assert results["sula_windtunnel"]["queries,none"] == 3
    assert results["sula_windtunnel"]["curve_mae_bits_stderr,none"] == "N/A"
    assert results["sula_windtunnel"]["entropy_mae_bits,none"] == pytest.approx(
        wanted.entropy_mae_bits, abs=1e-6)


def test_what_the_model_cannot_be_asked_is_an_error_before_it_is_run(
    caplog: pytest.LogCaptureFixture
) -> None:
    few = {"problem_count": 1, "tunnel": {"size": 3}}
    bytes_ = evaluated(LoadedModel(tiny_model(), byte_tokenizer(), "m", "r"))
    with pytest.raises(HarnessError, match=r"' a' is not one token after '.*' in the vocabulary"):
        run(bytes_, "bijection_windtunnel", few)
    for options in ({"apply_chat_template": True}, {"system_instruction": "Think."}):
        with pytest.raises(HarnessError, match="problem's own text"):
            run(bytes_, "bijection_windtunnel", few, **options)
    with pytest.raises(HarnessError, match=r"tokens; .* reads 1 to 256"):
        run(bytes_, "hmm_windtunnel", {"problem_count": 1})
    del bytes_
    trained = evaluated(symbols_model("bijection", {"style": "pairs", **few}))
    for task in ("bijection_windtunnel", "treepath_spectral"):
        with pytest.raises(HarnessError, match="reads the style it was trained on"):
            run(trained, task, {**few, "tunnel": {}})
    del trained

    class Guess(Parrot):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return [(-0.5, False)] * len(requests)

    caplog.clear()
    run(Guess(lambda prompt, k: ""), "bijection_windtunnel", few)
    assert "not checked that candidates are single tokens" in caplog.text
    assert "have a mass of 1.82 together" in caplog.text


@pytest.fixture(scope="module")
def walker() -> tuple[Any, Any, Any]:
    """A model of edges that was trained for a second, its tokenizer, and problems."""
    drawn = draw("tree", {**SEEDED, "style": "edges", "problem_count": 12})
    model = path_model(drawn.tunnel, "edges", seed=0)
    train_paths(drawn.tunnel, "edges", model, seed=0, max_steps=100)
    return baked(model), symbol_tokenizer(drawn.tunnel.symbols("edges")), drawn


def by_heart(prompt: str, k: int) -> str:
    """The solution of every even document, a wrong twin of the odd; each second one is other."""
    drawn = draw("tree", SEEDED)
    problem = next(p for p in drawn.problems
                   if prompt.endswith("\n\n" + drawn.tunnel.prompt(p, "text")))
    i, kinds = drawn.problems.index(problem), drawn.tunnel.corruptions
    if (i + k) % 2 == 0:
        return drawn.tunnel.render(problem, "text").completion
    kind = kinds[i // 2 % len(kinds)]
    return drawn.tunnel.corrupt(problem, "text", kind, np.random.default_rng(k)).completion


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metadata: the same trees, read by a tiny model with a token for each word."""
    found = treepath(**SEEDED)
    texts = [row["prompt"] + row["solution"] for split in found.values() for row in split]
    symbols = sorted({word for text in texts for word in text.split()}
                     | {node_name(node) for node in range(6)})
    folder = tmp_path_factory.mktemp("words") / "reader"
    tiny_model(max_position_embeddings=1024).save_pretrained(folder)
    symbol_tokenizer(symbols).save_pretrained(folder)
    return {**SEEDED, "reader": str(folder), "reader_device": "cpu", "features": "paper"}


def test_walks_are_verified_and_scored(words: dict[str, Any]) -> None:
    found = run(Parrot(by_heart), "treepath_spectral", words)
    results, logged = found["results"]["treepath_spectral"], found["samples"]["treepath_spectral"]
    labels = [s["spectral"]["valid"][0] for s in logged]
    assert labels == [1, 0] * 4
    assert results["exact_match,none"] == 0.5
    drawn = draw("tree", SEEDED)
    shares = [np.mean(drawn.tunnel.judge(p, "text", s["resps"][0][0], trace_id="").step_labels)
              for p, s in zip(drawn.problems, logged, strict=True)]
    assert [s["right_steps"] for s in logged] == pytest.approx(shares)
    assert results["right_steps,none"] == pytest.approx(np.mean(shares))
    for name in ("mean_logprob", "completion_length"):
        scores = [s["spectral"]["score"][name][0] for s in logged]
        assert results[f"auroc_{name},none"] == pytest.approx(roc_auc_score(labels, scores))
    prompt = logged[0]["arguments"][0][0]
    assert prompt.count("Each edge of a tree") == 3  # two demonstrations, solved
    assert logged[0]["arguments"][0][1]["max_gen_toks"] >= len(logged[0]["doc"]["solution"])


def test_several_walks_of_a_document(words: dict[str, Any]) -> None:
    found = run(Parrot(by_heart), "treepath_spectral_n8", {**words, "repeats": 3}, limit=4)
    logged = found["samples"]["treepath_spectral_n8"]
    for i, sample in enumerate(logged):
        right = [int((i + k) % 2 == 0) for k in range(3)]
        assert sample["spectral"]["valid"] == right
        assert sample["oracle"] == 1
        assert sample["pass_at_1"] == pytest.approx(sum(right) / 3)
        answers = sample["spectral"]["answer"]
        assert answers[0].startswith("walk up-")
        if i % 2 == 0:  # the same right walk twice
            assert answers[0] == answers[2] != answers[1]
            assert sample["majority_vote"] == 1
    assert "best_of_n_mean_logprob,none" in found["results"]["treepath_spectral_n8"]


def test_a_trained_model_answers_as_it_does_alone(walker: tuple[Any, Any, Any]) -> None:
    model, tokenizer, drawn = walker
    asked = {**SEEDED, "style": "edges", "problem_count": 12, "features": "paper"}
    found = run(evaluated(LoadedModel(model, tokenizer, "m", "r")), "treepath_spectral", asked)
    results, logged = found["results"]["treepath_spectral"], found["samples"]["treepath_spectral"]
    alone = greedy_answers(model, tokenizer, drawn.tunnel, drawn.problems, "edges")
    assert [s["resps"][0][0] for s in logged] == [t.completion for t in alone]
    assert [s["arguments"][0][0] for s in logged] == [t.prompt for t in alone]
    labels = [t.label for t in alone]
    assert 0 < sum(labels) < len(labels)  # it was trained for a second
    assert [s["exact_match"] for s in logged] == labels
    scores = [s["spectral"]["score"]["mean_logprob"][0] for s in logged]
    assert results["auroc_mean_logprob,none"] == pytest.approx(roc_auc_score(labels, scores))
    assert results["spectral,none"] == 1


@pytest.mark.model
def test_the_default_model_in_context_is_measured_alike() -> None:
    asked = {"problem_count": 2, "tunnel": {"examples": 1}}
    gc.collect()
    lm = HFLM(pretrained=str(fetch("smollm2-135m-instruct")), device="cpu", dtype="float32",
              softmax_dtype="float64", batch_size=1)  # padding alone moves the fifth digit
    results = run(lm, "sula_windtunnel", asked)["results"]["sula_windtunnel"]
    drawn = draw("sula", asked)
    wanted = measure_entropy(LoadedModel(lm.model, lm.tokenizer, "m", "r"), drawn.tunnel,
                             drawn.problems, "text").overall
    for measure in MEASURES:
        assert results[f"{measure},none"] == pytest.approx(getattr(wanted, measure), abs=1e-6)


def test_both_commands_and_the_report(walker: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """The stock command on trees, ours on a tunnel of evidence, side by side."""
    model, _, drawn = walker
    save_path_model(model, drawn.tunnel, "edges", tmp_path / "walker")
    asked = {"style": "pairs", "tunnel": {"size": 4}, "problem_count": 5}
    guesser, pairs = symbols_model("bijection", asked), draw("bijection", asked)
    save_reference(guesser.model, pairs.tunnel, "pairs", tmp_path / "guesser")
    common = ["--model", "hf", "--device", "cpu", "--log_samples", "--batch_size", "4"]
    stock = begin(["lm_eval", "--include_path", str(TASKS), *common, "--tasks", "treepath_spectral",
                   "--model_args", f"pretrained={tmp_path / 'walker'}", "--output_path", "trees",
                   "--metadata", json.dumps(
                       {**SEEDED, "style": "edges", "problem_count": 12, "features": "paper"})],
                  tmp_path)
    own = begin(["validator", "lm-eval", *common, "--tasks", "bijection_windtunnel", "--model_args",
                 f"pretrained={tmp_path / 'guesser'}", "--output_path", "pairs", "--metadata",
                 json.dumps(asked)], tmp_path)
    told, results = ended(stock), results_of(tmp_path / "trees")["treepath_spectral"]
    alone = greedy_answers(
        model, symbol_tokenizer(drawn.tunnel.symbols("edges")), drawn.tunnel, drawn.problems,
        "edges")
    assert results["exact_match,none"] == pytest.approx(exact_accuracy(alone))
    assert "auroc_mean_logprob" in told
    told, results = ended(own), results_of(tmp_path / "pairs")["bijection_windtunnel"]
    wanted = measure_entropy(guesser, pairs.tunnel, pairs.problems, "pairs").overall
    assert results["entropy_mae_bits,none"] == pytest.approx(wanted.entropy_mae_bits, abs=1e-6)
    assert "posterior_kl_bits" in told

    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "trees"), "-o", str(page), "--json"]) == 0
    assert "treepath_spectral" in page.read_text(encoding="utf-8")
    with pytest.raises(HarnessError, match="log-likelihoods, which have no scores to report on"):
        read_run(tmp_path / "pairs")


def begin(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets")}
    program = str(Path(sys.executable).parent / command[0])
    return subprocess.Popen([program, *command[1:]], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> str:
    try:
        out, errors = process.communicate(timeout=800)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out[-1500:]}\n{errors[-3000:]}"
    return out


def results_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("results_*.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return found
