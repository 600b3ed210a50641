"""A record does not grow with its run: not in memory, not on disk, not in what a reader reads."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from record_fixture import TABLE, buckets_of, folder_bytes, wait_until
from surefoot.findings import Report
from surefoot.record import Writer, new_folder, read_run, rows, store
from surefoot.record.backlog import Row, Text
from surefoot.record.data import Event
from surefoot.record.database import DATABASE, open_reader, open_writer
from surefoot.record.schema import Steps
from surefoot.signals import QUANTITIES, Axis
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.watching.ledger import Ledger
from views_fixture import table

PARAMETERS = 20
COUNTS = {Axis.GROUP: 2, Axis.PARAMETER: PARAMETERS, Axis.BLOCK: 10}


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """A writer with the least limit, that commits at once."""
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.002)
    monkeypatch.setattr(Writer, "CLOSE_SECONDS", 100.0)  # a busy machine cuts no end off
    made = Writer(new_folder(tmp_path, "long"), {}, limit_bytes=1 << 20)
    yield made
    made.close()


def ledger_of(writer: Writer) -> Ledger:
    return Ledger(0, table(PARAMETERS // 2, lambda i: f"layers.{i}"), COUNTS, writer)


def record(ledger: Ledger, writer: Writer, steps: range) -> None:
    """Steps as a training records them: sampled every 8th, a bad one every 10th."""
    noise = np.random.default_rng(0)
    pool = {name: noise.lognormal(size=(7, q.columns(COUNTS))) for name, q in QUANTITIES.items()}
    stats = TensorStats(1.0, 1.0, 0.0, 0, 0, 64)
    for step in steps:
        for name, row in ledger.rows.items():
            row[:] = pool[name][step % 7]
        if step % 8 == 0:
            for name, rows in pool.items():
                if name not in ledger.rows:
                    ledger.put(step, name, rows[step % 7])
        if step % 10 == 0:
            ledger.alarm(step, "spike", {"parameters": list(range(PARAMETERS)), "z": 7.0})
        if step % 100 == 0:
            ledger.flow(Flow(step, [Call(i, i, stats, stats) for i in range(PARAMETERS)]))
            writer.report(0, Report(steps=step))
        ledger.commit(step)
        if step % 500 == 499:  # no faster than the disk: nothing melts
            wait_until(lambda step=step: writer.committed.get(0) == step)


def held() -> int:
    """Blocks of memory that Python objects take, whatever their kind."""
    gc.collect()
    return sys.getallocatedblocks()


def test_memory_after_twenty_thousand_steps_is_that_after_ten_thousand(writer: Writer) -> None:
    ledger = ledger_of(writer)
    record(ledger, writer, range(10_000))
    before = held()
    record(ledger, writer, range(10_000, 20_000))
    grown = held() - before
    assert writer.problem is None
    assert grown < 500  # one object kept at every 16th step would be more
    assert len(ledger.flows) <= 12 and len(ledger.alarms) <= 64


def test_the_folder_stays_under_its_limit_whatever_is_recorded(writer: Writer) -> None:
    ledger = ledger_of(writer)
    largest = 0
    for begin in range(0, 5000, 1000):
        record(ledger, writer, range(begin, begin + 1000))
        for step in range(begin, begin + 1000):  # more than a ledger would let through, and longer
            writer.event(0, Event(step, "alarm", {"parameters": list(range(256))}))
        wait_until(lambda: writer._backlog._size == 0)
        largest = max(largest, folder_bytes(writer.folder))
    writer.close(Report(steps=5000))
    assert writer.problem is None
    assert max(largest, folder_bytes(writer.folder)) <= 1 << 20
    run = read_run(writer.folder)
    assert run.series["loss"].steps[-1] == 4999
    told = [event.step for event in run.events if len(event.detail.get("parameters", [])) == 256]
    assert told == sorted(told) and told[0] == 0 and told[-1] == 4999


SHAPES: list[tuple[type, int, dict[int, int]]] = [  # dtype, steps, columns: measured every so often
    (np.float64, 20_000, {10: 1, 1000: 8}),
    (np.float32, 3000, {520: 2, 20: 3}),
    (np.float64, 900, {3: 1, 300: 1, 1: 2, 9000: 16, 520: 7}),
    (np.float32, 2100, {3: 1, 9000: 300, 300: 1, 4000: 7, 1020: 8}),
    (np.float64, 3000, {20: 1, 301: 16, 4000: 50, 21: 300, 4001: 7}),
]


@pytest.mark.parametrize(("dtype", "steps", "every"), SHAPES)
def test_families_of_any_shape_keep_to_the_limit_and_lose_nothing(
    writer: Writer, dtype: type, steps: int, every: dict[int, int]
) -> None:
    """Merged two by two the buckets of some would grow: low, high and last take three rows' room.

    Of others hardly one goes into a page of the file.
    """
    writer.declare(0, TABLE, {f"of_{columns}": columns for columns in every})
    largest = 0
    for step in range(steps):
        for columns, gap in every.items():
            if step % gap == 0:
                writer.put(0, step, {f"of_{columns}": np.full(columns, step, dtype)})
        if step % 100 == 99:
            wait_until(lambda: writer._backlog._size == 0)
            largest = max(largest, folder_bytes(writer.folder))
    writer.close()
    assert writer.problem is None
    assert max(largest, folder_bytes(writer.folder)) <= 1 << 20
    recorded = sum(any(step % gap == 0 for gap in every.values()) for step in range(steps))
    found = buckets_of(writer.folder)
    assert sum(rows for _, rows in found) == recorded and len(found) > 8
    read = read_run(writer.folder, buckets=10**6).series
    for columns, gap in every.items():
        series = read[f"of_{columns}"]
        np.testing.assert_array_equal(series.high, series.last)
        assert series.low[0].tolist() == [0] * columns and series.steps[-1] >= steps - gap
        np.testing.assert_array_equal(series.low[1:], series.high[:-1] + gap)  # nothing is missing


@pytest.mark.parametrize("size", [60, 500, 1360, 1400, 2050, 4000, 4062, 5000, 9000, 100_000])
def test_a_row_takes_no_more_pages_than_are_reckoned(tmp_path: Path, size: int) -> None:
    """SQLite's own count. Of the 256 bytes that an item is reckoned with 30 are the row's."""
    with closing(open_writer(tmp_path, 1 << 20)) as connection:
        (before,) = connection.execute("PRAGMA page_count").fetchone()
        row = (0, bytes(size - 30))
        connection.executemany("INSERT INTO flow VALUES (NULL, ?, ?)", [row] * 200)
        (after,) = connection.execute("PRAGMA page_count").fetchone()
    assert after - before <= 200 * store._pages(size) + 4


def test_a_file_that_is_over_its_limit_goes_on_in_the_pages_that_are_free(tmp_path: Path) -> None:
    """What is freed stays a part of the file: were it counted as used, nothing would ever fit."""
    with closing(open_writer(tmp_path, 1 << 20)) as connection:
        connection.execute("CREATE TABLE other AS SELECT zeroblob(2000000) AS x")
        connection.execute("DROP TABLE other")
        kept = store.Store(connection, 1 << 20, {})
        steps = Steps(0, {"x": 100})
        rows = [Row(0, step, 1, [bytes(400)], 656) for step in range(4000)]
        kept.write(deque([Text("training", (0, "", ""), 256, steps), *rows]), {})
        assert kept.lost == 0
        assert connection.execute("SELECT SUM(rows) FROM steps_0").fetchone() == (4000,)


def test_narrow_families_are_read_in_full_and_the_wide_share_what_is_left() -> None:
    columns = {"loss": 1, "a": 200_000, "gradient": 7500, "b": 200_000}
    shares = rows.shares(Steps(0, columns), 1024)
    assert shares["loss"] == 1024 and shares["a"] >= 16 and abs(shares["a"] - shares["b"]) <= 1
    assert sum(12 * columns[name] * shares[name] for name in columns) <= 128 << 20
    largest = Steps(0, {f"f{k}": 1 << 16 for k in range(64)})  # as wide as a record may be
    assert 12 * (1 << 16) * sum(rows.shares(largest, 1024).values()) <= 128 << 20
    assert min(rows.shares(largest, 1024).values()) == 2


def test_a_reader_goes_through_as_many_buckets_however_long_the_run(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small model the file would hold a million steps, and a reader would take seconds."""
    monkeypatch.setattr(store, "_BUCKETS", 1500)
    writer.declare(0, TABLE, {"x": 1})
    for step in range(30_000):
        writer.put(0, step, {"x": np.array([step])})
        if step % 500 == 499:
            wait_until(lambda step=step: writer.committed.get(0) == step)
            assert len(buckets_of(writer.folder)) <= 1500
    found = buckets_of(writer.folder)
    assert sum(rows for _, rows in found) == 30_000 and len(found) > 200
    reasons = {e.detail["reason"] for e in read_run(writer.folder).events if e.kind == "thinned"}
    assert reasons == {"the record reached its limit of 1500 buckets"}
    series = read_run(writer.folder, buckets=10**6).series["x"]
    assert series.low[0, 0] == 0 and series.high[-1, 0] == 29_999
    np.testing.assert_array_equal(series.low[1:], series.high[:-1] + 1)  # no gap, nothing twice


def test_a_limit_of_buckets_below_one_batch_costs_no_step(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_BUCKETS", 2)
    writer.declare(0, TABLE, {"x": 1})
    for step in range(1000):
        writer.put(0, step, {"x": np.array([step])})
    writer.close()
    assert writer.problem is None
    assert sum(rows for _, rows in buckets_of(writer.folder)) == 1000


# -- a reader beside the writer ------------------------------------------------------------------


def test_a_writer_at_full_speed_and_a_reader_do_not_disturb_each_other(writer: Writer) -> None:
    writer.declare(0, TABLE, {"x": 8})
    wait_until(lambda: read_run(writer.folder).layers == TABLE)
    ended, seen, failed = threading.Event(), [0], []

    def read() -> None:
        while not ended.is_set():
            try:
                series = read_run(writer.folder, buckets=64).series.get("x")
                if series is not None:
                    np.testing.assert_array_equal(series.last[:, 0], series.steps)
                    assert (np.diff(series.steps) > 0).all() and series.low[0, 0] == 0
                    seen.append(int(series.steps[-1]))
            except Exception as error:
                failed.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    for step in range(100_000):
        writer.put(0, step, {"x": np.full(8, step)})
    ended.set()
    thread.join()
    writer.close()
    assert not failed, failed
    assert writer.problem is None
    assert seen == sorted(seen) and seen[-1] > 0
    assert sum(rows for _, rows in buckets_of(writer.folder)) == 100_000


def test_a_reading_that_does_not_end_keeps_nothing_from_being_written(writer: Writer) -> None:
    writer.declare(0, TABLE, {"x": 1})
    writer.put(0, 0, {"x": np.zeros(1)})
    wait_until(lambda: writer.committed.get(0) == 0)
    with open_reader(writer.folder) as connection:
        connection.execute("BEGIN")
        assert connection.execute("SELECT COUNT(*) FROM steps_0").fetchone() == (1,)
        for step in range(1, 5000):
            writer.put(0, step, {"x": np.array([step])})
        wait_until(lambda: writer.committed.get(0) == 4999)
        assert connection.execute("SELECT COUNT(*) FROM steps_0").fetchone() == (1,)
    writer.close()
    assert writer.problem is None
    with closing(sqlite3.connect(writer.folder / DATABASE)) as connection:
        assert connection.execute("SELECT SUM(rows) FROM steps_0").fetchone() == (5000,)
