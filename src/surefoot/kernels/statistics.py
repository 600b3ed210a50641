"""What a pass over tensors yields: five statistics a tensor, and how a caller asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

NORM, MAXABS, MEAN, NONFINITE, ZEROS = range(5)
STATISTICS = ("norm", "maxabs", "mean", "nonfinite", "zeros")


class Pass(Protocol):
    """One read over a list of tensors. Each caller makes its own; it keeps no tensor alive."""

    @property
    def name(self) -> str:
        """Which kernel this is: "native-avx512", "eager", "native-avx2+triton" or the like."""
        ...

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`, C-contiguous float64 of shape [len(tensors), 5], one row a tensor.

        norm: square root of the sum of squares of the finite elements, in double; maxabs: the
        largest finite magnitude; mean: over the finite elements; nonfinite: how many are not;
        zeros: how many are exactly zero. Within 1e-6 relative of the same in float64 (the mean:
        of the mean magnitude, where it is itself a small difference of large sums).
        None gives a row of NaN, and so does a tensor without data (meta); an empty or entirely
        non-finite tensor gives zeros. A sparse tensor counts with its implied zeros, a DTensor by
        its local shard, a complex one by its magnitudes and the mean of its real part.

        Raises:
            ValueError: `out` has another shape, dtype or layout.
        """
        ...


def check_out(out: np.ndarray, count: int) -> None:
    """Raise ValueError unless `out` can take the rows of `count` tensors in place."""
    wanted = (count, len(STATISTICS))
    if out.shape == wanted and out.dtype == np.float64 and out.flags.carray:
        return
    raise ValueError(
        f"out must be a writable C-contiguous float64 array of shape {wanted}, got {out.dtype} "
        f"{out.shape}, contiguous={out.flags.c_contiguous}, writable={out.flags.writeable}; "
        "make it with numpy.empty((len(tensors), 5)) once and hand in the same each step"
    )
