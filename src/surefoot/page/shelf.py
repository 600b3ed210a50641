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


class Reading:
    """One training of one run as it is now. version: changes whenever what is shown would."""

    def __init__(self, folder: Path, training: int | None) -> None:
        self._follower = Follower(folder, training)
        self._lock = Lock()
        self._made: dict[str, Any] = {}  # of this version
        self.version = 0

    def refresh(self) -> RunData:
        """Look again; raises RecordError where there is nothing to read any more."""
        return self._look()[0]

    def _look(self) -> tuple[RunData, dict[str, Any]]:
        with self._lock:
            if self._follower.poll():
                self.version += 1
                self._made = {}
            return self._follower.data, self._made

    @property
    def ended(self) -> bool:
        """Whether the run has said that it is over."""
        return self._follower.ended

    @property
    def live(self) -> bool:
        """Whether its process still runs, as of the last look."""
        return self._follower.live

    def once(self, key: str, make: Callable[[RunData], Any]) -> Any:
        """`make(data)`, made once for each version, whoever asks."""
        data, made = self._look()
        if key not in made:
            made[key] = make(data)
        return made[key]


class Shelf:
    """All runs right in a folder; or that folder alone, if it is a run itself."""

    def __init__(self, folder: str | Path) -> None:
        given = Path(os.path.abspath(folder))  # of `..` as well the folder's own name
        self.only = given.name if (given / DATABASE).exists() else None
        self.root = given.parent if self.only else given
        self._readings: OrderedDict[tuple[str, int | None], Reading] = OrderedDict()
        self._summaries: dict[str, tuple[Any, RunSummary]] = {}
        self._lock = Lock()

    def runs(self) -> list[RunSummary]:
        """What there is, newest first; a folder that cannot be read is there with its problem."""
        try:
            names = [self.only] if self.only else sorted(os.listdir(self.root))
        except OSError:
            return []
        found = [self._summary(name) for name in names if name and _told(name)]
        return newest_first([run for run in found if run is not None])

    def folder(self, name: str) -> Path | None:
        """The folder of a run by its name, None if the shelf has none such."""
        plain = Path(name).name == name and name != ".."
        if self.only not in (None, name) or not plain or not _told(name):
            return None
        path = self.root / name
        try:
            return path if (path / DATABASE).exists() else None
        except (OSError, ValueError):  # too long, or with a zero byte
            return None

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

    def _summary(self, name: str) -> RunSummary | None:
        """A run's line in the list; a run that is not live is read once."""
        path = self.root / name
        try:
            stamp = tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in _files(path))
        except OSError:
            return None
        held = self._summaries.get(name)
        if held is None or held[0] != stamp or held[1].live:
            held = self._summaries[name] = (stamp, summarise(path))
        return held[1]


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
