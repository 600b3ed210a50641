"""The gradient of every parameter at every step, from one native pass over all `.grad`."""

from __future__ import annotations

from surefoot.signals.quantity import Axis, Quantity

GRADIENT_NORM = Quantity(
    name="gradient_norm",
    axis=Axis.PARAMETER,
    statistics=("norm",),
    unit="loss per unit of the parameter",
    formula="sqrt(sum g^2) over the finite elements, accumulated in double; NaN: no gradient",
    cost="every step, shared with gradient_detail: one read of all gradients",
    source="definition; PERFORMANCE.md P1 on why not in float32",
)

GRADIENT_DETAIL = Quantity(
    name="gradient_detail",
    axis=Axis.PARAMETER,
    statistics=("maxabs", "mean", "nonfinite", "zeros"),
    unit="as the gradient; counts",
    formula="max |g|, mean g over the finite elements; number of non-finite and of zero elements",
    cost="every step, from the same read as gradient_norm",
    source="definition",
)
