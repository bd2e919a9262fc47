"""What is read on a GPU equals what is read on the CPU; skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from architectures import tiny
from tiny_models import byte_tokenizer, tiny_model
from transformers import GenerationConfig

from validator import SpectralFeatureExtractor
from validator.columns import Column
from validator.features.encoding import EncodedTrace
from validator.features.feature_set_files import load_feature_set
from validator.features.generation import decode, read_prompt
from validator.features.plan import ReadPlan
from validator.features.reader import read_batch
from validator.models.loading import LoadedModel
from validator.plugins.rerank import generate_best_of_n
from validator.types import FeatureMatrix, Trace

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
KINDS = ["llama", "gpt2", "gemma3_text"]


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Matrix products in float32, not in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def traces() -> list[Trace]:
    texts = ["1 + 1 = 2. So 2 + 2 = 4.", "2 + 3 = 6", "no digits at all, and some more words",
             "7 - 5 = 2 and 2 * 2 = 4, hence 4 - 1 = 3"]
    return [Trace(f"t{i}", f"p{i // 2}", f"Question {i // 2}: how many?", f" {text}", i % 2)
            for i, text in enumerate(texts)]


def features(kind: str, device: str, **options: Any) -> FeatureMatrix:
    model = tiny_model("llama") if kind == "llama" else tiny(kind)
    extractor = SpectralFeatureExtractor(
        LoadedModel(model.to(device), byte_tokenizer(), "tiny", "made here"), **options)
    return extractor.fit_transform(traces())


def gaps(a: FeatureMatrix, b: FeatureMatrix) -> dict[str, float]:
    """Column -> largest difference, relative above 1; z-scores divide by next to nothing."""
    assert a.names == b.names
    np.testing.assert_array_equal(np.isnan(a.values), np.isnan(b.values))
    gap = np.nanmax(np.abs(a.values - b.values) / np.maximum(1, np.abs(b.values)), axis=0,
                    initial=0)
    return {n: float(g) for n, g in zip(a.names, gap, strict=True)
            if not (Column.parse(n).transform or "").startswith("z_")}


@pytest.mark.parametrize("feature_set", ["fast", "default", "full", "paper", "lapeigvals"])
def test_every_feature_set(feature_set: str) -> None:
    found = gaps(*(features("llama", device, feature_set=feature_set)
                   for device in ("cuda", "cpu")))
    assert max(found.values()) < 2e-4, sorted(found, key=lambda n: -found[n])[:5]


def test_lanczos() -> None:
    found = gaps(*(features("llama", device, feature_set="fast", solver="lanczos")
                   for device in ("cuda", "cpu")))
    assert max(found.values()) < 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_while_decoding(kind: str) -> None:
    model = tiny(kind).to("cuda")
    plan = ReadPlan(load_feature_set("default"))
    prompt = (5, 6, 7, 8, 9, 10)
    config = GenerationConfig(max_new_tokens=9, do_sample=True, pad_token_id=0)

    def draw(ids: torch.Tensor, cache: Any) -> torch.Tensor:
        output: torch.Tensor = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
            generation_config=config)
        return output[:, ids.shape[1]:]

    found = decode(model, read_prompt(model, prompt, plan), plan, 3, draw)
    made = {i: EncodedTrace(Trace("t", "p", "a", "b"), (*prompt, *row), len(prompt))
            for i, row in enumerate(found.tokens.tolist())}
    ours = found.read(made, 1024)
    for i, trace in made.items():
        alone = read_batch(model, [trace], None, plan)[0][0]
        np.testing.assert_allclose(ours[i].values, alone.values, rtol=1e-4, atol=1e-4)


def test_best_of_n_is_scored_where_it_is_generated() -> None:
    loaded = LoadedModel(tiny_model("llama").to("cuda"), byte_tokenizer(), "tiny", "made here")
    found = generate_best_of_n(loaded, "1 + 1 =", 3, score="mean_logprob", max_new_tokens=8)
    assert len(found.candidates) == 3
