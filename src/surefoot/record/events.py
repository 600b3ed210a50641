"""Which events stay in the file: the first and the newest, within a number and a size."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from typing import Any

_FIRST, _NEWEST = 1000, 4000  # kept, of all trainings
_SHARE_OF_FIRST = 5  # the first ones may take a fifth of the room
_AROUND = 32  # bytes of a row besides its text


class Events:
    """The table of events, of at most `room` bytes.

    The first ones tell how it began and the newest how it ended; of a flood the middle goes.
    """

    def __init__(self, connection: sqlite3.Connection, room: int) -> None:
        self._connection = connection
        self._room_of_first = room // _SHARE_OF_FIRST
        self._room_of_newest = room - self._room_of_first
        self._first, self._last_of_first = 0, 0  # how many, and the id of the last
        self._newest: deque[tuple[int, int]] = deque()  # (id, bytes)
        self._bytes = 0  # of the newest

    def insert(self, training: int, step: int, kind: str, detail: str) -> int:
        """Insert one and return its id; `prune` has to follow in the same transaction."""
        cursor = self._connection.execute(
            "INSERT INTO event VALUES (NULL, ?, ?, ?, ?)", (training, step, kind, detail)
        )
        identity, size = cursor.lastrowid or 0, len(kind) + len(detail) + _AROUND
        if not self._newest and self._first < _FIRST and size <= self._room_of_first:
            self._first, self._last_of_first = self._first + 1, identity
            self._room_of_first -= size
        else:
            self._newest.append((identity, size))
            self._bytes += size
        return identity

    def change(self, identity: int, detail: dict[str, Any]) -> bool:
        """Put another detail into one; False if it has been let go of."""
        cursor = self._connection.execute(
            "UPDATE event SET detail = ? WHERE id = ?", (json.dumps(detail), identity)
        )
        return cursor.rowcount > 0

    def prune(self) -> None:
        """Let go of the oldest of the newest until they fit."""
        dropped = None
        while len(self._newest) > _NEWEST or self._bytes > self._room_of_newest:
            dropped, size = self._newest.popleft()
            self._bytes -= size
        if dropped is not None:
            self._connection.execute(
                "DELETE FROM event WHERE id > ? AND id <= ?", (self._last_of_first, dropped)
            )
