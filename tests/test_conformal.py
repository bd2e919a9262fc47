"""Promises kept: exact against definitions and MAPIE, and in simulations of clustered traces."""

import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from validator.conformal import ConformalLabels, RiskThreshold, conformal_selection, report
from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import benjamini_hochberg
from validator.metrics.bounded_mean import betting_p_values, fallback_rejections

GOLDEN = Path(__file__).parent / "golden" / "conformal_mapie_1.6.0.json"


def clustered(rng, problems=100, size=8, shared=1.0, spread=3.0, base=1.0):
    """P(valid), labels and problem ids; P errs by ``shared`` log-odds, the same in a problem."""
    groups = np.repeat(np.arange(problems), size)
    log_odds = base + 1.5 * rng.normal(size=problems)[groups] + spread * rng.normal(
        size=groups.size)
    truth = log_odds + shared * rng.normal(size=problems)[groups]
    labels = (rng.random(groups.size) < 1 / (1 + np.exp(-truth))).astype(int)
    return 1 / (1 + np.exp(-log_odds)), labels, groups


def rows_of(problems, groups):
    return np.flatnonzero(np.isin(groups, problems))


# --- prediction sets ---

def test_sets_are_mapies_where_each_trace_is_a_problem():
    golden = json.loads(GOLDEN.read_text())
    p, y, test = (np.array(golden[key]) for key in
                  ("calibration_probs", "calibration_labels", "test_probs"))
    sizes = set()
    for alpha, expected in golden["sets"].items():
        sets = ConformalLabels(float(alpha)).fit(p, y, np.arange(p.size)).predict_sets(test)
        assert sets.tolist() == np.array(expected, dtype=bool).tolist()
        sizes |= set(sets.sum(axis=1).tolist())
    assert sizes == {0, 1, 2}  # the golden sets hold every case


@given(st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9]))
def test_without_groups_the_threshold_is_the_textbooks_order_statistic(n, alpha):
    rng = np.random.default_rng(n)
    p, y = np.round(rng.random(n), 1), rng.integers(0, 2, n)
    scores = sorted(np.where(y == 1, 1 - p, p))
    rank = math.ceil((n + 1) * (1 - Fraction(str(alpha))))
    expected = scores[rank - 1] if rank <= n else np.inf
    fitted = ConformalLabels(alpha).fit(p, y, np.arange(n))
    assert fitted.thresholds_.tolist() == [expected, expected]


@given(st.integers(2, 60), st.integers(1, 12), st.sampled_from(["0.1", "0.2", "0.25", "0.5"]))
def test_a_label_is_left_out_where_its_hierarchical_p_value_is_at_most_alpha(n, k, alpha):
    rng = np.random.default_rng(n + 100 * k)
    p, y, groups = np.round(rng.random(n), 1), rng.integers(0, 2, n), rng.integers(0, k, n)
    scores = np.where(y == 1, 1 - p, p)
    fitted = ConformalLabels(float(alpha)).fit(p, y, groups)
    parts = [scores[groups == g] for g in np.unique(groups)]
    test = np.linspace(0, 1, 11)
    for label, score in ((0, test), (1, 1 - test)):
        for i, s in enumerate(score):
            above = sum(Fraction(int((part >= s).sum()), part.size) for part in parts)
            p_value = (above + 1) / (len(parts) + 1)
            assert fitted.predict_sets(test)[i, label] == (p_value > Fraction(alpha))


def test_copying_the_traces_of_a_problem_adds_no_evidence():
    p, y, groups = clustered(np.random.default_rng(0), 30)
    once = ConformalLabels(0.1).fit(p, y, groups)
    tenfold = ConformalLabels(0.1).fit(*(np.tile(a, 10) for a in (p, y, groups)))
    assert np.array_equal(once.thresholds_, tenfold.thresholds_)
    few = ConformalLabels(0.1).fit(*(np.tile(a, 10) for a in (p[:64], y[:64], groups[:64])))
    assert few.n_problems_.tolist() == [8, 8]
    assert few.predict_sets([0.0, 0.5, 1.0]).all()  # eight problems cannot exclude at 10%


def test_class_conditional_thresholds_come_from_the_traces_of_the_class():
    p, y, groups = clustered(np.random.default_rng(1), 40)
    fitted = ConformalLabels(0.2, class_conditional=True).fit(p, y, groups)
    for label in (0, 1):
        mine = y == label
        alone = ConformalLabels(0.2).fit(p[mine], y[mine], groups[mine])
        assert fitted.thresholds_[label] == alone.thresholds_[label]
        assert fitted.n_problems_[label] == np.unique(groups[mine]).size
    with pytest.raises(LabelError, match="valid and invalid"):
        fitted.fit(p, np.ones_like(y), groups)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("class_conditional", [False, True])
def test_mean_coverage_over_a_hundred_resplits_is_the_promised_one(alpha, class_conditional):
    rng = np.random.default_rng(2)
    p, y, groups = clustered(rng, 400, 6)
    hits = []
    for _ in range(100):
        shuffled = rng.permutation(400)
        cal, test = rows_of(shuffled[:200], groups), rows_of(shuffled[200:], groups)
        fitted = ConformalLabels(alpha, class_conditional=class_conditional)
        sets = fitted.fit(p[cal], y[cal], groups[cal]).predict_sets(p[test])
        hit = sets[np.arange(test.size), y[test]]
        classes = [(y[test] == c) for c in (0, 1)] if class_conditional else [y[test] >= 0]
        hits.append([problem_mean(hit[part], groups[test][part]) for part in classes])
    assert np.mean(hits, axis=0) == pytest.approx(1 - alpha, abs=0.02)


def problem_mean(values, groups):
    """Problems weigh the same."""
    return np.mean([values[groups == g].mean() for g in np.unique(groups)])


def test_taking_traces_as_independent_loses_the_coverage_and_problems_keep_it():
    rng = np.random.default_rng(3)
    naive, grouped = [], []
    for _ in range(300):
        p, y, groups = clustered(rng, 10, 40, shared=4.0, spread=0.3)
        test_p, test_y, _ = clustered(rng, 50, 1, shared=4.0, spread=0.3)
        for hits, ids in ((naive, np.arange(y.size)), (grouped, groups)):
            sets = ConformalLabels(0.1).fit(p, y, ids).predict_sets(test_p)
            hits.append(sets[np.arange(50), test_y].mean())
    assert np.mean(naive) < 0.885  # 0.9 promised; the standard error is 0.005
    assert np.mean(grouped) > 0.9


# --- a threshold of certified risk ---

def test_betting_p_values_are_one_over_the_largest_wealth():
    rng = np.random.default_rng(0)
    values = rng.random((5, 40)) * 0.4
    for row, found in zip(values, betting_p_values(values, 0.3, 0.1), strict=True):
        wealth, best, seen = 1.0, 1.0, []
        for value in row:
            means = [(0.5 + sum(seen[:k + 1])) / (k + 2) for k in range(len(seen))]
            variance = (0.25 + sum((a - b) ** 2 for a, b in zip(seen, means, strict=True))
                        ) / (len(seen) + 1)
            bet = min(math.sqrt(2 * math.log(10) / (row.size * variance)), 0.99 / 0.7)
            wealth *= 1 - bet * (value - 0.3)
            best = max(best, wealth)
            seen.append(value)
        assert found == pytest.approx(1 / best)


@pytest.mark.parametrize("draw", [
    lambda rng: rng.binomial(1, 0.2, (4000, 80)),
    lambda rng: 0.2 + 0.2 * rng.choice([-1, 1], (4000, 80)),
    lambda rng: rng.beta(0.2, 0.8, (4000, 80)),
])
def test_betting_p_values_are_valid_where_the_mean_is_just_too_high(draw):
    p = betting_p_values(draw(np.random.default_rng(1)).astype(float), 0.2, 0.1)
    for level in (0.02, 0.1, 0.3):
        assert (p <= level).mean() < level + 3 * math.sqrt(level / 4000)
    assert (p < 1).any()


def hoeffding_bentkus(values, mean):
    """Bates et al. 2021, the other p-value used with Learn then Test."""
    n, average = values.size, values.mean()
    low = min(average, mean)
    kl = low * math.log(low / mean) + (1 - low) * math.log((1 - low) / (1 - mean))
    return min(math.exp(-n * kl), math.e * binom.cdf(math.ceil(n * average), n, mean), 1.0)


def test_betting_certifies_what_a_bound_for_the_whole_range_cannot():
    rng = np.random.default_rng(2)
    betting, bound = [], []
    for _ in range(100):  # a third of the traces is answered, 5% of those wrongly
        answered = rng.random((100, 8)) < 0.33
        wrong = answered & (rng.random((100, 8)) < 0.05)
        losses = (wrong + 0.2 * ~answered).mean(axis=1)
        betting.append(betting_p_values(losses[None], 0.2, 0.1)[0] <= 0.1)
        bound.append(hoeffding_bentkus(losses, 0.2) <= 0.1)
    assert np.mean(betting) > 0.9
    assert np.mean(bound) < 0.1


def test_the_fallback_procedure_hands_levels_on():
    p = np.array([0.5, 0.02, 0.05, 0.9, 0.03, 0.0])
    parts = np.array([0.02, 0.03, 0.02, 0.0, 0.03, 0.0])
    assert fallback_rejections(p, parts).tolist() == [False, True, True, False, True, True]
    assert fallback_rejections(p[2:4], np.array([0.05, 0.0])).tolist() == [True, False]
    assert not fallback_rejections(p, np.zeros(6)).any()  # no budget rejects nothing, not even p=0


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=8))
def test_the_fallback_procedure_holds_two_others_as_special_cases(p):
    p = np.array(p)
    fixed = fallback_rejections(p, np.r_[0.1, np.zeros(p.size - 1)])
    assert fixed.tolist() == [bool((p[:k + 1] <= 0.1).all()) for k in range(p.size)]
    even = fallback_rejections(p, np.full(p.size, 0.1 / p.size))
    assert (even >= (p <= 0.1 / p.size)).all()  # at least Bonferroni's


def test_the_fallback_procedure_is_a_closed_test():
    rng = np.random.default_rng(5)
    levels = np.array([0.02, 0.05, 0.0, 0.03])
    for p in rng.random((300, 4)) ** 3 * 0.15:
        assert fallback_rejections(p, levels).tolist() == [
            all(intersection_rejected(p, levels, chosen) for chosen in subsets(4) if i in chosen)
            for i in range(4)]


def subsets(m):
    return [set(c) for k in range(1, m + 1) for c in itertools.combinations(range(m), k)]


def intersection_rejected(p, levels, chosen):
    """Wiens and Dmitrienko 2005: of true hypotheses, each takes the parts since the one before."""
    start, last = 0, {}
    for i in sorted(chosen):
        last[i], start = levels[start:i + 1].sum(), i + 1
    return any(p[i] <= level for i, level in last.items() if level > 0)


def true_risk(p, y):
    """Threshold -> (risk, coverage) in a population."""
    order = np.argsort(-p, kind="stable")
    wrong = np.cumsum(1 - y[order])

    def at(threshold):
        k = int((p >= threshold).sum())
        return (wrong[k - 1] / k if k else 0.0), k / p.size

    return at


@pytest.mark.parametrize(("shared", "max_risk"), [(0.3, 0.2), (1.5, 0.3)])
def test_the_risk_is_above_the_promised_one_no_more_often_than_said(shared, max_risk):
    population = true_risk(*clustered(np.random.default_rng(0), 20000, shared=shared)[:2])
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(200):
        fitted = RiskThreshold(max_risk, 0.9).fit(*clustered(rng, shared=shared))
        risk, coverage = population(fitted.threshold_)
        outcomes.append([risk > max_risk, coverage, fitted.certified_])
    broken, coverage, certified = np.mean(outcomes, axis=0)
    assert broken < 0.1 + 3 * math.sqrt(0.09 / 200)
    assert certified > 0.9
    assert coverage > 0.5  # hindsight would reach 0.71 and 0.75


def test_scores_without_information_are_certified_no_more_often_than_said():
    rng = np.random.default_rng(2)
    certified = 0
    for _ in range(200):  # every threshold has a risk just above the promised one
        groups = np.repeat(np.arange(80), 5)
        y = (rng.random(80)[groups] > 0.31).astype(int)
        certified += RiskThreshold(0.3, 0.9).fit(rng.random(400), y, groups).certified_
    assert certified / 200 < 0.1 + 3 * math.sqrt(0.09 / 200)


def test_taking_traces_as_independent_breaks_the_promise():
    rng = np.random.default_rng(3)
    broken = {"traces": 0, "problems": 0}
    for _ in range(100):  # one label for each problem: 15 observations, not 600
        groups = np.repeat(np.arange(15), 40)
        y = (rng.random(15)[groups] > 0.31).astype(int)
        p = rng.random(600)
        for ids, key in ((np.arange(600), "traces"), (groups, "problems")):
            broken[key] += RiskThreshold(0.3, 0.9).fit(p, y, ids).certified_
    assert broken["traces"] > 22  # 10 allowed, binomial sd 3
    assert broken["problems"] <= 10


def test_the_threshold_is_the_laxest_certified_one_and_its_numbers_are_those_of_calibration():
    p, y, groups = clustered(np.random.default_rng(4), 150, shared=0.3)
    fitted = RiskThreshold(0.25).fit(p, y, groups)
    assert fitted.certified_
    assert fitted.threshold_ == fitted.thresholds_[fitted.certified_thresholds_].min()
    kept = p >= fitted.threshold_
    assert np.array_equal(fitted.decide(p), kept)
    assert fitted.coverage_ == pytest.approx(kept.mean())  # problems of equal size
    assert fitted.risk_ == pytest.approx(1 - y[kept].mean())
    assert (np.diff(fitted.thresholds_) < 0).all()
    assert fitted.thresholds_[-1] == 0
    shuffled = np.random.default_rng(0).permutation(y.size)
    again = clone(fitted).fit(p[shuffled], y[shuffled], groups[shuffled])
    assert np.array_equal(again.p_values_, fitted.p_values_)
    other = RiskThreshold(0.25, seed=1).fit(p, 1 - y, groups)
    assert np.array_equal(other.thresholds_, fitted.thresholds_)  # whatever the labels


def test_each_problem_weighs_the_same_whatever_its_number_of_traces():
    rng = np.random.default_rng(6)
    p, y, groups = clustered(rng, 120, shared=0.3)
    copies = rng.integers(1, 6, 120)[groups]
    once = RiskThreshold(0.25).fit(p, y, groups)
    uneven = RiskThreshold(0.25).fit(*(np.repeat(a, copies) for a in (p, y, groups)))
    assert uneven.threshold_ == once.threshold_
    assert uneven.p_values_ == pytest.approx(once.p_values_)
    assert (uneven.risk_, uneven.coverage_) == pytest.approx((once.risk_, once.coverage_))


def test_without_a_certificate_nothing_is_answered():
    p, y, groups = clustered(np.random.default_rng(5), 20)
    fitted = RiskThreshold(0.01).fit(p, y, groups)
    assert (fitted.certified_, fitted.threshold_, fitted.coverage_) == (False, np.inf, 0)
    assert np.isnan(fitted.risk_)
    assert not fitted.decide([0.0, 1.0]).any()


# --- selection from a batch ---

def test_selection_is_benjamini_hochberg_on_the_definition_of_the_p_values():
    rng = np.random.default_rng(0)
    p, y, groups = clustered(rng, 50, 1)
    p, test = np.round(p, 1), np.round(clustered(rng, 30, 1)[0], 1)
    expected = [(1 + sum(a >= t and b == 0 for a, b in zip(p, y, strict=True))) / 51 for t in test]
    found = conformal_selection(p, y, groups, test, 0.3)
    assert found.p_values == pytest.approx(expected)
    assert found.selected.tolist() == (benjamini_hochberg(expected) <= 0.3).tolist()
    assert 0 < found.selected.sum() < 30
    assert found.n_calibration == 50
    assert np.array_equal(conformal_selection(np.exp(3 * p), y, groups, np.exp(3 * test),
                                              0.3).selected, found.selected)


def test_one_trace_of_each_calibration_problem_is_used():
    y, groups = np.zeros(40, int), np.repeat(np.arange(10), 4)
    scores = np.tile([1.0, 2.0, 3.0, 4.0], 10)
    draws = [conformal_selection(scores, y, groups, [2.5], 0.5, seed=s) for s in range(400)]
    assert {d.n_calibration for d in draws} == {10}
    above = np.array([d.p_values[0] * 11 - 1 for d in draws])
    assert above.mean() == pytest.approx(5, abs=0.3)  # binomial(10, 1/2)
    assert above.var() == pytest.approx(2.5, abs=0.6)


def selections(max_fdr, draw, runs, seed=1):
    """Mean false discovery proportion and mean number selected, over calibration and batch."""
    rng, results = np.random.default_rng(seed), []
    for run in range(runs):
        selected, y = draw(rng, run, max_fdr)
        results.append([1 - y[selected].mean() if selected.any() else 0, selected.sum()])
    return np.mean(results, axis=0)


def one_per_problem(rng, run, max_fdr):
    test, y, _ = clustered(rng, 60, 1, shared=0.5, base=-1.0)
    calibration = clustered(rng, 100, 6, shared=0.5, base=-1.0)
    return conformal_selection(*calibration, test, max_fdr, seed=run).selected, y


def whole_problems(rng, run, max_fdr):
    test, y, groups = clustered(rng, 10, 6, shared=3.0, base=-1.0)
    calibration = clustered(rng, 100, 6, shared=3.0, base=-1.0)
    found = conformal_selection(*calibration, test, max_fdr, test_groups=groups, seed=run)
    return found.selected, y


@pytest.mark.parametrize("max_fdr", [0.1, 0.3])
def test_the_share_of_invalid_traces_selected_is_controlled_and_not_wasted(max_fdr):
    fdp, number = selections(max_fdr, one_per_problem, 500)
    assert fdp < max_fdr + 0.02  # standard error below 0.01
    assert fdp > max_fdr / 2
    assert number > 3


def test_batches_with_several_traces_of_a_problem_are_corrected_for_dependence():
    fdp, number = selections(0.4, whole_problems, 300)
    assert fdp < 0.42
    assert number > 0.5
    p, y, groups = clustered(np.random.default_rng(0), 100, 6)
    test, _, ids = clustered(np.random.default_rng(1), 10, 6)
    plain = conformal_selection(p, y, groups, test, 0.2)
    corrected = conformal_selection(p, y, groups, test, 0.2, test_groups=ids)
    harmonic = sum(1 / k for k in range(1, 61))
    assert np.array_equal(corrected.p_values, plain.p_values)
    assert corrected.selected.tolist() == (
        benjamini_hochberg(plain.p_values) <= 0.2 / harmonic).tolist()
    distinct = conformal_selection(p, y, groups, test, 0.2, test_groups=np.arange(60))
    assert np.array_equal(distinct.selected, plain.selected)


# --- held-out report ---

def test_the_report_counts_problems():
    rng = np.random.default_rng(0)
    cal, (p, y, groups) = clustered(rng, 100, shared=0.3), clustered(rng, 60)
    keep = rng.random(p.size) < 0.7  # problems of different sizes
    p, y, groups = p[keep], y[keep], groups[keep]
    rule, sets = RiskThreshold(0.25).fit(*cal), ConformalLabels(0.2).fit(*cal)
    found = report(rule, sets, p, y, groups)
    answered, held = rule.decide(p), sets.predict_sets(p)
    mean = lambda values: problem_mean(np.asarray(values, float), groups)  # noqa: E731
    assert (found.traces, found.problems) == (p.size, np.unique(groups).size)
    assert found.answered.estimate == pytest.approx(mean(answered))
    assert found.risk == pytest.approx(mean(answered & (y == 0)) / mean(answered))
    assert found.base_risk.estimate == pytest.approx(mean(y == 0))
    assert found.set_coverage.estimate == pytest.approx(mean(held[np.arange(y.size), y]))
    assert found.set_sizes == pytest.approx([mean(held.sum(axis=1) == k) for k in (0, 1, 2)])
    assert found.risk_interval.low < found.risk < found.risk_interval.high
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["risk"] == found.risk


def test_a_risk_of_nothing_is_none_and_of_one_problem_has_no_interval():
    rng = np.random.default_rng(0)
    cal, (p, y, groups) = clustered(rng, 100, shared=0.3), clustered(rng, 30)
    sets = ConformalLabels(0.2).fit(*cal)
    nothing = report(RiskThreshold(0.01).fit(*cal), sets, p, y, groups)
    assert (nothing.risk, nothing.risk_interval, nothing.answered.estimate) == (None, None, 0)
    rule = RiskThreshold(0.25).fit(*cal)
    lowered = np.where(groups == 3, p, 0.0)
    alone = report(rule, sets, lowered, y, groups)
    kept = rule.decide(lowered)
    assert set(groups[kept]) == {3}
    assert alone.risk == pytest.approx(1 - y[kept].mean())
    assert alone.risk_interval is None  # most resamples of 30 problems have no answer


def test_bad_arguments_raise():
    p, y, groups = clustered(np.random.default_rng(0), 20)
    for wrong in (0.0, 1.0):
        with pytest.raises(ParameterError, match="alpha"):
            ConformalLabels(wrong).fit(p, y, groups)
        with pytest.raises(ParameterError, match="max_risk"):
            RiskThreshold(wrong).fit(p, y, groups)
        with pytest.raises(ParameterError, match="confidence"):
            RiskThreshold(0.1, wrong).fit(p, y, groups)
        with pytest.raises(ParameterError, match="max_fdr"):
            conformal_selection(p, y, groups, p, wrong)
        with pytest.raises(ParameterError, match="mean"):
            betting_p_values(p[None], wrong, 0.1)
    with pytest.raises(ScoreError, match=r"\[0, 1\]"):
        betting_p_values(p[None] * 2, 0.1, 0.1)
    for estimator in (ConformalLabels(), RiskThreshold()):
        with pytest.raises(ScoreError, match=r"P\(valid\)"):
            clone(estimator).fit(p * 9 - 4, y, groups)
        with pytest.raises(LabelError, match="problem ids"):
            clone(estimator).fit(p, y, groups[:5])
    with pytest.raises(NotFittedError):
        ConformalLabels().predict_sets(p)
    with pytest.raises(NotFittedError):
        RiskThreshold().decide(p)
