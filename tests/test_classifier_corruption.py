"""Damaged artifacts and fresh interpreters: this file is also the program those interpreters run.

``python test_classifier_corruption.py corrupt FOLDER COUNT SEED`` loads COUNT corrupted artifacts
and prints what became of them; ``... hashes FOLDER`` fits, saves and prints SHA-256 sums.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILES = ("model.json", "manifest.json")
VARIANTS = ["logistic", "xgboost", "mlp", "sigmoid", "isotonic", "calibrated mlp"]


def save_all(folder):
    """One artifact of each variant in ``folder`` -> [{file name: bytes}]."""
    from test_artifact import NAMES, PROVENANCE, fitted

    from validator.classifier import save_artifact

    paths = [save_artifact(folder / name.replace(" ", "_"), fitted(name)[0], PROVENANCE, NAMES,
                           {"auroc": 0.7, "note": "é"}) for name in VARIANTS]
    return [{file: (path / file).read_bytes() for file in FILES} for path in paths]


def damage(good, rng):
    """``good`` bytes with bits flipped, bytes replaced, inserted, removed or cut off, or none."""
    at, length = int(rng.integers(len(good))), int(2 ** rng.integers(0, 10))
    noise = [rng.bytes(length), b" " * length, b"9" * length, good[:length]][rng.integers(4)]
    flipped = bytearray(good)
    for place in rng.integers(len(good), size=rng.integers(1, 9)):
        flipped[place] ^= 1 << rng.integers(8)
    return [
        bytes(flipped), good[:at] + noise + good[at + length:], good[:at] + noise + good[at:],
        good[:at] + good[at + length:], good[:at], good[at:], good + noise, b"",
    ][rng.integers(8)]


def corrupted(artifacts, rng):
    """A random artifact with one file damaged, both, or files that belong elsewhere."""
    i, j = rng.integers(len(artifacts), size=2)
    good, other = artifacts[i], artifacts[j]
    model, manifest = (damage(good[file], rng) for file in FILES)
    bad = [
        {**good, "model.json": model}, {**good, "manifest.json": manifest},
        {"model.json": model, "manifest.json": manifest},
        {"model.json": good["manifest.json"], "manifest.json": good["model.json"]},
        {**good, "model.json": other["model.json"]},
        {**good, "manifest.json": other["manifest.json"]},
        {"model.json": good["model.json"]}, {"manifest.json": good["manifest.json"]},
    ][rng.choice(8, p=[0.35, 0.35, 0.1, 0.04, 0.04, 0.04, 0.04, 0.04])]
    return None if bad in artifacts else bad


def corrupt(folder, count, seed):
    """Load ``count`` corrupted artifacts -> how many were refused, accepted, or raised else."""
    from validator.classifier import load_artifact
    from validator.errors import ValidatorError

    artifacts, rng = save_all(folder), np.random.default_rng(seed)
    outcome = {"refused": 0, "accepted": 0, "other": []}
    target = folder / "target"
    target.mkdir()
    while sum((outcome["refused"], outcome["accepted"], len(outcome["other"]))) < count:
        files = corrupted(artifacts, rng)
        if files is None:
            continue  # every change cancelled out, or an artifact was swapped with itself
        for file in FILES:
            (target / file).unlink(missing_ok=True)
        for file, content in files.items():
            (target / file).write_bytes(content)
        try:
            load_artifact(target)
            outcome["accepted"] += 1
        except ValidatorError:
            outcome["refused"] += 1
        except BaseException as error:
            outcome["other"].append(repr(error))
    return outcome


def hashes(folder):
    """SHA-256 of every file of every variant."""
    return {f"{name} {file}": hashlib.sha256(content).hexdigest()
            for name, files in zip(VARIANTS, save_all(folder), strict=True)
            for file, content in files.items()}


def interpreter(*arguments, hash_seed="0"):
    """Run this file in a fresh interpreter -> its output; fails if that interpreter does."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONHASHSEED": hash_seed})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("count", "seed"), [
    (300, 0), pytest.param(10_000, 1, marks=pytest.mark.slow),
])
def test_no_corruption_crashes_the_interpreter_or_is_accepted(count, seed, tmp_path):
    outcome = interpreter("corrupt", tmp_path, count, seed)
    assert outcome == {"refused": count, "accepted": 0, "other": []}


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes_in_another_interpreter(tmp_path):
    first = interpreter("hashes", tmp_path / "first", hash_seed="1")
    second = interpreter("hashes", tmp_path / "second", hash_seed="2")
    assert len(first) == 2 * len(VARIANTS)
    assert len(set(first.values())) == len(first)
    assert first == second


def test_damage_is_damage():
    rng, good = np.random.default_rng(0), bytes(range(256)) * 8
    same = sum(damage(good, rng) == good for _ in range(500))
    assert same < 10  # and those few are told apart from an artifact before they are loaded


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    command, folder, *numbers = sys.argv[1:]
    print(json.dumps({"corrupt": corrupt, "hashes": hashes}[command](  # noqa: T201
        Path(folder), *map(int, numbers))))
