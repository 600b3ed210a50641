"""What a report would have said of a training, had it ended early: `python -m corpus --at N`."""

from __future__ import annotations

from collections.abc import Collection

from surefoot.findings import Report
from surefoot.watching.session import Session
from surefoot.watching.training import Training


class Over(BaseException):
    """The last step that was asked for is done; no training catches it."""


class Looks:
    """In the place of a session's interim verdicts: its report after each of some steps.

    steps: of the training that goes ahead of the others. Raises `Over` at the last of them.
    """

    def __init__(self, session: Session, steps: Collection[int]) -> None:
        self.reports: dict[int, Report] = {}
        self._session, self._steps, self._last = session, frozenset(steps), max(steps)

    def now_and_then(self, trainings: Collection[Training]) -> None:
        """Called by the session after every step."""
        step = max((t.step for t in trainings), default=0)
        if step in self._steps and step not in self.reports:
            self.reports[step] = self._session.report()
        if step >= self._last:
            raise Over

    def last(self, trainings: Collection[Training]) -> None:
        """The session's end has no word of its own here."""
