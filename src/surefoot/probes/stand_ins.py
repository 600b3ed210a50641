"""Copies of a model's parameters to work on: what is tried on them the training never notices."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from surefoot.probes.aside import set_aside


@contextmanager
def working_copies(model: nn.Module) -> Iterator[dict[int, torch.Tensor]]:
    """id(parameter) -> the copy that stands in for it, which may be written on.

    Afterwards parameters, buffers, hooks, modes and random numbers are as they were. Raises
    Refused where the model keeps what cannot be put back.
    """
    modes = [(m, m.training) for m in model.modules()]
    with torch.enable_grad(), set_aside(list(model.modules())) as stand_ins:
        try:
            for tensor in stand_ins.values():
                tensor.data = tensor.detach().clone()  # an alias of a large one shares its memory
            yield stand_ins
        finally:
            for module, training in modes:
                module.training = training


def drawn_alike(
    loss: Callable[[int], torch.Tensor],
) -> Callable[[int], torch.Tensor]:
    """The loss [] of batch k, with the same random numbers each time that k is asked for."""

    def again(k: int) -> torch.Tensor:
        torch.manual_seed(k)
        random.seed(k)
        np.random.seed(k)
        value = loss(k)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            what = (
                f"a tensor of shape {list(value.shape)}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ValueError(f"expected the loss as one number in a tensor, got {what}")
        return value.reshape(())

    return again


def gradients(
    loss: torch.Tensor, parameters: list[torch.Tensor], graph: bool = False, keep: bool = False
) -> list[torch.Tensor | None]:
    """The gradient at each parameter, None where none arrives; `.grad` stays as it is.

    graph: whether it will be differentiated once more; keep: whether the loss will be.
    """
    if not loss.requires_grad or not parameters:
        return [None] * len(parameters)
    found = torch.autograd.grad(
        loss, parameters, allow_unused=True, create_graph=graph, retain_graph=graph or keep
    )
    return list(found)
