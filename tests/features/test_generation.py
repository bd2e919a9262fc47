"""Rows and features read while a model decodes equal those of one pass over the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from architectures import assembled, difference, eager, own_attention, tiny, token_ids
from tiny_models import tiny_model
from torch import Tensor
from transformers import GenerationConfig

from validator.columns import Column
from validator.errors import ModelError, NoAttentionError
from validator.features.decoding_rows import DecodingRecorder
from validator.features.encoding import EncodedTrace
from validator.features.feature_set_files import load_feature_set
from validator.features.generation import Decoded, Draw, decode, read_prompt
from validator.features.plan import ReadPlan
from validator.features.reader import read_batch
from validator.features.reading import TraceFeatures
from validator.types import Trace

FAST = ReadPlan(load_feature_set("fast"))
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
           "sliding_window": 8}
"""Windows much shorter than the sequences, and a full layer between them."""
SETTINGS: dict[str, dict[str, Any]] = {"gemma3_text": WINDOWS, "gemma2": WINDOWS,
                                       "gpt_oss": WINDOWS}
PROMPT = token_ids()[0].tolist()
ENDS = tuple(range(60, 68))


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny(kind, dtype, **SETTINGS.get(kind, {}))
    model.generation_config.eos_token_id = None  # ``generate`` would add it to those it is given
    return model


def sampling(model: Any, tokens: int = 12, ends: Sequence[int] = ENDS, seed: int = 0,
             **options: Any) -> Draw:
    """Draws by transformers' own ``generate``."""
    settings = {"do_sample": True, "top_k": 0, **options}
    config = GenerationConfig(max_new_tokens=tokens, eos_token_id=list(ends) or None,
                              pad_token_id=0, **settings)

    def draw(ids: Tensor, cache: Any) -> Tensor:
        torch.manual_seed(seed)
        output: Tensor = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
            generation_config=config)
        return output[:, ids.shape[1] :]

    return draw


def decoded(model: Any, plan: ReadPlan = FAST, n: int = 6, prompt: Sequence[int] = PROMPT,
            **options: Any) -> Decoded:
    return decode(model, read_prompt(model, prompt, plan), plan, n, sampling(model, **options))


def encoded(tokens: Sequence[int], prompt: Sequence[int] = PROMPT, ends: Sequence[int] = ENDS,
            least: int = 1) -> EncodedTrace | None:
    """The tokens up to the first end, in two steps where there are enough; None for too few."""
    length = next((i for i, t in enumerate(tokens) if t in ends), len(tokens))
    if length < least:
        return None
    ids, border = (*prompt, *tokens[:length]), len(prompt)
    steps = ((border, border + 3), (border + 3, len(ids))) if length > 5 else None
    return EncodedTrace(Trace("t", "p", "prompt", "completion"), ids, border, steps)


def traces_of(found: Decoded, **options: Any) -> dict[int, EncodedTrace]:
    made = {i: encoded(row, **options) for i, row in enumerate(found.tokens.tolist())}
    return {i: trace for i, trace in made.items() if trace is not None}


def gaps(found: Decoded, traces: dict[int, EncodedTrace], max_tokens: int = 1024
         ) -> dict[str, float]:
    """Column -> largest difference from the same trace read alone, teacher-forced and whole."""
    ours = found.read(traces, max_tokens)
    assert ours.keys() == traces.keys()
    return largest([ours[row] for row in traces], alone(found, traces))


def alone(found: Decoded, traces: dict[int, EncodedTrace]) -> list[TraceFeatures]:
    return [read_batch(found.model, [t], None, found.plan)[0][0] for t in traces.values()]


def largest(ours: Sequence[TraceFeatures], theirs: Sequence[TraceFeatures]) -> dict[str, float]:
    """Column -> largest difference, relative where values exceed 1; infinite where one is NaN."""
    names = theirs[0].names
    assert all(o.names == t.names == names for o, t in zip(ours, theirs, strict=True))
    a, b = (np.stack([f.values for f in side]) for side in (ours, theirs))
    gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    gap[np.isnan(a) & np.isnan(b)] = 0.0
    gap[np.isnan(gap)] = np.inf
    return dict(zip(names, gap.max(0).tolist(), strict=True))


def plain(gaps: dict[str, float]) -> dict[str, float]:
    """Without z-scores: they divide by the spread of random graphs, and by next to nothing where
    these hardly differ."""
    return {name: gap for name, gap in gaps.items() if not is_z_score(name)}


def is_z_score(name: str) -> bool:
    return (Column.parse(name).transform or "").startswith("z_")


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("features", ["default", "fast", "full"])
def test_features_are_the_teacher_forced_ones(kind: str, features: str) -> None:
    plan = ReadPlan(load_feature_set(features))
    model = tiny_model(kind, **SETTINGS.get(kind, {}))
    model.generation_config.eos_token_id = None
    found = decoded(model, plan, tokens=16, ends=range(60, 90))
    # Of one or two tokens rounding decides whether a spectrum's entropy is defined.
    traces = traces_of(found, ends=range(60, 90), least=3)
    assert len({t.completion_length for t in traces.values()}) > 2
    worst = plain(gaps(found, traces))
    # x' L x of a nearly constant x is a small rest of terms as large as |x|^2, some hundreds.
    energies = {n for n in worst if Column.parse(n).descriptor == "dirichlet_energy"}
    assert max((worst[n] for n in energies), default=0.0) < 1e-4
    rest = {n: gap for n, gap in worst.items() if n not in energies}
    assert max(rest.values()) < 1e-5, max(rest, key=lambda n: rest[n])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_in_double_precision_they_agree_to_nine_digits(kind: str) -> None:
    plan = ReadPlan(load_feature_set("full"))
    found = decoded(model_of(kind, torch.float64), plan, n=4)
    worst = gaps(found, traces_of(found, least=3))
    # Value norms are single precision in any model.
    single = {n for n in worst if Column.parse(n).signal == "value_norm"}
    assert max(worst[n] for n in single if not is_z_score(n)) < 1e-4
    # HFER of permuted layer-0 graphs may hardly differ: on some processors its z-score then divides
    # by rounding. All other z-scores are compared.
    rest = {n: g for n, g in worst.items()
            if n not in single and not (n.startswith("hfer") and n.endswith("z_permuted"))}
    assert max(rest.values()) < 1e-9, max(rest, key=lambda n: rest[n])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma3_text", "gemma2", "gpt_oss",
                                  "mixtral"])
def test_rows_are_the_models_own_eager_attention(kind: str) -> None:
    model = model_of(kind)
    found = decoded(model, n=3, ends=())
    found.recorder.feed(found.tokens[:, -1:])
    order, start = [2, 0], len(PROMPT) - 1
    forward = found.recorder.forward(order, 13, found.prompt.earlier)
    hidden, final = dict(forward.hidden), forward.final
    rows = assembled(forward)
    whole = torch.tensor([PROMPT + found.tokens[i].tolist() for i in order])
    output, entered = eager(model, whole)
    theirs = own_attention(output, list(rows))
    assert list(rows) == [0, 1, 2]
    for layer, weights in rows.items():
        assert difference(weights, theirs[layer][:, :, start:, : weights.shape[-1]]) < 1e-5
        assert difference(hidden[layer], entered[layer][:, start:]) < 2e-4
    assert difference(final, output.hidden_states[-1][:, start:]) < 2e-4
    if kind in SETTINGS:
        beyond = torch.ones(13, whole.shape[1], dtype=torch.bool).tril(start - 8)
        assert bool((rows[0][:, :, beyond] == 0).all())
        assert bool((rows[1][:, :, beyond] > 0).any())


def test_logits_of_a_head_that_is_more_than_an_embedding() -> None:
    found = decoded(model_of("gemma2"))  # soft-capped logits
    assert found.recorder.keep_logits
    assert max(gaps(found, traces_of(found)).values()) < 1e-5
    assert not decoded(model_of("llama"), n=1).recorder.keep_logits


@pytest.mark.parametrize("prompt", [PROMPT[:1], PROMPT[:2], PROMPT[:5]])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_short_prompts(kind: str, prompt: list[int]) -> None:
    found = decoded(model_of(kind), prompt=prompt, tokens=14)
    assert max(gaps(found, traces_of(found, prompt=prompt)).values()) < 1e-5


@pytest.mark.parametrize("max_tokens", [1, 20])
def test_groups_of_sequences_are_read_apart_with_the_same_result(max_tokens: int) -> None:
    found = decoded(model_of("gemma3_text"))
    assert max(gaps(found, traces_of(found), max_tokens).values()) < 1e-5


def test_one_sequence_cut_short_of_what_was_drawn() -> None:
    found = decoded(model_of("llama"), n=1, ends=())
    trace = EncodedTrace(Trace("t", "p", "a", "b"), (*PROMPT, *found.tokens[0, :7].tolist()), 21)
    assert max(gaps(found, {0: trace}).values()) < 1e-5
    assert found.recorder.count == 12  # the token drawn last is not needed and was not fed


def test_some_layers_and_heads() -> None:
    plan = ReadPlan(load_feature_set("default"), layers=(0, 2), heads=(1, 3))
    found = decoded(model_of("gemma3_text"), plan)
    assert set(found.recorder.layers) == {0, 2}
    assert max(gaps(found, traces_of(found, least=3)).values()) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_drawing_is_not_disturbed(kind: str) -> None:
    model = model_of(kind)
    ids = torch.tensor([PROMPT])
    found = decoded(model, n=1, do_sample=False, top_k=50, ends=())
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12,
                              do_sample=False, eos_token_id=None, pad_token_id=0)
    assert found.tokens[0].tolist() == expected[0, len(PROMPT) :].tolist()


def test_a_prompt_that_was_read_once_serves_again() -> None:
    model = model_of("gemma3_text")
    prompt = read_prompt(model, PROMPT, FAST)
    first, second = (decode(model, prompt, FAST, 3, sampling(model)) for _ in range(2))
    assert first.tokens.tolist() == second.tokens.tolist()
    assert max(gaps(second, traces_of(second)).values()) < 1e-5


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(fails: bool) -> None:
    model = model_of("llama")
    model.model.layers[1].train()
    before = (model.config._attn_implementation, model.generation_config.to_dict(),
              [m.training for m in model.modules()])

    def failing(ids: Tensor, cache: Any) -> Tensor:
        model(ids[:, -1:], past_key_values=cache)
        raise KeyError("stop")

    prompt = read_prompt(model, PROMPT, FAST)
    if fails:
        with pytest.raises(KeyError, match="stop"):
            decode(model, prompt, FAST, 2, failing)
    else:
        found = decode(model, prompt, FAST, 2, sampling(model, ends=()))
        found.read(traces_of(found, ends=()), 1024)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert before == (model.config._attn_implementation, model.generation_config.to_dict(),
                      [m.training for m in model.modules()])
    assert model(torch.tensor([PROMPT])).logits.isfinite().all()


def test_what_is_set_aside_grows_with_the_tokens_and_not_with_their_square() -> None:
    model = model_of("llama")
    sizes = {t: _held(decoded(model, n=2, tokens=t, ends=()).recorder) for t in (10, 20, 40)}
    per_step = sizes[10] / 10
    assert sizes[20] == pytest.approx(20 * per_step, rel=1e-3)
    assert sizes[40] == pytest.approx(40 * per_step, rel=1e-3)


def _held(recorder: DecodingRecorder) -> int:
    """Bytes of the memory that the tensors set aside are views of."""
    tensors = [t for s in recorder.layers.values() for t in (*s.query, *s.key, *s.value, *s.norm)]
    tensors += [t for step in recorder.hidden for t in step.values()] + recorder.final
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["bloom", "jamba", "mamba", "qwen3_next", "gpt_neo"])
def test_what_cannot_be_read_while_decoding_is_refused(kind: str) -> None:
    with pytest.raises(NoAttentionError):
        read_prompt(tiny(kind), PROMPT, FAST)


@pytest.mark.parametrize("kind", ["roberta", "moshi"])
def test_positions_that_generate_counts_from_elsewhere_are_noticed(kind: str) -> None:
    for _ in range(2):
        with pytest.raises(NoAttentionError, match="step by step it gives other hidden states"):
            read_prompt(tiny(kind), PROMPT, FAST)


@pytest.mark.parametrize("rows", [2, 13])
def test_more_than_one_token_a_step_is_noted_and_the_drawing_goes_on(rows: int) -> None:
    model = model_of("llama")

    def draw(ids: Tensor, cache: Any) -> Tensor:
        tokens = torch.full((len(ids), rows), 7)
        model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return tokens

    found = decode(model, read_prompt(model, PROMPT, FAST), FAST, 2, draw)
    with pytest.raises(NoAttentionError, match="while it decodes"):
        found.read(traces_of(found), 1024)


@pytest.mark.parametrize(("change", "message"), [
    (lambda bias, step: bias, ""),
    (lambda bias, step: bias + step, "another 'position_bias' at each step"),
    (lambda bias, step: torch.full((1,), step), ""),  # positions
    (lambda bias, step: float(step), "another 'position_bias' at each step"),
])
def test_options_that_change_between_steps(
    change: Callable[[Tensor, int], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    prompt = read_prompt(model, PROMPT, FAST)
    add, bias = DecodingRecorder.add, torch.zeros(1)

    def with_bias(self: DecodingRecorder, call: Any, value: Tensor) -> None:
        options = dict(call.options) | {"position_bias": change(bias, self.count)}
        add(self, type(call)(call.layer, call.module, call.query, call.key, call.value, call.mask,
                             options), value)

    monkeypatch.setattr(DecodingRecorder, "add", with_bias)
    found = decode(model, prompt, FAST, 2, sampling(model, ends=()))
    if message:
        with pytest.raises(NoAttentionError, match=message):
            found.recorder.require_readable()
    else:
        found.recorder.require_readable()


def test_hidden_states_that_are_not_finite_name_the_layer() -> None:
    model = model_of("llama")
    found = decoded(model, n=2, ends=())
    found.recorder.hidden[3][1][0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="layer 1"):
        found.read(traces_of(found, ends=()), 1024)
