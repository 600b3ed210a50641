"""The record: what goes in comes out, bounded, with every extreme still there."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from record_fixture import (
    REPORT,
    TABLE,
    buckets_of,
    folder_bytes,
    noise,
    stalled_disk,
    wait_until,
)
from surefoot.findings import Report, Verdict
from surefoot.record import RecordError, Writer, blob, list_runs, new_folder, read_run
from surefoot.record import rows as record_rows
from surefoot.record.data import Event
from surefoot.signals.flow import Call, Flow, TensorStats
from test_series import assert_folds, fold


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    stats = TensorStats(1.5, float("inf"), float("nan"), 2, 0, 6)
    flow = Flow(2, [Call(1, 0, input=stats, cosine=0.5)], True, {"kind": "mse"}, None)
    rows = noise(5, 7)
    writer = Writer(new_folder(tmp_path, "a", None), {"argv": ["train.py"], "lr": 0.1, "x": None})
    writer.declare(0, TABLE, {"loss": 1, "gradient_norm": 7, "input": 3})
    for step, row in enumerate(rows):
        writer.put(0, step, {"loss": row[:1], "gradient_norm": row})
    writer.flow(0, flow)
    writer.event(0, Event(3, "alarm", {"layer": "fc", "ratio": 1e300, "not": float("nan")}))
    writer.report(0, Report(steps=4))
    writer.close(REPORT)
    assert writer.problem is None

    run = read_run(tmp_path / "a")
    assert run.name == "a"
    assert run.layers == TABLE
    assert run.environment == {"argv": ["train.py"], "lr": 0.1, "x": None}
    assert set(run.series) == {"loss", "gradient_norm"}  # "input" was never measured
    for name, expected in (("loss", rows[:, :1]), ("gradient_norm", rows)):
        series = run.series[name]
        assert series.steps.tolist() == [0, 1, 2, 3, 4]
        for part in (series.low, series.high, series.last):
            np.testing.assert_array_equal(part, expected)
            assert part.dtype == np.float32
    assert repr(run.flows) == repr((flow,))  # repr, because nan is not equal to itself
    (event,) = run.events
    assert (event.step, event.kind) == (3, "alarm")
    assert repr(dict(event.detail)) == repr({"layer": "fc", "ratio": 1e300, "not": float("nan")})
    assert run.report.to_json() == REPORT.to_json()
    assert json.loads((tmp_path / "a" / "run.json").read_text("utf-8")) == REPORT.to_json()


def test_an_ended_run_is_two_plain_files(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"loss": 1})
    writer.put(0, 0, {"loss": np.zeros(1)})
    writer.close(Report(steps=1))
    assert sorted(p.name for p in writer.folder.iterdir()) == ["run.json", "run.sqlite"]
    writer.put(0, 1, {"loss": np.zeros(1)})
    writer.close(REPORT)  # a second time, and too late
    assert read_run(writer.folder).report == Report(steps=1)
    assert len(read_run(writer.folder).series["loss"]) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
def test_rows_of_any_dtype_are_narrowed_and_copied(tmp_path: Path, dtype: type) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 3})
    buffer = np.zeros((3, 2), dtype)[:, 0]  # strided, and written to again after each put
    for step in range(100):
        buffer[:] = [step, -step, 2 * step]
        writer.put(0, step, {"x": buffer})
    writer.close()
    expected = np.arange(100)[:, None] * np.array([1, -1, 2])
    np.testing.assert_array_equal(read_run(writer.folder).series["x"].last, expected)


@pytest.mark.parametrize("errors", ["warn", "raise"])
def test_a_finite_value_never_becomes_infinite(tmp_path: Path, errors: str) -> None:
    values = np.array([1e200, -1e200, 3.4028235e38, np.inf, -np.inf, np.nan, 1e-60, 0.1])
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 8})
    with np.errstate(all=errors):  # the user's own setting must not reach the record
        writer.put(0, 0, {"x": values})
    writer.close()
    largest = np.finfo(np.float32).max
    expected = [largest, -largest, largest, np.inf, -np.inf, np.nan, 0.0, np.float32(0.1)]
    np.testing.assert_array_equal(read_run(writer.folder).series["x"].last[0], expected)


@settings(max_examples=200, deadline=None)
@given(
    rows=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]),  # few, so that many agree
    ),
    cuts=st.sets(st.integers(1, 11)),
)
def test_merging_twice_through_bytes_is_folding_once(rows: np.ndarray, cuts: set[int]) -> None:
    columns = rows.shape[1]
    starts = [0, *sorted(cut for cut in cuts if cut < len(rows))]
    parts = blob.merge(blob.unpack([blob.raw(row) for row in rows], columns), starts)
    packed = [blob.pack(parts[:, i]) for i in range(len(starts))]
    low, high, last = blob.merge(blob.unpack(packed, columns))[:, 0]
    for part, expected in zip((low, high, last), fold(rows), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_several_puts_of_one_step_are_one_step(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"a": 1, "b": 2})
    for step in range(50):
        writer.put(0, step, {"a": np.array([step])})
        if step == 20:  # the writer comes in between
            wait_until(lambda: writer.committed.get(0) == 20)
        if step % 10 == 0:
            writer.put(0, step, {"b": np.array([step, -step])})
    writer.close()
    run = read_run(writer.folder)
    assert run.series["a"].last.ravel().tolist() == list(range(50))
    assert run.series["b"].steps.tolist() == [0, 10, 20, 30, 40]
    assert run.series["b"].last[:, 1].tolist() == [0, -10, -20, -30, -40]
    assert list_runs(tmp_path)[0].steps == 50
    assert sum(rows for _, rows in buckets_of(writer.folder)) == 50


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 400),
    columns=st.integers(1, 3),
    buckets=st.integers(1, 40),
    piece=st.integers(1, 4000),
    gap=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_thinning_on_reading_folds_rows_evenly(
    tmp_path_factory: pytest.TempPathFactory,
    steps: int,
    columns: int,
    buckets: int,
    piece: int,
    gap: int,
    seed: int,
) -> None:
    rows = noise(steps, columns, seed)
    at = np.arange(steps) * gap + 5
    writer = Writer(tmp_path_factory.mktemp("run"), {})
    writer.declare(0, TABLE, {"dense": columns, "sampled": columns})
    for i in range(steps):
        writer.put(
            0, int(at[i]), {"dense": rows[i], **({"sampled": rows[i]} if i % 5 == 0 else {})}
        )
    writer.close()
    with mock.patch.object(record_rows, "_PIECE_BYTES", piece):  # read in one go, or row by row
        series = read_run(writer.folder, buckets=buckets).series
    for name, every in (("dense", 1), ("sampled", 5)):
        assert len(series[name]) <= buckets
        assert_folds(series[name], at[::every], rows[::every])
    assert len(series["dense"]) >= min(steps, buckets) // 2  # and not all in one


@pytest.mark.parametrize("columns", [40, 200, 520, 1020, 1500])
def test_the_folder_stays_under_its_limit_and_keeps_extremes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.005)
    limit = 1 << 20
    steps = 5 * limit // (4 * columns + 20)  # five times what fits
    rows = noise(steps, columns)
    writer = Writer(new_folder(tmp_path, "a", None), {}, limit_bytes=limit)
    writer.declare(0, TABLE, {"x": columns, "y": 1})
    largest = 0
    for step, row in enumerate(rows):
        writer.put(0, step, {"x": row, "y": row[:1]})
        if step % (steps // 40) == 0:
            wait_until(lambda step=step: writer.committed.get(0) == step)
            largest = max(largest, folder_bytes(writer.folder))
    writer.close(Report(steps=steps))
    assert writer.problem is None
    assert limit // 8 < max(largest, folder_bytes(writer.folder)) <= limit

    found = buckets_of(writer.folder)
    ends = np.cumsum([count for _, count in found]) - 1
    assert [step for step, _ in found] == ends.tolist()  # no step is missing, none is twice
    assert ends[-1] == steps - 1
    run = read_run(writer.folder, buckets=10**6)
    assert run.series["x"].steps.tolist() == ends.tolist()
    assert_folds(run.series["x"], np.arange(steps), rows)
    assert_folds(run.series["y"], np.arange(steps), rows[:, :1])

    widths = [e.detail["rows_per_bucket"] for e in run.events if e.kind == "thinned"]
    assert widths == sorted(set(widths)) and widths[0] == 8
    assert max(count for _, count in found) <= widths[-1]
    old = [count for step, count in found if step < steps // 2]
    assert min(old) >= widths[-1] // 4  # even, not ever coarser towards the start


def test_a_limit_too_small_for_anything_is_said_and_held(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {}, limit_bytes=1)
    writer.declare(0, TABLE, {"x": 300_000})
    for step in range(4):
        writer.put(0, step, {"x": np.full(300_000, step)})
    writer.close(REPORT)
    assert "size limit is too small" in (writer.problem or "")
    assert folder_bytes(writer.folder) <= 1 << 20
    assert read_run(writer.folder).report.to_json() == REPORT.to_json()


def test_flows_and_events_are_bounded_and_the_first_flow_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.005)
    writer = Writer(new_folder(tmp_path, "a", None), {}, limit_bytes=8 << 20)
    writer.declare(0, TABLE, {"x": 1})
    for step in range(200):
        writer.flow(0, Flow(step, loss={"text": "x" * 20_000}))
    for step in range(12_000):
        writer.event(0, Event(step, "alarm", {}))
        if step % 500 == 0:
            wait_until(lambda: writer._backlog._size == 0)
    writer.close()
    run = read_run(writer.folder)
    kept = [flow.step for flow in run.flows]
    assert kept[0] == 0 and kept[1:] == list(range(200 - len(kept) + 1, 200)) and len(kept) > 20
    steps = [event.step for event in run.events]
    assert steps[:1000] == list(range(1000)) and steps[-1] == 11_999 and len(steps) <= 6000
    assert folder_bytes(writer.folder) <= 8 << 20


def test_a_stalled_disk_never_blocks_and_costs_no_extreme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "QUEUE_BYTES", 1 << 16)
    rows = noise(3000, 20)
    writer = Writer(new_folder(tmp_path, "a", None), {})
    with stalled_disk(monkeypatch) as go:
        writer.declare(0, TABLE, {"x": 20, "sampled": 1})
        for step, row in enumerate(rows):  # returns although nothing is written
            writer.put(0, step, {"x": row, **({"sampled": row[:1]} if step % 7 == 0 else {})})
        assert 0 not in writer.committed
        assert writer._backlog._size <= 1 << 16
        go.set()
        writer.close(REPORT)
    assert writer.problem is None
    found = buckets_of(writer.folder)
    melted = sum(count for _, count in found if count > 1)
    assert sum(count for _, count in found) == 3000 and melted > 1000
    run = read_run(writer.folder, buckets=10**6)
    assert_folds(run.series["x"], np.arange(3000), rows)
    assert_folds(run.series["sampled"], np.arange(0, 3000, 7), rows[::7, :1])
    (event,) = (e for e in run.events if e.kind == "thinned")
    assert melted - 4 <= event.detail["steps"] <= melted  # a bucket's first step is not counted


def test_closing_on_a_stalled_disk_is_bounded_and_writes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "CLOSE_SECONDS", 0.2)
    writer = Writer(new_folder(tmp_path, "a", None), {})
    with stalled_disk(monkeypatch):
        writer.declare(0, TABLE, {"x": 1})
        writer.close(REPORT)
        assert "did not keep up" in (writer.problem or "")
        assert read_run(writer.folder).report.to_json() == REPORT.to_json()
    writer._thread.join()


def test_reading_beside_the_writer_sees_a_growing_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.005)
    writer = Writer(new_folder(tmp_path, "a", None), {}, limit_bytes=1 << 20)
    writer.declare(0, TABLE, {"x": 50})
    wait_until(lambda: read_run(writer.folder).layers == TABLE)
    stop = threading.Event()

    def train() -> None:
        for step in range(12_000):
            writer.put(0, step, {"x": np.full(50, step)})
            if step % 1000 == 0:
                wait_until(lambda step=step: writer.committed.get(0) == step)
        stop.set()

    trainer = threading.Thread(target=train)
    trainer.start()
    newest = 0
    while not stop.is_set():
        run = read_run(writer.folder, buckets=64)
        if "x" not in run.series:
            continue
        series = run.series["x"]
        np.testing.assert_array_equal(series.last[:, 0], series.steps)
        assert (np.diff(series.steps) > 0).all() and len(series) <= 64
        assert series.low[0, 0] == 0 and series.steps[-1] >= newest
        newest = int(series.steps[-1])
        assert run.report.verdict is Verdict.INCONCLUSIVE
        assert list_runs(tmp_path)[0].live
    trainer.join()
    writer.close(Report(steps=12_000))
    assert writer.problem is None and newest > 0
    (summary,) = list_runs(tmp_path)
    assert (summary.live, summary.steps, summary.verdict) == (False, 12_000, Verdict.HEALTHY)


def test_the_training_with_most_steps_is_read_unless_another_is_asked_for(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "gan", None), {})
    for training, steps in ((0, 3), (1, 9), (5, 6)):
        writer.declare(training, TABLE, {"loss": 1})
        for step in range(steps):
            writer.put(training, step, {"loss": np.array([training])})
        writer.event(training, Event(0, f"of {training}"))
    writer.report(5, Report(steps=6, surefoot="five"))
    writer.close(REPORT)
    assert read_run(writer.folder).series["loss"].last.ravel().tolist() == [1] * 9
    assert read_run(writer.folder).report.to_json() == REPORT.to_json()
    assert read_run(writer.folder, 5).report.surefoot == "five"
    assert [e.kind for e in read_run(writer.folder, training=5).events] == ["of 5"]
    with pytest.raises(RecordError, match="no training 2; it holds: 0, 1, 5"):
        read_run(writer.folder, training=2)


def test_a_run_without_a_training_still_tells_what_it_was(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {"argv": ["x.py"]})
    writer.event(0, Event(0, "surefoot stepped aside", {"why": "no optimizer"}))
    writer.close()
    assert not (writer.folder / "run.json").exists()
    run = read_run(writer.folder)
    assert run.environment == {"argv": ["x.py"]} and run.series == {} and len(run.events) == 1
    assert run.report.verdict is Verdict.INCONCLUSIVE
    assert [layer.name for layer in run.layers.layers] == [""]


def test_declaring_again(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 1})
    writer.declare(0, TABLE, {"x": 1})
    writer.put(0, 0, {"x": np.ones(1)})
    assert writer.problem is None
    writer.declare(0, TABLE, {"x": 2})
    assert "keep its families" in (writer.problem or "")
    writer.put(0, 1, {"x": np.ones(1)})
    writer.close()
    assert len(read_run(writer.folder).series["x"]) == 2
