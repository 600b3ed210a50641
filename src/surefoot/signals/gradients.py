"""The gradient of every parameter at every step, from one native pass over all `.grad`."""

from __future__ import annotations

import numpy as np

from surefoot.kernels import STATISTICS
from surefoot.signals.quantity import Axis, Quantity, Step


def _statistics(step: Step, out: np.ndarray) -> None:
    out[:] = step.gradients.reshape(-1)


GRADIENT = Quantity(
    name="gradient",
    axis=Axis.PARAMETER,
    statistics=STATISTICS,
    unit="loss per unit of the parameter; nonfinite and zeros are counts",
    formula="norm sqrt(sum g^2), max |g| and mean g over the finite elements, in double; number of "
    "non-finite and of zero elements; all NaN: no gradient",
    cost="every step: one read of all gradients",
    source="definition; in float32 a norm of 1e-30 would be 0, and 1e25 infinite",
    buckets=1024,
    measure=_statistics,
)
