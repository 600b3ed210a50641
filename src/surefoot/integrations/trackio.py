"""Trackio: metrics under `surefoot/`, and an alert for each fatal or harmful finding.

from surefoot.integrations.trackio import Trackio

with surefoot.watch(model, optimizer) as watch, Trackio(watch) as output:
    for batch in loader:
        step(batch)
        output.log()
"""

from __future__ import annotations

from typing import Any

from surefoot.findings import Report, Severity
from surefoot.integrations.output import Output, library
from surefoot.integrations.told import markdown
from surefoot.views.words import clean
from surefoot.watching.watch import Watch


class Trackio(Output):
    """Writes to a run of `trackio.init()`, by default the current one, under the optimizer's step.

    The run stays open: `trackio.finish()` is yours. See `Output` for the rest.
    """

    name = "Trackio"

    def __init__(
        self, watch: Watch, run: Any = None, *, every: int = 10, layers: bool = False
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        self._trackio: Any = library("trackio", "trackio")
        self._run: Any = run if run is not None else _current()
        if self._run is None:
            raise RuntimeError(
                "expected a current run of Trackio, got none: call trackio.init(project=...) before"
            )

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        self._run.log(values, step=step if given is None else given)

    def _tell(self, report: Report, step: int) -> None:
        self._run.log({"surefoot/report": self._trackio.Markdown(markdown(report))}, step=step)
        levels = self._trackio.AlertLevel
        for finding in report.findings:
            if finding.severity is not Severity.ADVICE:
                fatal = finding.severity is Severity.FATAL
                self._run.alert(
                    f"surefoot {clean(finding.rule)}",
                    clean(finding.sentence),
                    level=levels.ERROR if fatal else levels.WARN,
                    step=step,
                )


def _current() -> Any:
    module = library("trackio.context_vars", "trackio")
    return module.current_run.get()
