"""The short training of an experiment, watched as any other is, but without touching PyTorch.

A session listens to the whole process. Here the training is told of its steps by hand, so that
several threads may serve a page, and a run that is watched beside it hears nothing.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import nn

from surefoot.build import Build
from surefoot.diagnosis.diagnose import diagnose
from surefoot.environment import describe
from surefoot.lab.choices import Choices
from surefoot.record.data import RunData
from surefoot.watching.budget import Budget
from surefoot.watching.training import Training
from surefoot.watching.unheard import unheard_backward

_SECONDS = 0.4  # for all steps, by the estimate below
_LAYER, _WEIGHT = 3e-4, 6e-9  # seconds of a step for each layer and for each weight
_FEWEST, _MOST = 12, 60  # below 12 a loss tells no progress from noise
_SEEN_AGAIN = 2  # steps that turned bad
_PATIENCE = 4.0  # seconds after which a machine that is overloaded is spared the rest


def steps_of(choices: Choices) -> int:
    """How many steps are taken: by the size of the network, so that it is the same each time.

    >>> steps_of(Choices()), steps_of(Choices(depth=64, width=256))
    (60, 12)
    """
    one = choices.depth * (_LAYER + _WEIGHT * choices.width**2)
    return max(_FEWEST, min(_MOST, int(_SECONDS / one)))


def batch_of(choices: Choices) -> int:
    """Samples in a batch, fewer for larger networks; 32 are what the coherence needs."""
    if choices.depth * choices.width**2 > 1_000_000:
        return 32
    return 128 if choices.depth <= 20 and choices.width <= 128 else 64


def optimizer_of(choices: Choices, model: nn.Module) -> torch.optim.Optimizer:
    """The chosen optimizer."""
    rate = choices.learning_rate
    if choices.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    momentum = 0.9 if choices.optimizer == "momentum" else 0.0
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, fused=True)


def train(build: Build, steps: int) -> RunData:
    """Take `steps` steps over `build.loader` and return what was seen of them.

    Fewer only where they take more than four seconds; the report says how many were seen.
    """
    model, optimizer = build.model, build.optimizer
    assert optimizer is not None
    parameters: list[torch.Tensor] = list(model.parameters())
    training = Training(0, [model], parameters, None, forensics=False)
    training.budget = _Counted(steps)
    training.took(optimizer)
    began = time.perf_counter()
    try:
        for batch, _ in zip(build.batches(), range(steps), strict=False):
            unheard_backward(training, build.on(batch).loss(), parameters)
            training.before_step(optimizer, optimizer.param_groups)
            optimizer.step()
            training.after_step(optimizer)
            if time.perf_counter() - began > _PATIENCE:
                break
    finally:
        training.stop()
    case, environment = training.case(), describe()
    report = replace(diagnose(case), surefoot=environment.get("surefoot", ""))
    name, events = f"training of {case.layers.model}", (*case.alarms, *training.ledger.acts)
    return RunData(name, report, case.layers, case.series, case.flows, events, environment)


def losses(data: RunData) -> list[float]:
    """The loss of every step that was watched, each before its update."""
    return [float(x) for x in data.series["loss"].last[:, 0]]


class _Counted(Budget):
    """What detail may cost, counted in steps of the training instead of in seconds.

    The clock decides nothing then, and the same choices show the same.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.typical = 1.0
        # The last step that can be seen in full; of the largest networks it would take too long.
        self._last = 4 ** int(math.log(steps - 1, 4)) if steps > 16 else 0
        self._step = self._seen_again = 0

    def affordable(self, cost: float) -> bool:
        """Samples always, one more step in full, and two that turned bad seen again."""
        if cost <= self.typical:
            return cost < self.typical or self._step == self._last
        self._seen_again += 1
        return self._seen_again <= _SEEN_AGAIN

    def step_ended(self) -> None:
        """A step takes one step."""
        self._step += 1
