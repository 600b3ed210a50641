"""The batch as the model receives it: its scale at every step, so that a bad one stands out."""

from __future__ import annotations

from surefoot.signals.quantity import Axis, Quantity

INPUT = Quantity(
    name="input",
    axis=Axis.STEP,
    statistics=("rms", "maxabs", "nonfinite"),
    unit="as the data; count",
    formula="over all floating-point tensors that enter the model's forward in a step",
    cost="every step: one read of the batch by the native kernel",
    source="definition",
)
