"""What is measured, one file a quantity: formula, columns, unit, cost, source.

To add one, write its file and add its line to QUANTITIES; the record, the documentation page and
the shared tests pick it up from there.
"""

from __future__ import annotations

from surefoot.signals.blocks import BLOCK_SCALE
from surefoot.signals.gradients import GRADIENT
from surefoot.signals.inputs import INPUT
from surefoot.signals.learning_rates import LEARNING_RATE
from surefoot.signals.loss import LOSS
from surefoot.signals.magnitudes import GRADIENT_MAGNITUDE
from surefoot.signals.quantity import Axis, Quantity, Step
from surefoot.signals.scaling import LOSS_SCALING
from surefoot.signals.second_moment import SECOND_MOMENT
from surefoot.signals.unmoved import UNMOVED
from surefoot.signals.updates import UPDATE_RATIO
from surefoot.signals.weights import WEIGHT

QUANTITIES: dict[str, Quantity] = {
    q.name: q
    for q in (
        LOSS,
        LEARNING_RATE,
        LOSS_SCALING,
        INPUT,
        GRADIENT,
        GRADIENT_MAGNITUDE,
        UPDATE_RATIO,
        UNMOVED,
        SECOND_MOMENT,
        WEIGHT,
        BLOCK_SCALE,
    )
}

__all__ = ["QUANTITIES", "Axis", "Quantity", "Step"]
