"""The default model's descriptors against those of spectral-trust 0.3.0 on real traces.

``benchmarks/peers/README.md`` says how its numbers were made and how it defines each of them. It
decomposes in single precision and reads eager attention; here attention is formed again from the
queries and keys of an sdpa pass and decomposed in double precision. Measured, the two differ by at
most 3e-6 (relative) for what depends on the graph alone and 6e-6 for what depends on a signal, and
as much when the model runs in double precision here: it is the rounding of the golden numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from validator.features.attention import attention_rows, captured_forward
from validator.features.descriptors import (
    dirichlet_energy,
    eigenvalue_entropy,
    fiedler_value,
    hfer,
    roughness,
    signal_entropy,
)
from validator.features.encoding import EncodedTrace, encode_trace
from validator.features.graph import laplacian
from validator.features.spectrum import graph_spectrum
from validator.models.loading import LoadedModel, load_model
from validator.training.datasets import load_traces
from validator.types import Spectrum

pytestmark = [pytest.mark.model, pytest.mark.shared]

Array = NDArray[np.float64]

FILE = Path(__file__).parents[1] / "golden" / "spectral_trust_0.3.0.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
LAYERS: list[int] = GOLDEN["layers"]
TOLERANCE = {"graph": 1e-5, "signal": 2e-5}


def mean_eigenvalue(eigenvalues: Array) -> Array:
    """Its ``eig_energy``: the trace of the Laplacian divided by T, which we have no name for."""
    return np.asarray(eigenvalues.mean(-1))


def relative_entropy(eigenvalues: Array) -> Array:
    """Its ``eig_spectral_entropy`` is in [0, 1]: our entropy, in nats, in units of log T."""
    return eigenvalue_entropy(eigenvalues) / np.log(eigenvalues.shape[-1])


def upper_half(eigenvalues: Array) -> Array:
    """Its ``eig_hfer``: share of the sum of the eigenvalues in those from index floor(T / 2) on."""
    return share_from(eigenvalues, eigenvalues.shape[-1] // 2)


def share_high(share: float) -> Callable[[Array, Array], Array]:
    """Its ``hfer``: modes with 0-based index >= floor((1 - share) T) are high.

    Our cutoff rounds up where its rounds down.
    """
    return lambda _, energy: share_from(energy, int((1 - share) * energy.shape[-1]))


def share_from(values: Array, first: int) -> Array:
    """Our ratio with the index of the first high mode given: ceil((first - 0.5) / T * T)."""
    return hfer(values, max(0.0, first - 0.5) / values.shape[-1])


GRAPH: dict[str, Callable[[Array], Array]] = {
    "fiedler_value": fiedler_value, "eig_energy": mean_eigenvalue,
    "eig_spectral_entropy": relative_entropy, "eig_hfer": upper_half}
SIGNAL: dict[str, Callable[[Array, Array], Array]] = {
    # Tr(X^T L X), not divided by anything.
    "energy": dirichlet_energy,
    # Despite its name it grows with variation: Tr(X^T L X) / ||X||^2.
    "smoothness_index": roughness,
    # In nats, of the shares of energy; not divided by log T, other than that of the eigenvalues.
    "spectral_entropy": lambda _, energy: signal_entropy(energy),
    "hfer_0.1": share_high(0.1), "hfer_0.5": share_high(0.5)}


def captured(model: Any, ids: tuple[int, ...]) -> dict[int, tuple[Tensor, Tensor]]:
    """Layer -> head-mean attention (T, T) and input hidden states (T, D); LAYERS and the next."""
    last = model.config.num_hidden_layers - 1
    wanted = {i for layer in LAYERS for i in (layer, min(layer + 1, last))}
    forward = captured_forward(model, torch.tensor([ids]), keep_logits=1, layers=wanted)
    found = {}
    for attention in attention_rows(forward):
        mean = torch.zeros(len(ids), len(ids))
        for block in attention.blocks:
            rows = block.weights[0].mean(0)
            mean[block.start : block.start + rows.shape[0], : rows.shape[1]] = rows
        found[attention.layer] = (mean, attention.hidden[0])
    return found


def spectra(model: Any, ids: tuple[int, ...]) -> Iterator[Spectrum]:
    """Of each of LAYERS, with the states that enter it and that leave it as signals.

    The states that leave the last layer have passed a normalisation: they are no layer's input.
    """
    layers = captured(model, ids)
    for layer in LAYERS:
        attention, hidden = layers[layer]
        signals = {"input": hidden}
        if layer + 1 in layers:
            signals["output"] = layers[layer + 1][1]
        yield graph_spectrum(laplacian(attention, "normalized"), signals, layer)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(GOLDEN["model"])


@pytest.fixture(scope="module")
def encoded(loaded: LoadedModel, shared_data: Path) -> list[EncodedTrace]:
    """The golden traces in the golden order."""
    traces = {t.id: t for t in load_traces(
        shared_data / "gsm8k_solutions_dev.jsonl", format=GOLDEN["format"],
        limit=len(GOLDEN["traces"]))}
    return [encode_trace(traces[row["id"]], loaded.tokenizer, None) for row in GOLDEN["traces"]]


@pytest.fixture(scope="module")
def measured(loaded: LoadedModel, encoded: list[EncodedTrace]) -> list[list[Spectrum]]:
    """Per trace, the spectra of LAYERS."""
    return [list(spectra(loaded.model, trace.ids)) for trace in encoded]


def test_model_and_tokens_are_those_of_the_golden_numbers(
    loaded: LoadedModel, encoded: list[EncodedTrace]
) -> None:
    assert loaded.revision == GOLDEN["revision"]
    for row, trace in zip(GOLDEN["traces"], encoded, strict=True):
        text = trace.trace.prompt + trace.trace.completion
        assert hashlib.sha256(text.encode()).hexdigest() == row["sha256"]
        assert (trace.prompt_length, len(trace.ids)) == (row["prompt_tokens"], row["tokens"])


@pytest.mark.parametrize("name", GOLDEN["graph"])
def test_graph_descriptors(name: str, measured: list[list[Spectrum]]) -> None:
    found = [[GRAPH[name](s.eigenvalues.numpy()) for s in each] for each in measured]
    column = GOLDEN["graph"].index(name)
    expected = np.array([row["graph"] for row in GOLDEN["traces"]])[..., column]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["graph"])


@pytest.mark.parametrize("signal", ["input", "output"])
@pytest.mark.parametrize("name", GOLDEN["signal"])
def test_signal_descriptors(name: str, signal: str, measured: list[list[Spectrum]]) -> None:
    layers = len(LAYERS) if signal == "input" else len(LAYERS) - 1
    found = [
        [SIGNAL[name](s.eigenvalues.numpy(), s.mode_energy[signal].numpy()) for s in each[:layers]]
        for each in measured]
    column = GOLDEN["signal"].index(name)
    expected = np.array([row[signal] for row in GOLDEN["traces"]])[:, :layers, column]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["signal"])
