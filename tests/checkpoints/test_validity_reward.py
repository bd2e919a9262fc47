"""The reward: its numbers are the validator's, of texts and of chats; None for what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fine_tuning import made_traces, save_base
from scipy.stats import linregress
from tiny_models import byte_tokenizer, tiny_model

from validator.errors import ParameterError, ScoreError
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.reward import LengthTrend, ValidityReward
from validator.scoring import Validator
from validator.types import Trace

TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
PROBE = made_traces(10, 13)


def texts(traces: list[Trace] = PROBE) -> dict[str, list[str]]:
    return {"prompts": [t.prompt for t in traces], "completions": [t.completion for t in traces]}


def test_it_is_p_valid_of_the_artifact_s_own_model(base: Path, artifact: Path) -> None:
    reward = ValidityReward(artifact, model=base)
    assert reward.__name__ == "validity_reward"
    found = reward(**texts(), completion_ids=[[1]] * 6, trainer_state=None, target=["x"] * 6)
    expected = [s.learned for s in Validator.load(artifact, model=base).score(PROBE)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert all(type(v) is float for v in found)
    assert reward.reasons == {}
    assert not any(p.requires_grad for p in reward._reader.extractor.model_.parameters())


def test_what_cannot_be_scored_is_none_and_why(base: Path, artifact: Path) -> None:
    told: dict[str, float] = {}
    reward = ValidityReward(artifact, model=base, name="v")
    found = reward(["Q:", "Q:", "Q:", "Q:"], [" 1 + 1 = 2.", "", "a" * 300, " 3 + 1 = 4."],
                   log_metric=told.__setitem__)
    assert [v is None for v in found] == [False, True, True, False]
    assert "no tokens" in reward.reasons[1]
    assert "positions for 256" in reward.reasons[2]
    assert told == {"v/unscored": 0.5}
    alone = ValidityReward(artifact, model=base)(["Q:"], [" 3 + 1 = 4."])
    assert found[3] == pytest.approx(alone[0], abs=1e-6)
    assert reward(["Q:"], [""]) == [None]
    assert reward([], []) == []
    with pytest.raises(ParameterError, match="1 prompts and 2 completions"):
        reward(["Q:"], [" 1", " 2"])


def test_an_undefined_score_is_none(tiny: Any) -> None:
    validator = Validator(SpectralFeatureExtractor(tiny, feature_set="default"))
    reward = ValidityReward(validator, score="fiedler_value")
    found = reward(["Q:", "Q:"], ["x", " 3 + 1 = 4."])  # one token is no graph
    assert found[0] is None
    assert found[1] is not None
    assert reward.reasons[0]


def test_chats_go_through_the_reader_s_template(tiny: Any) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    validator = Validator(SpectralFeatureExtractor((tiny_model(), tokenizer), feature_set="fast"))
    reward = ValidityReward(validator, score="mean_logprob")
    ask = [{"role": "user", "content": "1 + 1?"}]
    answer = [{"role": "assistant", "content": "It is 2."}]
    more = [*answer, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"}]
    begun = [*ask, {"role": "assistant", "content": "It"}]
    found = reward([ask, ask, ask, "1?", begun],
                   [answer, more, [{"role": "assistant", "content": None}], more,
                    [{"role": "assistant", "content": " is 2."}]])
    start = "<user>1 + 1?</><assistant>"
    by_hand = [Trace("a", "a", start, "It is 2."),
               Trace("b", "b", start, "It is 2.</><user>Sure?</><assistant>Yes</>"),
               Trace("c", "c", start + "It", " is 2.")]
    expected = [s.unsupervised["mean_logprob"] for s in validator.score(by_hand)]
    assert [found[0], found[1], found[4]] == pytest.approx(expected, abs=1e-6)
    assert found[2] is None
    assert found[3] is None
    assert set(reward.reasons) == {2, 3}
    bare = Validator(SpectralFeatureExtractor(tiny, feature_set="fast"))
    with pytest.raises(ParameterError, match="no chat template"):
        ValidityReward(bare, score="mean_logprob")([ask], [answer])


def test_the_trend_is_the_regression_line() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 50)
    scores = 0.4 - 0.2 * np.log(lengths) + rng.normal(0, 0.1, 50)
    found = LengthTrend.fit(scores, lengths)
    line = linregress(np.log(lengths), scores)
    assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept))
    left = scores - found.expected(lengths)
    assert np.corrcoef(left, np.log(lengths))[0, 1] == pytest.approx(0, abs=1e-12)
    for bad in (([1.0, 2.0], [1, 2]), ([1.0, 2.0, np.nan], [1, 2, 3]), ([1.0, 2, 3], [4, 4, 4]),
                ([1.0, 2, 3], [0, 4, 4])):
        with pytest.raises(ScoreError), np.errstate(divide="ignore"):
            LengthTrend.fit(*bad)


def test_less_what_is_expected_at_its_length(base: Path, artifact: Path) -> None:
    reference = made_traces(20, 26)
    plain, reward = (ValidityReward(artifact, model=base, length_reference=r)
                     for r in (None, reference))
    scores = np.array(plain(**texts(reference)), dtype=np.float64)
    lengths = [len(t.completion) for t in reference]  # one token a byte
    line = linregress(np.log(lengths), scores)
    expected = np.array(plain(**texts())) - line.intercept - line.slope * np.log(
        [len(t.completion) for t in PROBE])
    np.testing.assert_allclose(np.array(reward(**texts()), dtype=float), expected, atol=1e-6)
    rest = np.array(reward(**texts(reference)), dtype=np.float64)
    assert rest.mean() == pytest.approx(0, abs=1e-6)


def test_what_it_refuses(tiny: Any, base: Path, artifact: Path, tmp_path: Path) -> None:
    bare = Validator(SpectralFeatureExtractor(tiny, feature_set="fast"))
    with pytest.raises(ParameterError, match="needs a classifier"):
        ValidityReward(bare)(**texts())
    with pytest.raises(ParameterError, match="no score 'ensemble' to reward"):
        ValidityReward(bare, score="ensemble")(**texts())
    with pytest.raises(ParameterError, match="options are for the folder"):
        ValidityReward(bare, score="mean_logprob", device="cpu")(**texts())
    other = save_base(tmp_path / "other", intermediate_size=64)
    with pytest.raises(Exception, match="revision"):
        ValidityReward(artifact, model=other)(**texts())
