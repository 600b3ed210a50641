"""Following a run while it is written: each look reads only what is new."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.record.conform import valid
from surefoot.record.data import RunData
from surefoot.record.database import DATABASE, open_reader
from surefoot.record.folder import REPORT, is_alive, moment, read_facts
from surefoot.record.proofs import NAME as PROOF
from surefoot.record.reader import (
    choose,
    declaration,
    events_of,
    flows_of,
    loads,
    report_of,
)
from surefoot.record.rows import pieces, read_until, shares
from surefoot.record.schema import Steps
from surefoot.record.series import Series, evenly, joined

_FILES = (DATABASE, f"{DATABASE}-wal", REPORT, PROOF)
_TICK = 0.1  # seconds: files changed so lately may change again without looking different
Stamp = tuple[tuple[int, int, int] | None, ...]


class Follower:
    """One training of a run folder, live or ended; see `read_run` for which, and for `buckets`.

    live: whether the process that writes it still runs on this machine; started: when it began;
    ended: whether it has said that it is over, which one that was cut off never does.
    Any thread may use it, one at a time.
    """

    def __init__(
        self, folder: str | Path, training: int | None = None, buckets: int = 1024
    ) -> None:
        self.folder, self._asked, self._buckets = Path(folder), training, max(buckets, 2)
        self.live = self.ended = False
        self.started: datetime | None = None
        self._process: str | None = None
        self._stamp: Stamp | None = None
        self._table: Steps | None = None
        self._after = 0  # the id of the newest row that is held
        self._series: dict[str, Series] = {}
        self._counts: tuple[Any, ...] = ()
        self._data: RunData | None = None

    @property
    def data(self) -> RunData:
        """The run as of the last `poll`; raises RuntimeError before the first one."""
        if self._data is None:
            raise RuntimeError("expected a run that was looked at, got none: call poll() first")
        return self._data

    def poll(self) -> bool:
        """Look again, and say whether anything is new; raises RecordError like `read_run`."""
        stamp = self._look()
        if stamp is not None and stamp == self._stamp:
            live, self.live = self.live, self.live and is_alive(self._process)
            return live != self.live
        with open_reader(self.folder) as connection:
            self._read(connection)
        self._stamp = stamp
        return True

    def _look(self) -> Stamp | None:
        """What tells the files from what they were; None while they are too new to tell."""
        found = []
        for name in _FILES:
            try:
                status = (self.folder / name).stat()
            except OSError:
                found.append(None)
                continue
            if abs(time.time() - status.st_mtime) < _TICK:
                return None
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def _read(self, connection: sqlite3.Connection) -> None:
        facts = read_facts(connection)
        self._process, self.started = facts.get("process"), moment(facts.get("started"))
        self.ended = "ended" in facts
        self.live = not self.ended and is_alive(self._process)
        training = choose(connection, self._asked)
        layers, table = declaration(connection, training)
        if table != self._table:
            self._table, self._after, self._series, self._counts = table, 0, {}, ()
        if table is not None:
            self._extend(connection, table)
        counts = connection.execute(
            "SELECT (SELECT COUNT(*) FROM flow), (SELECT MAX(id) FROM flow), "
            "(SELECT COUNT(*) FROM event), (SELECT MAX(id) FROM event)"
        ).fetchone()
        old = self._data if counts == self._counts and self._data is not None else None
        self._data = RunData(
            name=self.folder.resolve().name,
            report=report_of(connection, self.folder, training),
            layers=layers,
            series=dict(self._series),
            flows=old.flows if old else flows_of(connection, training, len(layers.layers)),
            events=old.events if old else events_of(connection, training),
            environment=valid(loads(facts.get("environment", "{}")), dict[str, Any]),
        )
        self._counts = counts

    def _extend(self, connection: sqlite3.Connection, table: Steps) -> None:
        """Take in the rows that were written since; what is too many for the buckets is merged."""
        half = max(self._buckets // 2, 1)
        if not self._after:
            self._series, self._after = read_until(connection, table, half)
            return
        most = shares(table, half)
        for after, steps, blobs in pieces(connection, table, np.iinfo(np.int64).max, self._after):
            self._after = after
            for name, of_family in zip(table.families, blobs, strict=True):
                new = Series.of_blobs(steps, of_family, table.families[name])
                if not len(new):
                    continue
                whole = joined(self._series.get(name), new)
                few = most[name]
                self._series[name] = whole if len(whole) <= 2 * few else evenly(whole, few)
