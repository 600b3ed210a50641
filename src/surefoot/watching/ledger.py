"""The ledger: what is kept of one training, bounded in memory whatever its length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from surefoot.diagnosis.case import Case, Facts
from surefoot.layers import LayerTable
from surefoot.probes.shattering import Shattering
from surefoot.record.data import Event
from surefoot.record.series import Thinned
from surefoot.signals import QUANTITIES, Axis
from surefoot.signals.flow import Flow
from surefoot.signals.forensics import Inquiry

_MAX_FLOWS = 12
_MAX_ALARMS = 64
_MAX_EVENTS = 1000  # alarms of one kind that go into the record


class Sink(Protocol):
    """Where rows, events and flows go besides; `record.Writer` is one."""

    def declare(self, training: int, layers: LayerTable, families: Mapping[str, int]) -> None: ...
    def put(self, training: int, step: int, rows: Mapping[str, np.ndarray]) -> None: ...
    def event(self, training: int, event: Event) -> None: ...
    def flow(self, training: int, flow: Flow) -> None: ...


class Ledger:
    """Series, flows and alarms of a training; `counts` are its groups, parameters and blocks.

    rows: for each quantity of every step the row to fill in before `commit`. Memory: about 24 MB
    for each parameter series up to 25,000 parameters, and 12 flows; it does not grow.
    """

    def __init__(
        self, index: int, layers: LayerTable, counts: Mapping[Axis, int], sink: Sink | None
    ) -> None:
        self._index, self._sink, self.layers = index, sink, layers
        columns = {name: q.columns(counts) for name, q in QUANTITIES.items()}
        every = [name for name, q in QUANTITIES.items() if q.measure is not None]
        few = [name for name in every if QUANTITIES[name].axis in (Axis.STEP, Axis.GROUP)]
        # The few scalars of a step lie side by side, so that one append serves them all.
        ends = np.cumsum([columns[name] for name in few]).tolist()
        self._scalars = np.full(ends[-1], np.nan)
        self._places = dict(zip(few, map(slice, [0, *ends], ends), strict=False))
        self._together = Thinned(ends[-1], 4096)
        self.rows = {name: self._scalars[place] for name, place in self._places.items()}
        self.rows |= {n: np.full(columns[n], np.nan) for n in every if n not in self.rows}
        self._series = {
            name: Thinned(columns[name], _buckets(q.buckets, columns[name]))
            for name, q in QUANTITIES.items()
            if name not in few
        }
        self._wide = [(self._series[name], self.rows[name]) for name in every if name not in few]
        self.flows: list[Flow] = []
        self.alarms: list[Event] = []
        self.inquiries: list[Inquiry] = []
        self.acts: list[Event] = []  # of a guard
        self.shattering: list[tuple[int, Shattering]] = []
        self.losses: list[Mapping[str, Any]] = []
        self.lost: Mapping[str, Any] = {}  # of the first loss that was not finite
        self._kinds: dict[str, int] = {}
        if sink is not None:
            # A model of nothing but embeddings has no blocks.
            sink.declare(index, layers, {name: n for name, n in columns.items() if n})

    def commit(self, step: int) -> None:
        """Append `rows`, here and in the record."""
        with np.errstate(all="ignore"):  # that a float32 overflows is not for the script to hear
            self._together.append(step, self._scalars)
            for series, row in self._wide:
                series.append(step, row)
        if self._sink is not None:
            self._sink.put(self._index, step, self.rows)

    def put(self, step: int, name: str, row: np.ndarray) -> None:
        """Append the row of a quantity that was sampled at this step."""
        with np.errstate(all="ignore"):
            self._series[name].append(step, row)
        if self._sink is not None and row.size:
            self._sink.put(self._index, step, {name: row})

    def newest(self, name: str) -> np.ndarray | None:
        """The latest row of a quantity that is sampled, None before the first one."""
        return self._series[name].newest()

    def flow(self, flow: Flow) -> None:
        """Keep an instrumented step; of too many, the first and the latest ones matter most."""
        if len(self.flows) >= _MAX_FLOWS:
            del self.flows[_MAX_FLOWS // 2]
        self.flows.append(flow)
        if self._sink is not None:
            self._sink.flow(self._index, flow)

    def alarms_of(self, kind: str) -> int:
        """How many alarms of a kind there were."""
        return self._kinds.get(kind, 0)

    def alarm(self, step: int, kind: str, detail: Mapping[str, Any]) -> None:
        """Keep an alarm: the first 32 of each kind, and a thousand in the record."""
        event = Event(step, "alarm", {"kind": kind, **detail})
        seen = self._kinds[kind] = self.alarms_of(kind) + 1
        if seen <= _MAX_ALARMS // 2:
            self.alarms.append(event)
        if self._sink is not None and seen <= _MAX_EVENTS:
            self._sink.event(self._index, event)

    def ranks(self, step: int, kind: str, size: int, told: list[dict[str, Any]]) -> None:
        """Add to an alarm what ranks of a world of `size` have told of their own part in it."""
        for i, event in enumerate(self.alarms):
            if event.step == step and event.detail["kind"] == kind:
                self.alarms[i] = replace(
                    event, detail={**event.detail, "world": size, "ranks": told}
                )
        self.remark(step, "ranks", {"kind": kind, "world": size, "ranks": told})

    def remark(self, step: int, kind: str, detail: Mapping[str, Any]) -> None:
        """Keep a word on a step in the record."""
        if self._sink is not None:
            self._sink.event(self._index, Event(step, kind, detail))

    def act(self, step: int, detail: Mapping[str, Any]) -> None:
        """Keep what a guard did: the first on each rung here, and a thousand in the record."""
        event, kind = Event(step, "guard", detail), f"guard: {detail['rung']}"
        seen = self._kinds[kind] = self.alarms_of(kind) + 1
        if seen <= _MAX_ALARMS:
            self.acts.append(event)
        if self._sink is not None and seen <= _MAX_EVENTS:
            self._sink.event(self._index, event)

    def inquiry(self, inquiry: Inquiry) -> None:
        """Keep what came of trying a suspect step again; there are few."""
        self.inquiries.append(inquiry)
        if self._sink is not None:
            self._sink.event(self._index, Event(inquiry.step, "forensics", inquiry.to_json()))

    def coherence(self, step: int, seen: Shattering) -> None:
        """Keep what the shattering probe saw; it looks a few times in a run."""
        self.shattering.append((step, seen))
        if self._sink is not None:
            self._sink.event(self._index, shattered(step, seen))

    def events(self) -> tuple[Event, ...]:
        """What happened, for the views: alarms, inquiries, looks at coherence, a guard's acts."""
        inquiries = [Event(i.step, "forensics", i.to_json()) for i in self.inquiries]
        looks = [shattered(step, seen) for step, seen in self.shattering]
        return (*self.alarms, *inquiries, *looks, *self.acts)

    def case(self, facts: Facts) -> Case:
        """What the rules may look at, as of now."""
        series = {name: s.series() for name, s in self._series.items()}
        scalars = self._together.series()
        series |= {name: scalars.columns(place) for name, place in self._places.items()}
        return Case(
            self.layers,
            series,
            flows=tuple(self.flows),
            alarms=tuple(self.alarms),
            losses=tuple(self.losses),
            lost=self.lost,
            shattering=tuple(self.shattering),
            inquiries=tuple(self.inquiries),
            acts=tuple(act for act in self.acts if not act.detail.get("dry_run")),
            facts=facts,
        )


def shattered(step: int, seen: Shattering) -> Event:
    """What the shattering probe saw at a step, for the record and the views: strict JSON.

    >>> curve = (("fc1", 0.25), ("fc2", float("nan")))
    >>> shattered(32, Shattering(0.5, 0.1, "input", curve, 64)).detail["curve"]
    [['fc1', 0.25], ['fc2', 'nan']]
    """
    return Event(
        step,
        "shattering",
        {
            "coherence": _strict(seen.coherence),
            "white": _strict(seen.limit),
            "of": seen.of,
            "samples": seen.samples,
            "curve": [[name, _strict(value)] for name, value in seen.curve],
        },
    )


def _strict(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _buckets(most: int, columns: int) -> int:
    """An even number of buckets, at most about two million numbers in all, but 16 at least."""
    return min(most, max(2_000_000 // max(columns, 1), 16)) // 2 * 2
