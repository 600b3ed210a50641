"""A step made again while its weights still stand: on an alarm, or where no hook could see it.

The modules of a compiled model run inside a graph. To put an operator of our own in there would
cost less than another pass, but change the numbers: what it looks at has to be stored, and is no
longer fused with what follows. So their step is made again on copies, eagerly, from what went into
the model, as a step that turned bad is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from surefoot.signals.flow import Call, Flow
from surefoot.watching.forensics import Forensics
from surefoot.watching.ledger import Ledger
from surefoot.watching.taps import Taps

Gradients = dict[int, torch.Tensor]
IN_BACKWARD = "the optimizers act in the middle of backward: the weights have moved"


class Again:
    """The deliberate passes of one training."""

    def __init__(self, taps: Taps, forensics: Forensics, ledger: Ledger) -> None:
        self._taps, self._forensics, self._ledger = taps, forensics, ledger

    def replay(
        self, step: int, own: Gradients | None, search: bool, anatomy: Mapping[str, Any]
    ) -> str:
        """Replay the step under way; returns what came of it in words.

        own: id(parameter) -> its gradient, None where weights have moved already.
        """
        words, flow = self._made(step, own, search)
        if flow is not None:
            flow.loss = dict(anatomy)
            self._ledger.flow(flow)
        return words

    def flow(self, step: int, own: Gradients | None) -> Flow | None:
        """The flow of the step under way, where it could not be seen as it ran.

        It fills in for the sample of the blocks as well. None where it cannot be made again.
        """
        tap = self._taps.entry
        overflowed = tap is not None and tap.overflowed
        if tap is not None:  # of more calls in one step than are kept, those that were will do
            tap.overflowed = False
        words, flow = self._made(step, own, search=False)
        if tap is not None:
            tap.overflowed = overflowed
        self._taps.blind = words if flow is None else ""
        if flow is not None:
            flow.replayed = False  # it stands for the step itself
            self._ledger.put(step, "block_scale", block_scales(flow, self._taps.blocks))
        return flow

    def _made(self, step: int, own: Gradients | None, search: bool) -> tuple[str, Flow | None]:
        if not self._forensics.allowed:
            return "forbidden by option", None
        if own is None:
            return IN_BACKWARD, None
        entry, modules = self._taps.entry, self._taps.modules()
        if entry is None or modules is None:
            running = self._taps.instrumented
            words = "the step was instrumented as it ran" if running else "no entry module seen"
            return words, None
        return self._forensics.replay(step, entry, self._ledger.layers, modules, own, search)


def block_scales(flow: Flow, blocks: list[int]) -> np.ndarray:
    """[2 B] as `BlockTap.out` has it, from the last call of each block; NaN if not called."""
    last: dict[int, Call] = {call.layer: call for call in flow.calls}
    out = np.full((len(blocks), 2), np.nan)
    for row, layer in zip(out, blocks, strict=True):
        call = last.get(layer)
        if call is not None and call.output is not None:
            row[0] = call.output.norm / max(call.output.numel, 1) ** 0.5
        if call is not None and call.grad_output is not None:
            row[1] = call.grad_output.norm
    return out.reshape(-1)
