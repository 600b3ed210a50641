"""The loss of a step: read where backward is called, before that frees its graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import torch

from surefoot.kernels.pieces import is_distributed, piece
from surefoot.probes.collectives import Silence
from surefoot.probes.origin import half_in_loss, undefined_in_loss
from surefoot.signals.loss import anatomy, together
from surefoot.watching.training import Training

_LOG = logging.getLogger("surefoot")
LeftOut = Callable[[torch.Tensor], tuple[float, list[str]]]


class Losses:
    """Of the backward calls since the last step, added up; without GradScaler's factor.

    value: None where no scalar was differentiated; scale: the factor on the latest, None without.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self.scale: float | None = None
        self.taken = True  # an optimizer has stepped since the last backward
        self._anatomy: dict[str, Any] = {}
        self._scales: dict[int, float] = {}

    def scaled(self, scaled: Any, scale: float) -> None:
        """Remember the factor that GradScaler put on a loss."""
        if isinstance(scaled, torch.Tensor):
            self._scales = {id(scaled): scale}

    def begin(self) -> None:
        """The first backward of a step."""
        self.taken, self.value, self._anatomy = False, None, {}

    def read(
        self, tensor: torch.Tensor, trainings: Collection[Training], left_out: LeftOut | None
    ) -> None:
        """Add a loss [], and tell the trainings how it is made.

        left_out: the share of its weights that nobody trains, asked for where that can be known.
        """
        scale = self._scales.get(id(tensor), 1.0)
        self.scale = scale if self._scales else None
        if is_distributed(tensor):  # what is known of it here without asking the other ranks
            if all(p.is_replicate() for p in getattr(tensor, "placements", ())):
                self.value = float(piece(tensor).item()) / scale + (self.value or 0.0)
            return
        value = float(tensor.item()) / scale
        self.value = value + (self.value or 0.0)
        if not any(t.shards is not None for t in trainings):
            self._explain(tensor, value, scale, trainings, left_out)
            return
        try:
            with Silence():
                self._explain(tensor, value, scale, trainings, None)
        except Exception:  # its graph holds tensors that lie on several ranks
            _LOG.debug("a loss is not read in full", exc_info=True)

    def _explain(
        self,
        tensor: torch.Tensor,
        value: float,
        scale: float,
        trainings: Collection[Training],
        left_out: LeftOut | None,
    ) -> None:
        for training in trainings:
            training.read_loss(tensor, scale)
        finite = abs(value) < float("inf")
        if finite and not any(t.wants_anatomy for t in trainings):
            return
        found = anatomy(tensor).to_json()
        found["value"] = value
        found["multiplier"] /= scale
        for name in ("trivial", "floor"):
            if found[name] is not None:
                found[name] /= scale
        found["undefined"] = undefined_in_loss(tensor)
        if not finite:
            found["half"] = half_in_loss(tensor)
        elif left_out is not None and any(t.step >= 2 for t in trainings):
            found["left_out"], found["left_out_layers"] = left_out(tensor)
        # Of several backward calls before one step the losses are added up, and so is this.
        self._anatomy = found = together(self._anatomy, found)
        for training in trainings:
            if training.wants_anatomy or not finite:
                training.anatomy = found
