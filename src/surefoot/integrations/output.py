"""What all outputs have in common: when they write, and that their failure stops no training."""

from __future__ import annotations

import importlib
from typing import Any

from surefoot.findings import Report
from surefoot.integrations.ending import Ending
from surefoot.record.metrics import verdict_metrics
from surefoot.watching.watch import Watch


def library(name: str, extra: str) -> Any:
    """A library by its name, or an error that says how to install it.

    >>> library("a_library_of_nobody", "nothing")
    Traceback (most recent call last):
    ModuleNotFoundError: expected a_library_of_nobody, found none: pip install 'surefoot[nothing]'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"expected {error.name}, found none: pip install 'surefoot[{extra}]'", name=error.name
        ) from None


class Output(Ending):
    """Writes a watch's numbers somewhere: call `log()` in the loop, and `finish()` at the end.

    every: optimizer steps between two writes; layers: whether each layer's numbers are written too.
    The end writes the last step's numbers and what was found, in words. As a context manager it
    finishes by itself. When the place that is written to fails, that is said once (`problem`),
    nothing more is written, and the training goes on.
    """

    def __init__(self, watch: Watch, *, every: int = 10, layers: bool = False) -> None:
        if every < 1:
            raise ValueError(f"expected to write every 1 or more steps, got every={every}")
        super().__init__()
        self.watch, self.every, self.layers = watch, every, layers
        self._written = 0  # optimizer steps taken at the last write
        self._given: int | None = None  # the number that the user gave it

    def log(self, step: int | None = None) -> None:
        """Write the newest step's numbers if `every` steps have passed since the last time.

        step: the number to write them under, if it is not to be that of the optimizer's step, from
        0 on, which is how surefoot's findings count. Raises no ordinary exception.
        """
        if self.problem is None and not self._finished:
            self._safely(self._log, step)

    def _log(self, step: int | None) -> None:
        taken = self.watch.steps
        due = not self._written or taken >= self._written + self.every
        if due and taken > self._written:
            values = self.watch.metrics(self.layers)
            self._written, self._given = taken, step
            self._write(values, taken - 1, step)

    def _last(self) -> None:
        """The newest step, if it is not written yet, and the verdict on all of them."""
        taken, report = self.watch.steps, self.watch.report()
        if taken:
            values = self.watch.metrics(self.layers) if taken > self._written else {}
            given = self._given  # the user's numbers go on as the optimizer's do
            given = None if given is None else given + taken - self._written
            self._write(values | verdict_metrics(report), taken - 1, given)
        self._tell(report, max(taken - 1, 0) if self._given is None else self._given)

    # -- what a library's own file says ---------------------------------------------------------

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        """Write numbers of an optimizer's step; given: the number that the user wants for it."""
        raise NotImplementedError

    def _tell(self, report: Report, step: int) -> None:
        """Write what was found."""
        raise NotImplementedError
