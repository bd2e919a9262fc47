"""Task files where the stock ``lm_eval`` command finds them, and their removal without a trace.

lm-eval 0.4 finds tasks in its own package alone. ``install`` puts a folder of ours there that holds
our YAML files and nothing else: they name this package, which stays where it is. A marker file
lists what was written with checksums; whatever it does not list is not ours and is never touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validator import __version__
from validator.errors import HarnessError
from validator.plugins.harness.command import TASKS, require_lm_eval

__all__ = ["FOLDER", "Installed", "install", "uninstall"]

FOLDER = "spectral_validator"
MARKER = "spectral-validator.json"
TEMPORARY = ".tmp"
IGNORE = ".gitignore"
"""An editable lm-eval is a git checkout: with this file in it, the folder does not show there."""


@dataclass(frozen=True)
class Installed:
    """What an installation did."""

    folder: Path
    tasks: int
    """Task files that are there now."""
    changed: int
    """Files written or removed; 0 if all was as it must be."""
    replaced: str | None
    """The version whose files were there before, if another."""


def install(root: Path | None = None) -> Installed:
    """Write our task files into lm-eval's tasks; do nothing where they are there already.

    Args:
        root: folder of tasks (default: that of the lm-eval that is installed).

    Raises:
        HarnessError: a folder of that name that is not ours, a file in it that was changed or
            added, or one that cannot be written.
    """
    folder = _folder(root)
    listed = _listed(folder)
    _require_ours(folder, listed)
    wanted = _wanted()
    changed = 0
    try:
        folder.mkdir(exist_ok=True)
        # The marker first, naming old and new files: an interrupted installation stays ours.
        _write_marker(folder, _hashes(listed), pending={n: _sha(t) for n, t in wanted.items()})
        for name, text in wanted.items():
            path = folder / name
            if not path.exists() or path.read_bytes() != text:
                fresh = folder / (name + TEMPORARY)
                fresh.write_bytes(text)
                fresh.replace(path)
                changed += 1
        for name in set(_known(listed)) - set(wanted):
            (folder / name).unlink(missing_ok=True)
            changed += 1
        _write_marker(folder, {n: _sha(t) for n, t in wanted.items()})
    except OSError as error:
        raise HarnessError(
            f"cannot write {folder}: {error}. Without it, `validator lm-eval` runs lm-eval with "
            "these tasks, as does `lm_eval --include_path $(validator lm-eval tasks-path)`"
        ) from error
    before = None if listed is None else str(listed.get("version"))
    return Installed(folder, sum(n.endswith(".yaml") for n in wanted), changed,
                     before if before not in (None, __version__) else None)


def uninstall(root: Path | None = None) -> Installed:
    """Remove what :func:`install` wrote and the folder; nothing to do is no error.

    Raises HarnessError as :func:`install`.
    """
    folder = _folder(root)
    listed = _listed(folder)
    if listed is None and not folder.exists():
        return Installed(folder, 0, 0, None)
    _require_ours(folder, listed)
    removed = 0
    try:
        for name in _known(listed):
            removed += (folder / name).exists()
            (folder / name).unlink(missing_ok=True)
            (folder / (name + TEMPORARY)).unlink(missing_ok=True)
        (folder / (MARKER + TEMPORARY)).unlink(missing_ok=True)
        (folder / MARKER).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
    except OSError as error:
        raise HarnessError(f"cannot remove {folder}: {error}") from error
    return Installed(folder, 0, removed, None)


def _folder(root: Path | None) -> Path:
    if root is None:
        require_lm_eval()
        from validator.plugins.harness.upstream import tasks_root

        root = tasks_root()
    if not root.is_dir():
        raise HarnessError(f"no folder {root}, where lm-eval's tasks should be")
    folder = root / FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise HarnessError(f"{folder} is no plain folder, so it is not ours; move it away")
    return folder


def _wanted() -> dict[str, bytes]:
    tasks = {p.name: p.read_bytes() for p in sorted(TASKS.glob("*.yaml"))}
    return {**tasks, IGNORE: b"*\n"}


def _listed(folder: Path) -> Mapping[str, Any] | None:
    """The marker, or None where there is none."""
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for files in (found["files"], found.get("pending", {})):
            if not all(isinstance(k, str) and isinstance(v, str) for k, v in files.items()):
                raise TypeError("files must map names to checksums")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{path} is damaged ({error}); if the folder holds nothing of your own, "
                           "remove it and install again") from error
    return dict(found)


def _hashes(listed: Mapping[str, Any] | None) -> dict[str, str]:
    return {} if listed is None else dict(listed["files"])


def _known(listed: Mapping[str, Any] | None) -> dict[str, set[str]]:
    """Checksums that a file of ours may have: as it was, and as it was to become."""
    found: dict[str, set[str]] = {}
    for files in () if listed is None else (listed["files"], listed.get("pending", {})):
        for name, checksum in files.items():
            found.setdefault(name, set()).add(checksum)
    return found


def _require_ours(folder: Path, listed: Mapping[str, Any] | None) -> None:
    if not folder.exists():
        return
    known = _known(listed)
    own = {MARKER, MARKER + TEMPORARY, *(name + TEMPORARY for name in known)}
    foreign = [p.name for p in sorted(folder.iterdir()) if p.name not in own and (
        p.name not in known or p.is_dir() or _sha(p.read_bytes()) not in known[p.name])]
    if foreign:
        raise HarnessError(
            f"{folder} holds what was not written by this command or was changed since: "
            f"{', '.join(foreign)}; move it away")


def _write_marker(folder: Path, files: Mapping[str, str],
                  pending: Mapping[str, str] | None = None) -> None:
    told: dict[str, Any] = {"package": "spectral-validator", "version": __version__,
                            "files": dict(sorted(files.items()))}
    if pending is not None and dict(pending) != dict(files):
        told["pending"] = dict(sorted(pending.items()))
    text = json.dumps(told, indent=1) + "\n"
    path = folder / MARKER
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        fresh = path.with_name(path.name + TEMPORARY)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
