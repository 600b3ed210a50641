"""Run folders: their names, one run each, and the list of them."""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from record_fixture import REPORT, TABLE, wait_until
from surefoot.findings import Report, Verdict
from surefoot.record import RecordError, Writer, list_runs, new_folder, read_run
from surefoot.record.folder import vacate
from surefoot.record.store import Store


def test_new_folder_names(tmp_path: Path) -> None:
    def names(count: int, *arguments: str | None) -> list[str]:
        return [new_folder(tmp_path / "deep" / "runs", *arguments).name for _ in range(count)]

    assert names(3, "mine", "train.py") == ["mine", "mine-2", "mine-3"]
    before = datetime.now(UTC).replace(microsecond=0)
    (name,) = names(1, None, "/path to/my train.v2.py")
    match = re.fullmatch(r"my-train\.v2-(\d{8}-\d{6})", name)
    assert match is not None
    moment = datetime.strptime(match[1] + "+0000", "%Y%m%d-%H%M%S%z")
    assert before <= moment <= datetime.now(UTC)
    assert names(1, None, None)[0].startswith("run-")
    assert names(1, None, "...")[0].startswith("run-")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\\b", "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected the name of one folder"):
        new_folder(tmp_path, name, None)
    assert list(tmp_path.iterdir()) == []


def test_runs_begun_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    found: list[Path] = []
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        found.extend(new_folder(tmp_path, "same", None) for _ in range(10))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 80 and all(path.is_dir() for path in found)


def test_a_folder_holds_one_record_only(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    with pytest.raises(RecordError, match="another run wrote it or is writing it"):
        Writer(writer.folder, {})
    writer.close(REPORT)
    with pytest.raises(RecordError, match="new_folder"):
        Writer(writer.folder, {})
    assert read_run(writer.folder).report.to_json() == REPORT.to_json()


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


def test_a_vacated_folder_keeps_nothing_of_the_record(tmp_path: Path) -> None:
    """Of a writer that was cut off on any step of its way, the log's end included."""
    for name in ("run.sqlite", "run.json", *(f"run.sqlite-{k}" for k in ("wal", "shm", "journal"))):
        (tmp_path / name).write_bytes(b"of the run before")
    (tmp_path / "notes.txt").write_text("the user's own")
    vacate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    vacate(tmp_path)  # of nothing
    writer = Writer(tmp_path, {})
    writer.declare(0, TABLE, {"x": 1})
    writer.close(REPORT)
    assert read_run(tmp_path).report.to_json() == REPORT.to_json()


def test_a_writer_that_ends_late_leaves_the_next_one_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "INTERVAL_SECONDS", 0.002)
    reached, go, write = threading.Event(), threading.Event(), Store.write

    def slow(self: Store, *arguments: Any) -> None:
        write(self, *arguments)
        reached.set()
        go.wait(120.0)

    late = Writer(tmp_path, {})
    monkeypatch.setattr(late, "CLOSE_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", slow)
        late.close()
        assert reached.wait(120.0)
    vacate(tmp_path)
    following = Writer(tmp_path, {})
    following.declare(0, TABLE, {"x": 1})
    for step in range(2):
        following.put(0, step, {"x": np.array([step])})
        wait_until(lambda step=step: following.committed.get(0) == step)
        go.set()
        late._thread.join()
    assert read_run(tmp_path).series["x"].last.ravel().tolist() == [0, 1]
    following.close(REPORT)
    assert following.problem is None
    assert read_run(tmp_path).report.to_json() == REPORT.to_json()


def test_a_run_that_ended_before_its_tables_were_made_says_so(tmp_path: Path) -> None:
    """`kill -9` in the first milliseconds leaves a file of no bytes, or of a log's first page."""
    early = new_folder(tmp_path, "early") / "run.sqlite"
    with closing(sqlite3.connect(early)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert early.stat().st_size == 4096
    (new_folder(tmp_path, "earlier") / "run.sqlite").touch()
    for run in list_runs(tmp_path):
        assert f"{run.path / 'run.sqlite'} holds nothing yet: its run has only" in str(run.problem)
        with pytest.raises(RecordError, match="ended as it began"):
            read_run(run.path)
    assert len(list_runs(tmp_path)) == 2


def test_listing(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.sqlite").write_bytes(b"no database" * 1000)
    first = Writer(new_folder(tmp_path, "first", None), {})
    second = Writer(new_folder(tmp_path, "second", None), {})
    second.declare(0, TABLE, {"x": 1})
    second.report(0, REPORT)
    wait_until(lambda: read_run(second.folder).report.findings != ())
    runs = list_runs(tmp_path)
    assert [run.name for run in runs] == ["second", "first", "broken"]
    assert [run.verdict for run in runs] == [Verdict.UNSTABLE, None, None]
    assert [run.live for run in runs] == [True, True, False]
    assert runs[0].problem is None and "not a database" in (runs[2].problem or "")
    assert runs[0].started is not None and runs[0].started <= datetime.now(UTC)
    first.close(Report(steps=0))
    second.close()
    assert [run.live for run in list_runs(tmp_path)] == [False, False, False]
    assert [run.verdict for run in list_runs(tmp_path)][1] is Verdict.HEALTHY
