"""Normalisation over features without parameters: the last dimension, or the channels."""

from __future__ import annotations

import torch


def standardised(x: torch.Tensor, spatial: bool) -> torch.Tensor:
    """Mean 0 and variance 1 over the features of each sample, or of each of its places.

    spatial: features are along dimension 1, as convolutions have them.

    >>> standardised(torch.tensor([[1.0, 3.0]]), spatial=False).round(decimals=3)
    tensor([[-1.,  1.]])
    """
    if not spatial:
        return torch.nn.functional.layer_norm(x, x.shape[-1:])
    last = x.movedim(1, -1)
    return torch.nn.functional.layer_norm(last, last.shape[-1:]).movedim(-1, 1)
