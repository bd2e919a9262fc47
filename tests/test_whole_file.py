"""Writers killed right before each of their operations on files leave the old file or the new."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from validator.classifier import ValidityClassifier, load_artifact, save_artifact
from validator.types import Provenance
from validator.whole_file import is_dead, replacing, write_text_whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and killed")

EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def killed_at(step: int, work: Callable[[], object], folder: Path) -> bool:
    """Do the work in a process that is killed right before its n-th operation; if it was."""
    child = os.fork()
    if child == 0:
        seen = [0]

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event in EVENTS or (event == "open" and bool(
                (arguments[2] or 0) & (os.O_WRONLY | os.O_CREAT)))
            if writes and str(arguments[0]).startswith(str(folder)):
                seen[0] += 1
                if seen[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_a_text_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    target, step, seen = tmp_path / "deep" / "page.html", 1, set()
    write_text_whole(target, "old")
    while killed_at(step, lambda: write_text_whole(target, "new"), tmp_path):
        seen.add((target.read_text(), len(list(target.parent.iterdir()))))
        write_text_whole(target, "old")
        assert [p.name for p in target.parent.iterdir()] == ["page.html"]
        step += 1
    assert target.read_text() == "new"
    assert seen == {("old", 1), ("old", 2)}  # before the temporary file was made, and after


def test_an_artifact_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    rows = [[float(i), float(-i)] for i in range(8)]
    labels = [0, 1] * 4

    def save(C: float) -> Callable[[], object]:
        model = ValidityClassifier(C=C).fit(rows, labels)
        return lambda: save_artifact(tmp_path / "run", model, Provenance("m", "r", "default", 1),
                                     ("a", "b"))

    old, new, step = save(1.0), save(2.0), 1
    old()
    found = set()
    while killed_at(step, new, tmp_path):
        found.add(load_artifact(tmp_path / "run").classifier.C)
        old()
        assert [p.name for p in tmp_path.iterdir()] == ["run"]
        step += 1
    assert step > 6
    assert found == {1.0, 2.0}
    assert load_artifact(tmp_path / "run").classifier.C == 2.0


def test_a_living_writer_s_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    (tmp_path / ".a.json.mine.bak").write_text("another program's")
    with replacing(target) as slow:
        slow.write_text("slow")
        assert not is_dead(slow, remove=True)
        write_text_whole(target, "quick")
        assert slow.exists()
    assert target.read_text() == "slow"
    def fail() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert target.read_text() == "slow"
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", ".a.json.mine.bak"}
