from __future__ import annotations

import math

import pytest

from validator.errors import UnknownModelError
from validator.models.catalog import default_model, find_known, known_models, proof_terms


def test_recorded_checksums_are_those_of_the_published_files():
    assert {m.name: m.gguf_sha256 for m in known_models().values()} == {
        "smollm2-135m-instruct":
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "gemma3-270m": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    }


def test_one_default_and_every_wheel_pinned():
    assert [m.name for m in known_models().values() if m.default] == [default_model().name]
    assert default_model().name == "smollm2-135m-instruct"
    assert all("==" in wheel for m in known_models().values() for wheel in m.wheels)


def test_parts_are_listed_in_the_order_they_are_joined():
    parts = find_known("gemma3-270m").gguf_parts
    assert [p.rsplit(".part", 1)[1] for p in parts] == ["00", "01", "02", "03"]


def test_proof_covers_spaces_before_digits_and_text_beyond_ascii():
    terms = proof_terms()
    assert len(terms.sentences) == 8
    assert terms.tolerance == 1e-4
    assert any("  2" in s for s in terms.sentences)
    assert any(not s.isascii() for s in terms.sentences)
    assert all(0 < m.reference_nll < math.log(260_000) for m in known_models().values())


@pytest.mark.parametrize("typed", ["smolm2", "SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_unknown_name_suggests_the_nearest(typed):
    with pytest.raises(UnknownModelError, match="did you mean 'smollm2-135m-instruct'"):
        find_known(typed)


def test_nothing_near_suggests_nothing_but_lists_all():
    with pytest.raises(UnknownModelError, match="gemma3-270m") as caught:
        find_known("xxxx")
    assert "did you mean" not in str(caught.value)


def test_wheel_and_hub_are_different_revisions():
    known = find_known("smollm2-135m-instruct")
    assert known.revision("wheel") == f"gguf-sha256:{known.gguf_sha256}"
    assert known.revision("hub") is None
