"""Real traces through ``validator extract`` shard by shard, while its processes are killed.

    python -m benchmarks.shard_drill --traces ../shared/data/gsm8k_solutions_dev.jsonl --limit 2000
    python -m benchmarks.shard_drill --traces ../shared/data/gsm8k_solutions_dev.jsonl --limit 384 \
        --model smollm2-135m-instruct --shard-size 16 --no-kills --output shard_speed.json

A small random model with a small tokenizer, trained on the traces, reads them, so that the time
goes into starting, killing and counting and not into arithmetic. One process gives the rows to
compare with; then two Ray workers, undisturbed and timed; then the same with the driver killed
twice and a worker killed once, each at a random moment after the first shard. Linux: who holds the
file of a try is read in /proc/locks.

``traces_per_second`` is counted between the moment each worker has done a shard and the last shard,
without what starting costs; ``started_and_ended_seconds`` is the rest of the command's time. With
``--model``, a model of one's own reads the traces, so that the time goes into arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from validator.features.store_upkeep import store_stats, verify_store
from validator.features.table import read_features
from validator.training.datasets import load_traces
from validator.types import Trace

__all__ = ["main"]


def main() -> None:
    """Run the drill and write what was found."""
    args = _arguments()
    with TemporaryDirectory() as folder:
        drill = Drill(args, Path(folder))
        found = {"traces": args.limit, "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
        found["serial"] = drill.timed("serial", "--backend", "serial", "--threads", "2")
        found["serial"] |= drill.pace("serial", 1, found["serial"])
        found["ray"] = drill.timed("ray", *RAY)
        found["ray"] |= drill.pace("ray", 2, found["ray"])
        found["ray_again"] = drill.timed("ray", *RAY)
        found["ray_over_serial"] = round(
            found["ray"]["traces_per_second"] / found["serial"]["traces_per_second"], 3)
        found["rows_equal_bits"] = [drill.same("serial", "ray")]
        if not args.no_kills:
            found["killed"] = drill.killed()
            found["rows_equal_bits"].append(drill.same("serial", "killed"))
        found["load_after"] = os.getloadavg()[0]
    print(json.dumps(found, indent=2))
    args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


RAY = ("--backend", "ray", "--num-workers", "2", "--threads", "1")


class Drill:
    """A model, a trace file and a store for each way."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.model = args.model or _small_model(
            folder / "model", load_traces(args.traces, format=args.format, limit=args.limit))

    def command(self, name: str, *options: str) -> list[str]:
        """The command that fills the store of that name."""
        return [sys.executable, "-m", "validator.cli.main", "extract", str(self.args.traces),
                "--format", self.args.format, "--limit", str(self.args.limit), "--model",
                str(self.model), "--features", "fast", "--store", str(self.folder / name), "-o",
                str(self.folder / f"{name}.parquet"), "--shard-size", str(self.args.shard_size),
                "--json", *options]

    def timed(self, name: str, *options: str) -> dict[str, Any]:
        """Run it to its end."""
        started = time.perf_counter()
        done = subprocess.run(self.command(name, *options), check=True, stdout=subprocess.PIPE,
                              text=True)
        facts = json.loads(done.stdout)
        return {"wall_seconds": round(time.perf_counter() - started, 1)} | {
            k: facts[k] for k in ("seconds", "rows", "shards_done_before", "batches_computed")}

    def pace(self, name: str, workers: int, facts: dict[str, Any]) -> dict[str, float]:
        """Traces per second once every worker has done a shard, and what starting costs."""
        done = sorted((path.stat().st_mtime, len(json.loads(path.read_text())["rows"]))
                      for path in self.records(name))
        rows = sum(rows for _, rows in done[workers:])
        per_second = rows / (done[-1][0] - done[workers - 1][0])
        return {"traces_per_second": round(per_second, 3), "started_and_ended_seconds": round(
            facts["wall_seconds"] - facts["rows"] / per_second, 1)}

    def killed(self) -> dict[str, Any]:
        """Kill the driver twice and a worker once, then let it end."""
        chance, counts = random.Random(self.args.seed), []
        for kill in ("driver", "driver", "worker"):
            driver = subprocess.Popen(self.command("killed", *RAY), stdout=subprocess.DEVNULL)
            before = len(self.records())
            while len(self.records()) == before and driver.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.random() * 2)
            pid = driver.pid if kill == "driver" else self.busy()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            driver.wait()
            counts.append({"killed": kill, "hit": pid is not None, "done": len(self.records())})
        last = self.timed("killed", *RAY)
        [stats] = store_stats(self.folder / "killed")
        return {"kills": counts, "finished_run_again": last, "rows": stats.rows,
                "duplicates": stats.duplicates, "leftovers": stats.leftovers,
                "findings": len(verify_store(self.folder / "killed")),
                "files_of_tries": len(list(self.folder.glob("killed/shards/*/tries/*")))}

    def records(self, name: str = "killed") -> list[Path]:
        """One for each shard that is done."""
        return [p for p in self.folder.glob(f"{name}/shards/*/*.json") if len(p.name) == 69]

    def busy(self) -> int | None:
        """A process that holds the file of a try."""
        held = {p.stat().st_ino for p in self.folder.glob("killed/shards/*/tries/*")}
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) in held:
                return int(fields[4])
        return None

    def same(self, one: str, other: str) -> bool:
        """Whether two feature files agree to the bit."""
        a, b = (read_features(self.folder / f"{name}.parquet") for name in (one, other))
        return a.trace_ids == b.trace_ids and np.array_equal(
            a.values.view(np.uint32), b.values.view(np.uint32))


def _small_model(folder: Path, traces: Sequence[Trace]) -> Path:
    """A random llama of two layers and a byte-pair tokenizer of 2,000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [t.prompt + t.completion for t in traces],
        trainers.BpeTrainer(vocab_size=2000, special_tokens=["<s>"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--format", default="gsm8k-solutions")
    parser.add_argument("--limit", type=int, default=500, help="lines of the file")
    parser.add_argument("--model", help="known name or folder (default: a small random one)")
    parser.add_argument("--shard-size", type=int, default=64, help="traces")
    parser.add_argument("--no-kills", action="store_true", help="only what is timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shard_drill.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
