"""The ledger: what is kept of one training, bounded in memory whatever its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from surefoot.diagnosis.case import Case, Facts
from surefoot.layers import LayerTable
from surefoot.record.data import Event
from surefoot.record.series import Thinned
from surefoot.signals.flow import Flow

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
    """Series, flows and alarms of a training of `count` parameters, `groups` and `blocks`.

    Memory: about 24 MB for each parameter series at most, and 12 flows; it does not grow.
    """

    def __init__(
        self,
        index: int,
        layers: LayerTable,
        groups: int,
        blocks: int,
        sink: Sink | None,
    ) -> None:
        count = len(layers.parameters)
        self._index, self._sink, self._layers = index, sink, layers
        buckets = int(np.clip(2_000_000 // max(count, 1), 64, 1024)) // 2 * 2
        self._series = {
            "loss": Thinned(1, 4096),
            "learning_rate": Thinned(groups, 512),
            "input": Thinned(3, 1024),
            "gradient_norm": Thinned(count, buckets),
            "update_ratio": Thinned(count, min(buckets, 256)),
            "block_scale": Thinned(2 * blocks, 256),
        }
        self.flows: list[Flow] = []
        self.alarms: list[Event] = []
        self.losses: list[Mapping[str, Any]] = []
        self._kinds: dict[str, int] = {}
        if sink is not None:
            families = {
                "loss": 1,
                "learning_rate": groups,
                "input": 3,
                "gradient_norm": count,
                "gradient_detail": 4 * count,
                "update_ratio": count,
                "block_scale": 2 * blocks,
            }
            sink.declare(index, layers, families)

    def put(self, step: int, rows: Mapping[str, np.ndarray]) -> None:
        """Append one step's rows; those without a series here go to the record only."""
        for name, row in rows.items():
            series = self._series.get(name)
            if series is not None:
                series.append(step, row)
        if self._sink is not None:
            self._sink.put(self._index, step, rows)

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

    def case(self, facts: Facts) -> Case:
        """What the rules may look at, as of now."""
        series = {name: s.series() for name, s in self._series.items()}
        return Case(
            self._layers, series, tuple(self.flows), tuple(self.alarms), tuple(self.losses), facts
        )
