"""A run followed while it is written: the same as what was put in, and only what is new is read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from record_fixture import REPORT, TABLE, noise, wait_until
from surefoot.record import Follower, RecordError, Writer, following, new_folder, read_run
from surefoot.record.data import Event
from surefoot.record.series import Series, evenly
from surefoot.signals.flow import Flow

FAMILIES = {"loss": 1, "gradient": 5}


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.002)
    made = Writer(new_folder(tmp_path, "live"), {"device": "cpu"})
    made.declare(0, TABLE, FAMILIES)
    return made


def put(writer: Writer, rows: np.ndarray, start: int) -> None:
    for step, row in enumerate(rows, start):
        writer.put(0, step, {"loss": row[:1], "gradient": row[1:]})
    wait_until(lambda: writer.committed.get(0) == start + len(rows) - 1)


def test_each_look_holds_all_that_was_written(writer: Writer) -> None:
    rows = noise(300, 6)
    follower = Follower(writer.folder)
    for start in range(0, 300, 50):
        put(writer, rows[start : start + 50], start)
        assert follower.poll()
        assert follower.live
        assert np.array_equal(follower.data.series["loss"].steps, np.arange(start + 50))
        seen = np.hstack([follower.data.series[name].last for name in FAMILIES])
        assert np.array_equal(seen, rows[: start + 50], equal_nan=True)
    writer.close(REPORT)
    follower.poll()
    assert not follower.live
    assert follower.data.report == read_run(writer.folder).report
    assert follower.data.report.findings[0].rule == REPORT.findings[0].rule


def test_only_new_rows_are_read_again(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    pieces = following.pieces

    def counted(*arguments: object) -> object:
        for piece in pieces(*arguments):  # type: ignore[arg-type]
            read.append(len(piece[1]))
            yield piece

    monkeypatch.setattr(following, "pieces", counted)
    rows = noise(120, 6)
    follower = Follower(writer.folder)
    put(writer, rows[:100], 0)
    follower.poll()
    put(writer, rows[100:], 100)
    follower.poll()
    assert sum(read) == 20
    writer.close()


def test_a_run_longer_than_the_buckets_keeps_its_extremes(writer: Writer) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32)
    rows[437, 3] = 1e9
    follower = Follower(writer.folder, buckets=64)
    for start in range(0, 1000, 40):
        put(writer, rows[start : start + 40], start)
        follower.poll()
        series = follower.data.series["gradient"]
        seen = rows[: start + 40, 1:]
        assert len(series) <= 64
        assert np.array_equal(series.high.max(axis=0), seen.max(axis=0))
        assert np.array_equal(series.low.min(axis=0), seen.min(axis=0))
        assert np.array_equal(series.last[-1], seen[-1])
        assert series.steps[-1] == start + 39
    assert (np.diff(series.steps) <= 2 * 1000 / 32).all()  # evenly: the old part as the new one
    writer.close()


def test_an_unchanged_folder_is_not_opened(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(writer, noise(10, 6), 0)
    writer.close(REPORT)
    follower = Follower(writer.folder)
    old = time.time() - 60
    for path in writer.folder.iterdir():
        os.utime(path, (old, old))
    assert follower.poll()
    monkeypatch.setattr(following, "open_reader", None)
    assert not follower.poll()


def test_files_that_were_just_written_are_looked_at_again(writer: Writer) -> None:
    """Two changes within one tick of the clock look the same from outside."""
    put(writer, noise(10, 6), 0)
    follower = Follower(writer.folder)
    assert follower.poll()
    assert follower.poll()
    writer.close()


def test_events_and_flows_arrive(writer: Writer) -> None:
    put(writer, noise(5, 6), 0)
    follower = Follower(writer.folder)
    follower.poll()
    assert not follower.data.events
    writer.event(0, Event(5, "alarm", {"kind": "spike"}))
    writer.flow(0, Flow(5))
    put(writer, noise(5, 6), 5)
    follower.poll()
    assert [event.kind for event in follower.data.events] == ["alarm"]
    assert [flow.step for flow in follower.data.flows] == [5]
    writer.close()


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    with pytest.raises(RecordError, match="expected a run folder"):
        follower.poll()
    with pytest.raises(RuntimeError, match="call poll"):
        _ = follower.data


def test_steps_of_a_stranger_overflow_nothing() -> None:
    """int64's ends, and steps that go back."""
    steps = np.array([-(2**63), 0, 5, 3, 2**63 - 1] * 4)
    rows = np.arange(20, dtype=np.float32)[:, None]
    thin = evenly(Series(steps, rows, rows, rows), 3)
    assert len(thin) <= 3
    assert (thin.low.min(), thin.high.max(), thin.last[-1, 0]) == (0, 19, 19)
