"""Mean and deviation of an input, for each of its columns or channels."""

from __future__ import annotations

import torch

_FEW = 8  # samples of a column that are too few to tell its deviation
_CONSTANT = 1e-6  # deviation, as a share of the column's size, that is rounding only
_EXTREME = 1e3  # times the distance that nine in ten values keep from the median
_LOOKED_AT = 1 << 16  # values of a column that are sorted


def axis_of(shape: tuple[int, ...], channels: frozenset[int] = frozenset()) -> int | None:
    """The axis whose entries are measured in units of their own; None for no such axis.

    Columns of [N, F], channels of images and volumes, features of sequences [N, T, F], unless the
    model has 1-D convolutions of as many `channels` as the second axis has.

    >>> axis_of((8, 3)), axis_of((8, 3, 5, 5)), axis_of((8, 20, 4)), axis_of((8,))
    (1, 1, 2, None)
    """
    if len(shape) < 2:
        return None
    if len(shape) == 3:
        return 1 if shape[1] in channels and shape[2] not in channels else 2
    return 1


def statistics(
    x: torch.Tensor, channels: frozenset[int] = frozenset()
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, deviation), of a shape that broadcasts with x; float64, on the host.

    What is not finite or extreme is left out. The deviation of a constant is one. Where a column
    has fewer than eight samples, all share their statistics.

    >>> mean, deviation = statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]] * 4))
    >>> mean.tolist(), deviation[0, 1].item()
    ([[2.0, 5.0]], 1.0)
    """
    axis = axis_of(tuple(x.shape), channels)
    wide = x.detach().to("cpu", torch.float64)
    if axis is None or wide.numel() < _FEW * wide.shape[axis]:
        shape, columns = [1] * wide.dim(), wide.reshape(-1, 1)
    else:
        shape = [n if i == axis else 1 for i, n in enumerate(wide.shape)]
        columns = wide.movedim(axis, -1).reshape(-1, wide.shape[axis])
    kept = _ordinary(columns)
    zero, count = columns.new_zeros(()), kept.sum(0)
    mean = torch.where(kept, columns, zero).sum(0) / count.clamp(min=1)
    squares = torch.where(kept, columns - mean, zero).square().sum(0)
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    size = torch.where(kept, columns, zero).abs().amax(0)
    deviation = torch.where(deviation > _CONSTANT * size, deviation, torch.ones_like(deviation))
    return mean.reshape(shape), deviation.reshape(shape)


def _ordinary(columns: torch.Tensor) -> torch.Tensor:
    """Which values of [M, C] are finite and not extreme within their column."""
    finite = torch.isfinite(columns)
    some = columns[:: max(1, len(columns) // _LOOKED_AT)]
    middle = some.nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=torch.nan).nanmedian(0).values
    away = torch.where(torch.isfinite(some), (some - middle).abs(), torch.inf).sort(0).values
    usual = away[int(0.9 * (len(away) - 1))]
    # A column that hardly ever differs from its median has no usual distance to compare with.
    bound = torch.where((usual > 0) & torch.isfinite(usual), _EXTREME * usual, torch.inf)
    return finite & ((columns - middle).abs() <= bound)
