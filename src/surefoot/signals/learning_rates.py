"""The learning rate of every parameter group, as the optimizer is about to use it."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.signals.quantity import Axis, Quantity

LEARNING_RATE = Quantity(
    name="learning_rate",
    axis=Axis.GROUP,
    statistics=("lr",),
    unit="1",
    formula="param_group['lr'] in the step-pre-hook",
    cost="one attribute read a group and step",
    source="torch.optim.Optimizer.param_groups",
)


def read_learning_rates(groups: list[dict[str, Any]], out: np.ndarray) -> None:
    """Write each group's learning rate into `out` [G]; NaN where a group has none."""
    for i, group in enumerate(groups):
        lr = group.get("lr")
        out[i] = np.nan if lr is None else float(lr)
