"""The guards on a session's trainings: the script's own, and those that `run --guard` makes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from surefoot.findings import Guarded, Report
from surefoot.guarding.acts import Act, Rung
from surefoot.guarding.guard import Guard
from surefoot.watching.training import Training

_LOG = logging.getLogger("surefoot")
_KEPT = 16  # guards whose acts the report counts


class Guards:
    """Of one session. guard: "act" or "dry run" to make one for each training, else empty."""

    def __init__(self, guard: str | bool) -> None:
        self._make = partial(Guard, dry_run=guard == "dry run") if guard else None
        self._own: dict[int, Guard] = {}  # those made here, by the training's number
        self._all: deque[Guard] = deque(maxlen=_KEPT)

    def take(
        self, training: Training, optimizer: torch.optim.Optimizer, report: Callable[[], Report]
    ) -> None:
        """A training is driven by this optimizer from now on."""
        if self._make is None:
            return
        try:
            self._guard(training, optimizer, report)
        except Exception as error:  # the watch goes on
            _LOG.warning("%s is not guarded: %s: %s", training.title, type(error).__name__, error)
            _LOG.debug("where it failed", exc_info=error)

    def _guard(
        self, training: Training, optimizer: torch.optim.Optimizer, report: Callable[[], Report]
    ) -> None:
        if training.index in self._own:
            self._own[training.index].add(optimizer)
            return
        assert self._make is not None
        models = [m for _, m in training.taps.roots() if m is not None]
        guard = self._make([optimizer], models)
        self._own[training.index] = guard
        self.attend(training, guard, report)

    def attend(self, training: Training, guard: Guard, report: Callable[[], Report]) -> None:
        """Keep what a guard does to a training. The script's own takes the place of one of ours."""
        ours = self._own.get(training.index)
        if ours is not None and ours is not guard:
            self._own.pop(training.index).remove()
        if guard in self._all:
            return
        self._all.append(guard)
        guard.report = report
        guard.acts.listeners.append(lambda act: _keep(training, act, guard.dry_run))

    def remove(self) -> None:
        """Take those off that were made here."""
        for guard in self._own.values():
            guard.remove()

    def counts(self) -> dict[str, int] | None:
        """How often all of them have acted on each rung that was reached, None without any."""
        if not self._all:
            return None
        return {str(r): n for r in Rung if (n := sum(g.acts.count(r) for g in self._all))}

    def summary(self) -> Guarded | None:
        """What was done by all of them, None if nothing was."""
        guards = [g for g in self._all if len(g.acts)]
        if not guards:
            return None
        counts = self.counts() or {}
        first = min((next(iter(g.acts)) for g in guards), key=lambda act: act.step)
        dry_run = all(g.dry_run for g in guards)
        return Guarded(counts, first.step, first.reason, first.parameter, dry_run)


def _keep(training: Training, act: Act, dry_run: bool) -> None:
    detail = act.to_json()
    detail["step"] = training.step
    training.ledger.act(training.step, {**detail, "dry_run": True} if dry_run else detail)
