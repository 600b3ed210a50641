"""Layer normalisation before the activation."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from surefoot.remedies.features import standardised
from surefoot.remedies.normalization.placed import before_activations, spatial
from surefoot.remedies.subject import Subject
from surefoot.remedies.treatment import Treatment


class LayerNorm(Treatment):
    """(y - mean) / std over the features of each sample, without new parameters."""

    name = "normalization.layer_norm"
    why = "the activation sees mean zero and variance one in every sample, whatever the weights are"
    guarantee = "what goes into the activation has mean 0 and variance 1 over the features"
    formula = "phi((y - mean y) / sqrt(var y + 1e-5)), y = W x + b"
    source = "Ba, Kiros & Hinton 2016, equations 3 and 4"
    limits = (
        "beyond some thirty layers without skip connections: a net of a hundred layers did not "
        "train with it (0.13 of the training data right, by chance 0.10)",
        "where the scale over features is itself the signal",
        "behind the last layer, whose output is left as it is",
    )
    cost = "one normalisation a layer"
    conflicts: ClassVar = {"normalization": "one normalisation before an activation is enough"}

    def apply(self, subject: Subject) -> None:
        """Place it behind every affine layer that an activation follows."""
        for _, module in before_activations(subject, self.target):
            subject.wrap(module, partial(_normalised, spatial(module)))

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = act(nn.functional.layer_norm(y, y.shape[-1:]))   # y = layer(x)"


def _normalised(along_channels: bool, inner: Any, *args: Any, **kwargs: Any) -> Any:
    return standardised(inner(*args, **kwargs), along_channels)
