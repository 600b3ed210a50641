"""The case: everything a rule may look at, as plain data, live or read back from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surefoot.layers import LayerTable
from surefoot.probes.rehearsal import Rehearsal
from surefoot.probes.shattering import Shattering
from surefoot.record.data import Event
from surefoot.record.series import Series
from surefoot.signals.flow import Flow
from surefoot.signals.forensics import Inquiry


@dataclass(frozen=True, slots=True)
class Facts:
    """Plain counts of what was seen of the training.

    steps: optimizer steps; backwards: backward calls; followed: steps of which it is known whether
    their gradients were zeroed before; carried: those that still held the previous step's;
    first_carried: the first of them; since: those of the followed from there on; present [P]: steps
    in which each parameter had a gradient; trained: indices of those that an optimizer holds;
    optimizer: its class name; optimizers: how many were made for the same parameters; settings: the
    numbers the last was given (momentum, beta1, eps ...); nonfinite_loss: first step whose loss was
    not finite; ended: how the training ended ("running", "ended", "raised", "interrupted");
    rehearsed: nothing was trained: the steps were a few on one batch, on copies, before training
    (`surefoot check`);
    unfed: indices of parameters held by an optimizer none of whose parameters ever had a gradient.
    """

    steps: int = 0
    backwards: int = 0
    followed: int = 0
    carried: int = 0
    first_carried: int = 0
    since: int = 0
    present: tuple[int, ...] = ()
    trained: frozenset[int] = frozenset()
    optimizer: str = ""
    optimizers: int = 1
    settings: tuple[tuple[str, float], ...] = ()
    nonfinite_loss: int | None = None
    ended: str = "ended"
    rehearsed: bool = False
    unfed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One watched training. See RunData for the series; alarms are events of kind "alarm".

    losses: what could be read of the loss (`signals.loss.Anatomy`) at steps 0, 1, 2, 4 ... 1024;
    lost: the same of the first loss that was not finite, empty without one.
    shattering: what the shattering probe saw at a step (`probes.shattering.Shattering`), in order.
    rehearsal: what a few updates on one batch did (`probes.rehearsal.Rehearsal`), None without one.
    inquiries: what came of trying suspect steps again on copies, in order.
    acts: what a guard has done, events of kind "guard"; none of a dry run.
    """

    layers: LayerTable
    series: Mapping[str, Series]
    flows: tuple[Flow, ...] = ()
    alarms: tuple[Event, ...] = ()
    losses: tuple[Mapping[str, Any], ...] = ()
    lost: Mapping[str, Any] = field(default_factory=dict)
    shattering: tuple[tuple[int, Shattering], ...] = ()
    rehearsal: Rehearsal | None = None
    inquiries: tuple[Inquiry, ...] = ()
    acts: tuple[Event, ...] = ()
    facts: Facts = field(default_factory=Facts)
    # What rules have worked out already, so that each is computed once (see `Case.once`).
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def get(self, name: str) -> Series:
        """A series by the name of its quantity; an empty one if it was never measured."""
        return self.series.get(name) or Series.empty(1)

    @property
    def first(self) -> Flow | None:
        """The first instrumented step of the live run."""
        return next((f for f in self.flows if not f.replayed), None)

    def once(self, key: str, make: Any) -> Any:
        """`make()`, remembered under `key` for the other rules of this case."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def weight_matrices(self) -> np.ndarray:
        """Boolean [P]: parameters of two or more dimensions (not biases, gains or scalars)."""
        return np.array([len(p.shape) >= 2 for p in self.layers.parameters], bool)
