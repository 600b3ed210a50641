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
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from record_fixture import REPORT, TABLE, buckets_of, wait_until
from surefoot.findings import Report, Verdict
from surefoot.record import RecordError, Writer, list_runs, new_folder, read_run
from surefoot.record.data import Event, RunData
from surefoot.record.store import Store
from surefoot.signals.flow import Call, Flow, TensorStats

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


def test_of_many_writers_on_one_folder_one_wins(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    won: list[Writer] = []
    lost: list[RecordError] = []

    def begin() -> None:
        together.wait()
        try:
            won.append(Writer(tmp_path, {}))
        except RecordError as error:
            lost.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].declare(0, TABLE, {"x": 1})
    won[0].close()
    assert won[0].problem is None and read_run(tmp_path).layers == TABLE


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


# -- values ----------------------------------------------------------------------------------------


class Hostile:
    """Has no JSON, and raises whatever it is asked."""

    def __repr__(self) -> str:
        raise RuntimeError("repr is the user's own code")

    __str__ = __reduce__ = __repr__  # type: ignore[assignment]


def test_values_without_json_cost_themselves_only(tmp_path: Path) -> None:
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    environment = {
        "a": Hostile(),
        "b": np.float32(1.5),
        "c": np.arange(3),
        (1, 2): 3,
        "d": tmp_path,
    }
    writer = Writer(new_folder(tmp_path, "a", None), {**environment, "e": "\udc80"})
    writer.declare(0, TABLE, {"x": 1})
    writer.event(0, Event(0, "odd", {"x": Hostile()}))
    assert writer.problem is None
    writer.event(0, Event(1, "cycle", cycle))
    assert "an event is not recorded" in (writer.problem or "")
    writer.event(0, Event(1, "large", {"x": "x" * 100_000}))
    writer.event(0, Event(1, "none", None))  # type: ignore[arg-type]
    writer.event(0, Event(1, "half a \udc80"))
    writer.event(0, Event(1 << 64, "late"))
    writer.put(0, 1 << 64, {"x": np.ones(1)})
    writer.put(0, float("nan"), {"x": np.ones(1)})  # type: ignore[arg-type]
    writer.flow(0, "no flow")  # type: ignore[arg-type]
    writer.report(0, None)  # type: ignore[arg-type]
    writer.put(0, 0, {"x": np.ones(1)})
    writer.close(REPORT)
    run = read_run(writer.folder)
    assert run.environment == {
        "a": "<Hostile>", "b": 1.5, "c": [0, 1, 2], "d": str(tmp_path), "e": "\ufffd"
    }  # fmt: skip
    assert [(e.kind, e.detail) for e in run.events] == [("odd", {"x": "<Hostile>"})]
    assert len(run.series["x"]) == 1 and run.report.to_json() == REPORT.to_json()


@pytest.mark.parametrize(
    "rows",
    [
        {"unknown": np.zeros(1)},
        {"x": np.zeros(3)},
        {"x": [1.0, 2.0]},
        {"x": None},
        {"x": np.array(["a", "b"])},
        {"x": np.array([Hostile(), Hostile()])},
        None,
    ],
)
def test_a_bad_row_is_said_once_and_the_next_is_kept(tmp_path: Path, rows: Any) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, {"x": 2, "y": 1})
    writer.put(0, 0, rows)
    assert writer.problem is not None
    writer.put(0, 1, {"x": np.ones(2)})
    writer.close()
    assert read_run(writer.folder).series["x"].steps.tolist() == [1]


@pytest.mark.parametrize(
    "families", [{"a b": 1}, {"step": 1}, {"x": 0}, {"x": 1 << 30}, {"x": 1, "X": 1}, None]
)
def test_a_bad_declaration_is_said(tmp_path: Path, families: Any) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    writer.declare(0, TABLE, families)
    assert "training 0 is not recorded" in (writer.problem or "")
    writer.put(0, 0, {"x": np.ones(1)})
    writer.close(REPORT)
    assert read_run(writer.folder).report.to_json() == REPORT.to_json()


# -- folders of strangers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small complete run, to be copied and damaged."""
    writer = Writer(tmp_path_factory.mktemp("sound"), {"argv": ["x"]})
    writer.declare(0, TABLE, {"loss": 1, "x": 300})
    for step in range(40):
        writer.put(0, step, {"loss": np.array([step]), "x": np.full(300, step)})
    writer.flow(0, Flow(0, [Call(1, 0, output=TensorStats(1.0, 1.0, 0.0, 0, 0, 4))]))
    writer.event(0, Event(0, "alarm", {"x": 1}))
    writer.report(0, REPORT)
    writer.close()
    (writer.folder / "run.json").unlink()
    return writer.folder


def copy_of(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def assert_read_or_refused(folder: Path) -> RunData | None:
    (summary,) = list_runs(folder.parent)
    assert summary.name == folder.name
    try:
        return read_run(folder)
    except RecordError as error:
        words = str(error)
    assert str(folder) in words
    return None


def test_random_damage_is_refused_or_harmless(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path)
    data = (folder / "run.sqlite").read_bytes()
    refused = 0
    for seed in range(200):
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 4, 64])):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        if seed % 4 == 0:
            page = chance.randrange(len(data) // 4096) * 4096
            damaged[page : page + 4096] = chance.randbytes(4096)
        (folder / "run.sqlite").write_bytes(damaged)
        refused += assert_read_or_refused(folder) is None
    assert 20 < refused < 200  # the damage does reach something, and not always


@pytest.mark.parametrize("kept", [0, 1, 50, 100, 4095, 4096, 5000, 20_000, -9000, -1])
def test_a_file_cut_short_is_refused_or_harmless(sound: Path, tmp_path: Path, kept: int) -> None:
    folder = copy_of(sound, tmp_path)
    data = (folder / "run.sqlite").read_bytes()
    (folder / "run.sqlite").write_bytes(data[:kept])
    refused = assert_read_or_refused(folder) is None
    assert refused or kept < 0  # the very end may be unused


ENDLESS = (
    "DROP TABLE event; CREATE VIEW event AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
    "SELECT i + 1 FROM n) SELECT i AS id, i AS training, i AS step, '' AS kind, '' AS detail FROM n"
)
ALTERATIONS = [
    ("PRAGMA user_version = 2", "reads up to 1: .*Next: pip install --upgrade surefoot"),
    ("PRAGMA user_version = 0", "not one that surefoot wrote"),
    ("PRAGMA application_id = 7", "not one that surefoot wrote"),
    ("DROP TABLE flow", "table flow is not as"),
    (ENDLESS, "table event is not as"),
    (
        "DROP TABLE steps_0; CREATE TABLE steps_0 (id INTEGER PRIMARY KEY, step INTEGER, "
        "rows INTEGER, loss BLOB AS (zeroblob(9)), x BLOB)",
        "table steps_0 is not as",
    ),
    ("DROP TABLE steps_0", "table steps_0 is not as"),
    ("UPDATE training SET layers = '[]'", "TypeError"),
    ("UPDATE training SET layers = NULL", "expected JSON text, got NoneType"),
    ("UPDATE training SET layers = x'ff'", "expected JSON text, got bytes"),
    ("UPDATE training SET layers = CAST(x'22ff22' AS TEXT)", "decode"),
    ("UPDATE training SET layers = replace(hex(zeroblob(50000)), '0', '[')", "RecursionError"),
    ("UPDATE training SET layers = hex(zeroblob(40000000))", "too big"),
    ("UPDATE training SET layers = replace(layers, 'linear', 'x')", "ValueError"),
    ("UPDATE training SET layers = replace(layers, '\"Net\"', '7')", "expected a LayerTable"),
    ("UPDATE training SET layers = replace(layers, '\"layer\": 1', '\"layer\": 9')", "no layer"),
    (
        "UPDATE training SET layers = replace(layers, 'parent\": 0', 'parent\": 1')",
        "not come before",
    ),
    ("UPDATE training SET layers = replace(layers, 'numel\": 6', 'numel\": 1e999')", "LayerTable"),
    ('UPDATE training SET families = \'{"loss": 2, "x": 300}\'', "got .4."),
    ("UPDATE training SET families = '{\"loss\": 1000000000}'", "columns in all"),
    ("UPDATE training SET families = '{\"a); DROP TABLE run; --\": 1}'", "family name"),
    ('UPDATE training SET families = \'{"loss": "1"}\'', "expected a dict"),
    ("UPDATE training SET families = '{}'", "table steps_0 is not as"),
    ("UPDATE steps_0 SET x = zeroblob(12) WHERE id = 3", "expected 1200 or 3600 bytes"),
    ("UPDATE steps_0 SET x = 'text' WHERE id = 3", "expected 1200 or 3600 bytes"),
    ("UPDATE steps_0 SET step = 'then' WHERE id = 3", "expected a int"),
    ("UPDATE steps_0 SET step = 1.5 WHERE id = 40", "expected a int"),
    ("UPDATE steps_0 SET rows = -1 WHERE id = 3", "out of order"),
    ("UPDATE flow SET value = replace(value, '\"layer\": 1', '\"layer\": 2')", "does not have"),
    ("UPDATE flow SET value = replace(value, '\"layer\": 1', '\"layer\": -1')", "does not have"),
    ('UPDATE flow SET value = replace(value, \'"numel": 4\', \'"numel": "4"\')', "expected a Flow"),
    ("UPDATE flow SET value = replace(value, '\"numel\"', '\"__class__\"')", "TypeError"),
    ("UPDATE flow SET value = '{'", "JSONDecodeError"),
    ("UPDATE report SET value = replace(value, 'exploding', 'fine')", "not a valid Pathology"),
    ("UPDATE report SET value = replace(value, '\"schema\": 1', '\"schema\": 2')", "schema"),
    ("UPDATE report SET value = replace(value, '\"SF101\"', '101')", "expected a Report"),
    ("UPDATE report SET value = replace(value, '0.5,', '\"often\",')", "ValueError"),
    ("UPDATE event SET detail = '[]'", "expected a dict"),
    ("UPDATE event SET step = 'x'", "expected a int"),
    ("UPDATE event SET kind = x'00'", "expected a str"),
    ("UPDATE run SET value = '[1]' WHERE name = 'environment'", "expected a dict"),
    ("UPDATE progress SET rows = 'many'; DELETE FROM report", "expected a Report|TypeError"),
]


@pytest.mark.parametrize(("sql", "words"), ALTERATIONS)
def test_an_altered_record_is_refused_in_words(
    sound: Path, tmp_path: Path, sql: str, words: str
) -> None:
    folder = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        connection.executescript(sql)
        assert connection.total_changes or not sql.startswith("UPDATE")
    with pytest.raises(RecordError, match=words) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    list_runs(tmp_path)


def test_a_reading_without_end_is_ended(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        connection.executescript(ENDLESS)
    monkeypatch.setattr("surefoot.record.schema.require", lambda *_: None)  # the first defence
    with pytest.raises(RecordError, match="interrupted"):
        read_run(folder)


def test_a_newer_record_names_its_writer(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(folder / "run.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE run SET value = '9.1' WHERE name = 'surefoot'")
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(RecordError, match=r"schema 3, .* written by surefoot 9\.1\. Next: pip"):
        read_run(folder)
    assert "surefoot 9.1" in (list_runs(tmp_path)[0].problem or "")


def test_no_control_character_comes_out(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path)
    hostile = "\\u001b[2J\\u009b1m\\u0000\\ud800"
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        for table, column in (("training", "layers"), ("report", "value"), ("event", "detail")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace(replace({column}, 'fc', ?), '\"x\"', ?)",
                (hostile, f'"{hostile}"'),
            )
        connection.execute("UPDATE event SET kind = ?", ("\x1b[2J",))
        connection.execute("UPDATE run SET value = ? WHERE name = 'environment'", (
            f'{{"argv": ["{hostile}"]}}',
        ))  # fmt: skip
        connection.commit()
    run = read_run(folder)
    finding = run.report.findings[0]
    said = [
        run.layers.layers[1].name,
        finding.layer or "",
        finding.sentence,
        run.events[0].kind,
        str(dict(run.events[0].detail)),
        run.environment["argv"][0],
    ]
    for text in said:
        assert "\ufffd" in text
        assert not any(
            ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text
        )
    assert "naïve ≥ 1 — 見" in finding.sentence  # and what can be printed stays


@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "fifo", "foreign", "text"])
def test_what_is_no_record_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.sqlite"
    if kind == "missing":
        with pytest.raises(RecordError, match="found none"):
            read_run(tmp_path / "nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "foreign":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT)")
    elif kind == "text":
        path.write_text("surefoot\n" * 1000)
    with pytest.raises(RecordError, match=str(tmp_path)):
        read_run(tmp_path)


@pytest.mark.parametrize("kind", ["empty", "list", "fifo", "huge", "deep", "binary"])
def test_a_bad_run_json_is_refused(sound: Path, tmp_path: Path, kind: str) -> None:
    folder = copy_of(sound, tmp_path)
    path = folder / "run.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 40)  # sparse: takes no room, and reading it would take all
    else:
        bad = {"empty": b"", "list": b"[]", "deep": b"[" * 100_000, "binary": bytes(range(256))}
        path.write_bytes(bad[kind])
    with pytest.raises(RecordError, match=str(folder)):
        read_run(folder)
    assert list_runs(tmp_path)[0].problem is not None


def test_a_report_that_is_no_json_is_said_and_leaves_no_draft(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    bad = Report(steps=float("nan"))  # type: ignore[arg-type]
    writer.close(bad)
    assert "run.json is not written: ValueError" in (writer.problem or "")
    assert [path.name for path in writer.folder.iterdir()] == ["run.sqlite"]
