"""What the ranks of one training tell each other of the steps that went wrong.

The gradients that an optimizer sees are the same on every rank of DistributedDataParallel, so the
same step alarms them all and nothing needs to be exchanged until then. Each rank then leaves what
its own batch looked like in the store that all of them share, and rank 0 picks it up: at the end of
that step, or of the next ones, or when the training ends. Only then does it wait, two seconds.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable

from surefoot.attach.distributed import World, alone, world
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.ranks import Local
from surefoot.diagnosis.rules.bad_batch import standing
from surefoot.diagnosis.rules.nonfinite import bad_inputs, seen
from surefoot.watching.ledger import Ledger

_MOST = 8  # alarms of one kind that are talked about
_AT_THE_END = 2.0  # seconds
_STEPS = 64  # after which those that have not told are not asked any more
_KEPT = 32  # ranks whose word is kept: of more the ones that stand out most, and least
_ANATOMY = ("undefined", "half", "target_nonfinite", "value")
_SAMPLES = ("step", "why", "batch", "outliers", "outlier_scale", "indices")


class Ranks:
    """Of one training. key: what tells it from the others of the same processes; busy: whether
    `exchange` has something to do at the end of the step."""

    def __init__(self) -> None:
        self.key = ""
        self.busy = False
        self._due = ""  # the kind of the alarm of the step under way
        self._world: World | None = None
        self._waiting: list[tuple[int, str]] = []  # (step, kind) of alarms that are not complete
        self._told: dict[int, dict[int, Local]] = {}

    def alarmed(self, kind: str, times: int) -> None:
        """The step under way has alarmed, for the `times`-th time in this kind."""
        if times <= _MOST and not alone():
            self._due, self.busy = kind, True

    def exchange(self, step: int, case: Callable[[], Case], ledger: Ledger) -> None:
        """At the end of a step: tell of it, if it has alarmed, and hear what the others told."""
        kind, self._due = self._due, ""
        if kind:
            self._world = self._world or world(self.key)
            if self._world is not None:
                own = local(case(), step, self._world.rank)
                self._world.say(f"{kind}/{step}/{own.rank}", json.dumps(own.to_json()))
                if own.rank == 0:
                    self._waiting.append((step, kind))
                    self._told[step] = {0: own}
        if self._waiting:
            self._hear(ledger)
        for late, kind in [w for w in self._waiting if step - w[0] >= _STEPS]:
            self._close(late, kind, ledger)
        self.busy = bool(self._waiting)
        if not self.busy:
            self._world = None

    def _hear(self, ledger: Ledger) -> None:
        """Put into the ledger what is known of each alarm, as soon as it is complete."""
        assert self._world is not None
        for step, kind in list(self._waiting):
            told = self._told[step]
            names = {f"{kind}/{step}/{r}": r for r in range(self._world.size) if r not in told}
            for name, text in self._world.heard(names).items():
                told[names[name]] = Local(**json.loads(text))
            if len(told) == self._world.size:
                self._close(step, kind, ledger)

    def _close(self, step: int, kind: str, ledger: Ledger) -> None:
        self._waiting.remove((step, kind))
        told = sorted(self._told.pop(step).values(), key=lambda one: one.oddness)
        if len(told) > _KEPT:
            told = told[: _KEPT // 2] + told[-_KEPT // 2 :]
        told.sort(key=lambda one: one.rank)
        size = self._world.size if self._world is not None else len(told)
        ledger.ranks(step, kind, size, [one.to_json() for one in told])

    def finish(self, ledger: Ledger) -> None:
        """The training ends: wait a moment for those who have not told yet; then without them."""
        end = time.monotonic() + _AT_THE_END
        while self._waiting and self._world is not None:
            self._hear(ledger)
            if self._world.lost or time.monotonic() > end:
                break
            time.sleep(0.05)
        for step, kind in list(self._waiting):
            self._close(step, kind, ledger)
        self._world = None


def local(case: Case, step: int, rank: int) -> Local:
    """What this process saw of a step that it has committed."""
    scale, loss = standing(case, step)
    origin, anatomy = seen(case, step)
    bad = bad_inputs(case, step)
    replayed = any(f.step == step and f.origin for f in case.flows)
    losses = case.get("loss").last
    lost = bad > 0 or replayed or bool(anatomy.get("target_nonfinite"))
    lost = lost or (len(losses) > 0 and math.isinf(losses[-1, 0]))  # as one that is NaN is kept
    inquiry = next((i for i in case.inquiries if i.step == step), None)
    samples = inquiry.to_json() if inquiry is not None else {}
    return Local(
        rank,
        scale,
        loss,
        bad,
        lost,
        origin if lost else None,
        {k: anatomy[k] for k in _ANATOMY if k in anatomy},
        {k: samples[k] for k in _SAMPLES if k in samples},
    )
