"""Token scores from hidden states are those from the model's own logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import tiny, token_ids

from validator.features.head import plain_head, scores_from_hidden
from validator.features.tokens import token_scores


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma3_text", "bloom", "opt", "phi"])
def test_scores_are_those_of_the_logits(kind: str) -> None:
    model, ids = tiny(kind), token_ids()
    head = plain_head(model)
    assert head is not None
    with torch.inference_mode():
        output = model(ids, output_hidden_states=True)
    expected = token_scores(output.logits[0, :-1], ids[0, 1:])
    found = scores_from_hidden(head, output.hidden_states[-1][0, :-1], ids[0, 1:])
    torch.testing.assert_close(found.surprisal, expected.surprisal, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), [
    ("gemma2", {}), ("granite", {"logits_scaling": 8.0}),
    ("cohere", {"logit_scale": 0.0625})])
def test_logits_that_are_more_than_a_product_are_found(
    kind: str, settings: dict[str, Any]
) -> None:
    assert plain_head(tiny(kind, **settings)) is None


def test_more_rows_than_are_held_at_once() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False)
    hidden, targets = torch.randn(300, 8), torch.randint(50, (300,))
    found = scores_from_hidden(head, hidden, targets)
    reference = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(found.surprisal, reference.detach(), atol=1e-5, rtol=1e-5)
