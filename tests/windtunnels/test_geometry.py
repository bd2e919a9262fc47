from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ModelError, ParameterError
from validator.models.loading import LoadedModel
from validator.windtunnels.bayes_training import Shape, reference_model
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.geometry import (
    QueryStates,
    ablated_entropy_error,
    entropy_axis,
    key_frame,
    query_states,
    random_abs_cosine,
)
from validator.windtunnels.symbols import symbol_tokenizer

TUNNEL = BijectionTunnel(4, repeat=True)


@pytest.fixture(scope="module")
def subject() -> LoadedModel:
    model = reference_model(TUNNEL, "pairs", seed=0, width=32).eval()
    return LoadedModel(model, symbol_tokenizer(TUNNEL.symbols("pairs")), "m", "r")


def made(hidden: np.ndarray, entropy: np.ndarray, position: np.ndarray) -> QueryStates:
    owners = tuple(str(i // 4) for i in range(len(entropy)))
    return QueryStates(hidden, entropy, position, owners)


@pytest.mark.parametrize("dimension", [2, 16])
def test_random_directions(dimension: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 100_000, dimension))
    cosines = np.abs((x[0] * x[1]).sum(1)) / np.linalg.norm(x, axis=2).prod(0)
    assert random_abs_cosine(dimension) == pytest.approx(cosines.mean(), abs=0.004)


def first_keys(shape: str, model: Any) -> np.ndarray:
    """(4, 32) keys of the first four symbols, from the layer's own parts."""
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(torch.arange(3, 7))
        if shape == "llama":
            layer = model.model.layers[0]
            keys = layer.self_attn.k_proj(layer.input_layernorm(embedded))
        else:
            block = model.transformer.h[0]
            placed = block.ln_1(embedded + model.transformer.wpe.weight[0])
            keys = (placed @ block.attn.c_attn.weight + block.attn.c_attn.bias)[:, 32:64]
    return np.asarray(keys.double())


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_keys_of_the_first_layer(shape: Shape) -> None:
    model = reference_model(TUNNEL, "pairs", seed=0, width=32, shape=shape).eval()
    tokenizer = symbol_tokenizer(TUNNEL.symbols("pairs"))
    frame = key_frame(LoadedModel(model, tokenizer, "m", "r"), TUNNEL.symbols("pairs")[:4])
    keys = first_keys(shape, model)
    for h, found in enumerate(frame.by_head):
        part = keys[:, 16 * h:16 * (h + 1)]
        wanted = [abs(part[i] @ part[j]) / np.linalg.norm(part[i]) / np.linalg.norm(part[j])
                  for i in range(4) for j in range(i)]
        assert found == pytest.approx(np.mean(wanted), abs=1e-6)
    assert frame.random == random_abs_cosine(16)
    assert frame.abs_cosine == pytest.approx(np.mean(frame.by_head))


def test_keys_that_cannot_be_read(subject: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="one token each"):
        key_frame(subject, ["k0"])
    with pytest.raises(ModelError, match="no layers with a k_proj or c_attn"):
        key_frame(LoadedModel(tiny_model("bloom"), byte_tokenizer(), "g", "r"), ["a", "b"])


def test_states_are_what_the_head_reads(subject: LoadedModel) -> None:
    problem = TUNNEL.sample(np.random.default_rng(0))
    states = query_states(subject, TUNNEL, [problem], "pairs")
    order = np.argsort(states.position)
    ids = subject.tokenizer(TUNNEL.render(problem, "pairs").prompt
                            + TUNNEL.render(problem, "pairs").completion)["input_ids"]
    with torch.inference_mode():
        logits = subject.model(torch.tensor([ids])).logits[0, 1::2]
        mine = subject.model.lm_head(torch.from_numpy(states.hidden[order]).float())
    torch.testing.assert_close(mine, logits, atol=1e-5, rtol=1e-4)
    wanted = [q.posterior.entropy for q in TUNNEL.queries(problem, "pairs")]
    assert states.entropy[order].tolist() == wanted
    assert set(states.problem_ids) == {problem.id}


def test_an_axis_that_is_ordered_by_entropy() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.integers(0, 5, size=400) / 2
    position = rng.integers(0, 4, size=400)
    hidden = 0.01 * rng.normal(size=(400, 8))
    hidden[:, 3] += entropy ** 3
    found = entropy_axis(made(hidden, entropy, position))
    assert found.pc1_share > 0.99
    assert found.pc1_spearman == pytest.approx(
        abs(spearmanr(hidden[:, 3], entropy).statistic), abs=0.01)
    assert found.ridge_r2 > 0.8
    assert abs(found.position_r2) < 0.1
    assert found.ridge_r2_at_position is not None
    assert found.ridge_r2_at_position > 0.75


def test_states_of_noise_know_nothing() -> None:
    rng = np.random.default_rng(0)
    entropy, position = rng.normal(size=400), rng.integers(0, 4, size=400)
    found = entropy_axis(made(rng.normal(size=(400, 8)), entropy, position))
    assert found.ridge_r2 < 0.05
    assert found.ridge_r2_at_position is not None
    assert found.ridge_r2_at_position < 0.05
    assert found.pc1_spearman < 0.15


def test_what_position_tells_is_told_apart() -> None:
    """Entropy is the position's: states that know the position look as if they knew entropy."""
    rng = np.random.default_rng(0)
    position = np.arange(400) % 4
    hidden = rng.normal(size=(400, 8))
    hidden[:, 0] += 10 * position
    found = entropy_axis(made(hidden, position.astype(float), position))
    assert found.ridge_r2 > 0.95
    assert found.position_r2 == pytest.approx(1, abs=1e-6)
    assert found.ridge_r2_at_position is None
    with pytest.raises(ParameterError, match="same posterior entropy"):
        entropy_axis(made(hidden, np.ones(400), position))


def test_taking_the_axis_out_hurts_where_it_holds_the_entropy() -> None:
    """Logits are states; only the first direction makes a distribution sharp."""
    rng = np.random.default_rng(0)
    hidden = np.zeros((200, 8))
    hidden[:, 0] = rng.uniform(0, 8, size=200)
    hidden[:, 3:] = 0.001 * rng.normal(size=(200, 5))
    p = np.exp(hidden[:, :3]) / np.exp(hidden[:, :3]).sum(1, keepdims=True)
    head = torch.nn.Linear(8, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3, 8))
    model = SimpleNamespace(get_output_embeddings=lambda: head)
    states = made(hidden, -(p * np.log2(p)).sum(1), np.zeros(200, dtype=int))
    found = ablated_entropy_error(
        LoadedModel(model, None, "m", "r"), states, [0, 1, 2])  # type: ignore[arg-type]
    assert found["none"] == pytest.approx(0, abs=1e-5)
    assert found["pc1"] > 0.2
    assert found["ridge"] > 0.2
    assert found["random_most"] < 0.01
