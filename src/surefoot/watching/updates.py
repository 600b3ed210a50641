"""How far the weights move at sampled steps: noted before the optimizer acts, measured after it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from surefoot.signals.magnitudes import gradient_magnitudes
from surefoot.signals.second_moment import second_moments
from surefoot.signals.unmoved import unmoved_shares
from surefoot.signals.updates import Weights, sample_weights, update_ratios
from surefoot.signals.weights import weight_sizes
from surefoot.watching.ledger import Ledger

_HALF = (torch.float16, torch.bfloat16)
_FIRST, _EVERY = 16, 64  # samples with a histogram of the gradients: it is a wide row to keep


class Updates:
    """Update-to-weight ratios of `count` parameters. Holds no parameter between two steps.

    rows: of the step under way, by quantity, [count + 1, k]; used [count + 1]: the share of the
    elements of which the optimizer keeps a second moment.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._samples = 0
        self._weights: Weights | None = None
        self._of: list[weakref.ref[torch.Tensor]] = []
        self.rows: dict[str, np.ndarray] = {}
        self.used = np.full(count + 1, np.nan)

    def sample(self, parameters: list[torch.Tensor]) -> None:
        """Note where the weights stand."""
        self._of = [weakref.ref(p) for p in parameters]
        self._weights = sample_weights(parameters)

    def sample_moments(
        self, optimizer: Any, parameters: list[torch.Tensor], order: np.ndarray
    ) -> None:
        """Note the weights' sizes, how well the second moment fits, and now and then in which
        octaves the gradients lie."""
        used = np.empty(len(parameters))
        with np.errstate(
            all="ignore"
        ):  # that a gradient is not finite is not for the script to hear
            found = second_moments(optimizer, parameters, np.empty((len(parameters), 2)), used)
        if len(used) == len(order):
            self.used[order] = used
        sizes = weight_sizes(self._weights) if self._weights is not None else None
        octaves = None
        if self._samples < _FIRST or self._samples % _EVERY == 0:
            scale = getattr(optimizer, "grad_scale", None)
            octaves = gradient_magnitudes(parameters, None if scale is None else float(scale))
        self._samples += 1
        noted = (("second_moment", found), ("weight", sizes), ("gradient_magnitude", octaves))
        for name, values in noted:
            if values is not None and len(values) == len(order):
                self._note(name, order, values)

    @property
    def pending(self) -> bool:
        """Whether the weights were sampled and not yet measured again."""
        return self._weights is not None

    def measure(self, order: Callable[[list[torch.Tensor]], np.ndarray]) -> bool:
        """Note the ratios, NaN for what was not sampled, and for parameters in half precision what
        did not move at all. False if there is nothing to compare with.

        `order` gives the places of the parameters in the table, -1 for foreign ones.
        """
        before, self._weights = self._weights, None
        parameters = [p for ref in self._of if (p := ref()) is not None]
        if before is None or len(parameters) != len(before.sizes):
            return False
        after, places = sample_weights(parameters), order(parameters)
        ratios = np.empty(len(parameters))
        update_ratios(before, after, ratios)
        self._note("update_ratio", places, ratios)
        half = [p.dtype in _HALF for p in parameters]
        if any(half) and before.sizes == after.sizes:
            shares = np.where(half, unmoved_shares(before, after), np.nan)
            self._note("unmoved", places, shares)
        return True

    def _note(self, name: str, places: np.ndarray, values: np.ndarray) -> None:
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = np.full((self._count + 1, *values.shape[1:]), np.nan)
        row[places] = values

    def put(self, ledger: Ledger, step: int) -> None:
        """Put it into the ledger: one row of a step, however many optimizers have taken it."""
        for name, row in self.rows.items():
            ledger.put(step, name, row[:-1].reshape(-1))
        self.rows.clear()

    def clear(self) -> None:
        """Forget what was sampled."""
        self._weights, self._of = None, []
        self.rows.clear()
