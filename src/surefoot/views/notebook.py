"""A report in a notebook: its figures, its page, and a card with the verdict under the cell.

A `Report` knows nothing of the run behind it. `shown` gives it the means to draw itself, which read
the run when a figure is asked for and not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from surefoot.findings import Report
from surefoot.record import read_run
from surefoot.record.data import RunData

R = TypeVar("R", bound=Report)


class Drawn:
    """The views of one report (see `findings.Views`); `read` gives the run when it is needed.

    They do not outlast the process: a report that is pickled loses them, a copied one shares them.
    """

    def __init__(self, read: Callable[[], RunData]) -> None:
        self._read = read

    def figure(self, report: Report, name: str) -> Any:
        """One of the figures in `FIGURES`; raises ValueError, naming them, for another name."""
        from surefoot.views.figures import figure

        return figure(self._data(report), name)

    def save(self, report: Report, path: str | os.PathLike[str]) -> Path:
        """Write the HTML report; raises OSError where it cannot be written."""
        from surefoot.views.report import save_report

        return save_report(self._data(report), Path(path))

    def card(self, report: Report) -> str:
        """The verdict as a piece of HTML, without script and style sheet."""
        from surefoot.views.report import render_card

        return render_card(report)

    def _data(self, report: Report) -> RunData:
        # The report's own words: what was found since then is another report's.
        return replace(self._read(), report=report)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __deepcopy__(self, _: Any) -> Drawn:
        return self


def shown(report: R, read: Callable[[], RunData]) -> R:
    """The same report, which can draw itself."""
    return replace(report, views=Drawn(read))


def report(run: str | os.PathLike[str]) -> Report:
    """The report of a recorded run, which draws itself: `report("runs/first").figure("depth")`.

    run: the run's folder. Raises `surefoot.record.RecordError` for one that cannot be read, and
    says what to do.

    >>> import tempfile
    >>> report(tempfile.mkdtemp())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    surefoot.record.schema.RecordError: expected a run folder with run.sqlite in it, found none ...
    """
    data = read_run(Path(run))
    return shown(data.report, lambda: data)
