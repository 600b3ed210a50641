"""The learning rate of every parameter group, as the optimizer is about to use it."""

from __future__ import annotations

import math

import numpy as np

from surefoot.signals.quantity import Axis, Quantity, Step


def _rates(step: Step, out: np.ndarray) -> None:
    """Each group's learning rate [G], NaN where a group has none."""
    for i in range(len(out)):
        lr = step.groups[i].get("lr") if i < len(step.groups) else None
        out[i] = math.nan if lr is None else float(lr)


LEARNING_RATE = Quantity(
    name="learning_rate",
    axis=Axis.GROUP,
    statistics=("lr",),
    unit="1",
    formula="param_group['lr'] in the step-pre-hook",
    cost="one attribute read a group and step",
    source="torch.optim.Optimizer.param_groups",
    buckets=512,
    measure=_rates,
)
