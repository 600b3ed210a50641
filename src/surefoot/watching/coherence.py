"""When a run is asked whether its gradients are shattered: rarely, and only if it fails to learn.

A network whose loss falls has gradients that say something, so it is not asked. Of the others the
first look, at step 32, costs about two and a half steps, once in a run. Those at steps 128, 512 ...
wait until the time budget holds them (0.05 s and 0.2 % of the elapsed time). The passes are set
aside from the run as a replay is, and forbidden with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from surefoot.attach.distributed import alone
from surefoot.probes.collectives import Silence, refusal
from surefoot.probes.entry import Entry
from surefoot.probes.shattering import Shattering, shattering
from surefoot.probes.tap import EntryTap
from surefoot.watching.ledger import Ledger

Affordable = Callable[[float], bool]  # whether so many seconds are left in the time budget
_NEVER = 1 << 62
_FIRST, _AGAIN = 32, 4  # the step of the first look, and by what the next one's is larger
_COST = 2.5  # steps of the run that a look takes
_LEARNT = 0.5  # of the first loss: below it there is no question
_LARGEST = 20_000_000  # parameters: without float inputs their gradients are compared, in double


class Coherence:
    """The schedule of one training; what is seen goes into its ledger."""

    def __init__(
        self, ledger: Ledger, blocks: list[int], affordable: Affordable, allowed: bool
    ) -> None:
        self._ledger, self._affordable = ledger, affordable
        self._along = [ledger.layers.layers[i].name for i in blocks]
        self._next = _FIRST if allowed else _NEVER
        self._first: float | None = None

    def look(self, step: int, loss: float | None, tap: EntryTap, typical: float) -> float:
        """At the end of a step: look if it is time to, and return the seconds that took.

        typical: seconds that a step of the run takes.
        """
        if self._first is None:
            self._first = loss
        if step < self._next or loss is None or self._first is None:
            return 0.0
        if self._next > _FIRST and not self._affordable(_COST * typical):
            return 0.0
        while self._next <= step:
            self._next *= _AGAIN
        entry = _largest(tap)
        if entry is None or not loss >= _LEARNT * self._first:
            return 0.0
        begin = time.perf_counter()
        tap.paused = True
        try:
            with nullcontext() if alone() else Silence():
                seen = _probe(entry, self._along)
        except Exception:  # the user's forward may refuse to run again: it is not asked any more
            seen, self._next = None, _NEVER
        finally:
            tap.paused = False
        if seen is not None and seen.reliable:
            self._ledger.coherence(step, seen)
        return time.perf_counter() - begin


def _largest(tap: EntryTap) -> Entry | None:
    """The call of the step whose module holds the most parameters, if it is not too large."""
    used = [e for e in tap.entries if e.received]
    if not used or tap.overflowed:
        return None
    sizes = [sum(p.numel() for p in e.module.parameters()) for e in used]
    entry = used[sizes.index(max(sizes))]
    floating = any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in entry.args)
    if not alone() and refusal(entry.module.modules()):
        return None
    return entry if floating or max(sizes) <= _LARGEST else None


def _probe(entry: Entry, names: list[str]) -> Shattering:
    own = dict(entry.module.named_modules())
    on_host = all(p.device.type == "cpu" for p in entry.module.parameters())
    along = [name for name in names if name in own] if on_host else []
    with entry.casting.again():
        return shattering(entry.module, entry.args, entry.kwargs, along=along)
