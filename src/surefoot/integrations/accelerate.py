"""Accelerate: a watch of prepared objects that logs through `accelerator.log`.

from surefoot.integrations.accelerate import watch

with watch(accelerator, model, optimizer) as watching:
    for batch in loader:
        with accelerator.accumulate(model):
            step(batch)
        watching.log()
"""

from __future__ import annotations

import os
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from surefoot.findings import Report
from surefoot.integrations.clipping import NAME, Unclipped
from surefoot.integrations.output import Output
from surefoot.record.metrics import verdict_metrics
from surefoot.watching.watch import Watch
from surefoot.watching.watch import watch as watch_bare


class Accelerate(Output):
    """Logs a watch through the trackers of an Accelerator, under the optimizer's step.

    It begins and ends the watch with its `with` block, and `report()` is the verdict. See `Output`
    for the rest. The trackers stay open: `accelerator.end_training()` is yours.
    """

    name = "Accelerate's trackers"

    def __init__(
        self, watch: Watch, accelerator: Any, *, every: int = 10, layers: bool = False
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        self._accelerator: Any = accelerator
        self._unclipped = Unclipped()

    def report(self) -> Report:
        """The verdict on what was seen so far."""
        return self.watch.report()

    def __enter__(self) -> Self:
        self._safely(self.watch.start)
        self._safely(self._unclipped.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._safely(self._unclipped.stop)
        self._safely(self.watch.__exit__, kind, error, traceback)
        super().__exit__(kind, error, traceback)

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        if (norm := self._unclipped.take()) is not None:
            values = {**values, NAME: norm}
        self._accelerator.log(values, step=step if given is None else given)

    def _tell(self, report: Report, step: int) -> None:
        self._accelerator.log(verdict_metrics(report), step=step)


def watch(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    *,
    every: int = 10,
    layers: bool = False,
    runs: str | os.PathLike[str] | None = None,
    name: str | None = None,
    ignore: Collection[str] = (),
    forensics: bool = True,
) -> Accelerate:
    """Watch what `accelerator.prepare` has made, of one or several optimizers.

    every: optimizer steps between two calls of `accelerator.log`; layers: whether the numbers of
    each layer are logged too; the rest as `surefoot.watch` has it. Raises TypeError as that does.
    """
    optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
    made = watch_bare(
        accelerator.unwrap_model(model),
        [bare(item) for item in optimizers],
        runs=runs,
        name=name,
        ignore=ignore,
        forensics=forensics,
    )
    return Accelerate(made, accelerator, every=every, layers=layers)


def bare(optimizer: Any) -> Any:
    """The optimizer itself, of one that Accelerate has wrapped."""
    while hasattr(optimizer, "accelerator_state") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
