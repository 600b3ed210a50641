"""Keeping a long run's file under its limit: neighbouring buckets merge, extremes stay.

The resolution is even over the run, as in `series.Thinned`: all old buckets hold the same number
of rows, which doubles each time that the whole file has been gone through. Only the newest part,
not yet reached, has every step to itself.

Low, high and last take three rows' room: what was measured in two buckets only takes more when
they are merged. A merge that would not free a quarter of its bytes is not made, and tried wider.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surefoot.record import blob
from surefoot.record.database import transaction
from surefoot.record.schema import Steps

_FIRST_WIDTH = 8  # merging fewer than 4 rows gains nothing
_PIECE_ROWS = (8, 512)
_AROUND = 64  # bytes of a row besides its blobs
Bucket = tuple[Any, ...]  # id, step, rows, and for each family a blob or None


@dataclass(slots=True)
class Compaction:
    """The state of one file's thinning.

    `width`: rows that a bucket may hold, 1 before the first merge. `buckets`: in all tables; who
    inserts rows counts them here. `piece_bytes` bounds what one call reads and writes.
    """

    connection: sqlite3.Connection
    tables: Mapping[int, Steps]
    piece_bytes: int
    width: int = 1
    buckets: int = 0
    _turn: int = 0  # which table, in the order of `tables`
    _after: int = 0  # id up to which that table is done
    _hope: bool = False  # whether this round has merged anything, or wider buckets might
    _stretch: int = 1  # by which the pieces are longer, where shorter ones would free nothing
    _size: dict[int, int] = field(default_factory=dict)  # of a bucket, by the last piece of a table

    def piece(self) -> bool:
        """Merge a bounded number of buckets, in one transaction; False when none are left to merge.

        A True may have freed nothing yet: the caller asks again until it has the room it needs.
        """
        tables = list(self.tables.values())
        if self._turn >= len(tables) or self.width == 1:
            return self._begin_round() and bool(tables)
        table = tables[self._turn]
        limit = self._piece_rows(table)
        rows = _fetch(self.connection, table, self._after, limit)
        self._size[table.training] = _bytes(rows) // max(len(rows), 1)
        groups = self._group(rows)
        at_end, alone = len(rows) < limit, len(groups) == 1
        self._hope = self._hope or len(groups) > 1
        if not alone and groups:
            groups.pop()  # it may go on in the next piece, or in rows not yet written
        if any(len(group) > 1 for group in groups):
            if _shrinks(table, groups):
                self._rewrite(table, groups)
                self._hope, self._stretch = True, 1
            elif not alone:
                self.width *= 2
                return True
            elif not at_end:
                self._stretch *= 2
                return True
        if at_end:
            self._turn, self._after, self._stretch = self._turn + 1, 0, 1
        elif not alone:  # else the one bucket made of all these rows may take up more
            self._after = groups[-1][-1][0]
        return True

    def _piece_rows(self, table: Steps) -> int:
        low, high = _PIECE_ROWS
        size = self._size.get(table.training, 12 * table.columns + _AROUND)
        return min(max(self.piece_bytes // max(size, 1), low), high) * self._stretch

    def _begin_round(self) -> bool:
        """Start again at the first table, with buckets twice as wide if that can still help."""
        useful = self.width == 1 or self._hope
        if useful:
            self.width = max(_FIRST_WIDTH, self.width * 2)
        self._turn = self._after = 0
        self._hope, self._stretch = False, 1
        return useful

    def _group(self, rows: list[Bucket]) -> list[list[Bucket]]:
        """Neighbours that together hold at most `width` rows, and the rest of their last step."""
        groups: list[list[Bucket]] = []
        held = self.width
        for row in rows:
            if not groups or (row[2] and held + row[2] > self.width):
                groups.append([])
                held = 0
            groups[-1].append(row)
            held += row[2]
        return groups

    def _rewrite(self, table: Steps, groups: list[list[Bucket]]) -> None:
        """Replace a range of rows: whole pages become free, which single deletes would not do.

        Each bucket keeps the id of its last row, so that ids stay in the order of steps and a
        reader that goes on after an id misses nothing.
        """
        first, last = groups[0][0][0], groups[-1][-1][0]
        with transaction(self.connection):
            self.connection.execute(
                f"DELETE FROM {table.name} WHERE id BETWEEN ? AND ?", (first, last)
            )
            table.insert(self.connection, [_merged(table, group) for group in groups])
        self.buckets -= sum(len(group) - 1 for group in groups)


def _fetch(connection: sqlite3.Connection, table: Steps, after: int, limit: int) -> list[Bucket]:
    """The rows after an id, in one step of one statement: see `Steps.insert` for why."""
    columns = ["id", "step", "rows", *(f'hex("{family}")' for family in table.families)]
    texts = connection.execute(
        f"SELECT {', '.join(f'group_concat({column})' for column in columns)} "
        f"FROM ({table.select()})",
        (after, limit),
    ).fetchone()
    if texts[0] is None:
        return []
    numbers = [map(int, text.split(",")) for text in texts[:3]]
    blobs = [[bytes.fromhex(h) or None for h in text.split(",")] for text in texts[3:]]
    return sorted(zip(*numbers, *blobs, strict=True))


def _bytes(rows: list[Bucket]) -> int:
    return sum(_AROUND + sum(map(len, filter(None, row[3:]))) for row in rows)


def _shrinks(table: Steps, groups: list[list[Bucket]]) -> bool:
    """Whether merging each group frees a quarter of the room of all that change, at the least."""
    changing = [group for group in groups if len(group) > 1]
    after = 0
    for group in changing:
        after += _AROUND
        for i, columns in enumerate(table.families.values(), start=3):
            measured = [len(row[i]) for row in group if row[i] is not None]
            after += 12 * columns if len(measured) > 1 else sum(measured)
    return 4 * after <= 3 * sum(map(_bytes, changing))


def _merged(table: Steps, group: list[Bucket]) -> Bucket:
    if len(group) == 1:
        return group[0]
    blobs: list[bytes | None] = []
    for i, columns in enumerate(table.families.values(), start=3):
        measured = [row[i] for row in group if row[i] is not None]
        merged = blob.merge(blob.unpack(measured, columns)) if measured else None
        blobs.append(blob.pack(merged[:, 0]) if merged is not None else None)
    return (group[-1][0], group[-1][1], sum(row[2] for row in group), *blobs)
