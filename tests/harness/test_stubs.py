"""Installing task files into a folder of tasks, and leaving no trace."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from validator.errors import HarnessError
from validator.plugins.harness import stubs
from validator.plugins.harness.command import TASKS
from validator.plugins.harness.stubs import FOLDER, MARKER, install, uninstall


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_install_is_idempotent_and_uninstall_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "gsm8k.yaml").write_text("task: gsm8k\n")
    before = contents(tmp_path)
    first = install(tmp_path)
    assert first.tasks == len(list(TASKS.glob("*.yaml"))) > 20
    assert first.changed == first.tasks + 1
    there = contents(tmp_path)
    again = install(tmp_path)
    assert (again.changed, contents(tmp_path)) == (0, there)
    assert uninstall(tmp_path).changed == first.changed
    assert contents(tmp_path) == before
    assert not (tmp_path / FOLDER).exists()
    assert uninstall(tmp_path).changed == 0


def test_a_checkout_stays_clean(tmp_path: Path) -> None:
    """An editable lm-eval is a git checkout."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    install(tmp_path)
    done = subprocess.run(["git", "-C", tmp_path, "status", "--porcelain"], check=True,
                          capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("action", [install, uninstall])
def test_what_is_not_ours_is_refused_and_kept(tmp_path: Path, action: object) -> None:
    assert callable(action)
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\n")
    with pytest.raises(HarnessError, match=r"was not written by this command .*: mine\.yaml"):
        action(tmp_path)
    (folder / "mine.yaml").unlink()
    folder.rmdir()
    install(tmp_path)
    stub = folder / "gsm8k_spectral.yaml"
    stub.write_text(stub.read_text() + "num_fewshot: 3\n")
    with pytest.raises(HarnessError, match=r"changed since: gsm8k_spectral\.yaml"):
        action(tmp_path)
    assert "num_fewshot: 3" in stub.read_text()


def test_another_versions_files_are_replaced(tmp_path: Path) -> None:
    install(tmp_path)
    folder = tmp_path / FOLDER
    import hashlib

    marker = json.loads((folder / MARKER).read_text())
    (folder / "old_spectral.yaml").write_text("task: old\n")
    (folder / "gsm8k_spectral.yaml").write_text("task: gsm8k_spectral\nupstream: was/here.yaml\n")
    for name in ("old_spectral.yaml", "gsm8k_spectral.yaml"):
        marker["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    marker["version"] = "0.0.1"
    (folder / MARKER).write_text(json.dumps(marker))
    done = install(tmp_path)
    assert (done.replaced, done.changed) == ("0.0.1", 2)
    assert not (folder / "old_spectral.yaml").exists()
    assert (folder / "gsm8k_spectral.yaml").read_bytes() == (
        TASKS / "gsm8k_spectral.yaml").read_bytes()


def test_an_interrupted_installation_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every file in turn, while another version's files are there."""
    folder = tmp_path / FOLDER
    old = {"gsm8k_spectral.yaml": b"old", "gone_spectral.yaml": b"gone"}
    new = {p.name: p.read_bytes() for p in TASKS.glob("*.yaml")}
    replace = Path.replace
    for killed_at in range(len(new) + 3):
        monkeypatch.setattr(stubs, "_wanted", lambda: dict(old))
        install(tmp_path)
        monkeypatch.setattr(stubs, "_wanted", lambda: dict(new))
        calls = iter(range(1000))

        def dies(self: Path, target: Path, at: int = killed_at, c: object = calls) -> Path:
            if next(c) == at:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", dies)
        with contextlib.suppress(KeyboardInterrupt):
            install(tmp_path)
        monkeypatch.setattr(Path, "replace", replace)
        if killed_at % 2:
            install(tmp_path)
            assert {n: (folder / n).read_bytes() for n in new} == new
            assert {p.name for p in folder.iterdir()} == {*new, MARKER}
        uninstall(tmp_path)
        assert not folder.exists()


def test_a_damaged_marker_and_a_link_are_errors(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / FOLDER / MARKER).write_text("{")
    with pytest.raises(HarnessError, match="is damaged"):
        install(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / FOLDER).symlink_to(tmp_path / FOLDER)
    with pytest.raises(HarnessError, match="no plain folder"):
        install(other)
    with pytest.raises(HarnessError, match="no folder"):
        install(tmp_path / "none")


def test_shipped_tasks_name_files_that_lm_eval_has() -> None:
    from validator.plugins.harness.upstream import tasks_root

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    names = set()
    for path in TASKS.glob("*.yaml"):
        config = yaml.load(path.read_text(), Loader)
        names.add(config.get("task") if isinstance(config.get("task"), str) else config["group"])
        assert path.stem in names
        if "upstream" in config:
            assert (tasks_root() / config["upstream"]).is_file(), config["upstream"]
            assert set(config) <= {"task", "class", "upstream", "answer_style", "repeats",
                                   "generation_kwargs"}  # nothing of upstream's is copied
    assert {"gsm8k_spectral", "gsm8k_cot_spectral", "gsm8k_platinum_spectral",
            "minerva_math500_spectral", "hendrycks_math_spectral", "asdiv_spectral",
            "aime_spectral", "gsm_symbolic_spectral", "arithmetic_word_problems_spectral",
            "spectral_math"} <= names
