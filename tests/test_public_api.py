"""The public names exist, and importing the package stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import validator


def test_every_public_name_is_there_and_listed() -> None:
    assert sorted(validator.__all__) == sorted(validator._HOMES)
    for name in validator.__all__:
        assert getattr(validator, name).__name__ == name
        assert name in dir(validator)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = validator.nonsense


@pytest.mark.parametrize("code", [
    "import validator",
    "from validator import Trace, ValidityClassifier, load_traces",
    "from validator.cli.main import build_parser; build_parser()",
])
def test_torch_is_not_imported_until_a_model_is_read(code: str) -> None:
    check = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
