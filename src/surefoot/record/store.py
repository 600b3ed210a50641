"""The writer thread's side of the database: small transactions, room made before each.

Nothing here is called from the trainer's thread.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping

from surefoot.record import blob
from surefoot.record.backlog import Item, Row, Text
from surefoot.record.compaction import Compaction
from surefoot.record.database import PAGE, transaction
from surefoot.record.events import Events
from surefoot.record.schema import Steps

_CHECKPOINT_SECONDS = 5.0  # between moves of the log into the file: what a power cut may cost
_TRANSACTION_BYTES = 2 << 20
_PIECE_BYTES = 512 << 10  # merged at once: a millisecond in which the trainer may have to wait
_BUCKETS = 1 << 16  # of all trainings: a reader goes through them in some tenths of a second
_FLOWS = 64  # a training keeps its first and its newest instrumented steps
_FLOW_BYTES = 8 << 20
_INSERTS = {
    "training": "INSERT OR REPLACE INTO training VALUES (?, ?, ?)",
    "report": "INSERT OR REPLACE INTO report VALUES (?, ?)",
    "run": "INSERT OR REPLACE INTO run VALUES (?, ?)",
    "flow": "INSERT INTO flow VALUES (NULL, ?, ?)",
}


class Store:
    """Writes batches of items so that the folder stays under `limit` bytes, log included.

    Besides it holds at most `_BUCKETS` buckets, so that a long run of a small model opens as fast
    as any. `committed` maps each training to the last step that a transaction has made safe. `lost`
    counts rows for which, with everything merged, there was still no room.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        limit: int,
        committed: dict[int, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._limit = limit
        self._pages = (limit - wal_bytes(limit) - (128 << 10)) * 15 // 16 // PAGE
        self._flow_bytes = min(_FLOW_BYTES, limit // 8)
        self._transaction_bytes = min(_TRANSACTION_BYTES, wal_bytes(limit) // 4)
        piece = min(_PIECE_BYTES, self._transaction_bytes)
        self._tables: dict[int, Steps] = {}
        self._compaction = Compaction(connection, self._tables, piece)
        self._rows: dict[int, int] = {}
        self._flows: dict[int, list[tuple[int, int]]] = {}  # per training: (id, bytes)
        self._events = Events(connection, limit // 8)
        self._melted: dict[int, tuple[int, int]] = {}  # per training: (id of the event, steps)
        self._clock = clock
        self._checkpoint = clock()
        self.committed = committed
        self.lost = 0

    def write(self, batch: deque[Item], melted: Mapping[int, int]) -> None:
        """Commit a batch, oldest first; what is committed leaves `batch`, whatever happens then.

        `melted` counts per training the steps that lost their own row so far. Raises sqlite3.Error.
        """
        while batch:
            chunk = self._chunk(batch)
            room = self._make_room(chunk)
            with transaction(self._connection):
                self._apply(chunk, room)
                self._note_melted(melted)
                self._events.prune()
            for item in chunk:
                batch.popleft()
                if isinstance(item, Row) and room:
                    self.committed[item.training] = item.step
        if self._clock() - self._checkpoint > _CHECKPOINT_SECONDS:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._checkpoint = self._clock()

    def close(self, complete: bool) -> None:
        """Close the database; if complete, as one plain file without a log, for any medium."""
        try:
            if complete:
                self._connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        except sqlite3.Error:
            pass  # a reader has it open: the log stays beside the file, which every reader knows
        finally:
            self._connection.close()

    def _chunk(self, batch: deque[Item]) -> list[Item]:
        """The head of a batch that makes one small transaction."""
        chunk: list[Item] = []
        size = 0
        for item in batch:
            if chunk and size + item.size > self._transaction_bytes:
                break
            chunk.append(item)
            size += item.size
        return chunk

    def _make_room(self, chunk: list[Item]) -> bool:
        """Merge old buckets until these items fit as well; False if they cannot."""
        need = math.ceil(sum(_pages(item.size) for item in chunk)) + 4
        rows = sum(isinstance(item, Row) for item in chunk)
        if need > self._pages // 2:
            return False  # too much for any merging: let the rest keep its detail
        while reached := self._limit_reached(need, rows):
            width = self._compaction.width
            if not self._compaction.piece():
                return self._fits(need)
            if self._compaction.width != width:
                self._announce_width(reached)
        return True

    def _limit_reached(self, pages: int, rows: int) -> str | None:
        """The limit, in words, that so many pages and rows more would exceed."""
        if not self._fits(pages):
            return f"size limit of {self._limit >> 20} MiB"
        if self._compaction.buckets + rows > _BUCKETS:
            return f"limit of {_BUCKETS} buckets"
        return None

    def _fits(self, need: int) -> bool:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return need <= free or pages + need - free <= self._pages

    def _announce_width(self, reached: str) -> None:
        detail = {
            "reason": f"the record reached its {reached}",
            "rows_per_bucket": self._compaction.width,
        }
        with transaction(self._connection):
            for training, step in self.committed.items():
                self._events.insert(training, step, "thinned", json.dumps(detail))
            self._events.prune()

    def _note_melted(self, melted: Mapping[int, int]) -> None:
        """Keep one event a training that says how many steps were melted together so far."""
        for training, steps in list(melted.items()):
            identity, known = self._melted.get(training, (0, 0))
            if steps == known or training not in self._tables:
                continue
            detail = {"reason": "the disk did not keep up with the training", "steps": steps}
            if not known or not self._events.change(identity, detail):
                step = self.committed.get(training, 0)
                identity = self._events.insert(training, step, "thinned", json.dumps(detail))
            self._melted[training] = (identity, steps)

    def _apply(self, chunk: list[Item], room: bool) -> None:
        rows: dict[int, list[Row]] = {}
        for item in chunk:
            if isinstance(item, Row):
                rows.setdefault(item.training, []).append(item)
            else:
                self._insert_text(item)
        for training, of_training in rows.items():
            if room:
                self._insert_rows(self._tables[training], of_training)
            else:
                self.lost += len(of_training)

    def _insert_text(self, item: Text) -> None:
        if item.steps is not None and item.steps.training not in self._tables:
            item.steps.create(self._connection)
            self._tables[item.steps.training] = item.steps
        if item.table == "event":
            self._events.insert(*item.values)
            return
        cursor = self._connection.execute(_INSERTS[item.table], item.values)
        if item.table == "flow":
            flows = self._flows.setdefault(item.values[0], [])
            flows.append((cursor.lastrowid or 0, item.size))
            self._prune_flows()

    def _prune_flows(self) -> None:
        """Let go of the second oldest of the training that has most, until they fit."""
        while True:
            flows = max(self._flows.values(), key=len)
            size = sum(size for kept in self._flows.values() for _, size in kept)
            if len(flows) <= 2 or (len(flows) <= _FLOWS and size <= self._flow_bytes):
                return
            identity, _ = flows.pop(1)
            self._connection.execute("DELETE FROM flow WHERE id = ?", (identity,))

    def _count(self, training: int, rows: list[Row]) -> list[int]:
        """The steps that each row adds: none if its one step was begun by the row before it."""
        before = [self.committed.get(training), *(row.step for row in rows)]
        return [
            0 if row.rows == 1 and row.step == step else row.rows
            for row, step in zip(rows, before, strict=False)
        ]

    def _insert_rows(self, table: Steps, rows: list[Row]) -> None:
        families = [
            blob.narrow([row.blobs[i] for row in rows], columns)
            for i, columns in enumerate(table.families.values())
        ]
        counts = self._count(table.training, rows)
        whole = [
            (None, row.step, count, *blobs)
            for row, count, *blobs in zip(rows, counts, *families, strict=True)
        ]
        table.insert(self._connection, whole)
        self._compaction.buckets += len(whole)
        total = self._rows.get(table.training, 0) + sum(counts)
        self._connection.execute(
            "INSERT OR REPLACE INTO progress VALUES (?, ?, ?)",
            (table.training, total, rows[-1].step),
        )
        self._rows[table.training] = total


def _pages(size: int) -> float:
    """Pages that a row of so many bytes takes, at most: no two share the end of one."""
    return size / (PAGE - 4) + 2 if size > PAGE else 1 / (PAGE // size)


def wal_bytes(limit: int) -> int:
    """The share of a folder's limit that the write-ahead log may take."""
    return min(limit // 8, 8 << 20)
