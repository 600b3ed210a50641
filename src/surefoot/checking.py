"""Before training: the verdict on a model, one batch and a loss function, from a few passes.

Everything happens on stand-ins: parameters are cloned, buffers, attributes, hooks, random numbers
and the optimizer are left as they were. The verdict comes from the same rules as that of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from surefoot.build import Build, BuildError, check_build
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.diagnose import diagnose
from surefoot.diagnosis.gauges import gauges, layer_scales
from surefoot.environment import describe
from surefoot.findings import Check, Evidence
from surefoot.layers import build_table, unwrap
from surefoot.probes.aside import set_aside
from surefoot.probes.blocks import choose_blocks
from surefoot.probes.rehearsal import Rehearsal, copied, rehearse
from surefoot.probes.shattering import Shattering, shattering
from surefoot.record.data import RunData
from surefoot.views.notebook import shown
from surefoot.watching.ledger import shattered
from surefoot.watching.training import Training
from surefoot.watching.unheard import unheard_backward

_UPDATES = 3
_FORWARD, _BACKWARD = 1 / 3, 2 / 3  # of a forward-backward pass


def check(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    ignore: Collection[str] = (),
) -> Check:
    """Judge a model before it is trained, from at most eight forward-backward equivalents.

    batch: a pair (inputs, targets), or anything that is both at once; inputs go into the model as
    they are, a tuple as several arguments, a dict as keywords. loss_fn(output, targets) gives one
    number; None takes `output.loss`. With an optimizer its first updates are rehearsed on copies.
    ignore: ids of rules to mute. Model, optimizer and random numbers stay as they are.

    Raises BuildError (a ValueError) where the parts do not fit together.

    >>> _ = torch.manual_seed(0)
    >>> layers = [m for _ in range(10) for m in (nn.Linear(64, 64), nn.Sigmoid())]
    >>> model = nn.Sequential(*layers, nn.Linear(64, 2))
    >>> batch = torch.randn(64, 64), torch.randint(2, (64,))
    >>> result = check(model, batch, nn.CrossEntropyLoss())
    >>> str(result.verdict), str(result.findings[0].cause)
    ('unstable', 'saturating_activation')
    """
    build = check_build(Build(model, batch, loss_fn, optimizer))
    result, data = examine(build, ignore)
    return shown(result, lambda: data)


def examine(build: Build, ignore: Collection[str] = ()) -> tuple[Check, RunData]:
    """The check of a build, and the same as data for the views."""
    work = _Work(replace(build, model=unwrap(build.model)))
    case = work.case()
    report = diagnose(case, ignore)
    # Before training there are no steps: those of the rehearsal are nobody's.
    findings = tuple(replace(f, first_step=0, last_step=0) for f in report.findings)
    environment = describe()
    result = Check(
        findings,
        0,
        (),
        environment.get("surefoot", ""),
        gauges(case) + tuple(work.notes),
        layer_scales(case),
        work.passes,
    )
    name = f"check of {case.layers.model}"
    events = (*case.alarms, *(shattered(step, seen) for step, seen in case.shattering))
    return result, RunData(name, result, case.layers, {}, case.flows, events, environment)


class _Work:
    """The passes over one build; `notes` says what could not be measured, and why."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self.passes = 0.0
        self.notes: list[Evidence] = []
        if not build.model.training:
            self._note("mode of the model", "evaluation", "training: call model.train()")

    def case(self) -> Case:
        """Make every pass and lay out what was seen."""
        with _stand_ins(self._build) as stand_ins:
            seen = self._shattering()
            trained = _trained(self._build, stand_ins)
            groups = len(self._build.optimizer.param_groups) if self._build.optimizer else 1
            training = Training(0, [self._build.model], trained, None, groups)
            try:
                rehearsal = self._updates(training, trained, stand_ins)
            finally:
                training.stop()
        whole = training.case()
        alarms = tuple(a for a in whole.alarms if a.step == 0)
        self.passes += sum("replay" in a.detail for a in alarms)
        lost = 0 if whole.facts.nonfinite_loss == 0 else None
        return replace(
            whole,
            flows=tuple(f for f in whole.flows if f.step == 0),
            alarms=alarms,
            facts=replace(whole.facts, rehearsed=True, nonfinite_loss=lost),
            shattering=() if seen is None else ((0, seen),),
            rehearsal=rehearsal,
            _memo={},
        )

    def _shattering(self) -> Shattering | None:
        args, kwargs = self._build.arguments()
        name = "gradient coherence"
        try:
            seen = shattering(self._build.model, args, kwargs, along=_along(self._build.model))
        except Exception as error:  # if the model refuses the batch, the loss says so in full
            self._note(name, "not measured", " ".join(str(error).split())[:200])
            return None
        self.passes += seen.passes
        if not seen.reliable:
            few = f"needs 32 samples, the batch has {seen.samples}"
            none = "too few samples send a finite gradient back to the input"
            self._note(name, "not measured", few if math.isfinite(seen.coherence) else none)
            return None
        return seen

    def _updates(
        self, training: Training, trained: list[torch.Tensor], stand_ins: dict[int, torch.Tensor]
    ) -> Rehearsal | None:
        """The instrumented step and, with an optimizer, the updates that follow from it."""
        twin = None
        if self._build.optimizer is not None:
            try:
                twin = copied(self._build.optimizer, stand_ins)
            except Exception as error:
                self._unrehearsed(error)

        def step(loss: torch.Tensor) -> None:
            self.passes += _BACKWARD
            unheard_backward(training, loss, trained)
            training.before_step(twin or training, [{"params": trained}])
            if twin is not None:
                twin.step()
            training.after_step(twin or training)

        if twin is None:
            step(self._loss())
            return None
        try:
            return rehearse(self._loss, step, trained, _UPDATES)
        except BuildError:
            raise
        except Exception as error:  # it wants a closure, or more of its state than can be copied
            self._unrehearsed(error)
            return None

    def _loss(self) -> torch.Tensor:
        """The loss at the present parameters, with the same random numbers each time."""
        torch.manual_seed(0)
        self.passes += _FORWARD
        return self._build.loss()

    def _unrehearsed(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        self._note("first updates", "not rehearsed", f"the optimizer's step failed: {words}")

    def _note(self, what: str, value: str, expected: str) -> None:
        self.notes.append(Evidence(what, value, expected, 0))


@contextmanager
def _stand_ins(build: Build) -> Iterator[dict[int, torch.Tensor]]:
    """Parameters to work on, by the id of those that they stand in for; all is put back after."""
    modules = list(build.model.modules())
    if isinstance(build.loss_fn, nn.Module):
        modules += [m for m in build.loss_fn.modules() if m not in modules]
    devices = {p.device for p in build.model.parameters() if p.is_cuda}
    forked = torch.random.fork_rng(list(devices))
    with forked, torch.enable_grad(), set_aside(modules) as stand_ins:
        for tensor in stand_ins.values():
            tensor.data = tensor.detach().clone()
        yield stand_ins


def _trained(build: Build, stand_ins: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    """The stand-ins of what the optimizer trains, or of all without one."""
    if build.optimizer is None:
        return list(stand_ins.values())
    held = [p for g in build.optimizer.param_groups for p in g["params"]]
    return [stand_ins[id(p)] for p in held if id(p) in stand_ins]


def _along(model: nn.Module) -> list[str]:
    """Names of the blocks at whose outputs the coherence is followed."""
    table = build_table([model])[0]
    return [table.layers[i].name for i in choose_blocks(table)]
