"""The verdict so far, written now and then: what is known of a run that is killed."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

from surefoot.diagnosis.diagnose import diagnose
from surefoot.findings import Finding, Report, Severity
from surefoot.record import Writer
from surefoot.watching.training import Training


class Interim:
    """writer: where it goes, None for nowhere; ignore: ids of rules to leave out.

    One look may come too soon: the first one falls on the first step, where many a network is in
    trouble that it soon leaves behind. What is fatal or harmful is said once two looks in a row
    have it, and nothing is said of a training that was looked at once.
    asked: whether anybody reads `standing`: the findings of all trainings on which the two latest
    looks agree. None before the second look.
    """

    def __init__(self, ignore: Collection[str]) -> None:
        self.writer: Writer | None = None
        self.asked = False
        self.standing: tuple[Finding, ...] | None = None
        self._latest: dict[int, set[str]] | None = None  # rules that found something, by training
        self._ignore, self._next = ignore, 0.0

    def now_and_then(self, trainings: Collection[Training]) -> None:
        """At most 0.1 % of the time, and not more often than every two seconds."""
        if self.writer is None and not self.asked:
            return
        if (now := time.monotonic()) < self._next:
            return
        self.look(trainings)
        self._next = now + max(2.0, 1000 * (time.monotonic() - now))

    def look(self, trainings: Collection[Training]) -> None:
        """Say what stands of each training."""
        earlier, latest, standing = self._latest or {}, {}, []
        for training in trainings:
            report = diagnose(training.case(), self._ignore)
            serious = (f for f in report.findings if f.severity is not Severity.ADVICE)
            latest[training.index] = {finding.rule for finding in serious}
            if training.index not in earlier:
                continue
            report = agreed(report, earlier[training.index])
            standing += [f for f in report.findings if f.severity is not Severity.ADVICE]
            if self.writer is not None:
                self.writer.report(training.index, report)
        if self._latest is not None:
            self.standing = tuple(standing)
        self._latest = latest  # of those that are there: a script may make many

    def last(self, trainings: Collection[Training]) -> None:
        """The final word on each training, for the record."""
        if self.writer is None:
            return
        for training in trainings:
            self.writer.report(training.index, diagnose(training.case(), self._ignore))


def agreed(report: Report, before: Collection[str]) -> Report:
    """The report less what is serious and not by a rule in `before`, and less what follows from it.

    >>> agreed(Report(steps=7), ("SF101",)).steps
    7
    """
    gone = {f.rule for f in report.findings if f.severity is not Severity.ADVICE} - set(before)
    while more := {f.rule for f in report.findings if f.follows in gone} - gone:
        gone |= more
    return replace(report, findings=tuple(f for f in report.findings if f.rule not in gone))
