"""Values that a record cannot hold: said once, and everything else is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from record_fixture import REPORT, TABLE
from surefoot.findings import Report
from surefoot.record import Writer, new_folder, read_run
from surefoot.record.data import Event


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


def test_a_model_too_large_for_the_limit_costs_its_training_only(tmp_path: Path) -> None:
    large = replace(TABLE, model="x" * 100_000)
    writer = Writer(new_folder(tmp_path, "a", None), {}, limit_bytes=1 << 20)
    writer.declare(0, large, {"x": 1})
    writer.declare(1, TABLE, {"x": 1})
    for training in (0, 1):
        writer.put(training, 0, {"x": np.ones(1)})
    writer.close(REPORT)
    assert "training 0 is not recorded" in (writer.problem or "")
    assert len(read_run(writer.folder).series["x"]) == 1


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


def test_a_report_that_is_no_json_is_said_and_leaves_no_draft(tmp_path: Path) -> None:
    writer = Writer(new_folder(tmp_path, "a", None), {})
    bad = Report(steps=float("nan"))  # type: ignore[arg-type]
    writer.close(bad)
    assert "run.json is not written: ValueError" in (writer.problem or "")
    assert [path.name for path in writer.folder.iterdir()] == ["run.sqlite"]
