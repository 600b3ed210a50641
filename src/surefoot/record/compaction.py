"""Keeping a long run's file under its limit: neighbouring buckets merge, extremes stay.

The resolution is even over the run, as in `series.Thinned`: all old buckets hold the same number
of rows, which doubles each time that the whole file has been gone through. Only the newest part,
not yet reached, has every step to itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.record import blob
from surefoot.record.database import transaction
from surefoot.record.schema import Steps

_FIRST_WIDTH = 8  # low, high and last take three rows' room: merging fewer than 4 gains nothing
_PIECE_ROWS = (4, 512)


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
    _most: int = 0  # rows in the fullest piece of this round: 1 means that nothing can merge

    def piece(self) -> bool:
        """Merge a bounded number of buckets, in one transaction; False when none are left to merge.

        A True may have freed nothing yet: the caller asks again until it has the room it needs.
        """
        tables = list(self.tables.values())
        if self._turn >= len(tables) or self.width == 1:
            return self._begin_round() and bool(tables)
        table = tables[self._turn]
        low, high = _PIECE_ROWS
        limit = min(max(self.piece_bytes // (12 * table.columns + 64), low), high)
        rows = _fetch(self.connection, table, self._after, limit)
        self._most = max(self._most, len(rows))
        groups = self._group(rows)
        at_end, alone = len(rows) < limit, len(groups) == 1
        if not alone and groups:
            groups.pop()  # it may go on in the next piece, or in rows not yet written
        if any(len(group) > 1 for group in groups):
            self._rewrite(table, groups)
        if at_end:
            self._turn, self._after = self._turn + 1, 0
        elif not alone:  # else the one bucket made of all these rows may take up more
            self._after = groups[-1][-1][0]
        return True

    def _begin_round(self) -> bool:
        """Start again at the first table, with buckets twice as wide if that can still help."""
        useful = self.width == 1 or self._most > 1
        if useful:
            self.width = max(_FIRST_WIDTH, self.width * 2)
        self._turn = self._after = self._most = 0
        return useful

    def _group(self, rows: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
        """Neighbours that together hold at most `width` rows."""
        groups: list[list[tuple[Any, ...]]] = []
        held = self.width
        for row in rows:
            if held + row[2] > self.width:
                groups.append([])
                held = 0
            groups[-1].append(row)
            held += row[2]
        return groups

    def _rewrite(self, table: Steps, groups: list[list[tuple[Any, ...]]]) -> None:
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


def _fetch(
    connection: sqlite3.Connection, table: Steps, after: int, limit: int
) -> list[tuple[Any, ...]]:
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


def _merged(table: Steps, group: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if len(group) == 1:
        return group[0]
    blobs: list[bytes | None] = []
    for i, columns in enumerate(table.families.values(), start=3):
        measured = [row[i] for row in group if row[i] is not None]
        merged = blob.merge(blob.unpack(measured, columns)) if measured else None
        blobs.append(blob.pack(merged[:, 0]) if merged is not None else None)
    return (group[-1][0], group[-1][1], sum(row[2] for row in group), *blobs)
