"""What the wheel holds: everything a user needs, and nothing else."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import validator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), "."],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def _info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (p for p in wheel.namelist() if p.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def _metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(_info(wheel, "METADATA"))


def test_every_file_of_the_package_is_there_and_no_other(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "validator").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {n for n in wheel.namelist() if ".dist-info/" not in n} == expected


def test_type_marker_and_configuration_travel(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "validator/py.typed" in names
    assert any(n.startswith("validator/configs/") and n.endswith(".yaml") for n in names)


def test_nothing_but_the_package_lands_in_site_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"validator", f"spectral_validator-{validator.__version__}.dist-info"}
    assert not [n for n in wheel.namelist() if "test" in Path(n).name.lower()]


def test_metadata_is_what_the_index_shows(wheel: zipfile.ZipFile) -> None:
    metadata = _metadata(wheel)
    assert metadata["Name"] == "spectral-validator"
    assert metadata["Version"] == validator.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"dev", "docs", "gym"}
    assert "Apache License" in _info(wheel, "licenses/LICENSE")


def test_no_development_tool_is_a_run_time_dependency(wheel: zipfile.ZipFile) -> None:
    required = [r for r in _metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in r]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in required}
    assert {"torch", "transformers", "scikit-learn"} <= names
    assert not names & {"pytest", "ruff", "mypy", "build", "mkdocs-material", "networkx"}


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    lines = _info(wheel, "entry_points.txt").splitlines()
    assert "validator = validator.cli.main:main" in lines
