"""Statistics of a whole from those of its parts, for many tensors at once."""

from __future__ import annotations

import numpy as np

from surefoot.kernels import MAXABS, MEAN, NONFINITE, NORM, ZEROS

_NUMEL = ZEROS + 1


def fold(pieces: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """[T, 5] of the wholes, from [R, T, 6]: the five statistics of each part and its elements.

    mine [R, T]: which of them are parts of it. A part without a gradient counts for nothing; of
    nothing but such the row is NaN.

    >>> five = [[[3.0, 3.0, 1.0, 0.0, 2.0, 3.0]], [[4.0, 4.0, 2.0, 1.0, 0.0, 3.0]]]
    >>> fold(np.array(five), np.ones((2, 1), bool)).tolist()
    [[5.0, 4.0, 1.4, 1.0, 2.0]]
    """
    there = mine & ~np.isnan(pieces[:, :, NORM])
    parts = np.where(there[:, :, None], pieces, 0.0)
    out = np.empty((pieces.shape[1], _NUMEL))
    out[:, MAXABS] = parts[:, :, MAXABS].max(0)
    # By the largest, so that no square leaves the range of a float64.
    largest = parts[:, :, NORM].max(0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    out[:, NORM] = np.sqrt(((parts[:, :, NORM] / scale) ** 2).sum(0)) * scale
    finite = parts[:, :, _NUMEL] - parts[:, :, NONFINITE]
    total = finite.sum(0)
    weighted = (parts[:, :, MEAN] * finite).sum(0)
    out[:, MEAN] = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    out[:, NONFINITE] = parts[:, :, NONFINITE].sum(0)
    out[:, ZEROS] = parts[:, :, ZEROS].sum(0)
    out[~there.any(0)] = np.nan
    return out


def fold_samples(
    pieces: np.ndarray, mine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Update ratio, unmoved share, weight's rms [T] and second moment [T, 2] of the wholes.

    pieces [R, T, 7]: the same of each part, the share of its elements that the optimizer uses, and
    their number. NaN where a part that has elements was not measured.

    >>> one, two = [0.1, np.nan, 3.0, 1.0, 0.0, 1.0, 10], [0.2, np.nan, 4.0, 1.0, 0.5, 1.0, 10]
    >>> made = fold_samples(np.array([[one], [two]]), np.ones((2, 1), bool))
    >>> [x.round(4).tolist() for x in made]  # sqrt(0.3^2 + 0.8^2) / 5, sqrt(12.5)
    [[0.1709], [nan], [3.5355], [[1.0, 0.25]]]
    """
    sizes = np.where(mine, pieces[:, :, 6], 0.0)
    counted = np.where(sizes[:, :, None] > 0, pieces[:, :, :6], 0.0)
    ratio, unmoved, weight, moment, below, used = np.moveaxis(counted, 2, 0)
    total = np.where(sizes.sum(0) > 0, sizes.sum(0), np.nan)
    squares, in_use = sizes * weight**2, sizes * used
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.sqrt((ratio**2 * squares).sum(0) / squares.sum(0))
        shares = (below * in_use).sum(0) / in_use.sum(0)
    rms = np.sqrt((sizes * moment**2).sum(0) / total)
    size = np.sqrt(squares.sum(0) / total)
    return moved, (sizes * unmoved).sum(0) / total, size, np.stack([rms, shares], 1)
