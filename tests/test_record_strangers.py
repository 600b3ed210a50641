"""Folders of strangers: damaged, altered or malicious ones are read or refused, in words."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from record_fixture import REPORT, TABLE
from surefoot.record import RecordError, Writer, list_runs, read_run
from surefoot.record.data import Event, RunData
from surefoot.signals.flow import Call, Flow, TensorStats


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
