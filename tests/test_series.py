"""`Thinned` against plain numpy: every bucket equals the fold of the rows that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from surefoot.record.series import Series, Thinned

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 150), st.integers(1, 4)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def fold(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, highest and last of the rows [n, C]; NaN only where nothing was measured."""
    blank = np.isnan(rows).all(0)
    low = np.where(blank, np.nan, np.where(np.isnan(rows), np.inf, rows).min(0))
    high = np.where(blank, np.nan, np.where(np.isnan(rows), -np.inf, rows).max(0))
    return low, high, rows[-1]


def assert_folds(series: Series, steps: np.ndarray, rows: np.ndarray) -> None:
    """Every bucket of the series is the fold of the rows after the bucket before it."""
    begin = 0
    for i, step in enumerate(series.steps):
        end = int(np.searchsorted(steps, step, side="right"))
        low, high, last = fold(rows[begin:end])
        np.testing.assert_array_equal(series.low[i], low)
        np.testing.assert_array_equal(series.high[i], high)
        np.testing.assert_array_equal(series.last[i], last)
        begin = end
    assert begin == len(rows)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, half=st.integers(1, 12), gap=st.integers(1, 9))
def test_every_bucket_is_the_fold_of_its_rows(rows: np.ndarray, half: int, gap: int) -> None:
    steps = np.arange(len(rows)) * gap
    thinned = Thinned(columns=rows.shape[1], capacity=2 * half)
    for step, row in zip(steps, rows, strict=True):
        thinned.append(int(step), row)
    series = thinned.series()
    assert len(series) <= 2 * half
    assert_folds(series, steps, rows)
    widths = np.diff(series.steps, prepend=-gap) // gap
    assert len(set(widths[:-1])) <= 1 and widths[-1] <= widths[0]  # even, the newest still filling


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100, 1000])
def test_a_long_run_keeps_at_least_half_of_the_capacity_but_for_one(length: int) -> None:
    thinned = Thinned(columns=1, capacity=8)
    for step in range(length):
        thinned.append(step, np.array([step]))
    assert min(length, 4) <= len(thinned.series()) <= 8


def test_one_spike_survives_a_long_run() -> None:
    thinned = Thinned(columns=2, capacity=4)
    for step in range(5000):
        thinned.append(step, np.array([1e30 if step == 1234 else 1.0, -step]))
    series = thinned.series()
    assert series.high[:, 0].max() == np.float32(1e30)
    assert series.low[:, 1].min() == -4999
    assert series.steps[-1] == 4999


def test_what_fits_is_kept_as_it_is() -> None:
    thinned = Thinned(columns=1, capacity=4)
    for step in (3, 5, 8):
        thinned.append(step, np.array([step / 2]))
    series = thinned.series()
    assert series.steps.tolist() == [3, 5, 8]
    for part in (series.low, series.high, series.last):
        assert part.ravel().tolist() == [1.5, 2.5, 4.0]


def test_a_series_is_a_copy() -> None:
    thinned = Thinned(columns=1, capacity=2)
    row = np.array([1.0])
    thinned.append(0, row)
    before = thinned.series()
    row[0] = 7.0
    thinned.append(1, np.array([9.0]))
    thinned.append(2, np.array([9.0]))
    assert before.last.tolist() == [[1.0]] and before.steps.tolist() == [0]


def test_an_empty_series_has_its_columns() -> None:
    for series in (Series.empty(3), Thinned(columns=3).series()):
        assert len(series) == 0
        assert series.low.shape == series.high.shape == series.last.shape == (0, 3)


@pytest.mark.parametrize("capacity", [-2, 0, 1, 3])
def test_an_odd_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"even capacity of at least 2, got {capacity}"):
        Thinned(columns=1, capacity=capacity)
