"""The record when things go wrong: killed, full, gone, locked, damaged, hostile.

Two promises: the training never notices, and a folder is either read or refused in words.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from record_fixture import REPORT, TABLE, buckets_of, wait_until
from surefoot.findings import Verdict
from surefoot.record import Writer, list_runs, new_folder, read_run
from surefoot.record.data import Event
from surefoot.record.database import open_writer
from surefoot.record.store import Store

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


# -- killed ----------------------------------------------------------------------------------------


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Fork a child that runs `work(pipe to write to)`; (its pid, the pipe to read from)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        work(writing)
    finally:
        os._exit(0)


def write_at_full_speed(folder: Path, limit: int, pipe: int) -> None:
    """Put rows that know their own step, and tell the pipe which are said to be committed."""
    writer = Writer(folder, {}, limit_bytes=limit)
    writer.INTERVAL_SECONDS = 0.002  # type: ignore[misc]
    writer.declare(0, TABLE, {"at": 1, "x": 400})
    told = -1
    step = -1
    while writer.problem is None:
        step += 1
        writer.put(0, step, {"at": np.array([step]), "x": np.full(400, -step)})
        safe = writer.committed.get(0, -1)
        if safe > told:
            os.write(pipe, safe.to_bytes(8, "little"))
            told = safe


@needs_fork
@pytest.mark.parametrize("seed", range(20))
def test_no_committed_step_is_lost_by_kill_9(tmp_path: Path, seed: int) -> None:
    moment = random.Random(seed)
    folder = new_folder(tmp_path, "killed", None)
    limit = (256 << 20) if seed % 2 else (1 << 20)  # with the small one, in the midst of merging
    pid, pipe = in_child(lambda writing: write_at_full_speed(folder, limit, writing))
    try:
        told = b""
        for _ in range(moment.choice([1, 2, 5, 15, 30])):
            told += os.read(pipe, 8)
        for _ in range(moment.randrange(20_000)):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while rest := os.read(pipe, 1 << 16):
        told += rest
    os.close(pipe)
    committed = int.from_bytes(told[-8:], "little")

    series = read_run(folder, buckets=10**6).series["at"]
    assert series.steps[-1] >= committed
    np.testing.assert_array_equal(series.last[:, 0], series.steps)
    np.testing.assert_array_equal(series.high[:, 0], series.steps)
    begins = np.concatenate([[0], series.steps[:-1] + 1])
    np.testing.assert_array_equal(series.low[:, 0], begins)  # no gap: each goes on where one ended
    found = buckets_of(folder)
    assert sum(rows for _, rows in found) == series.steps[-1] + 1
    assert read_run(folder).report.verdict is Verdict.INCONCLUSIVE
    (summary,) = list_runs(tmp_path)
    assert not summary.live and summary.steps == series.steps[-1] + 1


SCRIPT = """
import os, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from record_fixture import TABLE, REPORT, wait_until
from surefoot.record import Writer
from surefoot.record.data import Event
from surefoot.record.database import open_writer
from surefoot.signals.flow import Flow
writer = Writer(Path({folder!r}), {{}})
writer.declare(0, TABLE, {{"x": 1}})
for step in range(10):
    writer.put(0, step, {{"x": np.array([step])}})
wait_until(lambda: writer.committed.get(0) == 9)
"""


def run_script(folder: Path, more: str) -> None:
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder)) + more
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_committed_is_on_the_disk_before_the_next_commit(tmp_path: Path) -> None:
    """FULL: SQLite waits for the disk at each commit, so that a power cut takes nothing of it."""
    with closing(open_writer(tmp_path, 1 << 20)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_interpreter_that_ends_without_close_keeps_what_was_committed(tmp_path: Path) -> None:
    run_script(tmp_path, "")
    assert read_run(tmp_path).series["x"].last.ravel().tolist() == list(range(10))
    assert not list_runs(tmp_path.parent)[0].live


@needs_fork
def test_a_forked_child_does_nothing_to_the_record(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
pid = os.fork()
if pid == 0:
    writer.put(0, 99, {"x": np.array([99])})
    writer.declare(1, TABLE, {"x": 1})
    writer.event(0, Event(99, "of the child"))
    writer.flow(0, Flow(99))
    writer.report(0, REPORT)
    writer.close(REPORT)
    sys.exit(0)  # with all of the interpreter's own ending, unlike os._exit
assert os.waitpid(pid, 0)[1] == 0
assert not Path(writer.folder, "run.json").exists()
for step in range(10, 20):
    writer.put(0, step, {"x": np.array([step])})
writer.close(None)
assert writer.problem is None, writer.problem
""",
    )
    run = read_run(tmp_path)
    assert run.series["x"].last.ravel().tolist() == list(range(20))
    assert run.events == () and run.flows == () and run.report.verdict is Verdict.INCONCLUSIVE


# -- the disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own, where the test may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def train_until_problem(writer: Writer) -> int:
    """Put rows as a training does until the writer has a problem; how many."""
    writer.declare(0, TABLE, {"x": 100})
    step = 0
    while writer.problem is None:
        writer.put(0, step, {"x": np.full(100, step)})
        if step % 100 == 0:
            wait_until(lambda step=step: writer.problem or writer.committed.get(0) == step)
        step += 1
        assert step < 100_000
    return step


def assert_closes_quietly(writer: Writer) -> None:
    writer.put(0, 10**6, {"x": np.zeros(100)})
    writer.event(0, Event(0, "late"))
    writer.close(REPORT)
    writer.close(REPORT)
    assert not writer._thread.is_alive()


def test_a_full_disk_ends_the_record_only(small_disk: Path) -> None:
    writer = Writer(new_folder(small_disk, "a", None), {})
    steps = train_until_problem(writer)
    assert (writer.problem or "").startswith("disk full")
    assert_closes_quietly(writer)
    last = read_run(writer.folder, buckets=10**6).series["x"].last[:, 0]
    assert 100 < len(last) <= steps
    assert last.tolist() == list(range(len(last)))


@needs_fork
def test_a_file_size_limit_ends_the_record_only(tmp_path: Path) -> None:
    def work(pipe: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        writer = Writer(new_folder(tmp_path, "a", None), {})
        train_until_problem(writer)
        assert_closes_quietly(writer)
        os.write(pipe, (writer.problem or "").encode())

    pid, pipe = in_child(work)
    os.waitpid(pid, 0)
    problem = os.read(pipe, 1000).decode()
    os.close(pipe)
    assert problem.startswith(("disk full", "the disk failed"))
    run = read_run(tmp_path / "a", buckets=10**6)
    assert run.series["x"].last[:, 0].tolist() == list(range(len(run.series["x"])))
    assert run.report.to_json() == REPORT.to_json()  # run.json is small enough


@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_goes_away_is_noticed_and_stays_away(tmp_path: Path, moved: bool) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 100})
    shutil.move(writer.folder, tmp_path / "b") if moved else shutil.rmtree(writer.folder)
    train_until_problem(writer)
    assert "deleted or moved" in (writer.problem or "")
    assert_closes_quietly(writer)
    assert not writer.folder.exists()


@pytest.mark.parametrize("place", ["missing/folder", "/proc/self", "file"])
def test_a_place_where_nothing_can_be_written_raises_oserror(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"run\.sqlite"):
        Writer(tmp_path / place, {})


def test_a_record_that_cannot_be_begun_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("surefoot.record.schema.create", fail)
    with pytest.raises(sqlite3.OperationalError):
        Writer(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), "disk full"),
        (sqlite_error(sqlite3.SQLITE_READONLY), "the run folder became read-only"),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), "the disk failed"),
        (sqlite_error(sqlite3.SQLITE_CORRUPT), "the record was damaged"),
        (RuntimeError("a bug of surefoot's"), "RuntimeError: a bug of surefoot's"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_any_failure_of_the_thread_is_put_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    writer = Writer(new_folder(tmp_path, "a", None), {})
    monkeypatch.setattr(Store, "write", fail)
    train_until_problem(writer)
    assert words in (writer.problem or "")
    assert_closes_quietly(writer)
    assert read_run(writer.folder).report.to_json() == REPORT.to_json()


def test_a_lock_held_by_another_program_is_waited_for(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 100})
    with closing(sqlite3.connect(writer.folder / "run.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        steps = train_until_problem(writer)
        assert "another program has locked the record" in (writer.problem or "")
        other.rollback()
    writer.close(REPORT)
    last = read_run(writer.folder, buckets=10**6).series["x"].last[:, 0]
    assert last.tolist() == list(range(steps))


def test_closing_while_locked_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "CLOSE_SECONDS", 0.1)
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 1})
    wait_until(lambda: read_run(writer.folder).layers == TABLE)
    with closing(sqlite3.connect(writer.folder / "run.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        writer.put(0, 0, {"x": np.zeros(1)})
        writer.close(REPORT)
        assert writer.problem is not None
        assert read_run(writer.folder).report.to_json() == REPORT.to_json()
        writer._thread.join()


@needs_fork
@pytest.mark.parametrize("end", ["killed", "closed"])
def test_read_only_media(tmp_path: Path, small_disk: Path, end: str) -> None:
    def work(pipe: int) -> None:
        writer = Writer(new_folder(tmp_path, "a", None), {})
        writer.declare(0, TABLE, {"x": 1})
        for step in range(10):
            writer.put(0, step, {"x": np.array([step])})
        if end == "closed":
            writer.close(REPORT)
        wait_until(lambda: writer.committed.get(0) == 9)
        os.write(pipe, b"x")

    pid, pipe = in_child(work)
    assert os.read(pipe, 1) == b"x"
    os.waitpid(pid, 0)
    os.close(pipe)
    assert (tmp_path / "a" / "run.sqlite-wal").exists() == (end == "killed")
    shutil.copytree(tmp_path / "a", small_disk / "a", ignore=shutil.ignore_patterns("*-shm"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read_run(small_disk / "a").series["x"].last.ravel().tolist() == list(range(10))
    assert list_runs(small_disk)[0].steps == 10
    with pytest.raises(OSError, match="Read-only"):
        new_folder(small_disk, "b", None)
