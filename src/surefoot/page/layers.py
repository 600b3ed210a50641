"""The layers of a run that own parameters, in a table: how each of them stands now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import urlencode

from surefoot.findings import Finding
from surefoot.record.data import RunData
from surefoot.views import words
from surefoot.views.figures.rows import executed, layers_with
from surefoot.views.vitals import Against, LayerNow, vitals


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer in the table. query: what names it in an address; parameters: how many numbers.

    gradient: the norm at the newest step, and the median over the run; update: the newest
    update-to-weight ratio, the largest of its parameters; origin, victim: numbers of the findings
    that start there or show there, from 1; broken: whether its gradient holds NaN or infinity.
    """

    title: str
    type: str
    query: str
    parameters: int
    gradient: Against
    update: float
    broken: bool
    origin: tuple[int, ...]
    victim: tuple[int, ...]

    @property
    def idle(self) -> bool:
        """Whether its newest gradient is exactly zero."""
        return self.gradient.now == 0 and not self.broken

    @property
    def cells(self) -> tuple[str, str, str]:
        """Gradient, its factor to the median and update as words; a dash for what is not known."""
        factor = self.gradient.factor
        times = "-" if math.isnan(factor) else f"{words.number(factor)}x"
        return _known(self.gradient.now), times, _known(self.update)


def rows(data: RunData) -> list[LayerRow]:
    """All of them, in execution order."""
    count = len(data.layers.parameters)
    sizes: dict[int, int] = {}
    for parameter in data.layers.parameters:
        sizes[parameter.layer] = sizes.get(parameter.layer, 0) + parameter.numel
    now = {layer.index: layer for layer in vitals(data).layers}
    origins, victims = named(data)
    places = nths(data)
    made = []
    for index in layers_with(data, count):
        layer = data.layers.layers[index]
        stands = now.get(index) or _unknown(data, index)
        made.append(
            LayerRow(
                title=data.layers.title(index),
                type=layer.type,
                query=query(layer.name, places[index]),
                parameters=sizes[index],
                gradient=stands.gradient,
                update=stands.update,
                broken=stands.broken,
                origin=origins.get(layer.name, ()),
                victim=victims.get(layer.name, ()),
            )
        )
    return made


def named(data: RunData) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """For each name of a layer the numbers of the findings that start there, and that show there.

    Numbers count from 1, as on the page of the run.
    """
    origins: dict[str, tuple[int, ...]] = {}
    victims: dict[str, tuple[int, ...]] = {}
    for number, finding in enumerate(data.report.findings, 1):
        if finding.layer is not None:
            origins[finding.layer] = (*origins.get(finding.layer, ()), number)
        for victim in dict.fromkeys(finding.victims):
            if victim != finding.layer:
                victims[victim] = (*victims.get(victim, ()), number)
    return origins, victims


def inside(data: RunData, name: str) -> list[tuple[int, Finding]]:
    """The findings that start inside a layer, but not at itself, with their numbers."""
    prefix = f"{name}." if name else ""
    return [
        (number, finding)
        for number, finding in enumerate(data.report.findings, 1)
        if finding.layer and finding.layer.startswith(prefix)
    ]


def in_order(data: RunData) -> list[int]:
    """All layers, containers as well, in execution order."""
    return executed(data, set(range(len(data.layers.layers))))


def nths(data: RunData) -> list[int]:
    """For each layer which of those by its name it is, from 1: a record may hold a name twice."""
    seen: dict[str, int] = {}
    found = []
    for layer in data.layers.layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        found.append(seen[layer.name])
    return found


def query(name: str, nth: int = 1) -> str:
    """What names a layer in an address.

    >>> query("encoder.4"), query("a&b", 2)
    ('name=encoder.4', 'name=a%26b&nth=2')
    """
    return urlencode({"name": name, **({"nth": nth} if nth > 1 else {})})


def _known(value: float) -> str:
    return "-" if math.isnan(value) else words.number(value)


def _unknown(data: RunData, index: int) -> LayerNow:
    nan = float("nan")
    return LayerNow(data.layers.title(index), Against(nan, nan), nan, False, 0, index)
