"""Reading a run folder back: live, ended, killed, or a stranger's.

What is read is bounded: text in bytes, rows in buckets (see `rows`).
"""

from __future__ import annotations

import json
import re
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any

from surefoot.findings import Report
from surefoot.layers import Kind, Layer, LayerTable
from surefoot.record.conform import clean, valid
from surefoot.record.data import Event, RunData
from surefoot.record.database import open_reader
from surefoot.record.extent import within
from surefoot.record.folder import read_facts, read_report
from surefoot.record.proofs import proven
from surefoot.record.rows import read_series
from surefoot.record.schema import RecordError, Steps, require
from surefoot.signals.flow import Flow

_EVENTS = 8000
_FLOWS = 64
_HUGE = re.compile("[0-9]{300}")
_CUT_OFF = (
    "the run has no verdict yet: it is still going on, or was cut off. "
    "Next: let it end, or run it again under surefoot run"
)


def read_run(folder: Path, training: int | None = None, buckets: int = 1024) -> RunData:
    """The record of one training, by default of the one in most trouble, then with most steps.

    Series are thinned to at most `buckets` buckets, evenly over the steps, keeping low, high and
    last (the widest to fewer where 128 MiB would not hold all of them). A run without a report,
    because it is live or was killed, has an inconclusive one that says so.

    Raises RecordError for a folder that is missing, foreign, of a newer surefoot or damaged, and
    for a training that it does not hold.
    """
    if buckets < 1:
        raise ValueError(f"expected at least 1 bucket, got {buckets}")
    folder = Path(folder)
    with open_reader(folder) as connection:
        facts = read_facts(connection)
        environment = loads(facts.get("environment", "{}"))
        chosen = choose(connection, training)
        layers, steps = declaration(connection, chosen)
        valid(environment, dict[str, Any])
        return RunData(
            name=folder.resolve().name,
            report=report_of(connection, folder, chosen),
            layers=layers,
            series=read_series(connection, steps, buckets) if steps else {},
            flows=flows_of(connection, chosen, len(layers.layers)),
            events=events_of(connection, chosen),
            environment=environment,
        )


def choose(connection: sqlite3.Connection, training: int | None) -> int:
    """The training asked for, or by default the one to look at; 0 of a run that declared none."""
    known = connection.execute(
        "SELECT id FROM training LEFT JOIN progress ON progress.training = id "
        "ORDER BY COALESCE(rows, 0) DESC, id LIMIT 1024"
    ).fetchall()
    numbers = [number for (number,) in known]
    if training is None:
        trouble = _trouble(connection) if len(numbers) > 1 else {}
        # Of those in the same trouble it is the first, which has most steps.
        return max(numbers, key=lambda number: trouble.get(number, -1), default=0)
    if training not in numbers:
        held = ", ".join(str(number) for number in sorted(numbers)) or "none"
        raise RecordError(f"holds no training {training!r}; it holds: {held}")
    return training


def _trouble(connection: sqlite3.Connection) -> dict[int, int]:
    """The rank of the worst finding of each training that has one."""
    found = connection.execute("SELECT training, value FROM report LIMIT 1024")
    worst = {number: Report.from_json(loads(text)).worst() for number, text in found}
    return {number: severity.rank for number, severity in worst.items() if severity is not None}


def declaration(connection: sqlite3.Connection, training: int) -> tuple[LayerTable, Steps | None]:
    """The layers of a training and its table of steps, None if it has none."""
    found = connection.execute(
        "SELECT layers, families FROM training WHERE id = ?", (training,)
    ).fetchone()
    if found is None:  # it ended before its first step: its environment and events still tell why
        root = Layer("", "", Kind.CONTAINER, None, True)
        return LayerTable("model", (root,), ()), None
    layers = _layers(found[0])
    steps = Steps(training, valid(loads(found[1]), dict[str, int]))
    require(connection, steps.name, steps.body)
    return layers, steps


@lru_cache(maxsize=8)  # of a live run it is asked for again and again
def _layers(text: Any) -> LayerTable:
    layers = valid(LayerTable.from_json(loads(text)), LayerTable)
    count = len(layers.layers)
    parents = [layer.parent for layer in layers.layers]
    if not count or any(p is not None and not 0 <= p < i for i, p in enumerate(parents)):
        raise ValueError("a layer's parent does not come before it")
    if any(not 0 <= parameter.layer < count for parameter in layers.parameters):
        raise ValueError("a parameter belongs to no layer")
    return layers


def report_of(connection: sqlite3.Connection, folder: Path, training: int) -> Report:
    """The verdict on a training, with what is proven of its remedies: the final
    word if this is the run's only training, else the training's own.
    """
    (trainings,) = connection.execute("SELECT COUNT(*) FROM training").fetchone()
    own = connection.execute("SELECT value FROM report WHERE training = ?", (training,)).fetchone()
    report = None
    if own is None or trainings <= 1:
        report = read_report(folder)
    if report is None and own is not None:
        report = Report.from_json(loads(own[0]))
    if report is None:
        rows = connection.execute(
            "SELECT rows FROM progress WHERE training = ?", (training,)
        ).fetchone()
        report = Report(steps=rows[0] if rows else 0, missing=(_CUT_OFF,))
    data = clean(proven(within(report), folder).to_json())
    return valid(Report.from_json(data), Report)


def flows_of(connection: sqlite3.Connection, training: int, layers: int) -> tuple[Flow, ...]:
    """The instrumented steps of a training with so many layers."""
    found = connection.execute(
        "SELECT value FROM flow WHERE training = ? ORDER BY id LIMIT ?", (training, _FLOWS)
    )
    flows = tuple(valid(Flow.from_json(loads(text)), Flow) for (text,) in found)
    if any(not 0 <= call.layer < layers for flow in flows for call in flow.calls):
        raise ValueError("a flow names a layer that the model does not have")
    return flows


def events_of(connection: sqlite3.Connection, training: int) -> tuple[Event, ...]:
    """What happened in a training, in the order in which it was written."""
    found = connection.execute(
        "SELECT step, kind, detail FROM event WHERE training = ? ORDER BY id LIMIT ?",
        (training, _EVENTS),
    )
    return tuple(
        Event(valid(step, int), clean(valid(kind, str)), valid(loads(text), dict[str, Any]))
        for step, kind, text in found
    )


def loads(text: Any) -> Any:
    """JSON from the file; a MemoryError is impossible here, for its length is bounded."""
    if not isinstance(text, str):
        raise ValueError(f"expected JSON text, got {type(text).__name__}")
    data = json.loads(text)
    plain = text.isascii() and "\\u" not in text and "\x7f" not in text and not _HUGE.search(text)
    return data if plain else clean(data)
