"""Opening `run.sqlite`: for the one writer, and for any reader at any time.

The writer's database is in WAL mode, so that readers and the writer never wait for each other and
a killed process loses only what it had not committed. A reader opens it read-only, and finds its
way on media where SQLite could not even make its own side files.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from surefoot.record import schema
from surefoot.record.schema import RecordError

DATABASE = "run.sqlite"
PAGE = 4096
_BUSY_SECONDS = 1.0
_OPERATIONS = 1_000_000  # of SQLite's machine, between two looks at whether a reading ever ends
_OPERATIONS_AT_LEAST = 50_000_000


def open_writer(folder: Path, wal_bytes: int) -> sqlite3.Connection:
    """A new database in `folder`, its tables made, for use from any one thread at a time.

    The file is created exclusively, so that of two writers on one folder one is refused.
    `wal_bytes` bounds what the write-ahead log keeps between checkpoints.
    """
    path = folder / DATABASE
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        raise RecordError(
            f"expected a folder without a record, but {path} exists: another run wrote it or is "
            "writing it. Next: take a new folder from new_folder()"
        ) from None
    connection = None
    try:
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        for setting in (
            f"page_size = {PAGE}",
            "secure_delete = OFF",  # Debian builds it ON: freed pages would all be written again
            "synchronous = FULL",
            f"wal_autocheckpoint = {max(wal_bytes // (2 * PAGE), 8)}",
            f"journal_size_limit = {wal_bytes}",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(
                f"expected a file system where SQLite can keep a write-ahead log, got one with "
                f"journal mode {mode!r} in {folder}. Next: keep runs on a local disk"
            )
        with transaction(connection):
            schema.create(connection)
    except BaseException:
        if connection is not None:
            connection.close()
        path.unlink(missing_ok=True)
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the write lock is taken at once, so that no later statement can be busy."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def open_reader(folder: Path) -> Iterator[sqlite3.Connection]:
    """The folder's database, verified, read-only; of live, ended and killed runs alike.

    Raises RecordError for every way in which a file can be wrong: those of strangers may be
    anything, and reading them runs no code of theirs (see `schema.require`).
    """
    path = folder / DATABASE
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecordError("is not a regular file")
        with _any_connection(path) as connection:
            yield connection
    except FileNotFoundError:
        raise RecordError(
            f"expected a run folder with {DATABASE} in it, found none in {folder}. "
            "Next: surefoot view, to list the runs that there are"
        ) from None
    except RecordError as error:
        text = str(error)
        raise RecordError(text if str(folder) in text else f"{path} {text}") from error
    except Exception as error:  # a stranger's bytes: whatever goes wrong, it is the folder's fault
        if locked(error):
            why = "another program holds it. Next: try again in a moment"
        elif isinstance(error, OSError):
            why = f"{error}"
        else:
            why = f"it is damaged, cut short or altered ({type(error).__name__}: {error})"
        raise RecordError(f"{path} cannot be read: {why}") from error


@contextmanager
def _any_connection(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = _connect(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        with _without_side_files(path) as connection:
            yield connection
        return
    with closing(connection):
        yield connection


@contextmanager
def _without_side_files(path: Path) -> Iterator[sqlite3.Connection]:
    """For read-only media, where SQLite may not make the index of the write-ahead log.

    With no log the file is complete as it is. A log left by a killed run is read from a copy:
    ignoring it would silently lose the newest steps. No writer lives on such media, which matters:
    opening its file by other means than SQLite would drop this process's locks on it.
    """
    log = path.with_name(path.name + "-wal")
    if not (log.exists() and log.stat().st_size):
        with closing(_connect(path, "immutable=1")) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:
        for source in (path, log):
            shutil.copyfile(source, Path(folder, source.name))
        with closing(_connect(Path(folder, path.name), "mode=ro")) as connection:
            yield connection


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, schema.MAX_TEXT)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(_patience(os.path.getsize(path)), _OPERATIONS)
        for setting in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON"):
            connection.execute(f"PRAGMA {setting}")
        schema.verify(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _patience(size: int) -> Callable[[], bool]:
    """A progress handler that ends a reading which its file's size cannot explain.

    The pages of a malicious file may point in circles, so that a scan of it would never end.
    """
    calls = itertools.count()
    return lambda: next(calls) > (_OPERATIONS_AT_LEAST + 8 * size) // _OPERATIONS


def locked(error: BaseException) -> bool:
    """Whether another program holds the database: worth another try."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain(error: BaseException) -> str:
    """A writer's failure in plain words."""
    if isinstance(error, FileNotFoundError):
        return f"the run folder was deleted or moved: {error}"
    code = getattr(error, "sqlite_errorcode", None)
    words = {
        sqlite3.SQLITE_FULL: "disk full",
        sqlite3.SQLITE_READONLY: "the run folder became read-only",
        sqlite3.SQLITE_BUSY: "another program has locked the record",
        sqlite3.SQLITE_LOCKED: "another program has locked the record",
        sqlite3.SQLITE_CORRUPT: "the record was damaged by another program or the disk",
        sqlite3.SQLITE_IOERR: "the disk failed",
        sqlite3.SQLITE_CANTOPEN: "the run folder cannot be opened",
    }.get(code & 0xFF if code is not None else -1, "the record cannot be written")
    return f"{words}: {type(error).__name__}: {error}"
