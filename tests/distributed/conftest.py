"""What the tests of shards share."""

from __future__ import annotations

from pathlib import Path

import pytest
from shard_helpers import save_tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that any process can load."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")
