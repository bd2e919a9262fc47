"""Opening a database while another process makes its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from validator.errors import StoreError
from validator.training import trial_storage
from validator.training.trial_storage import opened


@pytest.mark.parametrize(("races", "told"), [(2, None), (99, "already exists")])
def test_tables_that_another_process_has_just_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, races: int, told: str | None
) -> None:
    calls: list[str] = []

    class Racing(optuna.storages.RDBStorage):
        def __init__(self, url: str, **options: Any) -> None:
            calls.append(url)
            if len(calls) <= races:
                raise RuntimeError("duplicate key: (typname)=(studies) already exists")
            super().__init__(url, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Racing)
    monkeypatch.setattr(trial_storage.time, "sleep", lambda _: None)
    url = f"sqlite:///{tmp_path}/t.db"
    if told is not None:
        with pytest.raises(StoreError, match=told), opened(url):
            pass
        assert len(calls) == trial_storage.OPENINGS
        return
    with opened(url) as store:
        assert store.get_all_studies() == []
    assert len(calls) == races + 1
