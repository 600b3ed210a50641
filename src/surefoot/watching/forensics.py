"""When a run turns bad: which steps are tried again, what for, and what that may cost.

A step becomes suspect by its gradients (the gate) or by its loss (it has risen for good). Before
the optimizer acts, its weights are copied; after it has acted, the step is tried again on copies
(`probes.examine`). That happens a few times a run, within a budget of its own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

from surefoot.attach.distributed import alone
from surefoot.layers import LayerTable
from surefoot.probes.collectives import Silence
from surefoot.probes.examine import Suspect, examine
from surefoot.probes.limits import Limits
from surefoot.probes.safely import failed, in_words
from surefoot.probes.samples import outliers
from surefoot.probes.tap import EntryTap
from surefoot.probes.trial import Batch, Kept, Refused
from surefoot.signals.criterion import Criterion, Unreadable, criterion
from surefoot.signals.flow import Flow
from surefoot.signals.forensics import Inquiry
from surefoot.watching.places import Places
from surefoot.watching.replays import replay_in_words

_LOG = logging.getLogger("surefoot")

ALLOWANCE = 2.0  # seconds that any run may spend on forensics
SHARE = 0.01  # and the share of the elapsed time on top of it
TIMES = {"spike": 3, "nonfinite": 1, "rise": 2}  # examined in one run
_APART = 32  # steps between two spikes that are both examined
_COPY_BYTES = 256 << 20  # of weights, above which the step is not tried again
_KEEP_BYTES = 64 << 20  # of an earlier batch, and of the weights it was taken at
_EARLY = 8  # steps that are all kept with their weights: the loss tells of a step only at the next
_MEASURED = (1, 8, 64, 512)  # steps whose loss's limits are searched for
_LOSSES = 64  # read in one step: each is kept with what its operations have saved
_PATIENCE = 3  # losses in a row that could not be read, before it is tried more rarely
_PASS = 0.6  # of a whole step: one forward or backward pass, at most


class Rise:
    """Tells from the losses alone that a run has turned bad; a few float operations a step.

    Two ways: the smoothed loss stands at twice the first one; or it has lost half of what it had
    once gained on it (30 % at least). Losses below zero have no such scale. A false alarm costs a
    few passes and convicts nobody.
    """

    def __init__(self) -> None:
        self._first = self._best = self._fast = self._slow = math.nan

    def see(self, loss: float | None) -> bool:
        """Whether the run has turned bad, with this step's loss."""
        if loss is None or not math.isfinite(loss) or self._first <= 0:
            return False
        if self._first != self._first:
            self._first = self._best = self._fast = self._slow = loss
            return False
        self._fast += 0.4 * (loss - self._fast)
        self._slow += 0.1 * (loss - self._slow)
        self._best = min(self._best, self._slow)
        if self._fast > 2 * self._first:
            return True
        lost = self._slow - self._best > 0.5 * (self._first - self._best)
        return lost and self._best < 0.7 * self._first


_TOGETHER = "several processes train together: their step is not this one's alone to try again"


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(slots=True)
class _Pending:
    inquiry: Inquiry
    before: dict[int, torch.Tensor]
    usual: dict[int, float]
    batch: Batch
    seconds: float = 0.0


_P = ParamSpec("_P")
_R = TypeVar("_R")
_Method = Callable[Concatenate["Forensics", _P], _R]


def _spared(default: Any) -> Callable[[_Method[_P, _R]], _Method[_P, _R]]:
    """A method of Forensics that never raises: what fails costs the forensics and nothing else."""

    def spare(method: _Method[_P, _R]) -> _Method[_P, _R]:
        @functools.wraps(method)
        def spared(self: Forensics, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            if self.failure is None:
                try:
                    return method(self, *args, **kwargs)
                except Exception as error:
                    self.failure = error
                    self.remove()
                    failed(self)
            return default

        return spared

    return spare


@dataclass(eq=False)
class Forensics:
    """Of one training. allowed: whether anything of a step may be run again at all; failure: what
    put an end to it."""

    allowed: bool = True
    limits: Limits = field(default_factory=Limits)  # of the loss of the step under way
    rise: Rise = field(default_factory=Rise)
    spent: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    failure: Exception | None = None
    _replay_failed: bool = False
    _together: bool = False  # with other processes, as of late
    _criteria: list[Criterion] = field(default_factory=list)
    _unread: str = ""
    _missed: int = 0
    _kept: Kept | None = None
    _then: dict[int, torch.Tensor] = field(default_factory=dict)  # weights at the kept batch
    _pending: _Pending | None = None
    _done: dict[str, int] = field(default_factory=dict)
    _last: int = -_APART

    @property
    def active(self) -> bool:
        """Whether a step may yet be examined."""
        possible = self.allowed and self.failure is None
        return possible and any(self._done.get(k, 0) < n for k, n in TIMES.items())

    def replay(
        self,
        step: int,
        tap: EntryTap,
        table: LayerTable,
        modules: list[nn.Module],
        own: dict[int, torch.Tensor],
        search: bool,
    ) -> tuple[str, Flow | None]:
        """Replay the step under way, its loss included as far as that could be read."""
        criteria = [] if self._unread else self._criteria
        try:
            return replay_in_words(step, tap, table, modules, own, search, criteria)
        except Exception as error:
            words = f"the replay failed: {in_words(error)}"
            if not self._replay_failed:
                _LOG.warning("surefoot goes on after step %d, where %s", step, words)
            _LOG.debug("where it failed", exc_info=True)
            self._replay_failed = True
            return words, None

    @property
    def pending(self) -> bool:
        """Whether `settle` has something to do."""
        return self._pending is not None

    # -- at every step --------------------------------------------------------------------------

    @_spared(None)
    def listen(self, tap: EntryTap, step: int) -> None:
        """Get ready for a step: the first 8, then 16, 32, 64 ... are kept for comparison."""
        self.fresh()
        tap.marking = self.active
        if not step & (step - 1):  # a world is seldom founded in the middle of a training
            self._together = not alone()
        tap.comparing = self._together
        tap.keeping = tap.marking and (step < _EARLY or not step & (step - 1))
        if step > _EARLY:
            self._then.clear()

    def fresh(self) -> None:
        """The first backward of a step begins."""
        self._criteria.clear()
        self._unread = ""

    @_spared(None)
    def read(self, step: int, loss: torch.Tensor, tap: EntryTap | None, scale: float) -> None:
        """Note how the loss is made, while its graph is alive."""
        if tap is None or not tap.marking or self._unread:
            return
        if self._missed >= _PATIENCE and step & (step - 1):
            self._unread = "the loss could not be read at earlier steps"
            return
        try:
            if len(self._criteria) >= _LOSSES:
                raise Unreadable("more backward calls make it up than are kept")
            self._criteria.append(criterion(loss, id(tap), scale))
            self._missed = 0
        except Unreadable as reason:
            self._unread, self._missed = str(reason), self._missed + 1
            self._criteria.clear()

    def affordable(self, passes: int, step_seconds: float) -> bool:
        """Whether so many passes more are within the budget."""
        cost = self.spent + passes * _PASS * step_seconds
        return cost <= ALLOWANCE + SHARE * (time.perf_counter() - self.began)

    # -- before a step --------------------------------------------------------------------------

    @_spared(False)
    def notice(
        self,
        step: int,
        loss: float | None,
        tap: EntryTap | None,
        places: Places,
        asked: bool = False,
    ) -> bool:
        """Whether the loss has risen by this step; if not, the step is kept where one is due.

        asked: whether `limits` are to be found for this step, if its turn has come.
        """
        self.limits = Limits()
        if self.rise.see(loss) and self.active:
            return True
        if tap is not None and tap.keeping and loss is not None and math.isfinite(loss):
            self._keep(step, loss, tap, places.trainable(), asked)
        return False

    def _keep(
        self,
        step: int,
        loss: float,
        tap: EntryTap,
        weights: dict[int, torch.Tensor],
        asked: bool,
    ) -> None:
        """Copy the batch of this step, for later ones to be compared with."""
        begin = time.perf_counter()
        batch = self._batch(step, loss, tap)
        if _bytes(batch.tensors()) > _KEEP_BYTES or not alone():
            return
        try:
            batch.check()
            asked = asked and step in _MEASURED and self.affordable(0, 0.0)
            self._kept = Kept(batch, weights, asked)
            self.limits = self._kept.limits
            self._then.clear()
            if step < _EARLY and _bytes(weights.values()) <= _KEEP_BYTES:
                self._then = {k: p.detach().clone() for k, p in weights.items()}
        except (Refused, Unreadable):
            pass  # the one that was kept before serves on
        except Exception:  # a loss that was read wrong may not even run
            _LOG.debug("a batch could not be kept", exc_info=True)
        self.spent += time.perf_counter() - begin

    def _batch(self, step: int, loss: float | None, tap: EntryTap) -> Batch:
        """What this step is made of: the calls of the model that the loss uses."""
        used = {id(leaf.entry) for c in self._criteria for leaf in c.leaves()}
        entries = [e for e in tap.entries if id(e) in used] if used else list(tap.entries)
        return Batch(step, entries, list(self._criteria), loss)

    @_spared(None)
    def suspect(
        self,
        why: str,
        step: int,
        loss: float | None,
        tap: EntryTap | None,
        places: Places,
        usual: dict[int, float],
    ) -> None:
        """Copy what the step is about to change; `settle` follows when it has been taken."""
        if not self._due(why, step) or tap is None or not tap.marking:
            return
        self._done[why], self._last = self._done.get(why, 0) + 1, step
        inquiry = Inquiry(step, why)
        begin = time.perf_counter()
        weights = places.trainable()
        size = _bytes(weights.values())
        if not alone():
            inquiry.refused.append(_TOGETHER)
        elif tap.overflowed:
            inquiry.refused.append("more model calls in one step than are kept")
        elif size > _COPY_BYTES:
            inquiry.refused.append(f"weights of {size >> 20} MiB are too large to copy")
        before = {} if inquiry.refused else {k: p.detach().clone() for k, p in weights.items()}
        if self._unread:
            inquiry.refused.append(f"the loss: {self._unread}")
        batch = self._batch(step, loss, tap)
        self._pending = _Pending(inquiry, before, usual, batch, time.perf_counter() - begin)

    def _due(self, why: str, step: int) -> bool:
        if not self.allowed or self._pending is not None:
            return False
        if self._done.get(why, 0) >= TIMES[why]:
            return False
        return why == "nonfinite" or step - self._last >= _APART or not self._done

    # -- after it -------------------------------------------------------------------------------

    @_spared(None)
    def settle(
        self,
        tap: EntryTap,
        modules: list[nn.Module] | None,
        places: Places,
        step_seconds: float,
        indices: Callable[[list[torch.Tensor], int], tuple[int, ...]],
    ) -> Inquiry | None:
        """Try the suspect step again, if there is one; None without."""
        pending, self._pending = self._pending, None
        if pending is None or modules is None:
            return None
        begin = time.perf_counter()
        inquiry = pending.inquiry
        if pending.before:
            tap.paused = True
            try:
                self._examine(pending, modules, places, step_seconds)
            finally:
                tap.paused = False
        elif not alone():
            self._look(pending)
        self._name(pending.batch, inquiry, indices)
        inquiry.seconds = pending.seconds + time.perf_counter() - begin
        self.spent += inquiry.seconds
        return inquiry

    def _examine(
        self, pending: _Pending, modules: list[nn.Module], places: Places, step_seconds: float
    ) -> None:
        inquiry, batch = pending.inquiry, pending.batch
        begin = time.perf_counter()

        def affordable(passes: int) -> bool:
            inside = time.perf_counter() - begin < ALLOWANCE
            return inside and self.affordable(passes, step_seconds)

        kept = self._kept.revived() if self._kept is not None else contextlib.nullcontext()
        with kept as other:
            suspect = Suspect(
                batch, pending.before, places.trainable(), pending.usual, other, affordable
            )
            rose = inquiry.why == "rise" and bool(self._then)
            # The step before made the loss rise, and is still at hand.
            if rose and other is not None and other.step == batch.step - 1:
                inquiry.step, inquiry.why = batch.step - 1, "before the rise"
                suspect = Suspect(other, self._then, pending.before, {}, batch, affordable)
            examine(suspect, modules, inquiry)

    def _look(self, pending: _Pending) -> None:
        """What can be told without a pass: whose input stands out."""
        try:
            with Silence():
                outliers(pending.batch, pending.inquiry)
        except Exception:  # inputs of a kind that cannot be measured
            _LOG.debug("the samples of a step could not be looked at", exc_info=True)

    def _name(
        self,
        batch: Batch,
        inquiry: Inquiry,
        indices: Callable[[list[torch.Tensor], int], tuple[int, ...]],
    ) -> None:
        """The samples that stand out by their index in the data set."""
        named = inquiry.samples or inquiry.outliers
        if not named or inquiry.batch is None:
            return
        found = indices(batch.tensors(), inquiry.batch)
        inquiry.indices = [found[i] for i in named if i < len(found)]

    def remove(self) -> None:
        """Forget everything that was kept."""
        self.fresh()
        self.limits = Limits()
        self._kept = self._pending = None
        self._then.clear()

    def stop(self) -> None:
        """Forget everything, for good."""
        self.remove()
        self.allowed = False
