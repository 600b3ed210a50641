"""The verdict so far, written now and then: what is known of a run that is killed."""

from __future__ import annotations

import time
from collections.abc import Collection

from surefoot.diagnosis.diagnose import diagnose
from surefoot.record import Writer
from surefoot.watching.training import Training


class Interim:
    """writer: where it goes, None for nowhere; ignore: ids of rules to leave out."""

    def __init__(self, ignore: Collection[str]) -> None:
        self.writer: Writer | None = None
        self._ignore, self._next = ignore, 0.0

    def now_and_then(self, trainings: Collection[Training]) -> None:
        """At most 0.1 % of the time, and not more often than every two seconds."""
        if self.writer is None or (now := time.monotonic()) < self._next:
            return
        self.write(trainings)
        self._next = now + max(2.0, 1000 * (time.monotonic() - now))

    def write(self, trainings: Collection[Training]) -> None:
        """What would be said if the run ended here."""
        if self.writer is not None:
            for training in trainings:
                self.writer.report(training.index, diagnose(training.case(), self._ignore))
