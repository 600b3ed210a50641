"""Weights & Biases: metrics under `surefoot/`, a table of findings, the verdict in the summary.

from surefoot.integrations.wandb import Wandb

with surefoot.watch(model, optimizer) as watch, Wandb(watch) as output:
    for batch in loader:
        step(batch)
        output.log()
"""

from __future__ import annotations

from typing import Any

from surefoot.findings import Report
from surefoot.integrations.output import Output, library
from surefoot.integrations.told import COLUMNS, rows
from surefoot.watching.watch import Watch

_STEP = "surefoot/step"


class Wandb(Output):
    """Writes to a run of `wandb.init()`, by default the one that is active.

    Its charts have `surefoot/step` as their axis, so that your own calls of `run.log` need not keep
    the same count; `log(step)` writes under W&B's own step instead, together with what you log
    under it. The run stays open. See `Output` for the rest.
    """

    name = "W&B"

    def __init__(
        self, watch: Watch, run: Any = None, *, every: int = 10, layers: bool = False
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        self._wandb: Any = library("wandb", "wandb")
        self._run: Any = run if run is not None else self._wandb.run
        if self._run is None:
            raise RuntimeError("expected an active run of W&B, got none: call wandb.init() before")
        self._run.define_metric("surefoot/*", step_metric=_STEP)

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        self._run.log({**values, _STEP: step}, step=given)

    def _tell(self, report: Report, step: int) -> None:
        table = self._wandb.Table(columns=list(COLUMNS), data=rows(report))
        self._run.log({"surefoot/report": table, _STEP: step})
        self._run.summary["surefoot/verdict"] = str(report.verdict)
        self._run.summary["surefoot/gist"] = str(report)
