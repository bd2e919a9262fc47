from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ParameterError, TraceError
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import LoadedModel, load_model
from validator.windtunnels.bayes_training import (
    control_model,
    reference_model,
    save_reference,
    train_bayes,
)
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.entropy import compare, measure_entropy, predictions
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.symbols import symbol_tokenizer

TUNNELS = [BijectionTunnel(5), BijectionTunnel(4, repeat=True), HMMTunnel(length=5),
           HMMTunnel(length=5, banded=True), HMMTunnel(3, 3, 5, given=True, levels=10),
           SulaTunnel(3)]


class Rule:
    """A model whose next-token logits are a function of the symbols so far."""

    def __init__(self, tunnel: Any, style: str, logits: Any) -> None:
        self.tokenizer = symbol_tokenizer(tunnel.symbols(style))
        self.config, self.device = SimpleNamespace(), torch.device("cpu")
        self.logits = logits

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        words = self.tokenizer.convert_ids_to_tokens(input_ids[0].tolist())
        rows = [self.logits(words[:i + 1]) for i in range(len(words))]
        return SimpleNamespace(logits=torch.tensor(np.array(rows))[None])

    def loaded(self) -> LoadedModel:
        return LoadedModel(self, self.tokenizer, "rule", "rule")  # type: ignore[arg-type]


def exact(tunnel: Any, problem: Any, spare: float) -> Rule:
    """A perfect reasoner, but for a share of its mass on symbols that are no candidates."""
    style = tunnel.styles[0]
    vocabulary = symbol_tokenizer(tunnel.symbols(style)).get_vocab()

    def logits(words: list[str]) -> np.ndarray:
        row = np.full(len(vocabulary), -1e9)
        try:
            found = tunnel.posterior(problem, words)
        except ParameterError:  # inside a prompt nothing is asked
            return row
        for symbol, p in zip(found.symbols, found.probabilities, strict=True):
            row[vocabulary[symbol]] = np.log(p * (1 - spare)) if p else -1e9
        row[0] = np.log(spare)
        return row

    return Rule(tunnel, style, logits)


@pytest.mark.parametrize("tunnel", TUNNELS, ids=repr)
def test_a_perfect_reasoner_has_no_error(tunnel: Any) -> None:
    problem = tunnel.sample(np.random.default_rng(0))
    found = measure_entropy(exact(tunnel, problem, 0.25).loaded(), tunnel, [problem],
                            tunnel.styles[0])
    assert found.overall.entropy_mae_bits == pytest.approx(0, abs=1e-9)
    assert found.overall.posterior_kl_bits == pytest.approx(0, abs=1e-9)
    assert found.overall.mass_on_support == pytest.approx(1)
    assert found.overall.candidate_mass == pytest.approx(0.75)
    assert found.curve_mae_bits == pytest.approx(0, abs=1e-9)


def test_a_model_that_knows_nothing_errs_as_computed_by_hand() -> None:
    tunnel = BijectionTunnel(4)
    rule = Rule(tunnel, "pairs", lambda words: np.zeros(11))
    problems = [tunnel.sample(np.random.default_rng(s)) for s in range(3)]
    found = measure_entropy(rule.loaded(), tunnel, problems, "pairs")
    for k, entry in found.by_position.items():
        assert entry.queries == 3
        assert entry.entropy_mae_bits == pytest.approx(2 - math.log2(4 - k))
        assert entry.posterior_kl_bits == pytest.approx(math.log2(4 / (4 - k)))
        assert entry.mass_on_support == pytest.approx((4 - k) / 4)
        assert entry.candidate_mass == pytest.approx(4 / 11)
    wanted = np.mean([2 - math.log2(4 - k) for k in range(4)])
    assert found.overall.entropy_mae_bits == pytest.approx(wanted)
    assert found.interval == pytest.approx((wanted, wanted))
    assert found.position_mae_bits == pytest.approx(0, abs=1e-12)
    plain = found.to_json()
    assert plain["by_position"]["3"]["posterior_entropy"] == 0
    assert plain["problems"] == 3


def test_errors_of_either_sign_cancel_in_the_curve_only() -> None:
    """Half of the problems are met with certainty, half with ignorance of two symbols too many."""
    tunnel = SulaTunnel(1)
    problems = [p for s in range(40) if (p := tunnel.sample(np.random.default_rng(s)))]
    sides = {shown: [p for p in problems if p.content.shown == (shown,)] for shown in (0, 1)}
    both = [sides[0][0], sides[1][0]]

    def logits(words: list[str]) -> np.ndarray:
        sharp = np.array([0, 0, 0, 9.0, -9.0, 0])
        return sharp if "l0" in words else np.zeros(6)

    found = measure_entropy(Rule(tunnel, "answer", logits).loaded(), tunnel, both, "answer")
    truth = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert found.by_position[1].entropy_mae_bits == pytest.approx(0.5, abs=1e-6)
    assert found.curve_mae_bits == pytest.approx(abs(0.5 - truth) / 2, abs=1e-6)


def test_what_knowing_the_position_alone_leaves() -> None:
    tunnel = BijectionTunnel(4, repeat=True, pairs=2)
    problems = [tunnel.sample(np.random.default_rng(s)) for s in range(30)]
    repeats = np.mean([p.content.pairs[0] == p.content.pairs[1] for p in problems])
    rule = Rule(tunnel, "pairs", lambda words: np.zeros(11))
    found = measure_entropy(rule.loaded(), tunnel, problems, "pairs")
    assert 0 < repeats < 1
    assert found.position_mae_bits == pytest.approx(
        (2 * repeats * (1 - repeats) * math.log2(3)) / 2)


def test_compare_in_bits() -> None:
    half, skew = np.array([0.5, 0.5, 0]), np.array([0.25, 0.25, 0.5])
    assert compare(half, skew) == pytest.approx((1, 1.5, 0.5, 1, 0.5))
    assert compare(half, np.array([1.0, 0, 0]))[3] == math.inf


def test_one_forward_pass_serves_prefixes_of_one_another() -> None:
    tunnel = BijectionTunnel(4)
    model = reference_model(tunnel, "pairs", seed=0, width=16).eval()
    loaded = LoadedModel(model, symbol_tokenizer(tunnel.symbols("pairs")), "m", "r")
    queries = tunnel.queries(tunnel.sample(np.random.default_rng(0)), "pairs")
    together, _ = predictions(loaded, queries)
    for query, found in zip(queries, together, strict=True):
        alone, mass = predictions(loaded, [query])
        np.testing.assert_allclose(alone[0], found, atol=1e-6)
        ids = loaded.tokenizer(query.prefix, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            row = model(ids).logits[0, -1].double().softmax(0)[7:11].numpy()
        np.testing.assert_allclose(found, row / row.sum(), atol=1e-6)
        assert mass[0] == pytest.approx(row.sum(), abs=1e-6)


def test_a_candidate_of_two_tokens_is_an_error_that_names_it() -> None:
    tunnel = BijectionTunnel(3)
    loaded = LoadedModel(tiny_model(), byte_tokenizer(), "bytes", "r")
    problem = tunnel.sample(np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"' a' is not one token after .* vocabulary of bytes"):
        measure_entropy(loaded, tunnel, [problem], "text")
    with pytest.raises(ParameterError, match="at least one problem"):
        measure_entropy(loaded, tunnel, [], "text")


def test_a_prefix_beyond_the_context_is_an_error() -> None:
    tunnel = BijectionTunnel(4)
    rule = Rule(tunnel, "pairs", lambda words: np.zeros(11))
    rule.config = SimpleNamespace(max_position_embeddings=5)
    with pytest.raises(TraceError, match="rule reads 1 to 5"):
        measure_entropy(rule.loaded(), tunnel, [tunnel.sample(np.random.default_rng(0))], "pairs")


def test_training_is_repeatable_and_leaves_torch_alone() -> None:
    tunnel, runs, before = BijectionTunnel(3), [], torch.get_rng_state()
    for _ in range(2):
        model = reference_model(tunnel, "pairs", seed=1, width=16)
        runs.append(train_bayes(tunnel, "pairs", model, seed=2, max_steps=3))
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0].losses == runs[1].losses
    other = train_bayes(tunnel, "pairs", reference_model(tunnel, "pairs", seed=1, width=16),
                        seed=3, max_steps=3)
    assert other.losses != runs[0].losses


@pytest.mark.parametrize("tunnel", TUNNELS, ids=repr)
def test_every_tunnel_trains_both_models(tunnel: Any) -> None:
    style = tunnel.styles[0]
    length = tunnel.token_batch(np.random.default_rng(0), 1, style).ids.shape[1]
    for model in (reference_model(tunnel, style, seed=0, width=16),
                  control_model(tunnel, style, length, sees="all", seed=0),
                  control_model(tunnel, style, length, sees="last", seed=0)):
        run = train_bayes(tunnel, style, model, seed=0, max_steps=2)
        assert np.isfinite(run.losses).all()


def test_the_control_sees_what_came_before_and_nothing_after() -> None:
    tunnel = BijectionTunnel(4)
    control = control_model(tunnel, "pairs", 9, sees="all", seed=0).eval()
    narrow = control_model(tunnel, "pairs", 9, sees="last", seed=0).eval()
    ids = torch.from_numpy(tunnel.token_batch(np.random.default_rng(0), 1, "pairs").ids)
    changed = ids.clone()
    changed[0, 4] = ids[0, 2]
    with torch.inference_mode():
        a, b = control(ids).logits[0], control(changed).logits[0]
        part = control(ids[:, :5]).logits[0]
        same = (narrow(ids).logits[0] - narrow(changed).logits[0]).abs().amax(1) < 1e-6
    assert torch.equal(a[:4], b[:4])
    assert ((a[4:] - b[4:]).abs().amax(1) > 1e-6).all()
    torch.testing.assert_close(part, a[:5])
    assert same.tolist() == [i != 4 for i in range(9)]  # its own symbol is all that it sees
    with pytest.raises(ParameterError, match="9 symbols at most"):
        control(torch.zeros(1, 10, dtype=torch.long))


def test_a_saved_model_is_read_back(tmp_path: Path) -> None:
    tunnel = BijectionTunnel(3)
    model = reference_model(tunnel, "pairs", seed=0, width=16).eval()
    save_reference(model, tunnel, "pairs", tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    queries = tunnel.queries(tunnel.sample(np.random.default_rng(0)), "pairs")
    mine = LoadedModel(model, symbol_tokenizer(tunnel.symbols("pairs")), "m", "r")
    for a, b in zip(predictions(loaded, queries)[0], predictions(mine, queries)[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_the_extractor_reads_a_reference_model() -> None:
    tunnel = BijectionTunnel(4)
    model = reference_model(tunnel, "pairs", seed=0, width=16).eval()
    problem = tunnel.sample(np.random.default_rng(0))
    twins = [tunnel.render(problem, "pairs"),
             tunnel.corrupt(problem, "pairs", "used_value", np.random.default_rng(1))]
    extractor = SpectralFeatureExtractor(
        (model, symbol_tokenizer(tunnel.symbols("pairs"))), feature_set="fast")
    features = extractor.fit_transform(twins)
    assert features.lengths.tolist() == [[1, 8], [1, 8]]
    assert np.isfinite(features.values).all()
    assert (features.values[0] != features.values[1]).any()


@pytest.mark.slow
def test_forty_seconds_teach_a_bijection() -> None:
    tunnel = BijectionTunnel(10)
    rng = np.random.default_rng(1_000_000)
    problems = [tunnel.sample(rng) for _ in range(100)]
    model = reference_model(tunnel, "pairs", seed=0)
    train_bayes(tunnel, "pairs", model, seed=0, max_steps=1200, budget_seconds=40,
                held_out=[p.id for p in problems])
    loaded = LoadedModel(model, symbol_tokenizer(tunnel.symbols("pairs")), "m", "r")
    assert measure_entropy(loaded, tunnel, problems, "pairs").overall.entropy_mae_bits < 0.06


@pytest.mark.model
@pytest.mark.parametrize("tunnel", [BijectionTunnel(6), HMMTunnel(3, 3, 4, given=True, levels=10),
                                    SulaTunnel(2)], ids=repr)
def test_a_real_model_in_context(tunnel: Any) -> None:
    model = load_model("smollm2-135m-instruct")
    problems = [tunnel.sample(np.random.default_rng(0))]
    found = measure_entropy(model, tunnel, problems, "text")
    assert found.overall.queries == len(tunnel.queries(problems[0], "text"))
    assert 0 < found.overall.candidate_mass < 1
    assert found.overall.posterior_kl_bits > 0
