"""The base model and the artifact, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from fine_tuning import save_base, train_artifact


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "tiny-base")


@pytest.fixture(scope="session")
def artifact(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_artifact(base, tmp_path_factory.mktemp("artifacts") / "a")
