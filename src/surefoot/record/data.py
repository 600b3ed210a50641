"""A run as data: what every view draws from, whether the run is live, ended or only a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surefoot.findings import Report
from surefoot.layers import LayerTable
from surefoot.record.series import Series
from surefoot.signals.flow import Flow


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one step: an alarm, a thinning, a failure of surefoot's own."""

    step: int
    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunData:
    """One watched training.

    series maps a quantity's name (see `surefoot.signals.QUANTITIES`) to its Series: "loss" [T, 1],
    "learning_rate" [T, groups], "gradient" [T, 5 P], "update_ratio" [S, P], "input" [T, 3],
    "block_scale" [S, 2 * blocks]. P indexes `layers.parameters`. Families never measured are
    absent. flows are the fully instrumented steps, the first one first.
    environment holds versions, argv, kernel, device and options, as plain JSON values.
    """

    name: str
    report: Report
    layers: LayerTable
    series: Mapping[str, Series]
    flows: tuple[Flow, ...] = ()
    events: tuple[Event, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
