"""Folders of strangers on the page: whatever they hold, it answers, and shows the other runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from strangers_fixture import (
    ADDRESSES,
    Stage,
    cut,
    device,
    directory,
    empty,
    endless_text,
    fifo,
    foreign,
    garbage,
    loop,
    ten_gigabytes,
    ten_gigabytes_after_a_good_header,
)
from strangers_fixture import fresh as fresh
from strangers_fixture import stage as stage


def test_the_sound_run_is_shown_in_full(stage: Stage) -> None:
    """What the others are measured by."""
    found = stage.visit("sound")
    assert {address for address, status in found.items() if status != 200} <= {
        "/run/{}/trials", "/run/{}/trials.json", "/run/{}?training=7",
    }  # fmt: skip
    assert stage.problem("sound") == ""


RECORDS = [garbage, ten_gigabytes, foreign, fifo, directory, device, cut, empty]


@pytest.mark.parametrize("spoil", RECORDS, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_record_is_listed_with_its_problem(
    stage: Stage, spoil: Callable[[Path], None]
) -> None:
    spoil(stage.folder("spoilt") / "run.sqlite")
    found = stage.visit("spoilt")
    about = {a for a in ADDRESSES if a.startswith("/run/") and not a.endswith("events")}
    assert {found[address] for address in about} == {404}
    assert stage.get("/run/spoilt/events")[2].startswith("event: gone")
    assert "run.sqlite" in stage.problem("spoilt")
    assert "secret" not in stage.get("/run/spoilt")[2]


def test_a_text_that_leads_to_itself_is_refused(stage: Stage) -> None:
    """Where it is read: the list of runs has no use for it."""
    endless_text(stage.folder("endless") / "run.sqlite")
    assert stage.visit("endless")["/run/{}"] == 404


def test_ten_gigabytes_of_nothing_are_not_read(stage: Stage) -> None:
    """A sound record in a file of 10 GB is a sound record."""
    ten_gigabytes_after_a_good_header(stage.folder("large") / "run.sqlite")
    assert stage.visit("large")["/run/{}"] == 200


def test_a_record_that_leads_to_itself_is_no_run(stage: Stage) -> None:
    loop(stage.folder("loop") / "run.sqlite")
    stage.visit("loop")


VIEW = (
    "DROP TABLE event; CREATE VIEW event AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
    "SELECT i + 1 FROM n) SELECT i AS id, i AS training, i AS step, '' AS kind, '' AS detail FROM n"
)
DEEP = '{"a":' * 400 + "1" + "}" * 400


def everywhere(float32: str) -> str:
    """Every number of every step, as its bytes in hex."""
    return f"UPDATE steps_0 SET loss = x'{float32}', gradient = x'{float32 * 5}'"


def event(kind: str, detail: str) -> str:
    return f"UPDATE event SET kind = '{kind}', detail = '{detail}'"


def fact(name: str, value: str) -> str:
    return f"UPDATE run SET value = '{value}' WHERE name = '{name}'"


def layer(old: str, new: str) -> str:
    return f"UPDATE training SET layers = replace(layers, '{old}', {new})"


ALTERATIONS = {
    "a view": VIEW,
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM run; END",
    "a virtual table": "DROP TABLE event; CREATE VIRTUAL TABLE event USING fts5(id, training)",
    "a newer schema": "PRAGMA user_version = 99",
    "no layers": "UPDATE training SET layers = NULL",
    "deep layers": "UPDATE training SET layers = replace(hex(zeroblob(50000)), '0', '[')",
    "a large text": "UPDATE training SET layers = hex(zeroblob(40000000))",
    "the largest step": "UPDATE steps_0 SET step = 9223372036854775807 WHERE id = 40",
    "steps from the least to the largest": (
        "UPDATE steps_0 SET step = -9223372036854775808 WHERE id = 1;"
        "UPDATE steps_0 SET step = 9223372036854775807 WHERE id = 40"
    ),
    "steps that go back": "UPDATE steps_0 SET step = 100 - id",
    "negative steps": "UPDATE steps_0 SET step = -5 * id",
    "rows beyond counting": "UPDATE progress SET rows = 9223372036854775807",
    "rows that are none": "UPDATE progress SET rows = -1",
    "rows of text": "UPDATE progress SET rows = 'many'",
    "NaN": everywhere("0000c07f"),
    "infinity": everywhere("0000807f"),
    "the largest float": everywhere("ffff7f7f"),
    "no step": "DELETE FROM steps_0",
    "no training": "DELETE FROM training",
    "no facts": "DELETE FROM run",
    "an early beginning": fact("started", "0001-01-01T00:00:00"),
    "a beginning before time": fact("started", "0001-01-01T00:00:00+23:59"),
    "a beginning after time": fact("started", "9999-12-31T23:59:59-23:59"),
    "an endless process": "DELETE FROM run WHERE name = 'ended'; "
    + fact("process", '{"pid": 1e999}'),
    "a deep environment": fact("environment", DEEP),
    "a deep event": f"UPDATE event SET detail = '{DEEP}'",
    "an event beyond int64": event("x", '{"x": 1e999, "y": 99999999999999999999999}'),
    "an event long before": "UPDATE event SET step = -9223372036854775808",
    "an event's kind of a megabyte": "UPDATE event SET kind = hex(zeroblob(500000))",
    "a strange act": event("guard", '{"rung": [[]], "factor": {}}'),
    "a strange step of an act": event("guard", '{"step": "x"}'),
    "strange ranks": event("ranks", '{"ranks": [{"rank": "x"}], "world": 1e300}'),
    "no ranks": event("ranks", '{"ranks": {"x": 1}, "world": -1}'),
    "strange shattering": event(
        "shattering",
        '{"curve": [[[], {}], [1], 7], "coherence": "x", "white": [], "samples": -3}',
    ),
    "a layer without a name": layer('"fc"', "'\"\"'"),
    "a layer's name of a megabyte": layer('"fc"', "'\"' || hex(zeroblob(500000)) || '\"'"),
    "a parameter without elements": layer('numel": 6', "'numel\": -6'"),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_altered_record_is_shown_or_refused(stage: Stage, what: str) -> None:
    folder = stage.folder("altered")
    (folder / "run.json").unlink()
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        before = connection.total_changes
        connection.executescript(ALTERATIONS[what])
        assert connection.total_changes > before or "UPDATE" not in ALTERATIONS[what]
    stage.visit("altered")


def test_an_environment_without_end(stage: Stage) -> None:
    folder = stage.folder("bomb")
    text = json.dumps({f"k{i}": "x" * 20 for i in range(300_000)})
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        connection.execute("UPDATE run SET value = ? WHERE name = 'environment'", (text,))
        connection.execute("UPDATE event SET detail = ?", (text,))
        connection.commit()
    stage.visit("bomb")
    assert len(stage.get("/run/bomb")[2]) < 2_000_000


def test_ten_thousand_layers(stage: Stage) -> None:
    folder = stage.folder("wide")
    layer = {"name": "", "type": "Linear", "kind": "linear", "parent": 0, "leaf": True}
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        (text,) = connection.execute("SELECT layers FROM training").fetchone()
        table = json.loads(text)
        key = next(k for k, v in table.items() if isinstance(v, list) and "kind" in v[0])
        layer = table[key][1]
        table[key] += [{**layer, "name": f"extra.{i}"} for i in range(10_000)]
        connection.execute("UPDATE training SET layers = ?", (json.dumps(table),))
        connection.commit()
    assert stage.visit("wide")["/run/{}"] == 200


@pytest.mark.parametrize("spoil", [garbage, ten_gigabytes, fifo, directory, loop, device, empty])
@pytest.mark.parametrize("name", ["run.json", "proof.json", "run.sqlite-wal", "run.sqlite-shm"])
def test_files_beside_the_record(stage: Stage, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(stage.folder("beside") / name)
    found = stage.visit("beside")
    if name == "proof.json":  # what is no proof is as if it were not there
        assert found["/run/{}"] == 200


TRIAL = '"remedy": "init.kaiming_normal", "target": "fc", "outcome": "proven", "words": "w"'
PROOFS = {
    "deep": "[" * 100_000,
    "deep in a trial": f'{{"trials": [{{{TRIAL}, "x": {DEEP}}}]}}',
    "a list": "[]",
    "numbers": '{"trials": [1, 2, {"remedy": 1, "target": [], "outcome": 1, "words": 2}]}',
    "no trial": '{"trials": 7}',
    "infinite": f'{{"trials": [{{{TRIAL}, "before": 1e999, "after": NaN, "seeds": -1e999}}]}}',
    "hostile": f'{{"schema": 1, "trials": [{{{TRIAL}}}]}}'.replace(
        '"w"', '"<script>\\u001b[31m\\u202e<img src=x onerror=alert(1)>"'
    ),
}


@pytest.mark.parametrize("what", PROOFS)
def test_strange_proofs(stage: Stage, what: str) -> None:
    (stage.folder("proof") / "proof.json").write_text(PROOFS[what])
    assert stage.visit("proof")["/run/{}"] == 200


REPORTS = {
    "deep": "[" * 100_000,
    "not JSON": "{",
    "another schema": '{"schema": 99}',
    "findings of text": '{"schema": 1, "findings": "x", "steps": 1}',
    "a million findings": '{"schema": 1, "steps": 1, "findings": [' + "{}," * 1_000_000 + "{}]}",
}


@pytest.mark.parametrize("what", REPORTS)
def test_strange_reports(stage: Stage, what: str) -> None:
    (stage.folder("report") / "run.json").write_text(REPORTS[what])
    assert stage.visit("report")["/run/{}"] == 404
    assert stage.problem("report")


def test_of_very_many_findings_the_worst_are_shown(stage: Stage) -> None:
    """Each costs a place on the page, and the story of all of them the square of their number."""
    path = stage.folder("report") / "run.json"
    report = json.loads(path.read_text())
    worst = report["findings"][0] | {"severity": "fatal", "sentence": "the worst of all"}
    many = report["findings"][0] | {"severity": "advice", "root": False}
    many |= {"evidence": many["evidence"] * 500, "victims": ["fc"] * 20_000}
    report["findings"] = [many] * 3 + [many | {"evidence": [], "victims": []}] * 1000 + [worst]
    report["missing"] = ["x"] * 5000
    path.write_text(json.dumps(report))
    assert stage.visit("report")["/run/{}"] == 200
    text = stage.get("/run/report")[2]
    assert text.count('id="finding-') == 200
    assert "the worst of all" in text
    assert "of its 1,004 findings only the worst 200 are taken over" in text
    assert len(text) < 2_000_000


@pytest.mark.parametrize(
    "change", ["steps", "confidence", "first_step", "parameters", "value", "many"]
)
def test_reports_with_strange_values(stage: Stage, change: str) -> None:
    """What has the right type may still be any number, of any depth."""
    path = stage.folder("report") / "run.json"
    report = json.loads(path.read_text())
    finding = report["findings"][0]
    if change == "steps":
        report["steps"] = -(1 << 63)
    elif change == "confidence":
        finding["confidence"] = 1e308
    elif change == "first_step":
        finding["first_step"], finding["last_step"] = (1 << 63) - 1, -(1 << 63)
    elif change == "parameters":
        finding["remedies"][0]["parameters"] = {"a": json.loads(DEEP), "b": 1e308}
    elif change == "value":
        finding["evidence"][0]["value"] = "x" * 1_000_000
    else:
        report["findings"] = [finding] * 500
    path.write_text(json.dumps(report))
    stage.visit("report")
