"""Thinning loses no extreme: every way that a row takes, against numpy's nanmin and nanmax.

The rows are random: NaN, infinities, subnormals, values beyond float32, single spikes, and rows
that were not measured at all. What is compared is exact, after the narrowing to float32 that the
record states, which `struct` does here.
"""

from __future__ import annotations

import math
import sqlite3
import struct
import warnings
from collections.abc import Sequence
from contextlib import closing
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from record_fixture import TABLE, wait_until
from surefoot.record import Writer, blob, new_folder, read_run, store
from surefoot.record import rows as record_rows
from surefoot.record.backlog import Backlog, Row
from surefoot.record.compaction import Compaction
from surefoot.record.schema import Steps
from surefoot.record.series import Series, Thinned

LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
ODD = (
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-45, -1e-45, 1e-40, 1.1754944e-38),
    *(1e200, -1e200, LARGEST, -LARGEST, 3.4028235677973366e38, 3.4028236e38, 1.0, -1.0, 0.1),
)
VALUES = st.one_of(st.sampled_from(ODD), st.floats(), st.floats(width=32))
Rows = list[list[float] | None]  # None: not measured at that step


@st.composite
def runs(draw: st.DrawFn, most: int = 120) -> Rows:
    """A run of up to three columns; in some of them one spike stands in a quiet sea."""
    columns, steps = draw(st.integers(1, 3)), draw(st.integers(1, most))
    if draw(st.booleans()):
        quiet = draw(st.floats(-1.0, 1.0, width=32))
        rows: Rows = [[quiet] * columns for _ in range(steps)]
        for _ in range(draw(st.integers(1, 3))):
            spike = rows[draw(st.integers(0, steps - 1))]
            assert spike is not None
            spike[draw(st.integers(0, columns - 1))] = draw(VALUES)
    else:
        row = st.lists(VALUES, min_size=columns, max_size=columns)
        rows = draw(st.lists(row, min_size=steps, max_size=steps))
    for at in draw(st.sets(st.integers(1, most), max_size=5)):
        if at < steps:
            rows[at] = None
    return rows


def narrowed(value: float) -> float:
    """The nearest float32; the largest where there is no finite one."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(LARGEST, value)


def measured(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(steps, rows [T, C] in float32) of those that were measured."""
    steps = [step for step, row in enumerate(rows) if row is not None]
    columns = next(len(row) for row in rows if row is not None)
    values = [[narrowed(x) for x in row] for row in rows if row is not None]
    return np.array(steps), np.array(values, np.float32).reshape(-1, columns)


def extremes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest of each column, NaN of one without any number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that all are NaN
        return np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)


def assert_kept(series: Series, rows: Rows, window: tuple[float, float] = (0.0, 1.0)) -> None:
    """Each bucket holds the extremes and the last of its own steps, and so does a window of them.

    window: where in the series it begins and ends, as shares of its length.
    """
    steps, values = measured(rows)
    ends = np.searchsorted(steps, series.steps, side="right").tolist()
    assert ends == sorted(set(ends)) and ends[-1] == len(steps), "buckets overlap or miss steps"
    begins = [0, *ends[:-1]]
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        low, high = extremes(values[begin:end])
        np.testing.assert_array_equal(series.low[i], low)
        np.testing.assert_array_equal(series.high[i], high)
        np.testing.assert_array_equal(series.last[i], values[end - 1])
    first, last = sorted(int(share * (len(series) - 1)) for share in window)
    low, high = extremes(values[begins[first] : ends[last]])
    np.testing.assert_array_equal(extremes(series.low[first : last + 1])[0], low)
    np.testing.assert_array_equal(extremes(series.high[first : last + 1])[1], high)


WINDOWS = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0))


@settings(max_examples=150, deadline=None)
@given(rows=runs(), half=st.integers(1, 12), window=WINDOWS, cut=st.integers(1, 120))
def test_in_memory(rows: Rows, half: int, window: tuple[float, float], cut: int) -> None:
    thinned = Thinned(columns=len(rows[0] or []), capacity=2 * half)
    for step, row in enumerate(rows):
        if row is not None:
            with np.errstate(all="ignore"):
                thinned.append(step, np.array(row))
        if step + 1 in (cut, len(rows)):  # of any prefix as well
            assert_kept(thinned.series(), rows[: step + 1], window)


def test_what_is_finite_stays_finite_in_memory() -> None:
    thinned = Thinned(columns=3, capacity=2)
    for row in ([1e300, math.inf, 1.0], [-1e300, 1.0, -math.inf], [0.0, 0.0, math.nan]):
        with np.errstate(all="ignore"):
            thinned.append(0, np.array(row))
    series = thinned.series()
    assert extremes(series.high)[1].tolist() == [LARGEST, math.inf, 1.0]
    assert extremes(series.low)[0].tolist() == [-LARGEST, 0.0, -math.inf]


def decoded(rows: Sequence[tuple[int, int, bytes | None]], columns: int) -> Series:
    """A series from (step, rows, blob) as they lie in the file; None was not measured.

    A step that was committed in two parts may end two buckets: together they are one.
    """
    known = [(step, data) for step, _, data in rows if data is not None]
    low, high, last = (part.copy() for part in blob.unpack([data for _, data in known], columns))
    steps = [step for step, _ in known]
    for k in range(len(steps) - 1):
        if steps[k] == steps[k + 1]:
            low[k + 1] = extremes(low[k : k + 2])[0]
            high[k + 1] = extremes(high[k : k + 2])[1]
    ends = [k for k in range(len(steps)) if steps[k : k + 2] != [steps[k]] * 2]
    return Series(np.array(steps)[ends], low[ends], high[ends], last[ends])


@settings(max_examples=150, deadline=None)
@given(
    rows=runs(),
    room=st.integers(600, 4000),
    takes=st.sets(st.integers(1, 119), max_size=4),
    window=WINDOWS,
)
def test_melted_while_the_disk_stands_still(
    rows: Rows, room: int, takes: set[int], window: tuple[float, float]
) -> None:
    """One family is measured at every step, so that those of the other melt among its rows."""
    columns = len(rows[0] or [])
    backlog = Backlog(limit=room)
    backlog.declare(0, [columns, 1])
    taken: list[Row] = []
    for step, row in enumerate(rows):
        data = blob.raw(np.array(row)) if row is not None else None
        always = blob.raw(np.array([float(step)]))
        backlog.row(0, step, [data, always], len(data or b"") + 8)
        if step in takes or step == len(rows) - 1:
            taken += [item for item in backlog.take() if isinstance(item, Row)]
    assert sum(row.rows for row in taken) == len(rows)
    for place, raws in ((0, rows), (1, [[float(i)] for i in range(len(rows))])):
        width = (columns, 1)[place]
        blobs = blob.narrow([row.blobs[place] for row in taken], width)
        found = [(row.step, row.rows, data) for row, data in zip(taken, blobs, strict=True)]
        assert_kept(decoded(found, width), raws, window)


@settings(max_examples=100, deadline=None)
@given(
    rows=runs(),
    pieces=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    piece_bytes=st.sampled_from([1, 1000, 1 << 20]),
    every=st.integers(1, 40),
    window=WINDOWS,
)
def test_merged_on_disk(
    rows: Rows, pieces: list[int], piece_bytes: int, every: int, window: tuple[float, float]
) -> None:
    """At every width that so many steps of merging reach, between them and at the end.

    A wide family is measured now and then, as sampled ones are: in a row of its own that holds the
    rest of the step before it, which counts for none.
    """
    columns = len(rows[0] or [])
    table = Steps(0, {"x": columns, "wide": 200})
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        table.create(connection)
        compaction = Compaction(connection, {0: table}, piece_bytes)
        part = -(-len(rows) // len(pieces))
        for k, count in enumerate(pieces):
            chunk = rows[k * part : (k + 1) * part]
            raws = [None if row is None else blob.raw(np.array(row)) for row in chunk]
            for step, data in enumerate(blob.narrow(raws, columns), start=k * part):
                whole = [(None, step, 1, data, None)]
                if step % every == 0:
                    whole += [(None, step, 0, None, np.full(200, step, np.float32).tobytes())]
                table.insert(connection, whole)
            for _ in range(count):
                compaction.piece()
            found = connection.execute(f"SELECT * FROM {table.name} ORDER BY id").fetchall()
            seen = rows[: k * part + len(chunk)]
            assert sum(row[2] for row in found) == len(seen)
            assert max(row[2] for row in found) <= compaction.width
            assert_kept(decoded([row[1:4] for row in found], columns), seen, window)
            sampled: Rows = [[float(i)] * 200 if i % every == 0 else None for i in range(len(seen))]
            wide = decoded([(*row[1:3], row[4]) for row in found], 200)
            assert_kept(wide, sampled, window)


def test_what_melted_is_merged_with_the_rest_of_its_last_step() -> None:
    """A bucket of more rows than the width, then a row for none, where a piece begins."""
    table = Steps(0, {"x": 1, "y": 1})
    one = np.ones(1, np.float32).tobytes()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        table.create(connection)
        for step in (500, 1000, 1500):
            for rows, blobs in ((500, (one, None)), (0, (None, one))):
                table.insert(connection, [(None, step, rows, *blobs)])
        table.insert(connection, [(None, 1501 + k, 1, one, None) for k in range(40)])
        compaction = Compaction(connection, {0: table}, piece_bytes=1)
        while compaction.piece():
            found = connection.execute("SELECT step, rows FROM steps_0 ORDER BY id").fetchall()
            assert sum(rows for _, rows in found) == 1540
    assert found == [(1540, 1540)]


@settings(max_examples=60, deadline=None)
@given(
    rows=runs(most=300),
    queue=st.sampled_from([2000, 8000, 1 << 20]),
    held=st.integers(4, 64),
    buckets=st.integers(1, 70),
    piece=st.integers(1, 4000),
    window=WINDOWS,
)
def test_from_the_training_to_the_reader(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Rows,
    queue: int,
    held: int,
    buckets: int,
    piece: int,
    window: tuple[float, float],
) -> None:
    """Melted, merged and folded in one: a file of few buckets, read in the midst and at the end."""
    columns = len(rows[0] or [])
    folder = new_folder(tmp_path_factory.mktemp("runs"))
    with (
        mock.patch.object(Writer, "QUEUE_BYTES", queue),
        mock.patch.object(Writer, "INTERVAL_SECONDS", 0.001),
        mock.patch.object(store, "_BUCKETS", held),
        mock.patch.object(record_rows, "_PIECE_BYTES", piece),
    ):
        writer = Writer(folder, {})
        writer.declare(0, TABLE, {"x": columns, "at": 1})
        for step, row in enumerate(rows):
            if row is not None:
                writer.put(0, step, {"x": np.array(row)})
            writer.put(0, step, {"at": np.array([step])})
            if step == len(rows) // 2:
                wait_until(lambda step=step: writer.committed.get(0) == step)
                assert_kept(read_run(folder, buckets=buckets).series["x"], rows[: step + 1], window)
        writer.close()
        assert writer.problem is None
        found = read_run(folder, buckets=buckets).series
    assert_kept(found["x"], rows, window)
    assert_kept(found["at"], [[float(step)] for step in range(len(rows))], window)
    assert len(found["at"]) <= buckets
