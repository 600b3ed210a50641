"""One pass over the gradients of a step and what entered the model, and a row of every quantity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from surefoot.attach.readings import offer
from surefoot.kernels import NONFINITE, NORM, make_pass
from surefoot.kernels.pieces import piece
from surefoot.signals import QUANTITIES, Step
from surefoot.watching.places import Places
from surefoot.watching.scaling import Scaling
from surefoot.watching.shards import Shards

_INPUTS = 8  # tensors that enter the model whose scale is read at every step
_MEASURES = [(q.name, q.measure) for q in QUANTITIES.values() if q.measure is not None]


class Measuring:
    """The buffers of the hot path, made once. norms, bad [P]: of the step under way, views of
    `row` [P + 1, 5]; now: what the quantities read."""

    def __init__(self, places: Places, shards: Shards | None) -> None:
        count = len(places.all)
        self._places, self._shards = places, shards
        self._pass = make_pass(count + _INPUTS)
        self._out = np.empty((count + _INPUTS, 5))
        # One row more than parameters: an optimizer's tensors that are not in the table end there.
        self.row = np.full((count + 1, 5), np.nan)
        self.norms, self.bad = self.row[:-1, NORM], self.row[:-1, NONFINITE]
        self.now = Step(self.row[:-1], self._out[:0])

    def about(self, loss: float | None, scaling: Scaling) -> None:
        """What is known of the step besides."""
        self.now.loss, self.now.scale, self.now.refused = loss, scaling.scale, scaling.now

    def read(
        self,
        optimizer: Any,
        order: np.ndarray,
        gradients: list[Any],
        inputs: list[torch.Tensor],
        first: bool,
        sampling: bool,
    ) -> bool:
        """Measure an optimizer's gradients, which stand at the places `order`, and the inputs.

        first: whether it is the first optimizer of the step; the rows of others are kept. sampling:
        whether the weights are to be sampled in this step; returns whether they are, for ranks
        that share parameters do so together.
        """
        inputs = inputs[:_INPUTS]
        count, size = len(gradients), len(gradients) + len(inputs)
        if size > len(self._out):  # a group was added: what it trains is not in the table
            self._out = np.empty((size, 5))
        out = self._out[:size]
        if self._shards is None:
            self._pass(gradients + inputs, out)
        else:
            inputs = list(map(piece, inputs))
            sampling = self._shards.read(self._pass, gradients, inputs, order, out, sampling)
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer under GradScaler sees scaled gradients
            out[:count, :3] /= float(scale)
        offer(optimizer, out[:count], self.now.loss, self.now.scale)
        if order is self._places.all:  # the usual optimizer holds them in the table's order
            self.row[:-1] = out[:count]
        else:
            if first:
                self.row.fill(np.nan)
            self.row[order] = out[:count]
        self.now.inputs, self.now.elements = out[count:], sum(t.numel() for t in inputs)
        return sampling

    def read_inputs(self, inputs: list[torch.Tensor]) -> None:
        """Measure them alone."""
        inputs = inputs[:_INPUTS]
        self._pass(list(inputs), out := self._out[: len(inputs)])
        self.now.inputs, self.now.elements = out, sum(t.numel() for t in inputs)

    def note(self, groups: list[dict[str, Any]], rows: dict[str, np.ndarray]) -> None:
        """Fill the row of every quantity from what was read and from `now`."""
        self.now.groups = groups
        for name, measure in _MEASURES:
            measure(self.now, rows[name])
        self.now.groups = []  # nothing of the run's is kept between two steps
