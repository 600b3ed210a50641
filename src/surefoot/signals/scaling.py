"""GradScaler's factor on the loss, and the steps that it refused since the last row."""

from __future__ import annotations

import math

import numpy as np

from surefoot.signals.quantity import Axis, Quantity, Step


def _scaling(step: Step, out: np.ndarray) -> None:
    """[scale, refused]: NaN and 0 without a GradScaler."""
    out[0] = math.nan if step.scale is None else step.scale
    out[1] = step.refused


LOSS_SCALING = Quantity(
    name="loss_scaling",
    axis=Axis.STEP,
    statistics=("scale", "refused"),
    unit="1; 1 for a step that was refused, else 0",
    formula="GradScaler.get_scale() as it scales the loss; refused: scaler.step() took no step, or "
    "told a fused optimizer of a non-finite gradient",
    cost="nothing beyond the call that the script makes",
    source="torch.amp.GradScaler; Micikevicius et al. 2018 (loss scaling)",
    buckets=1024,
    measure=_scaling,
)
