"""The end of a guarded run: raised by the guard, in whatever depth it acts, and never swallowed."""

from __future__ import annotations

from surefoot.findings import Report


class TrainingHalted(RuntimeError):
    """The guard has used up its ladder: to go on would only burn time.

    report: the verdict on the run up to here; its `root` names the cause.
    """

    def __init__(self, why: str, report: Report) -> None:
        self.report = report
        root = report.root
        cause = f" {root.sentence}" if root is not None else ""
        super().__init__(
            f"surefoot halted the training: {why}.{cause} "
            "See the report of this exception for the evidence and for what to do first"
        )
