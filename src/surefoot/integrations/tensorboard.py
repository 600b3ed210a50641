"""TensorBoard: scalars under `surefoot/`, and the findings as text.

from surefoot.integrations.tensorboard import TensorBoard

with surefoot.watch(model, optimizer) as watch, TensorBoard(watch, "logs") as output:
    for batch in loader:
        step(batch)
        output.log()
"""

from __future__ import annotations

import os
from typing import Any

from surefoot.findings import Report
from surefoot.integrations.output import Output, library
from surefoot.integrations.told import markdown
from surefoot.watching.watch import Watch


class TensorBoard(Output):
    """Writes to a `SummaryWriter`, torch's or tensorboardX's, or to a folder of logs.

    A writer stays open, and its folder may hold your own scalars as well. See `Output` for the
    rest. NaN and infinity are written as they are: TensorBoard marks them in its charts.
    """

    name = "TensorBoard"

    def __init__(
        self,
        watch: Watch,
        writer: Any | str | os.PathLike[str],
        *,
        every: int = 10,
        layers: bool = False,
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        self._opened: Any = None
        if isinstance(writer, str | os.PathLike):
            library("tensorboard", "tensorboard")  # torch's own words do not say how to get it
            module = library("torch.utils.tensorboard", "tensorboard")
            writer = self._opened = module.SummaryWriter(os.fspath(writer))
        self._writer: Any = writer

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step if given is None else given)

    def _tell(self, report: Report, step: int) -> None:
        self._writer.add_text("surefoot/report", markdown(report), step)
        self._writer.flush()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
