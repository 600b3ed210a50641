"""A running training under watch, in code: `surefoot.watch(model, optimizer)`."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from surefoot.attach.distributed import placement
from surefoot.findings import Finding, Report
from surefoot.record import new_folder
from surefoot.record.data import RunData
from surefoot.watching.latest import Latest
from surefoot.watching.session import Session

_LOG = logging.getLogger("surefoot")


class Watch:
    """One training under watch in code: a context manager, or `start()` and `stop()`.

    In a notebook, construct it with `surefoot.watch(model, optimizer)` and call `start()`; train in
    any cells; ask `report()` whenever; `stop()` removes every hook.
    """

    def __init__(self, session: Session, model: nn.Module, optimizers: list[Any]) -> None:
        self._session = session
        self._latest = Latest(session)
        self._model = weakref.ref(model)
        self._optimizers = [weakref.ref(o) for o in optimizers]
        self._started = False

    def start(self) -> Watch:
        """Begin to watch; returns itself."""
        model = self._model()
        if not self._started and model is not None:
            self._started = True
            self._session.start()
            for ref in self._optimizers:
                optimizer = ref()
                if optimizer is not None:
                    self._take(model, optimizer)
        return self

    def _take(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        try:
            self._session.watch(model, optimizer)
        except Exception as error:  # the training that was about to begin goes on without
            self._session.failed(error)

    def stop(self) -> Report:
        """Remove every hook and return the verdict, as `report`; idempotent."""
        self._session.stop()
        return self.report()

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.stop("raised" if kind is not None else "ended")

    def report(self) -> Report:
        """The verdict on what was seen so far; its figures show what was seen until they are drawn.

        It takes no copy of the run: that is read when a figure or the page is asked for.
        """
        from surefoot.views.notebook import shown

        return shown(self._session.report(), self._data)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of `report()`."""
        return self.report().findings

    @property
    def folder(self) -> Path | None:
        """The run folder, None if no record is kept."""
        return self._session.folder

    @property
    def steps(self) -> int:
        """How many optimizer steps were seen so far."""
        return self._latest.steps

    def metrics(self, layers: bool = False) -> dict[str, float]:
        """The newest step's numbers for a dashboard, by names such as "surefoot/gradient_norm".

        They are read from what is in memory: neither the device nor the series are touched, so it
        may be asked at every step. What was not measured is absent. The update ratio is that of
        the newest sampled step; the findings are those of a look at the run every two seconds at
        most, and absent until two looks agree, or the watch has stopped. A training with several
        parameter groups has the learning rate of its first one.
        layers: also the gradient norm and the largest update ratio of each layer, and the learning
        rates of further groups.
        """
        return self._latest.metrics(layers)

    def to_json(self) -> dict[str, Any]:
        """The report contract as a plain dict."""
        return self.report().to_json()

    def figure(self, name: str) -> Any:
        """One of the figures (see `surefoot.views.figures.FIGURES`) as a Plotly figure."""
        return self.report().figure(name)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the single-file HTML report and return its path."""
        return self.report().save(path)

    def _data(self) -> RunData:
        data = self._session.data()
        if data is None:
            raise RuntimeError(
                "expected a watched training, got none: call start() (or use `with`) before "
                "training, then ask again"
            )
        return data


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Collection[torch.optim.Optimizer],
    *,
    runs: str | os.PathLike[str] | None = None,
    name: str | None = None,
    ignore: Collection[str] = (),
    forensics: bool = True,
) -> Watch:
    """Watch the training of `model` by one or several optimizers; changes nothing in its result.

    runs: folder in which to keep a record, None for none (the report is there all the same). Of
    several processes that train together only rank 0 keeps one; all of them should watch.
    ignore: ids of rules to mute.
    forensics: whether a step that turned bad may be run again on copies to settle the cause, out
    of reach of the run's own state; it takes 2 s and 1 % of the time at most.
    Raises TypeError for anything but a module and optimizers.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with watch(model, optimizer) as w:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(8, 3)).square().mean().backward()
    ...         optimizer.step()
    >>> w.report().steps
    3
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a torch.nn.Module, got {type(model).__name__}: "
            "call surefoot.watch(model, optimizer)"
        )
    single = isinstance(optimizer, torch.optim.Optimizer)
    optimizers = [optimizer] if single else list(optimizer)
    for item in optimizers:
        if not isinstance(item, torch.optim.Optimizer):
            raise TypeError(
                f"expected a torch.optim.Optimizer, got {type(item).__name__}: "
                "call surefoot.watch(model, optimizer)"
            )
    folder = None
    if runs is not None and placement()[0] == 0:  # what the other ranks see is not recorded
        try:
            folder = new_folder(Path(runs), name, None)
        except OSError as error:
            _LOG.warning("surefoot keeps no record in %s: %s", runs, error)
    session = Session(folder=folder, ignore=ignore, adopt=False, forensics=forensics)
    return Watch(session, model, optimizers)
