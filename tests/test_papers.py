"""The quick rows of the table of published and theoretical values; `python -m tests.papers`."""

from __future__ import annotations

import pytest
from tests.papers import Row, rows

QUICK = [row for row in rows() if row.quick]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_the_value_is_that_of_the_source(row: Row) -> None:
    assert row.measure() == pytest.approx(row.theory, abs=row.tolerance)


def test_the_table_is_long_enough_and_every_row_can_fail() -> None:
    assert len(rows()) >= 25
    assert len({row.name for row in rows()}) == len(rows())
    for row in rows():
        assert row.tolerance <= max(0.3 * abs(row.theory), 0.05)
