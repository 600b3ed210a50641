"""The batch as the model receives it: its scale at every step, so that a bad one stands out."""

from __future__ import annotations

import math

import numpy as np

from surefoot.signals.quantity import Axis, Quantity, Step


def _scale(step: Step, out: np.ndarray) -> None:
    """[rms, maxabs, nonfinite] over all the step's inputs, NaN without any."""
    squares, largest, bad = 0.0, math.nan, 0.0
    for norm, maxabs, _, nonfinite, _ in step.inputs.tolist():
        squares += norm * norm
        largest = max(maxabs, largest)  # a NaN gives way
        bad += nonfinite
    seen = len(step.inputs) > 0
    out[0] = math.sqrt(squares / max(step.elements, 1)) if seen else math.nan
    out[1] = largest
    out[2] = bad if seen else math.nan


INPUT = Quantity(
    name="input",
    axis=Axis.STEP,
    statistics=("rms", "maxabs", "nonfinite"),
    unit="as the data; count",
    formula="over the first 8 floating-point tensors that enter the model's forward in a step; of "
    "a sparse one over what it stores",
    cost="every step: one read of the batch, together with the gradients",
    source="definition",
    buckets=1024,
    measure=_scale,
)
