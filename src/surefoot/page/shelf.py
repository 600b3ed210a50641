"""The runs that a page shows, each read again only where it has grown."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from surefoot.record import Follower, RecordError, RunSummary
from surefoot.record.data import RunData
from surefoot.record.database import DATABASE
from surefoot.record.folder import newest_first, summarise

_OPEN = 8  # runs held in memory


class Look:
    """A training as one look has found it; whatever is made of it is made once.

    live: whether its process still ran; ended: whether it had said that it was over.
    """

    def __init__(self, data: RunData, live: bool, ended: bool) -> None:
        self.data, self.live, self.ended = data, live, ended
        self._made: dict[str, Any] = {}
        self._making = Lock()

    def once(self, key: str, make: Callable[[RunData], Any]) -> Any:
        """`make(data)`, whoever asks for it first."""
        with self._making:
            if key not in self._made:
                self._made[key] = make(self.data)
            return self._made[key]


class Reading:
    """One training of one run, as it is looked at by whoever asks."""

    def __init__(self, folder: Path, training: int | None) -> None:
        self._follower = Follower(folder, training)
        self._lock = Lock()
        self._newest: Look | None = None

    def look(self) -> Look:
        """The same as before unless something is new; raises RecordError if nothing is there."""
        with self._lock:
            follower = self._follower
            if follower.poll() or self._newest is None:
                self._newest = Look(follower.data, follower.live, follower.ended)
            return self._newest


class Shelf:
    """All runs right in a folder; or that folder alone, if it is a run itself."""

    def __init__(self, folder: str | Path) -> None:
        self._given = Path(os.path.abspath(folder))  # of `..` as well the folder's own name
        self._readings: OrderedDict[tuple[str, int | None], Reading] = OrderedDict()
        self._summaries: dict[str, tuple[Any, RunSummary]] = {}
        self._lock = Lock()

    @property
    def root(self) -> Path:
        """The folder that the runs are in."""
        return self._place()[0]

    def _place(self) -> tuple[Path, str | None]:
        """That, and the name of the only run there is: what was given may become one any time."""
        given = self._given
        return (given.parent, given.name) if os.path.exists(given / DATABASE) else (given, None)

    def runs(self) -> list[RunSummary]:
        """What there is, newest first; a folder that cannot be read is there with its problem."""
        root, only = self._place()
        try:
            names = [only] if only else sorted(os.listdir(root))
        except OSError:
            names = []
        held = self._summaries
        told = {name: _summary(root / name, held.get(name)) for name in names if _told(name)}
        self._summaries = {name: kept for name, kept in told.items() if kept is not None}
        return newest_first([summary for _, summary in self._summaries.values()])

    def folder(self, name: str) -> Path | None:
        """The folder of a run by its name, None if the shelf has none such."""
        plain = Path(name).name == name and name not in ("", "..")
        root, only = self._place()
        if only not in (None, name) or not plain or not _told(name):
            return None
        path = root / name
        return path if os.path.exists(path / DATABASE) else None

    def reading(self, name: str, training: int | None = None) -> Reading:
        """A run by its name; raises RecordError if there is none such."""
        folder = self.folder(name)
        if folder is None:
            raise RecordError(f"there is no run {name!r} in {self.root}")
        with self._lock:
            key = (name, training)
            reading = self._readings.pop(key, None) or Reading(folder, training)
            self._readings[key] = reading
            while len(self._readings) > _OPEN:
                self._readings.popitem(last=False)
        return reading


def _summary(path: Path, held: tuple[Any, RunSummary] | None) -> tuple[Any, RunSummary] | None:
    """A run's line in the list, and what its files looked like; None of what is no run.

    A run that neither goes on nor was held by another program is read once.
    """
    try:
        stamp = tuple((s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino) for s in _files(path))
    except OSError:
        return None
    if held is None or held[0] != stamp or held[1].live or held[1].busy:
        return stamp, summarise(path)
    return held


def _files(path: Path) -> list[os.stat_result]:
    """What tells a run's files from what they were; raises OSError if it has no record."""
    found = [os.stat(path / DATABASE)]
    for name in (f"{DATABASE}-wal", "run.json"):
        try:
            found.append(os.stat(path / name))
        except OSError:
            continue
    return found


def _told(name: str) -> bool:
    """Whether a name can stand in an address: one that is not Unicode cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
