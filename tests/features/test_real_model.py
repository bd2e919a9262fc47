"""The default model's own attention: against brute force, and across batches and padding."""

from __future__ import annotations

import dataclasses
from importlib.resources import as_file, files

import numpy as np
import pytest
from brute_force import Oracle

from validator.columns import Column
from validator.features.extractor import SpectralFeatureExtractor
from validator.training.datasets import load_traces
from validator.types import FeatureMatrix, Trace

pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture(scope="module")
def demo() -> list[Trace]:
    """Answers to four problems, the exemplars cut to keep brute force quick."""
    with as_file(files("validator.data").joinpath("demo_traces.jsonl")) as path:
        traces = load_traces(path)[:32:4]
    return [dataclasses.replace(t, prompt="Q:" + t.prompt.rsplit("Q:", 2)[1]
                                + "Q:" + t.prompt.rsplit("Q:", 2)[2]) for t in traces]


@pytest.fixture(scope="module")
def extractor() -> SpectralFeatureExtractor:
    return SpectralFeatureExtractor("smollm2-135m-instruct").fit()


def relative(a: FeatureMatrix, b: FeatureMatrix) -> np.ndarray:
    assert a.names == b.names
    return np.abs(a.values - b.values) / np.maximum(1, np.abs(b.values))


@pytest.fixture(scope="module")
def double() -> SpectralFeatureExtractor:
    """The same weights in double precision: what differs then is the method, not the rounding."""
    return SpectralFeatureExtractor("smollm2-135m-instruct", dtype="float64").fit()


def test_columns_equal_networkx_and_numpy_on_real_attention(
    demo: list[Trace], double: SpectralFeatureExtractor
) -> None:
    """All of five layers; on tiny models every column of every layer is compared."""
    found = double.transform(demo[:2])
    layers = [Column.parse(name).layer for name in found.names]
    some = [n for n, layer in zip(found.names, layers, strict=True)
            if layer in (None, 0, 7, 15, 22, 29)]
    for trace, row in zip(demo, found.select(some), strict=False):
        slow = Oracle(double.model_, double.tokenizer_, trace)
        values = np.array([slow.column(n) for n in some])
        assert (np.abs(row - values) / np.maximum(1, np.abs(values))).max() < 1e-5


def test_batches_padding_and_shared_prefixes_agree(
    demo: list[Trace], extractor: SpectralFeatureExtractor
) -> None:
    """In float32 the forward pass itself moves a few columns by more than 1e-5; none by 1e-4."""
    extractor.set_params(max_batch_tokens=1, share_prefixes=False)
    single = extractor.transform(demo)
    for options in ({"max_batch_tokens": 1024, "share_prefixes": False},
                    {"max_batch_tokens": 1024, "share_prefixes": True}):
        error = relative(extractor.set_params(**options).transform(demo), single)
        assert np.quantile(error, 0.999) < 1e-5
        assert error.max() < 1e-4


def test_in_double_precision_they_agree(
    demo: list[Trace], double: SpectralFeatureExtractor
) -> None:
    together = double.set_params(max_batch_tokens=1024, share_prefixes=True).transform(demo)
    double.set_params(max_batch_tokens=1, share_prefixes=False)
    assert relative(together, double.transform(demo)).max() < 1e-5
