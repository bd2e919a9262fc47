"""The commands of the kill drill: how they are called, and how what they leave is judged."""

from __future__ import annotations

import json
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from validator.classifier import load_artifact
from validator.columns import BASELINES, Column
from validator.features.store_upkeep import store_stats, verify_store
from validator.features.table import read_features, write_features
from validator.training.datasets import load_traces, write_traces
from validator.training.trial_storage import opened
from validator.types import FeatureMatrix, Provenance, Trace

__all__ = ["SUBJECTS", "Subject", "make_inputs"]

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Subject:
    """A command, and how to judge what it has left in a folder; to be subclassed."""

    name: str
    begins_anew = True
    """Whether a run that ended leaves nothing to do, so that the next needs an empty folder."""

    def __init__(self, inputs: Path) -> None:
        self.inputs = inputs

    def call(self, folder: Path) -> list[str]:
        """Arguments of the command."""
        raise NotImplementedError

    def done(self, folder: Path) -> set[str]:
        """What is complete and must stay."""
        raise NotImplementedError

    def outputs(self, folder: Path) -> dict[str, Any]:
        """Final name of each output that is there -> its content; raises where it is torn."""
        raise NotImplementedError

    def duplicates(self, folder: Path) -> int:
        """Units that are there twice."""
        return 0


class Extract(Subject):
    """Shard by shard, in one process."""

    name = "extract"

    def call(self, folder: Path) -> list[str]:
        return ["extract", str(self.inputs / "traces.jsonl"), "--model",
                str(self.inputs / "model"), "--features", "fast", "--threads", "1", "--backend",
                "serial", "--shard-size", "4", "--store", str(folder / "store"), "-o",
                str(folder / "features.parquet"), "--json"]

    def done(self, folder: Path) -> set[str]:
        return {p.name for p in folder.glob("store/shards/*/*.json") if len(p.name) == 69}

    def outputs(self, folder: Path) -> dict[str, Any]:
        if (folder / "store").exists():
            torn = [f for f in verify_store(folder / "store") if f.kind != "leftover"]
            if torn:
                raise ValueError(str(torn))
        if not (folder / "features.parquet").exists():
            return {}
        rows = read_features(folder / "features.parquet")
        return {"features": [(t.id, v.tobytes()) for t, v in zip(rows.traces, rows.values,
                                                               strict=True)]}

    def duplicates(self, folder: Path) -> int:
        return sum(s.duplicates for s in store_stats(folder / "store"))


class Sample(Subject):
    """Two answers of each of eight problems, a problem at a time."""

    name = "sample"

    def call(self, folder: Path) -> list[str]:
        return ["sample", "--model", str(self.inputs / "model"), "--problems", "one-step",
                "--count", "8", "-n", "2", "--batch-size", "2", "--max-new-tokens", "6",
                "--threads", "1", "-o", str(folder / "own.jsonl"), "--json"]

    def done(self, folder: Path) -> set[str]:
        lines: list[bytes] = []
        for name in ("own.jsonl.partial", "own.jsonl"):
            with suppress(FileNotFoundError):
                lines = (folder / name).read_bytes().split(b"\n")[:-1]
        ids = [json.loads(line)["id"] for line in lines]
        return {i for i in ids if {f"{i[:-1]}{k}" for k in (0, 1)} <= set(ids)}

    def outputs(self, folder: Path) -> dict[str, Any]:
        for path in folder.glob("*.manifest.json"):
            json.loads(path.read_text())
        path = folder / "own.jsonl"
        return {"own": (len(load_traces(path)), path.read_bytes())} if path.exists() else {}

    def duplicates(self, folder: Path) -> int:
        ids = [t.id for t in load_traces(folder / "own.jsonl")]
        return len(ids) - len(set(ids))


class Page(HTMLParser):
    """Raises for a tag that is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        if self.open or not self.rawdata.strip() == "":
            raise ValueError(f"{path.name} ends in {self.open}")

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note what is open."""
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        if self.open.pop() != tag:
            raise ValueError(tag)


class Train(Subject):
    """Its outputs are made anew by each run, in place of those of the run before."""

    name, begins_anew = "train", False

    def call(self, folder: Path) -> list[str]:
        return ["train", str(self.inputs / "features.parquet"), "-o", str(folder / "artifact"),
                "--folds", "2", "--json-output", str(folder / "numbers.json"), "--json"]

    def done(self, folder: Path) -> set[str]:
        return set(self.outputs(folder))

    def outputs(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if (folder / "numbers.json").exists():
            found["numbers"] = json.loads((folder / "numbers.json").read_text())
        if (folder / "page.html").exists():
            found["page"] = len(Page(folder / "page.html").open)
        if (folder / "artifact").exists() or list(folder.glob(".artifact.????????/old")):
            found["artifact"] = load_artifact(folder / "artifact").manifest["model_sha256"]
        return found


class Tune(Train):
    """Trials stay in a journal; the same trials are found however often it is killed."""

    name, begins_anew = "tune", True

    def call(self, folder: Path) -> list[str]:
        return ["tune", str(self.inputs / "features.parquet"), "-o", str(folder / "artifact"),
                "--trials", "3", "--outer", "2", "--inner", "2", "--kinds", "logistic",
                "--json-output", str(folder / "numbers.json"), "--json"]

    def done(self, folder: Path) -> set[str]:
        return super().done(folder) | self._finished(folder)

    def outputs(self, folder: Path) -> dict[str, Any]:
        found = super().outputs(folder)
        for fold in (*found.get("numbers", {}).get("folds", ()),
                     found.get("numbers", {}).get("final", {})):
            fold.pop("failed", None)  # trials of killed runs are told there
        found.get("numbers", {}).pop("command", None)
        return found | ({"trials": self._finished(folder)} if "numbers" in found else {})

    def _finished(self, folder: Path) -> set[str]:
        """Trials that count; read from a copy, because opening a journal mends it."""
        journal, copy = folder / "artifact.tuning.journal", folder.with_suffix(".copy")
        if not journal.exists() or b"\n" not in journal.read_bytes():
            return set()
        copy.write_bytes(journal.read_bytes().rpartition(b"\n")[0] + b"\n")
        with opened(copy) as store:
            return {f"{study.study_name} {t.params} {t.value}"
                    for study in optuna.get_all_study_summaries(store)
                    for t in optuna.load_study(study_name=study.study_name, storage=store).trials
                    if t.state.name in ("COMPLETE", "PRUNED")}

    def duplicates(self, folder: Path) -> int:
        return abs(9 - len(self._finished(folder)))


class Report(Train):
    """A page and numbers of what lm-eval logged."""

    name = "report"

    def call(self, folder: Path) -> list[str]:
        return ["report", str(self.inputs / "logged"), "-o", str(folder / "page.html"),
                "--json-output", str(folder / "numbers.json"), "--json"]


SUBJECTS = (Extract, Sample, Train, Tune, Report)


def make_inputs(folder: Path) -> Path:
    """A small random model, traces, features with a signal, and what lm-eval would have logged."""
    folder.mkdir()
    _small_model(folder / "model")
    write_traces(folder / "traces.jsonl", [
        Trace(f"p{i // 3}#{i % 3}", f"p{i // 3}", f"Question {i // 3}: add {i // 3} and 2.\nA:",
              f" {i // 3} + {i % 3} = {i}" + "." * (i % 9 + 3), i % 2) for i in range(48)])
    rng = np.random.default_rng(0)
    names = (*(str(Column(b)) for b in BASELINES),
             *(str(Column("fiedler_value", layer, None, "completion")) for layer in range(3)))
    labels = rng.integers(0, 2, 96)
    values = rng.normal(size=(96, len(names))).astype(np.float32)
    values[:, -3] += 1.5 * labels
    traces = tuple(Trace(f"p{i // 4}#{i % 4}", f"p{i // 4}", "Q:", f" {i}", int(y))
                   for i, y in enumerate(labels))
    write_features(folder / "features.parquet", FeatureMatrix(
        values, names, traces, np.full((96, 2), 5), Provenance("m", "r", "default", 1)))
    _log(folder / "logged", rng)
    return folder


def _small_model(folder: Path) -> None:
    """A random llama of two layers that reads bytes."""
    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(specials + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0,
        bos_token_id=1, eos_token_id=2)).save_pretrained(folder)


def _log(folder: Path, rng: np.random.Generator) -> None:
    """Thirty documents, two responses each, with P(valid) and the baselines."""
    folder.mkdir()
    lines = []
    for i in range(30):
        valid = rng.integers(0, 2, 2).tolist()
        scores = {"validity": [float(np.clip(0.35 + 0.3 * v + rng.normal(0, 0.2), 0.01, 0.99))
                               for v in valid],
                  "completion_length": (-rng.random(2)).tolist(),
                  "mean_logprob": (-rng.random(2)).tolist()}
        lines.append(json.dumps({
            "doc_id": i, "doc": {"question": f"q{i}"}, "filter": "strict", "exact_match": valid[0],
            "arguments": {"gen_args_0": {"arg_0": f"Q: {i}?\nA:", "arg_1": {}}},
            "resps": [[f" {i} and {k} make {i + k * v}." for k, v in enumerate(valid)]],
            "spectral": {"valid": valid, "answer": [str(v) for v in valid],
                         "tokens": rng.integers(5, 20, 2).tolist(), "score": scores}}) + "\n")
    stamp = "2026-01-02T03-04-05.678"
    (folder / f"results_{stamp}.json").write_text(json.dumps({
        "configs": {"sums_spectral": {"repeats": 2, "metadata": {"spectral": {
            "reader": "tiny", "origin": "evaluated model", "dtype": "float32"}}}},
        "config": {"model_args": {"pretrained": "m"}}}))
    (folder / f"samples_sums_spectral_{stamp}.jsonl").write_text("".join(lines))
