"""Early stopping: the rule on scores written out by hand, and the same rule live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decoding_models import PROMPT, make_pair

from validator.errors import ParameterError
from validator.features.extractor import SpectralFeatureExtractor
from validator.plugins.monitor import (
    Curve,
    ValidityMonitor,
    choose_threshold,
    judge_stopping,
    prefix_curves,
    running_baselines,
    sample_with_early_stopping,
    simulate_stopping,
)
from validator.plugins.monitor.early import to_stop
from validator.training.decoding import Sampling
from validator.types import Trace

CHECKS = (4, 8, 12, 16)
SAMPLING = Sampling(6, 1.0, max_new_tokens=20, seed=1)


def curve(name: str, label: int, length: int, running: dict[int, float], final: float) -> Curve:
    return Curve(name, "p", label, length, running, final)


BY_HAND = [
    curve("a", 1, 12, {4: 0.9, 8: 0.8}, 0.9),
    curve("b", 0, 10, {4: 0.1, 8: 0.2}, 0.1),
    curve("c", 1, 6, {4: 0.3}, 0.95),
    curve("d", 0, 9, {4: 0.6, 8: 0.2}, 0.3),
]


@pytest.mark.parametrize(("below", "spare", "spent", "right", "stopped", "lost"), [
    (0.0, 1, 13 + 11 + 7 + 10, 1, 0, 0),
    (0.2, 1, 13 + 5 + 7 + 10, 1, 1, 0),
    (0.5, 1, 13 + 5 + 5 + 9, 1, 3, 1),
    (0.95, 1, 13 + 5 + 5 + 5, 1, 3, 1),
    (0.95, 2, 13 + 5 + 5 + 10, 1, 2, 1),
    (0.5, 4, 13 + 11 + 7 + 10, 1, 0, 0),
])
def test_the_rule_by_hand(
    below: float, spare: int, spent: int, right: int, stopped: int, lost: int
) -> None:
    found = simulate_stopping(BY_HAND, below, checks=(4, 8), spare=spare)
    assert found.spent.tolist() == [spent]
    assert found.full.tolist() == [41]
    assert found.right.tolist() == [right]
    assert found.stopped.tolist() == [stopped]
    assert found.stopped_valid.tolist() == [lost]
    assert found.saved == pytest.approx(1 - spent / 41)


def test_the_worst_are_stopped_first() -> None:
    assert to_stop({0: 0.3, 1: 0.1, 2: 0.2, 3: 0.9}, 4, 0.5, 1) == [1, 2, 0]
    assert to_stop({0: 0.3, 1: 0.1, 2: 0.2}, 3, 0.5, 2) == [1]
    assert to_stop({0: 0.3, 1: 0.1}, 2, 0.5, 3) == []


def test_checks_without_a_score_are_refused() -> None:
    with pytest.raises(ParameterError, match="no score at 6 tokens"):
        simulate_stopping(BY_HAND, 0.5, checks=(4, 6, 8))


def random_curves(informed: bool) -> list[Curve]:
    rng = np.random.default_rng(0)
    found = []
    for p in range(80):
        for k in range(6):
            label, length = int(rng.random() < 0.4), int(rng.integers(9, 20))
            shift = label if informed else 0.0
            running = {t: float(shift + rng.normal(0, 0.3)) for t in range(4, length, 4)}
            found.append(Curve(f"{p}-{k}", f"p{p}", label, length, running,
                               label + float(rng.normal(0, 0.1))))
    return found


def test_a_score_that_knows_saves_tokens_at_no_loss_and_noise_does_not() -> None:
    informed, noise = random_curves(True), random_curves(False)
    chosen = choose_threshold(informed, most_lost=0.01, checks=CHECKS)
    report = judge_stopping(informed, chosen, checks=CHECKS)
    assert report.saved.low > 0.25
    assert report.loss.estimate <= 0.01
    assert report.saved.low < report.saved.estimate < report.saved.high
    same = judge_stopping(noise, chosen, checks=CHECKS)
    assert same.stopped_valid > report.stopped_valid
    assert judge_stopping(informed, -np.inf, checks=CHECKS).saved.estimate == 0.0


def test_nothing_stopped_is_plain_sampling_and_scores_are_the_offline_ones() -> None:
    pair = make_pair()
    pair[0].generation_config.eos_token_id = [2, *range(100, 108)]
    monitor = ValidityMonitor(pair, score="mean_logprob")
    found = sample_with_early_stopping(monitor, PROMPT, SAMPLING, below=-np.inf)
    assert len(found.samples) == 6
    assert found.kept == found.samples
    assert found.tokens == sum(s.tokens for s in found.samples)
    assert len({s.text for s in found.samples}) > 3
    extractor = SpectralFeatureExtractor(pair, feature_set="monitor").fit()
    whole = [s for s in found.samples if len(s.text) == s.tokens - s.finished > 1]
    assert len(whole) > 2  # the others drew a special token, which has no text
    for sample in whole:
        count = sample.tokens - 1  # the row of the last token is not read
        rows = extractor.transform_prefixes(
            [Trace("a", "a", PROMPT, sample.text, 1)], list(range(1, count + 1)))
        scores = running_baselines(rows)["mean_logprob"]
        assert sample.score == pytest.approx(scores[count - 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_live_stopping_is_the_rule_on_the_texts_it_wrote(kind: str) -> None:
    """Each stopped sample was below the threshold at its check, each kept one at none of its own,
    but for the best that is spared."""
    pair = make_pair(kind)
    pair[0].generation_config.eos_token_id = [2]
    monitor = ValidityMonitor(pair, score="mean_logprob")
    below = -5.66
    settings = {"below": below, "checks": CHECKS, "restarts": 3}
    found = sample_with_early_stopping(monitor, PROMPT, SAMPLING, **settings)
    stopped = [s for s in found.samples if s.stopped]
    assert stopped
    assert 6 <= len(found.samples) <= 9
    extractor = SpectralFeatureExtractor(pair, feature_set="monitor").fit()
    for sample in stopped:
        k = sample.tokens - 1
        assert k % 4 == 0
        rows = extractor.transform_prefixes(
            [Trace("a", "a", PROMPT, sample.text, 1)], list(range(1, k + 1)))
        scores = running_baselines(rows)["mean_logprob"]
        assert sample.score == pytest.approx(scores[k - 1], abs=1e-5)
        assert scores[k - 1] < below
        assert all(scores[c - 1] >= below - 1e-5 for c in range(4, k, 4))
    assert not found.best.stopped
    assert sample_with_early_stopping(monitor, PROMPT, SAMPLING, **settings) == found


def test_curves_are_the_rows_in_order(llama: tuple[Any, Any]) -> None:
    extractor = SpectralFeatureExtractor(llama, feature_set="monitor").fit()
    rows = extractor.transform_prefixes(
        [Trace("a", "p", PROMPT, "abcdefghij", 1), Trace("b", "p", PROMPT, "abc", 0)], (4, 8))
    scores = np.arange(len(rows), dtype=np.float64)
    found = prefix_curves(rows, scores, -scores)
    assert found == [
        Curve("a", "p", 1, 10, {4: 0.0, 8: 1.0}, -2.0), Curve("b", "p", 0, 3, {}, -3.0)]
    assert running_baselines(rows)["length"].tolist() == [-4.0, -8.0, -10.0, -3.0]


def test_settings_out_of_range_are_refused(llama: tuple[Any, Any]) -> None:
    plain = ValidityMonitor(llama, feature_set="monitor")
    with pytest.raises(ParameterError, match="no score to stop by"):
        sample_with_early_stopping(plain, PROMPT, SAMPLING, below=0.0)
    scored = ValidityMonitor(llama, score="mean_logprob")
    with pytest.raises(ParameterError, match="checks must ascend"):
        sample_with_early_stopping(scored, PROMPT, SAMPLING, below=0.0, checks=(4, 2))


def test_the_end_of_a_sample_is_no_part_of_its_score() -> None:
    """Samples that end in the middle of a round, by a string or by a token."""
    pair = make_pair()
    pair[0].generation_config.eos_token_id = [2, *range(100, 140)]
    monitor = ValidityMonitor(pair, score="mean_logprob", min_tokens=1)
    found = sample_with_early_stopping(
        monitor, PROMPT, SAMPLING, ("a", "b", "c", "d", "e"), below=-np.inf, checks=(15,))
    ended = [s for s in found.samples if s.finished and len(s.text) == s.tokens - 1 > 0]
    assert len(ended) > 1
    extractor = SpectralFeatureExtractor(pair, feature_set="monitor").fit()
    rows = extractor.transform(
        [Trace(str(i), "a", PROMPT, s.text, 1) for i, s in enumerate(ended)])
    assert [s.score for s in ended] == pytest.approx(
        running_baselines(rows)["mean_logprob"].tolist(), abs=1e-5)
