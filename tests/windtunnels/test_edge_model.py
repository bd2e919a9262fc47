"""The composed model against its baked form, on disk, under the extractor; what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from validator.errors import ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.models.loading import load_model
from validator.windtunnels.answers import (
    accuracy_by,
    exact_accuracy,
    greedy_answers,
    greedy_ids,
)
from validator.windtunnels.edge_model import (
    baked,
    edge_model,
    symbol_parts,
    trained_parameters,
)
from validator.windtunnels.symbols import symbol_tokenizer
from validator.windtunnels.training import train_reference
from validator.windtunnels.tree import TreePathTunnel

SMALL = TreePathTunnel(nodes=(5, 6), depth=(2, 3), dummies=(0, 1), labels=8)
SYMBOLS = SMALL.symbols("edges")
TOKENIZER = symbol_tokenizer(SYMBOLS)


def problems(count: int, tunnel: TreePathTunnel = SMALL, seed: int = 77) -> Any:
    return tunnel.problems(tunnel.sample_arrays(np.random.default_rng(seed), count))


def tiny(seed: int = 0) -> Any:
    return edge_model(SYMBOLS, seed=seed, width=16, inner=8)


def test_parts_of_symbols() -> None:
    assert symbol_parts("13>25") == ("13", ">", "25")
    assert symbol_parts("13<25") == ("13", "<", "25")
    assert symbol_parts("root=13") == ("root", "=", "13")
    assert symbol_parts("<pad>") == ("<pad>", "", "")


def test_edges_with_an_end_in_common_share_half_their_embedding() -> None:
    table = tiny().get_input_embeddings().weight
    ids = TOKENIZER.convert_tokens_to_ids
    a, b, c, up = (table[ids(s)] for s in ("13>14", "13>15", "16>14", "13<14"))
    assert torch.equal(a[:8], b[:8])
    assert torch.equal(a[8:], c[8:])
    assert not torch.isclose(a, up).any()
    d, down = (table[ids(s)] for s in ("17<16", "17>16"))
    torch.testing.assert_close(up - a, d - down)  # the sign, whatever the nodes
    assert len({tuple(row.tolist()) for row in table}) == len(table)


def test_there_are_few_parameters_and_one_seed_gives_one_model() -> None:
    full = edge_model(TreePathTunnel().symbols("edges"), seed=0)
    assert 15_000 < trained_parameters(full) < 25_000
    assert full.config.n_layer == 1
    assert full.config.n_head == 2
    for a, b, c in zip(tiny(0).parameters(), tiny(0).parameters(), tiny(1).parameters(),
                       strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) or a.std() == 0


def test_where_an_edge_is_listed_makes_no_difference() -> None:
    model = tiny()
    ids = TOKENIZER("13>14 14>15 16>17 root=13 goal=15")["input_ids"]
    moved = [ids[2], ids[0], ids[1], *ids[3:]]
    with torch.inference_mode():
        one, other = (model(input_ids=torch.tensor([x])).logits[0, -1] for x in (ids, moved))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_baked_is_the_same_function_after_training_too() -> None:
    model = tiny()
    train_reference(SMALL, "edges", model, seed=0, max_steps=5, batch_size=8)
    assert not model.transformer.wpe.weight.any()
    ids = torch.from_numpy(SMALL.token_batch(np.random.default_rng(0), 4, "edges").ids)
    ones = torch.ones_like(ids)
    with torch.inference_mode():
        plain = baked(model)(input_ids=ids, attention_mask=ones).logits
        torch.testing.assert_close(plain, model(input_ids=ids, attention_mask=ones).logits)
    with pytest.raises(ParameterError, match="plain already"):
        baked(baked(model))


def test_a_saved_model_loads_like_any_other_and_is_read(tmp_path: Path) -> None:
    model = baked(tiny())
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    traces = [SMALL.render(p, "edges") for p in problems(3)]
    from_disk = SpectralFeatureExtractor(model=str(tmp_path)).fit_transform(traces)
    pair = SpectralFeatureExtractor(model=(tiny(), TOKENIZER)).fit_transform(traces)
    assert from_disk.values.shape[0] == 3
    assert not np.isnan(from_disk.values).all(0).any()
    np.testing.assert_allclose(from_disk.values, pair.values, rtol=1e-3, atol=1e-4)


def test_greedy_is_token_by_token_without_a_cache() -> None:
    model = baked(tiny(3))
    prompts = torch.randint(3, len(TOKENIZER), (5, 6), generator=torch.Generator().manual_seed(0))
    found = greedy_ids(model, prompts, 12, end=2)
    with torch.inference_mode():
        for prompt, answer in zip(prompts.tolist(), found, strict=True):
            ids = list(prompt)
            while len(ids) < 18 and (len(ids) == 6 or ids[-1] != 2):
                logits = model(input_ids=torch.tensor([ids]),
                               attention_mask=torch.ones(1, len(ids))).logits
                ids.append(int(logits[0, -1].argmax()))
            assert answer == ids[6:]


class Scripted:
    """A model that writes the given symbols, whatever it is shown."""

    def __init__(self, answers: dict[tuple[int, ...], list[int]]) -> None:
        self.answers = answers

    def __call__(self, input_ids: torch.Tensor, past_key_values: Any, **_: Any) -> Any:
        kept = past_key_values or (tuple(map(tuple, input_ids.tolist())), 0)
        logits = torch.zeros(len(kept[0]), 1, len(TOKENIZER))
        for i, prompt in enumerate(kept[0]):
            answer = self.answers[prompt]
            logits[i, 0, answer[min(kept[1], len(answer) - 1)]] = 1
        output: Any = type("Output", (), {})()
        output.logits, output.past_key_values = logits, (kept[0], kept[1] + 1)
        return output


def test_answers_are_judged_in_the_order_of_the_problems() -> None:
    asked = problems(30)
    answers, expected = {}, []
    for i, problem in enumerate(asked):
        trace = SMALL.render(problem, "edges")
        if i % 3 == 1:
            trace = SMALL.corrupt(problem, "edges", "swapped", np.random.default_rng(i))
        end = [] if i % 3 == 2 else [2]
        answers[tuple(TOKENIZER(trace.prompt)["input_ids"])] = TOKENIZER(
            trace.completion)["input_ids"] + end
        expected.append(trace.completion)
    found = greedy_answers(Scripted(answers), TOKENIZER, SMALL, asked, "edges", slack=1)
    assert [t.problem_id for t in found] == [p.id for p in asked]
    assert [t.label for t in found] == [int(i % 3 == 0) for i in range(30)]
    assert [t.status for t in found] == ["truncated" if i % 3 == 2 else "ok" for i in range(30)]
    assert [t.completion for t in found][:2] == expected[:2]
    assert exact_accuracy(found) == pytest.approx(1 / 3)
    by_depth = accuracy_by(found)
    assert sum(count for _, count in by_depth.values()) == 30
    assert sum(rate * count for rate, count in by_depth.values()) == pytest.approx(10)
    with pytest.raises(ParameterError, match="no answers"):
        exact_accuracy([])


def test_a_width_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ParameterError, match="multiple of 3 heads"):
        edge_model(SYMBOLS, seed=0, width=16, heads=3)
