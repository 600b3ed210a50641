"""What came of a replay, in words: they go into the record beside the alarm that it was for."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from surefoot.attach.distributed import alone
from surefoot.layers import LayerTable
from surefoot.probes.collectives import Silence, refusal
from surefoot.probes.replay import Replay, replay
from surefoot.probes.safely import in_words
from surefoot.probes.tap import EntryTap
from surefoot.signals.criterion import Criterion
from surefoot.signals.flow import Flow

_COMPARED = {True: "exact", False: "not bit-identical", None: "made, and not compared"}


def replay_in_words(
    step: int,
    tap: EntryTap,
    table: LayerTable,
    modules: list[nn.Module],
    own: dict[int, torch.Tensor],
    search: bool,
    criteria: list[Criterion],
) -> tuple[str, Flow | None]:
    """Replay a step; what came of it in words, and the flow if there is one.

    Raises what fails in surefoot's own code: what the model refuses comes back as words. Of several
    processes this one's own part: the gradients that the optimizer sees are made of others' as
    well, so that they are not compared (see `replay`).
    """
    if tap.failure is not None:
        return f"the replay failed: {in_words(tap.failure)}", None
    if tap.overflowed:
        return "more model calls in one step than are kept", None
    together = not alone()
    if together and (reason := refusal(modules)):
        return f"refused: {reason}", None
    tap.paused = True
    try:
        with Silence() if together else contextlib.nullcontext():
            compared = None if together else own
            result = replay(step, tap.entries, table, modules, compared, search, criteria)
    finally:
        tap.paused = False
    return (result, None) if isinstance(result, str) else (_told(result), result.flow)


def _told(result: Replay) -> str:
    words = _COMPARED[result.exact]
    if result.factor == 1.0:
        return words
    return f"{words}, up to a common factor of {result.factor:.3g}"
