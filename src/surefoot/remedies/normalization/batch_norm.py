"""Batch normalisation before the activation."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.remedies.normalization.placed import before_activations, spatial
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

MEAN, VARIANCE = "running_batch_mean", "running_batch_variance"
_GROWTH = "without skip connections the gradient's norm grows by sqrt(pi / (pi - 1)) = 1.21 a "
_GROWTH += "layer towards the input (ReLU), whatever the weights are"


class BatchNorm(Treatment):
    """(y - mean) / std of each feature over the batch; running statistics where not training."""

    name = "normalization.batch_norm"
    why = "the activation sees mean zero and variance one in every feature, whatever weights it has"
    guarantee = "in training, each feature has mean 0 and variance 1 over the batch"
    formula = "phi((y - mean_B y) / sqrt(var_B y + 1e-5)), y = W x + b"
    source = "Ioffe & Szegedy 2015, algorithm 1; what it does at depth: Yang et al. 2019"
    limits = (
        f"against exploding gradients in a deep net: {_GROWTH} (Yang et al. 2019)",
        "in batches of a few samples, whose statistics are noise; of one, which has none",
        "behind the last layer, whose output is left as it is",
    )
    cost = "one normalisation a layer; two buffers of its width"
    conflicts: ClassVar = {
        "normalization": "one normalisation before an activation is enough",
        "init": "batch normalisation undoes the scale of the weights",
    }

    def apply(self, subject: Subject) -> None:
        """Place it behind every affine layer that an activation follows."""
        for _, module in before_activations(subject, self.target):
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            width = _width(module)
            _buffer(subject, module, MEAN, weight.new_zeros(width))
            _buffer(subject, module, VARIANCE, weight.new_ones(width))
            subject.wrap(module, partial(_normalised, module))

    def code(self) -> str:
        """Itself as code to paste."""
        return "nn.Sequential(layer, nn.BatchNorm1d(layer.out_features), act)   # and a skip"


def _width(module: nn.Module) -> int:
    """How many features the module gives out."""
    for name in ("out_features", "out_channels", "nf"):  # nf: transformers' Conv1D
        if isinstance(width := getattr(module, name, None), int):
            return width
    raise NotApplicable(f"the width of a {type(module).__name__} is not known")


def _buffer(subject: Subject, module: nn.Module, name: str, value: torch.Tensor) -> None:
    if hasattr(module, name):
        raise NotApplicable(f"{type(module).__name__} has an attribute {name!r} already")
    module.register_buffer(name, value.detach())
    subject.on_undo(lambda: module._buffers.pop(name, None))


def _normalised(module: nn.Module, inner: Any, *args: Any, **kwargs: Any) -> Any:
    y = inner(*args, **kwargs)
    module = getattr(inner, "__self__", module)  # a copy of the model has buffers of its own
    mean, variance = module.get_buffer(MEAN), module.get_buffer(VARIANCE)
    alone = y.numel() == mean.numel()  # one sample, of which there is no variance
    rows = y if spatial(module) else y.reshape(-1, y.shape[-1])
    weight = module.get_parameter("weight")
    if spatial(module) and y.dim() == weight.dim() - 1:  # without a batch
        rows = y.unsqueeze(0)
    training = module.training and not alone
    rows = nn.functional.batch_norm(rows, mean, variance, training=training)
    return rows.reshape(y.shape)
