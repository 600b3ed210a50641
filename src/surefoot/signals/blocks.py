"""The scale of activations and their gradients at block outputs, on sampled steps."""

from __future__ import annotations

from surefoot.signals.quantity import Axis, Quantity

BLOCK_SCALE = Quantity(
    name="block_scale",
    axis=Axis.BLOCK,
    statistics=("activation_rms", "gradient_norm"),
    unit="as the activations; loss per unit of activation",
    formula="rms of a block's output; ||dL/d output||_F over the batch",
    cost="sampled steps only, at a rate that a measured time budget sets",
    source="Schoenholz et al. 2017: theory predicts the growth of the Frobenius norm",
    buckets=256,
)
