"""The verdict so far, written now and then: what is known of a run that is killed."""

from __future__ import annotations

import time
from collections.abc import Collection

from surefoot.diagnosis.diagnose import diagnose
from surefoot.findings import Finding, Severity
from surefoot.record import Writer
from surefoot.watching.training import Training


class Interim:
    """writer: where it goes, None for nowhere; ignore: ids of rules to leave out.

    asked: whether anybody reads `standing`: the fatal and harmful findings that the two latest
    looks have in common, for one alone may be premature. None before the second look.
    """

    def __init__(self, ignore: Collection[str]) -> None:
        self.writer: Writer | None = None
        self.asked = False
        self.standing: tuple[Finding, ...] | None = None
        self._latest: dict[tuple[int, str], Finding] | None = None
        self._ignore, self._next = ignore, 0.0

    def now_and_then(self, trainings: Collection[Training]) -> None:
        """At most 0.1 % of the time, and not more often than every two seconds."""
        if self.writer is None and not self.asked:
            return
        if (now := time.monotonic()) < self._next:
            return
        self.write(trainings)
        self._next = now + max(2.0, 1000 * (time.monotonic() - now))

    def write(self, trainings: Collection[Training]) -> None:
        """What would be said if the run ended here."""
        if self.writer is None and not self.asked:
            return
        found: dict[tuple[int, str], Finding] = {}
        for training in trainings:
            report = diagnose(training.case(), self._ignore)
            if self.writer is not None:
                self.writer.report(training.index, report)
            for finding in report.findings:
                if finding.severity is not Severity.ADVICE:
                    found.setdefault((training.index, finding.rule), finding)
        before, self._latest = self._latest, found
        if before is not None:
            self.standing = tuple(finding for key, finding in found.items() if key in before)
