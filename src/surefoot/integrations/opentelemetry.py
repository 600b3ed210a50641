"""OpenTelemetry: gauges such as `surefoot.gradient_norm`, a layer as their attribute.

from surefoot.integrations.opentelemetry import OpenTelemetry

with surefoot.watch(model, optimizer) as watch, OpenTelemetry(watch) as output:
    for batch in loader:
        step(batch)
        output.log()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefoot.findings import Report
from surefoot.integrations.output import Output, library
from surefoot.record.metrics import MEANINGS
from surefoot.watching.watch import Watch


class OpenTelemetry(Output):
    """Sets the gauges of a meter, by default the application's own named "surefoot".

    What they are exported by, and how often, is what the application has set up; a step of the
    training is no part of it. attributes: of every measurement, such as the run's name. A layer is
    the attribute `layer` of gauges of their own, `surefoot.layer.gradient_norm`. See `Output`.
    """

    name = "OpenTelemetry"

    def __init__(
        self,
        watch: Watch,
        meter: Any = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        every: int = 10,
        layers: bool = False,
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        metrics = library("opentelemetry.metrics", "opentelemetry")
        self._meter: Any = meter if meter is not None else metrics.get_meter("surefoot")
        self._attributes = dict(attributes or {})
        self._gauges: dict[str, Any] = {}

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        for name, value in values.items():
            root, quantity, *rest = name.split("/", 2)
            attributes, of = self._attributes, ""
            if rest:
                of = "group" if quantity == "learning_rate" else "layer"
                attributes = {**attributes, of: rest[0]}
            plain = ".".join(part for part in (root, of, quantity) if part)
            if plain not in self._gauges:
                words = MEANINGS.get(f"{root}/{quantity}", "")
                self._gauges[plain] = self._meter.create_gauge(plain, "1", words)
            self._gauges[plain].set(value, attributes)

    def _tell(self, report: Report, step: int) -> None:
        """It has no place for words."""
