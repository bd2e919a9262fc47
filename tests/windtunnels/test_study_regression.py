"""Regression on the posterior's entropy: exact targets, R2 as scikit-learn has it, no leakage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from validator.errors import ParameterError
from validator.metrics import Resampler
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.study_draws import Draws
from validator.windtunnels.study_regression import (
    EVIDENCE,
    PREDICTORS,
    EvidenceSubject,
    out_of_fold_ridge,
    prefixes_at,
    r2_statistic,
    trained_evidence,
)

SMALL = EvidenceSubject(BijectionTunnel(4, repeat=True, pairs=5), "pairs", 2)


def test_r2_is_that_of_the_rows_drawn() -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.normal(size=30), rng.normal(size=30)
    resampler = Resampler(np.arange(30), 5)
    found = Draws.of(r2_statistic(y, guess, resampler), resampler)
    assert found.estimate == pytest.approx(r2_score(y, guess))
    for count, value in zip(resampler.counts, found.values, strict=True):
        rows = np.repeat(np.arange(30), count)
        assert value == pytest.approx(r2_score(y[rows], guess[rows]))


def test_a_constant_target_has_no_r2() -> None:
    resampler = Resampler(np.arange(4), 1)
    statistic = r2_statistic(np.ones(4), np.zeros(4), resampler)
    assert np.isnan(Draws.of(statistic, resampler).estimate)


def test_ridge_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12))
    X[3, 4] = np.nan
    X[:, 7] = 1.0
    y = X[:, 0] - 2 * X[:, 1]
    assert r2_score(y, out_of_fold_ridge(X, y, seed=0)) > 0.99
    assert r2_score(y, out_of_fold_ridge(X[:, 2:], y, seed=0)) < 0.05


def test_predictions_keep_to_what_was_trained_on() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    y = X[:, 0].copy()
    X[0] = 1e6
    predicted = out_of_fold_ridge(X, y, seed=0)
    assert predicted[0] == pytest.approx(np.delete(y, 0).max(), abs=0.5)
    assert y.min() <= predicted.min() <= predicted.max() <= y.max()


@pytest.mark.parametrize("subject", [SMALL, EvidenceSubject(HMMTunnel(length=5), "symbols", 2)])
def test_prefixes_end_where_a_symbol_is_asked_for(subject: EvidenceSubject) -> None:
    model = trained_evidence(subject, 0)
    found = prefixes_at(model, subject, 3, 20, 0)
    assert set(found.predictors) == set(PREDICTORS)
    assert all(len(X) == 20 for X in found.predictors.values())
    rng = np.random.default_rng(20_000_000)
    for i in range(20):
        problem = subject.tunnel.sample(rng)
        query = next(q for q in subject.tunnel.queries(problem, subject.style) if q.position == 3)
        symbols = query.prefix.split()
        assert found.entropy[i] == pytest.approx(
            subject.tunnel.posterior(problem, symbols).entropy)
        own = symbols[1:]
        known = subject.tunnel.symbols(subject.style)
        counts = [*(own.count(s) for s in known), len(set(own))]
        assert found.predictors["counts"][i].tolist() == counts
        assert found.predictors["counts, last symbols"][i].tolist() == [
            *counts, *(own[-k] == s for k in (1, 2) for s in known), own[-1] in own[:-1]]
    bits = found.predictors["own entropy"]
    assert ((bits >= 0) & (bits <= np.log2(len(model.tokenizer)))).all()


def test_a_position_that_is_not_asked_for_is_an_error() -> None:
    with pytest.raises(ParameterError, match="nothing at position 9"):
        prefixes_at(trained_evidence(SMALL, 0), SMALL, 9, 3, 0)


def test_entropy_varies_at_the_positions_of_the_study() -> None:
    for subject in EVIDENCE.values():
        rng = np.random.default_rng(0)
        bits = [next(q.posterior.entropy for q in subject.tunnel.queries(
            subject.tunnel.sample(rng), subject.style) if q.position == 5) for _ in range(30)]
        assert len(set(bits)) > 1
