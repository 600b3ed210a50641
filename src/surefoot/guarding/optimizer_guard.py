"""The hooks on one optimizer under guard: what is known of its step, and what is done to it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from surefoot.attach.closures import closure_of, overheard
from surefoot.attach.readings import Reading, want
from surefoot.compiler import apart
from surefoot.guarding.automatic import Automatic
from surefoot.guarding.clipping import Clipping, Cut, Gradients
from surefoot.guarding.intervention import Intervention
from surefoot.guarding.outliers import Outliers
from surefoot.halted import TrainingHalted
from surefoot.kernels import make_pass
from surefoot.kernels.pieces import is_distributed

_LOG = logging.getLogger("surefoot")


class Boss(Protocol):
    """Who decides what is done to a step."""

    def act(self, which: OptimizerGuard, gradients: Gradients, again: bool) -> None:
        """The gradients are there; again: a closure has run once more for the same step."""

    def passed(self, which: OptimizerGuard) -> None:
        """The step has been taken or held back."""

    def refused(self, which: OptimizerGuard) -> None:
        """GradScaler did not let the optimizer step."""

    def remove(self) -> None:
        """Guard nothing any more."""


class OptimizerGuard:
    """One optimizer under guard. clip: None for the guard's own; held: whether the step under way
    is held back; place: among the guard's optimizers."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        place: int,
        clip: Clipping | None,
        modules: Iterable[nn.Module],
        boss: Boss,
    ) -> None:
        self.place, self.clip = place, clip
        self.automatic = Automatic(modules)
        self.held = False  # the step under way is held back
        self._boss = boss
        self._ref = weakref.ref(optimizer)
        self._judged = False  # the step under way; a closure may run again and again
        self._off = self._within = False  # removed; one of the hooks is running
        self.reading: Reading = want(optimizer)
        self.reading.refused = apart(self._refused)
        self.intervention = Intervention()
        count = sum(len(g["params"]) for g in optimizer.param_groups)
        self.outliers = Outliers(count)
        self._count = count
        self._pass = make_pass(count)
        self._rows = np.empty((0, 5))
        before, after = apart(self._before), apart(self._after)
        self._handles = [  # last: half a guard must hang on no optimizer
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """None when it is gone."""
        return self._ref()

    @property
    def searches(self) -> bool:
        """Whether it tries points along a line, as LBFGS may, of which it keeps the best."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return any(group.get("line_search_fn") for group in groups)

    def remove(self) -> None:
        """Take the hooks off the optimizer; idempotent.

        From within one of them it only makes them do nothing: torch is going through them.
        """
        self._off = True
        while self._handles and not self._within:
            self._handles.pop().remove()
        self.reading.refused, self.reading.held = None, False
        if (optimizer := self._ref()) is not None:
            self.intervention.end(optimizer)

    def hold(self, parameters: list[torch.Tensor]) -> None:
        """Let the step under way pass without effect."""
        self.held = self.reading.held = True
        self.intervention.skip(self.optimizer, parameters)

    def clip_step(self, parameters: list[torch.Tensor], cut: Cut) -> None:
        """Do to the gradients what a clipping wants."""
        self.intervention.apply(self.optimizer, parameters, cut)

    def no_rows(self, count: int) -> np.ndarray:
        """Statistics [count, 5] of gradients that are not looked at."""
        return np.full((count, 5), np.nan)

    def refused_by_scaler(self) -> bool:
        """Whether the step is held back by GradScaler, for a fused optimizer does that itself."""
        found = getattr(self.optimizer, "found_inf", None)
        return found is not None and float(found) > 0

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if self._off:
            return None
        self._safely(self.intervention.end, optimizer)  # a step that raised has not done so
        self.held = self._judged = False
        if closure_of(args, kwargs) is not None:
            return overheard(args, kwargs, self._gradients_there)
        self._gradients_there()
        return None

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._off:
            return
        self._safely(self.intervention.end, optimizer)
        self._safely(self._boss.passed, self)
        self.held = self.reading.held = False

    def _refused(self) -> None:
        """GradScaler did not call the optimizer's step, which would have come to its end here."""
        self._safely(self._boss.refused, self)
        if (optimizer := self.optimizer) is not None:
            self._after(optimizer, (), {})

    def _gradients_there(self) -> None:
        self._safely(self._look)

    def _look(self) -> None:
        optimizer: Any = self.optimizer
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        if self._judged and self.held:  # a line search tries the same step again
            self.intervention.withhold(parameters)
            return
        gradients = Gradients(self._measured(optimizer, parameters), parameters)
        if len(parameters) != self._count:  # a group was added
            self._count, self.outliers = len(parameters), Outliers(len(parameters))
        again, self._judged = self._judged, True
        self._boss.act(self, gradients, again)

    def _safely(self, action: Callable[..., None], *args: Any) -> None:
        """A failure of the guard's own ends the guard, never the training."""
        self._within = True
        try:
            action(*args)
        except TrainingHalted:
            raise
        except Exception as error:
            self._boss.remove()
            _LOG.warning(
                "surefoot's guard stepped aside, the training goes on unguarded: %s: %s",
                type(error).__name__,
                error,
            )
            _LOG.debug("where it failed", exc_info=error)
        finally:
            self._within = False

    def _measured(self, optimizer: Any, parameters: list[torch.Tensor]) -> np.ndarray:
        """Statistics of the gradients: a watch's, if one has just measured them, or our own."""
        rows = self.reading.take()
        if rows is not None and len(rows) == len(parameters):
            return rows
        if any(map(is_distributed, parameters)):
            raise RuntimeError("nobody measures the whole of sharded parameters any more")
        self.reading.loss = self.reading.scale = None
        if len(self._rows) < len(parameters):
            self._rows = np.empty((len(parameters), 5))
        rows = self._rows[: len(parameters)]
        self._pass([p.grad for p in parameters], rows)
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer under GradScaler is given scaled gradients
            rows[:, :3] /= float(scale)
        return rows
