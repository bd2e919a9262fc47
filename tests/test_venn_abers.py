"""Venn-Abers bounds against scikit-learn's isotonic regression, and their guarantee."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from validator.classifier.venn_abers import merged_probability, venn_abers
from validator.errors import LabelError, ScoreError

cases = st.lists(
    st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), st.integers(0, 1)),
    min_size=2, max_size=12)


@settings(max_examples=200, deadline=None)
@given(cases, st.sampled_from([-9.0, -1.0, 0.25, 1.0, 9.0]))
def test_bounds_are_two_isotonic_fits(points: list[tuple[float, int]], new: float) -> None:
    s, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    expected = [
        IsotonicRegression(out_of_bounds="clip").fit(np.r_[s, new], np.r_[y, label])
        .predict([new])[0] for label in (0, 1)]
    found = venn_abers(s, y.astype(int), [new])
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    assert found[0, 0] <= found[0, 1]
    merged = merged_probability(found)[0]
    assert found[0, 0] - 1e-12 <= merged <= found[0, 1] + 1e-12


def test_bounds_close_in_as_calibration_grows_and_hold_the_share() -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        margins = rng.normal(size=n).round(1)
        return margins, (rng.random(n) < 1 / (1 + np.exp(-3 * margins))).astype(int)

    new = np.linspace(-1.5, 1.5, 31).round(1)
    few, many = (venn_abers(*drawn(n), new) for n in (50, 4000))
    assert (many[:, 1] - many[:, 0]).mean() < 0.3 * (few[:, 1] - few[:, 0]).mean()
    truth = 1 / (1 + np.exp(-3 * new))
    assert np.abs(merged_probability(many) - truth).max() < 0.12


def test_order_and_repeats_of_the_new_margins_do_not_matter() -> None:
    s, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 1, 0, 1])
    found = venn_abers(s, y, [2.5, 0.5, 2.5])
    np.testing.assert_array_equal(found[[0, 2]], found[[2, 0]])
    np.testing.assert_array_equal(found[1:2], venn_abers(s, y, [0.5]))


def test_bad_input_is_refused() -> None:
    with pytest.raises(LabelError):
        venn_abers([0.0], [2], [0.0])
    with pytest.raises(ScoreError):
        venn_abers([0.0, np.nan], [0, 1], [0.0])
