"""The shape of `run.sqlite`: its tables, its version, and the check that a file is one of ours.

One table `steps_<n>` per training holds one row per bucket of steps and one float32 blob per
family, so that a step costs a single insert. Everything else is small text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

VERSION = 1
APPLICATION = 0x53464F54  # "SFOT", sqlite's application_id: the file's kind, whatever its name
MAX_COLUMNS = 1 << 22  # of all families: 16 MiB a row, 48 MiB a merged bucket
MAX_TEXT = 64 << 20  # bytes of any one value in the file
_VARIABLES = 999  # in one statement, SQLite's oldest default
_RESERVED = frozenset({"id", "step", "rows"})

_TABLES = {
    "run": "(name TEXT PRIMARY KEY, value TEXT)",
    "training": "(id INTEGER PRIMARY KEY, layers TEXT, families TEXT)",
    "progress": "(training INTEGER PRIMARY KEY, rows INTEGER, step INTEGER)",
    "report": "(training INTEGER PRIMARY KEY, value TEXT)",
    "flow": "(id INTEGER PRIMARY KEY, training INTEGER, value TEXT)",
    "event": "(id INTEGER PRIMARY KEY, training INTEGER, step INTEGER, kind TEXT, detail TEXT)",
}


class RecordError(Exception):
    """A run folder that cannot be used, in words for the user: what, where, what to do."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The table of one training: `families` maps each family's name to its float32 columns."""

    training: int
    families: Mapping[str, int]

    def __post_init__(self) -> None:
        """Refuse what could not be a column of its own; raises ValueError."""
        names = [name.lower() for name in self.families]
        for name in names:
            if not (name.isascii() and name.isidentifier()) or len(name) > 64 or name in _RESERVED:
                raise ValueError(f"expected a family name like 'update_ratio', got {name!r}")
        if len(set(names)) != len(names) or len(names) > 64:
            raise ValueError(f"expected at most 64 families, each of its own name, got {names}")
        counts = list(self.families.values())
        if not all(isinstance(n, int) and n > 0 for n in counts) or sum(counts) > MAX_COLUMNS:
            raise ValueError(f"expected 1 to {MAX_COLUMNS} columns in all, got {counts}")
        if not isinstance(self.training, int) or not 0 <= self.training < 1 << 31:
            raise ValueError(f"expected a training's number from 0 up, got {self.training!r}")

    @property
    def name(self) -> str:
        """The table's name."""
        return f"steps_{self.training}"

    @property
    def columns(self) -> int:
        """float32 columns of all families together."""
        return sum(self.families.values())

    @property
    def body(self) -> str:
        """The table's columns as SQL. Safe: the names are identifiers, checked above."""
        blobs = "".join(f', "{family}" BLOB' for family in self.families)
        return f"(id INTEGER PRIMARY KEY, step INTEGER, rows INTEGER{blobs})"

    def create(self, connection: sqlite3.Connection) -> None:
        """Make the table."""
        connection.execute(f"CREATE TABLE {self.name} {self.body}")

    def insert(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows (id or None, step, rows, a blob or None for each family).

        In few statements: each lets go of Python's lock, and in a training that computes in Python
        it takes milliseconds to win it back. In powers of two, so that SQLite has to prepare only
        a few different ones.
        """
        row = f"(?, ?, ?{', ?' * len(self.families)})"
        start = 0
        for count in _powers(len(rows), _VARIABLES // (3 + len(self.families))):
            connection.execute(
                f"INSERT INTO {self.name} VALUES {', '.join([row] * count)}",
                list(chain.from_iterable(rows[start : start + count])),
            )
            start += count

    def select(self) -> str:
        """SQL for the rows after an id, at most so many, in order."""
        return f"SELECT * FROM {self.name} WHERE id > ? ORDER BY id LIMIT ?"


def _powers(count: int, most: int) -> Iterator[int]:
    """Powers of two that sum to `count`, largest first, none above `most`."""
    power = 1 << (most.bit_length() - 1)
    while count:
        while power > count:
            power //= 2
        yield power
        count -= power


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of the current version in an empty database."""
    for name, body in _TABLES.items():
        connection.execute(f"CREATE TABLE {name} {body}")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def verify(connection: sqlite3.Connection) -> None:
    """Raise RecordError unless the database is a record that this version of surefoot reads.

    A future version 2 brings its forward migration here: an older file is read through it.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None:
        raise RecordError("holds nothing yet: its run has only begun, or ended as it began")
    if application != APPLICATION or version < 1:
        raise RecordError("is a SQLite file, but not one that surefoot wrote")
    if version > VERSION:
        raise RecordError(
            f"has record schema {version}, and this surefoot reads up to {VERSION}: it was written "
            f"by {_writer(connection)}. Next: pip install --upgrade surefoot"
        )
    for name, body in _TABLES.items():
        require(connection, name, body)


def require(connection: sqlite3.Connection, name: str, body: str) -> None:
    """Raise RecordError unless `name` is exactly our table.

    A stranger's file could hold under that name a view, a virtual or a generated column, which
    run their own expressions when read; comparing the definition's text excludes all of them.
    """
    found = connection.execute(
        "SELECT type, sql FROM sqlite_schema WHERE name = ?", (name,)
    ).fetchone()
    if found != ("table", f"CREATE TABLE {name} {body}"):
        raise RecordError(f"is damaged or altered: its table {name} is not as surefoot makes it")


def _writer(connection: sqlite3.Connection) -> str:
    """Which surefoot wrote the file, as far as a newer schema lets us know."""
    try:
        found = connection.execute("SELECT value FROM run WHERE name = 'surefoot'").fetchone()
    except sqlite3.Error:
        found = None
    version = found[0] if found is not None else None
    known = isinstance(version, str) and version.isprintable()
    return f"surefoot {version[:32]}" if known else "a newer surefoot"
