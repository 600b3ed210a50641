"""Reading a run folder back: live, ended, killed, or a stranger's.

What is read is bounded: text in bytes, rows by streaming them into a fixed number of buckets, so
that memory depends on the chart and not on the length of the run.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.findings import Report
from surefoot.layers import Kind, Layer, LayerTable
from surefoot.record import blob
from surefoot.record.conform import checker, clean
from surefoot.record.data import Event, RunData
from surefoot.record.database import open_reader
from surefoot.record.folder import read_facts, read_report
from surefoot.record.proofs import proven
from surefoot.record.schema import RecordError, Steps, require
from surefoot.record.series import Series
from surefoot.signals.flow import Flow

_SERIES_BYTES = 128 << 20
_PIECE_BYTES, _PIECE_ROWS = 4 << 20, 4096
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
        environment = _loads(facts.get("environment", "{}"))
        chosen = _choose(connection, training)
        layers, steps = _declaration(connection, chosen)
        _valid(environment, dict[str, Any])
        return RunData(
            name=folder.resolve().name,
            report=_report(connection, folder, chosen),
            layers=layers,
            series=_read_series(connection, steps, buckets) if steps else {},
            flows=_flows(connection, chosen, len(layers.layers)),
            events=_events(connection, chosen),
            environment=environment,
        )


def _choose(connection: sqlite3.Connection, training: int | None) -> int:
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
    found = connection.execute("SELECT training, value FROM report LIMIT 1024").fetchall()
    worst = {number: Report.from_json(_loads(text)).worst() for number, text in found}
    return {number: severity.rank for number, severity in worst.items() if severity is not None}


def _declaration(connection: sqlite3.Connection, training: int) -> tuple[LayerTable, Steps | None]:
    found = connection.execute(
        "SELECT layers, families FROM training WHERE id = ?", (training,)
    ).fetchone()
    if found is None:  # it ended before its first step: its environment and events still tell why
        root = Layer("", "", Kind.CONTAINER, None, True)
        return LayerTable("model", (root,), ()), None
    layers = _valid(LayerTable.from_json(_loads(found[0])), LayerTable)
    count = len(layers.layers)
    parents = [layer.parent for layer in layers.layers]
    if not count or any(p is not None and not 0 <= p < i for i, p in enumerate(parents)):
        raise ValueError("a layer's parent does not come before it")
    if any(not 0 <= parameter.layer < count for parameter in layers.parameters):
        raise ValueError("a parameter belongs to no layer")
    steps = Steps(training, _valid(_loads(found[1]), dict[str, int]))
    require(connection, steps.name, steps.body)
    return layers, steps


def _report(connection: sqlite3.Connection, folder: Path, training: int) -> Report:
    """The final word if this is the run's only training, else the training's own."""
    (trainings,) = connection.execute("SELECT COUNT(*) FROM training").fetchone()
    own = connection.execute("SELECT value FROM report WHERE training = ?", (training,)).fetchone()
    report = None
    if own is None or trainings <= 1:
        report = read_report(folder)
    if report is None and own is not None:
        report = Report.from_json(_loads(own[0]))
    if report is None:
        rows = connection.execute(
            "SELECT rows FROM progress WHERE training = ?", (training,)
        ).fetchone()
        report = Report(steps=rows[0] if rows else 0, missing=(_CUT_OFF,))
    data = clean(proven(report, folder).to_json())
    return _valid(Report.from_json(data), Report)


def _flows(connection: sqlite3.Connection, training: int, layers: int) -> tuple[Flow, ...]:
    found = connection.execute(
        "SELECT value FROM flow WHERE training = ? ORDER BY id LIMIT ?", (training, _FLOWS)
    )
    flows = tuple(_valid(Flow.from_json(_loads(text)), Flow) for (text,) in found)
    if any(not 0 <= call.layer < layers for flow in flows for call in flow.calls):
        raise ValueError("a flow names a layer that the model does not have")
    return flows


def _events(connection: sqlite3.Connection, training: int) -> tuple[Event, ...]:
    found = connection.execute(
        "SELECT step, kind, detail FROM event WHERE training = ? ORDER BY id LIMIT ?",
        (training, _EVENTS),
    )
    return tuple(
        Event(_valid(step, int), clean(_valid(kind, str)), _valid(_loads(text), dict[str, Any]))
        for step, kind, text in found
    )


def _read_series(connection: sqlite3.Connection, table: Steps, buckets: int) -> dict[str, Series]:
    first, last = _range(connection, table)
    families = {n: _Family(table.families[n], b) for n, b in _shares(table, buckets).items()}
    kinds = {family.buckets for family in families.values()}
    for steps, blobs in _pieces(connection, table, last):
        places = {b: _places(steps, first, last, b) for b in kinds}
        for name, of_family in zip(table.families, blobs, strict=True):
            families[name].extend(places[families[name].buckets], steps, of_family)
    return {name: families[name].series() for name in table.families if families[name].used}


def _shares(table: Steps, buckets: int) -> dict[str, int]:
    """The buckets of each family: what the narrow ones leave of the room is for the wide ones."""
    found, room = {}, _SERIES_BYTES
    by_width = sorted(table.families.items(), key=lambda family: family[1])
    for left, (name, columns) in zip(range(len(by_width), 0, -1), by_width, strict=True):
        found[name] = max(min(buckets, room // (12 * columns * left)), 1)
        room -= 12 * columns * found[name]
    return found


def _places(steps: np.ndarray, first: int, last: int, buckets: int) -> np.ndarray:
    """The bucket [0, buckets) of each step, evenly over the run.

    What the writer adds while we read falls into the last one.
    """
    passed = steps.astype(np.float64) - first  # which no step of a stranger's can overflow
    return np.clip(passed * buckets // (float(last) - first + 1), 0, buckets - 1).astype(np.intp)


def _range(connection: sqlite3.Connection, table: Steps) -> tuple[int, int]:
    """The first and the last step that are in the table now, (0, 0) of an empty one."""
    ends = [
        connection.execute(f"SELECT step FROM {table.name} ORDER BY id {way} LIMIT 1").fetchone()
        for way in ("ASC", "DESC")
    ]
    first, last = (_valid(end[0], int) if end else 0 for end in ends)
    return first, max(first, last)


def _pieces(
    connection: sqlite3.Connection, table: Steps, last: int
) -> Iterator[tuple[np.ndarray, list[tuple[Any, ...]]]]:
    """(steps [B], for each family its B blobs) in order up to a step, in short reads.

    A long one would keep the log from ending. Between two of them the writer may merge buckets; the
    merged one has the id of its last row, so going on after an id meets every step at least once.
    """
    after = 0
    limit = min(max(_PIECE_BYTES // (12 * table.columns + 64), 1), _PIECE_ROWS)
    while rows := connection.execute(table.select(), (after, limit)).fetchall():
        identities, steps, counts, *blobs = zip(*rows, strict=True)
        ids = _integers(identities)
        if ids[0] <= after or (ids[1:] <= ids[:-1]).any() or (_integers(counts) < 0).any():
            raise ValueError("the rows are out of order")
        yield _integers(steps), blobs
        if len(rows) < limit or steps[-1] > last:
            return
        after = int(ids[-1])


def _integers(values: tuple[Any, ...]) -> np.ndarray:
    """Values as SQLite gives them, if all are integers; raises ValueError otherwise."""
    whole = set(map(type, values)) == {int}
    return np.array(values if whole else [_valid(value, int) for value in values], np.int64)


class _Family:
    """The buckets of one family while they are gathered; a place [0, buckets) makes a bucket.

    used: buckets begun.
    """

    __slots__ = ("_columns", "_place", "_single", "_stack", "_steps", "buckets", "used")

    def __init__(self, columns: int, buckets: int) -> None:
        self._columns, self.buckets = columns, buckets
        self._stack = np.empty((3, buckets, columns), blob.FLOAT)  # no memory until it is filled
        self._steps = np.empty(buckets, np.int64)
        self._place = -1  # of the newest bucket
        self._single = True  # every bucket is one row
        self.used = 0

    def extend(self, places: np.ndarray, steps: np.ndarray, blobs: tuple[Any, ...]) -> None:
        """Add rows; a blob of None was not measured, and places must not decrease."""
        at = [k for k, data in enumerate(blobs) if data is not None]
        if not at:
            return
        measured: Sequence[Any] = blobs
        if len(at) < len(blobs):
            places, steps, measured = places[at], steps[at], [blobs[k] for k in at]
        places = np.maximum.accumulate(np.maximum(places, self._place))
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        merged = blob.merge(blob.unpack(measured, self._columns), starts)
        ends = steps[np.append(starts[1:], len(steps)) - 1]
        if self.used and places[0] == self._place:  # the piece goes on with the newest bucket
            low, high, last = self._stack[:, self.used - 1]
            np.fmin(low, merged[0, 0], out=low)
            np.fmax(high, merged[1, 0], out=high)
            last[:], self._steps[self.used - 1] = merged[2, 0], ends[0]
            merged, ends = merged[:, 1:], ends[1:]
            self._single = False
        end = self.used + len(ends)
        self._stack[:, self.used : end], self._steps[self.used : end] = merged, ends
        self._single = self._single and (merged.strides[0] == 0 or not merged.size)
        self._place, self.used = places[-1], end

    def series(self) -> Series:
        """What was gathered."""
        low, high, last = self._stack[:, : self.used]
        steps = self._steps[: self.used]
        return Series(steps, last, last, last) if self._single else Series(steps, low, high, last)


def _loads(text: Any) -> Any:
    """JSON from the file; a MemoryError is impossible here, for its length is bounded."""
    if not isinstance(text, str):
        raise ValueError(f"expected JSON text, got {type(text).__name__}")
    data = json.loads(text)
    plain = text.isascii() and "\\u" not in text and "\x7f" not in text and not _HUGE.search(text)
    return data if plain else clean(data)


def _valid(value: Any, hint: Any) -> Any:
    """The value itself, if it is what its type says; raises ValueError otherwise."""
    if not checker(hint)(value):
        raise ValueError(f"expected a {getattr(hint, '__name__', hint)}, got something else")
    return value
