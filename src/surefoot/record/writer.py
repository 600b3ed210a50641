"""Writing a run while it trains: the trainer only enqueues, one daemon thread does the rest.

Whatever fails here (disk full, folder gone, database locked) ends the record and not the training:
the first failure is kept in `Writer.problem`, in plain words, for the caller to print once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from surefoot.findings import Report
from surefoot.forks import Fork
from surefoot.layers import LayerTable
from surefoot.record import blob
from surefoot.record.backlog import Backlog, Item, Text
from surefoot.record.data import Event
from surefoot.record.database import DATABASE, explain, locked, open_writer, transaction
from surefoot.record.folder import REPORT, this_process, write_report
from surefoot.record.schema import MAX_TEXT, Steps
from surefoot.record.store import Store, wal_bytes
from surefoot.signals.flow import Flow
from surefoot.version import VERSION

LIMIT_BYTES = 256 << 20
_LEAST_LIMIT = 1 << 20
_TEXT_BYTES = {"event": 64 << 10, "flow": 8 << 20, "report": 8 << 20, "training": MAX_TEXT // 2}


class Writer:
    """The record of one run, written beside the training; a no-op in a forked child.

    No method but the constructor raises, and none but `close` waits. Memory: at most twice
    `QUEUE_BYTES` and one bucket per training. The folder stays under `limit_bytes` (at least
    1 MiB), provided that no foreign program keeps a read transaction open on it, and holds at most
    65,536 buckets, so that a run of any length opens within a second.

    A training whose parameters change is a new one: declare it under a new number.

    >>> import tempfile
    >>> from surefoot.record import new_folder, read_run
    >>> from surefoot.layers import Kind, Layer, LayerTable
    >>> table = LayerTable("Linear", (Layer("", "Linear", Kind.LINEAR, None, True),), ())
    >>> writer = Writer(new_folder(Path(tempfile.mkdtemp()), "demo", None), {"device": "cpu"})
    >>> writer.declare(0, table, {"loss": 1})
    >>> for step in range(3):
    ...     writer.put(0, step, {"loss": np.array([1.0 / (step + 1)])})
    >>> writer.close(Report(steps=3))
    >>> run = read_run(writer.folder)
    >>> run.name, run.series["loss"].last.ravel().round(2).tolist(), str(run.report.verdict)
    ('demo', [1.0, 0.5, 0.33000001311302185], 'healthy')
    """

    QUEUE_BYTES: ClassVar[int] = 8 << 20
    INTERVAL_SECONDS: ClassVar[float] = 0.5  # between commits: what a kill -9 may cost
    CLOSE_SECONDS: ClassVar[float] = 10.0

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, Any],
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin the record in a folder of `new_folder`.

        Raises OSError or sqlite3.Error where it cannot be written, and RecordError if another run
        is recorded there: the caller says so once and goes on without a record.
        """
        limit = max(limit_bytes, _LEAST_LIMIT)
        self.folder = Path(folder)
        self.problem: str | None = None
        self.committed: dict[int, int] = {}
        self._text_bytes = {table: min(n, limit // 16) for table, n in _TEXT_BYTES.items()}
        self._clock = clock
        self._process = Fork()
        self._backlog = Backlog(self.QUEUE_BYTES)
        self._declared: dict[int, dict[str, tuple[int, int]]] = {}
        self._report: Report | None = None
        self._stopped = False
        self._deadline: float | None = None  # set by close: until when to drain
        self._wake = threading.Event()
        connection = open_writer(self.folder, wal_bytes(limit))
        self._file = os.stat(self.folder / DATABASE)
        _write_facts(connection, environment)
        # Only the thread's own frame holds the connection: in a forked child, where that frame
        # never runs again, nothing closes a database that is the parent's.
        store = Store(connection, limit, self.committed, clock)
        self._thread = threading.Thread(
            target=self._work, args=(store,), name="surefoot-record", daemon=True
        )
        self._thread.start()

    def declare(self, training: int, layers: LayerTable, families: Mapping[str, int]) -> None:
        """Announce a training: its layers, and each family's name and number of float32 columns.

        Comes before its first `put`, once; the same again is harmless.
        """
        if self._off():
            return
        try:
            steps = Steps(training, {name: int(count) for name, count in families.items()})
            declared = {n: (i, c) for i, (n, c) in enumerate(steps.families.items())}
            if self._declared.get(training, declared) != declared:
                raise ValueError(
                    f"expected training {training} to keep its families, got {dict(families)}"
                )
            self._backlog.declare(training, list(steps.families.values()))
            texts = (_dumps(layers.to_json()), _dumps(steps.families))
            self._send("training", (training, *texts), steps=steps)
            self._declared[training] = declared  # last: no row comes before its table
        except Exception as error:
            self._note(f"training {training} is not recorded: {error}")

    def put(self, training: int, step: int, rows: Mapping[str, np.ndarray]) -> None:
        """Record one step: for each family that was measured, its row [C] of any real dtype.

        Copies and returns; the rows may be overwritten at once. Steps must not decrease.
        """
        if self._stopped or not self._process.here:
            return
        try:
            declared = self._declared[training]
            blobs: list[bytes | None] = [None] * len(declared)
            size = 0
            for name, row in rows.items():
                position, columns = declared[name]
                if row.size != columns:
                    self._note(f"{name}: expected {columns} columns, got {row.size}")
                    continue
                blobs[position] = data = blob.raw(row)
                size += len(data)
            self._backlog.row(training, _fitting(step), blobs, size)
            if self._backlog.pressing:
                self._wake.set()
        except Exception as error:
            self._note(f"a step is not recorded: {type(error).__name__}: {error}")

    def event(self, training: int, event: Event) -> None:
        """Record that something happened."""
        if self._off():
            return
        try:
            detail = _dumps(dict(event.detail))
            self._send("event", (training, event.step, str(event.kind), detail))
        except Exception as error:
            self._note(f"an event is not recorded: {type(error).__name__}: {error}")

    def flow(self, training: int, flow: Flow) -> None:
        """Record a fully instrumented step; of many, the first and the newest are kept."""
        if self._off():
            return
        try:
            self._send("flow", (training, _dumps(flow.to_json())))
        except Exception as error:
            self._note(f"a flow is not recorded: {type(error).__name__}: {error}")

    def report(self, training: int, report: Report) -> None:
        """Record what is known of a training by now, in place of what was known before."""
        if self._off():
            return
        self._report = report
        try:
            self._send("report", (training, _dumps(report.to_json())))
        except Exception as error:
            self._note(f"a report is not recorded: {type(error).__name__}: {error}")

    def close(self, report: Report | None = None) -> None:
        """End the record: write what waits, for `CLOSE_SECONDS` at most, and run.json.

        Without a report run.json holds the last one given for a training, if any. A second call
        does nothing.
        """
        if not self._process.here or self._deadline is not None:
            return
        final = report or self._report
        self._send("run", ("ended", datetime.now(UTC).isoformat()))
        self._deadline = self._clock() + self.CLOSE_SECONDS
        self._stopped = True
        self._wake.set()
        self._thread.join(self.CLOSE_SECONDS)
        if self._thread.is_alive():
            self._note("the disk did not keep up: the newest steps are not in the record")
        if final is not None:
            self._write_report(final)

    def _write_report(self, report: Report) -> None:
        def work() -> None:
            try:
                write_report(self.folder, report)
            except Exception as error:
                self._note(f"{REPORT} is not written: {type(error).__name__}: {error}")

        if not self._thread.is_alive():
            work()
            return
        # The disk hangs: try, but do not hang with it.
        helper = threading.Thread(target=work, daemon=True)
        with contextlib.suppress(RuntimeError):  # no new threads once the interpreter ends
            helper.start()
            helper.join(1.0)

    def _off(self) -> bool:
        return self._stopped or not self._process.here

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _send(self, table: str, values: tuple[Any, ...], steps: Steps | None = None) -> None:
        """Enqueue a row of a small table; raises ValueError for what the table cannot hold."""
        values = tuple(v if isinstance(v, str) else _fitting(v) for v in values)
        size = 256 + sum(len(value.encode()) for value in values if isinstance(value, str))
        most = self._text_bytes.get(table, size)
        if size > most:
            raise ValueError(f"expected at most {most} bytes of text, got {size}")
        if not self._backlog.text(Text(table, values, size, steps)):
            self._note(f"the disk did not keep up: {table}s were dropped")

    # Below: the writer's own thread.

    def _work(self, store: Store) -> None:
        complete = False
        try:
            complete = self._serve(store)
        except Exception as error:
            self._note(explain(error))
        finally:
            self._stopped = True
            self._backlog.take()
            with contextlib.suppress(Exception):
                store.close(complete)

    def _serve(self, store: Store) -> bool:
        """Commit what waits, again and again until closed; True if all of it was committed."""
        held: deque[Item] = deque()
        while True:
            if self._deadline is None:
                self._wake.wait(self.INTERVAL_SECONDS)
                self._wake.clear()
            closing = self._deadline is not None  # before taking: nothing comes after it
            held = held or self._backlog.take()
            try:
                if held:
                    self._check_file()
                    store.write(held, self._backlog.melted)
            except sqlite3.OperationalError as error:
                if not locked(error):
                    raise
                self._note(f"{explain(error)} (surefoot tries again)")
            if store.lost:
                self._note(f"the size limit is too small: {store.lost} steps had no room")
            if closing and not held:
                self._check_file()  # to end the log in another's file would take its log away
                return True
            if self._deadline is not None and self._clock() > self._deadline:
                return False

    def _check_file(self) -> None:
        """Raise if the file is no longer ours: SQLite would go on writing into the void."""
        if not os.path.samestat(self._file, os.stat(self.folder / DATABASE)):
            raise FileNotFoundError("another file has taken the place of the record's")


def _write_facts(connection: sqlite3.Connection, environment: Mapping[str, Any]) -> None:
    facts = {
        "environment": _dumps(dict(environment)),
        "surefoot": VERSION,
        "started": datetime.now(UTC).isoformat(),
        "process": _dumps(this_process()),
    }
    with transaction(connection):
        connection.executemany("INSERT INTO run VALUES (?, ?)", facts.items())


def _fitting(number: Any) -> int:
    """An integer for SQLite, which would refuse a longer one when it is too late to say so."""
    number = int(number)
    if number.bit_length() > 62:
        raise ValueError(f"expected an integer of at most 62 bits, got {number}")
    return number


def _dumps(value: Any) -> str:
    """JSON in ASCII; what JSON does not know is kept as its class's name, never as its own code."""
    return json.dumps(value, default=_plain, skipkeys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.size <= 1024:
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return f"<{type(value).__name__}>"
