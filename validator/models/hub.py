"""Snapshots of hub repositories: safetensors and tokenizer files only, failing within seconds."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from validator.errors import UnknownModelError

__all__ = ["snapshot"]

_SECONDS = 5.0
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]  # exports to other runtimes and duplicates of the weights


def snapshot(repo_id: str, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a hub repository, downloaded if the hub answers, and its commit.

    Without an answer within seconds (or with ``HF_HUB_OFFLINE=1``) an earlier download is used.
    Pickled weights are never downloaded. Raises UnknownModelError if there is neither.
    """
    try:
        commit = HfApi().model_info(repo_id, revision=revision, timeout=_SECONDS).sha
        return _folder(repo_id, commit, local=False)
    except Exception as error:  # the HTTP library's own errors differ between hub releases
        try:
            return _folder(repo_id, revision, local=True)
        except (OSError, ValueError):
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UnknownModelError(
                f"{repo_id!r} could not be read from the hub ({type(error).__name__}: {reason}) "
                "and was not downloaded before. Check the name and the connection, or give the "
                "folder of a downloaded model."
            ) from error


def _folder(repo_id: str, revision: str | None, *, local: bool) -> tuple[Path, str]:
    folder = Path(
        snapshot_download(
            repo_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED,
            etag_timeout=_SECONDS, local_files_only=local,
        )
    )
    return folder, folder.name
