"""The quick rows of the table of published and theoretical values; `python -m tests.papers`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.papers import Row, Seen, rows

QUICK = [row for row in rows() if row.quick]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_the_value_is_that_of_the_source(row: Row) -> None:
    value = row.measure()
    assert row.holds(value), f"{value} {row.bound} {row.theory} +- {row.tolerance}"


def test_the_table_is_long_enough_and_says_how_well_each_source_is_known() -> None:
    assert len(rows()) >= 50
    assert len({row.name for row in rows()}) == len(rows())
    assert {row.seen for row in rows()} == set(Seen)
    assert all(row.why and row.source for row in rows())


def test_every_row_can_fail() -> None:
    for row in rows():
        assert not row.holds(math.nan)
        if row.bound == "=":
            assert row.tolerance <= max(0.3 * abs(row.theory), 0.06), row.name
        else:
            assert row.tolerance == 0.0
            assert not row.holds(row.theory + (1e-9 if row.bound == "<" else -1e-9)), row.name


def test_a_bound_is_passed_on_one_side_only() -> None:
    row = replace(rows()[0], theory=2.0, tolerance=0.0, bound="<")
    assert [row.error(value) for value in (1.5, 2.5)] == [0.0, 0.5]
    row = replace(row, bound=">")
    assert [row.error(value) for value in (1.5, 2.5)] == [0.5, 0.0]
    row = replace(row, bound="=", tolerance=0.5)
    assert [row.holds(value) for value in (1.4, 1.5, 2.5, 2.6)] == [False, True, True, False]
