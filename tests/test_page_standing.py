"""What the page knows of a run is of one look at it, whoever else looks in between."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from page_fixture import begin, put, record
from record_fixture import wait_until
from served_fixture import raw, served
from surefoot.findings import Report
from surefoot.page import shelf as shelves
from surefoot.page.app import create
from surefoot.page.run import now, standing
from surefoot.page.shelf import Look, Shelf
from surefoot.record.data import RunData
from views_fixture import Page, bare, nonfinite, one_step, vanishing, whole


def test_the_newest_numbers_are_those_of_the_record() -> None:
    data = vanishing()
    norms = data.series["gradient"].last[-1, ::5].astype(np.float64)
    told = now(data)
    assert told["steps"] == "900"
    assert float(told["norm"].replace("e", "E")) == pytest.approx(np.linalg.norm(norms), rel=5e-3)
    assert float(told["loss"]) == pytest.approx(data.series["loss"].last[-1, 0], rel=5e-3)
    assert told["rate"] == "0.0500"


def test_a_gradient_with_nan_has_no_norm() -> None:
    """The record's norms leave such elements out: a number of the others would look sound."""
    data = nonfinite()
    assert np.isfinite(data.series["gradient"].last[-1, ::5]).all()
    assert now(data)["norm"] == "not finite"


def test_a_loss_that_is_nan_is_not_called_infinite() -> None:
    """It is kept as infinity, because NaN in a record is "not seen"."""
    for kept, said in ((np.inf, "not finite"), (np.nan, "")):
        loss = whole(np.array([[0.5], [kept]], np.float32))
        assert now(replace(bare(), series={"loss": loss}))["loss"] == said


def test_the_steps_are_those_that_the_numbers_are_of() -> None:
    """While a run goes on its report is read a moment after its rows, and may count one more."""
    data = one_step()
    for steps, of in ((2, data), (7, bare())):
        told = now(replace(of, report=replace(of.report, steps=steps)))
        assert told["steps"] == ("1" if of is data else "7")


def test_what_was_not_seen_is_empty() -> None:
    assert now(bare()) == {"steps": "0", "loss": "", "norm": "", "rate": ""}


def test_what_is_made_of_a_look_is_made_once() -> None:
    made: list[int] = []

    def slow(_: RunData) -> object:
        made.append(1)
        time.sleep(0.05)
        return object()

    look, found = Look(bare(), False, True), []
    threads = [
        threading.Thread(target=lambda: found.append(look.once("x", slow))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, found))) == 1
    assert look.once("y", slow) is not found[0]


def test_a_look_stays_what_it_was(tmp_path: Path) -> None:
    """One reader's event must not end with what another has seen since."""
    data = one_step()
    writer = begin(replace(data, report=Report(missing=("early",), steps=1)), tmp_path / "run")
    try:
        reading = Shelf(tmp_path).reading("run")
        wait_until(lambda: standing(reading.look())["steps"] == "1")
        before = reading.look()
        assert reading.look() is before or not before.ended
        told = dict(standing(before))
        writer.put(0, 7, {"loss": np.array([0.5])})
        writer.close(data.report)
        after = reading.look()
        assert (before.live, before.ended, after.live, after.ended) == (True, False, False, True)
        assert standing(before) == told
        assert standing(after)["steps"] == "8"
        assert standing(after)["state"] != told["state"]
        assert standing(after)["verdict"] != told["verdict"]
        again = Shelf(tmp_path).reading("run").look()
        assert standing(again) == standing(after)  # also by another server
    finally:
        writer.close(data.report)


def test_the_page_and_its_stream_begin_alike(tmp_path: Path) -> None:
    put(tmp_path, ["one_step"])
    client = TestClient(create(tmp_path), base_url="http://localhost")
    page = Page(client.get("/run/one_step").text)
    (shown,) = [a for a in page.every("dl") if a.get("id") == "now"]
    reading = Shelf(tmp_path).reading("one_step")
    told = json.loads(json.dumps(standing(reading.look())))
    assert (shown["data-state"], shown["data-verdict"]) == (told["state"], told["verdict"])
    (layer,) = [
        a for a in Page(client.get("/run/one_step/layer?name=").text).every("div")
        if a.get("id") == "told"
    ]  # fmt: skip
    sides = Page(client.get("/compare?run=one_step&run=one_step").text).every("section")
    states = [a["data-state"] for a in (layer, *sides) if "data-state" in a]
    assert states == [told["state"]] * 3


@pytest.mark.parametrize("address", [b"/events", b"/run/one_step/events"])
def test_the_head_of_a_stream_comes_to_an_end(tmp_path: Path, address: bytes) -> None:
    put(tmp_path, ["one_step"])
    lines = [b"HEAD " + address + b" HTTP/1.1", b"Host: localhost", b"Connection: close", b"", b""]
    with served(create(tmp_path)) as port:
        status, answer = raw(port, b"\r\n".join(lines))
    assert status == 200
    assert b"content-type: text/event-stream" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_run_that_another_program_held_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of its files has changed."""
    monkeypatch.setattr("surefoot.record.database._BUSY_SECONDS", 0.01)
    shelf = Shelf(put(tmp_path, ["one_step"]))
    with closing(sqlite3.connect(tmp_path / "one_step" / "run.sqlite")) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        (held,) = shelf.runs()
        assert "another program holds it" in (held.problem or "")
        other.execute("ROLLBACK")
    (read,) = shelf.runs()
    assert (read.problem, read.steps) == (None, 1)


def test_a_folder_that_becomes_a_run_is_shown(tmp_path: Path) -> None:
    """The page may be there before the run whose folder it was given."""
    shelf = Shelf(tmp_path / "later")
    assert (shelf.runs(), shelf.folder("later")) == ([], None)
    put(tmp_path, ["one_step"])
    (tmp_path / "one_step").rename(tmp_path / "later")
    assert [run.name for run in shelf.runs()] == ["later"]
    assert standing(shelf.reading("later").look())["steps"] == "1"


def test_a_run_is_read_again_only_where_it_looks_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = shelves.summarise

    def summarise(path: Path) -> Any:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(shelves, "summarise", summarise)
    put(tmp_path, ["one_step"])
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "run.sqlite").write_bytes(b"no database")
    shelf = Shelf(tmp_path)
    assert [bool(run.problem) for run in shelf.runs()] == [False, True]
    shelf.runs()
    assert read == ["one_step", "spoilt"]
    # Of a folder that came from another account: that it may be read now changes no content.
    (tmp_path / "spoilt" / "run.sqlite").chmod(0o600)
    shelf.runs()
    assert read == ["one_step", "spoilt", "spoilt"]
    (tmp_path / "spoilt" / "run.sqlite").unlink()
    assert [run.name for run in shelf.runs()] == ["one_step"]
    record(one_step(), tmp_path / "two")
    shelf.runs()
    assert read[3:] == ["two"]
