"""Prometheus: the numbers of runs to be scraped, as `surefoot_gradient_norm{run="..."}`.

The page of `surefoot view` answers with those of its live runs at `/metrics`. A training that
serves its own metrics adds surefoot's to them:

    from prometheus_client import start_http_server
    from surefoot.integrations.prometheus import Prometheus

    start_http_server(8000)
    with surefoot.watch(model, optimizer) as watch, Prometheus(watch, run="mine"):
        train()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from surefoot.findings import Finding
from surefoot.integrations.ending import Ending
from surefoot.integrations.output import library
from surefoot.record.data import RunData
from surefoot.record.metrics import ACTS, LEARNING_RATE, MEANINGS, run_metrics
from surefoot.views.words import clean
from surefoot.watching.watch import Watch

_STEPS = "surefoot_steps"
_FINDING = "surefoot_finding"
_OF_LAYERS = {"surefoot_gradient_norm", "surefoot_update_ratio"}
_LAYER = "surefoot_layer_"  # a series of its own, so that a sum over layers counts no total twice


@dataclass(frozen=True, slots=True)
class Scraped:
    """One run: its name, how many steps it has taken, its numbers, and what was found."""

    run: str
    steps: int
    values: dict[str, float]
    findings: tuple[Finding, ...] = ()


def exposition(runs: Iterable[RunData], layers: bool = False) -> bytes:
    """The text that Prometheus scrapes, of runs as they were read; see `content_type`.

    layers: each layer's gradient norm and update ratio too, under names of their own.
    Raises ModuleNotFoundError, which names the command, without prometheus_client.
    """
    client = library("prometheus_client", "prometheus")
    registry = client.CollectorRegistry()
    told = [
        Scraped(data.name, _steps(data), run_metrics(data, layers), data.report.findings)
        for data in runs
    ]
    registry.register(_Collector(lambda: told))
    return client.generate_latest(registry)


def _steps(data: RunData) -> int:
    """How many steps there are by now: the report of a live run is some seconds old."""
    ends = [int(series.steps[-1]) + 1 for series in data.series.values() if len(series)]
    return max([data.report.steps, *ends])


def content_type() -> str:
    """The media type of `exposition`."""
    return library("prometheus_client", "prometheus").CONTENT_TYPE_LATEST


class Prometheus(Ending):
    """Adds a watch to a registry of prometheus_client, the global one by default, until `finish`.

    Nothing is written in the loop: what is scraped is read then.
    run: the label of its series; layers: whether each layer's numbers are there as well.
    Raises ValueError if there is one on the registry already.
    """

    name = "Prometheus"

    def __init__(
        self, watch: Watch, registry: Any = None, *, run: str = "run", layers: bool = False
    ) -> None:
        client = library("prometheus_client", "prometheus")
        super().__init__()
        self.watch, self.run, self.layers = watch, run, layers
        self._registry: Any = registry if registry is not None else client.REGISTRY
        self._collector = _Collector(lambda: self._safely(self._scraped) or [], described=True)
        self._registry.register(self._collector)

    def _scraped(self) -> list[Scraped]:
        if self.problem is not None:
            return []
        return [Scraped(self.run, self.watch.steps, self.watch.metrics(self.layers))]

    def _close(self) -> None:
        self._registry.unregister(self._collector)


class _Collector:
    """What a registry asks at each scrape; described: for the names, when it is registered."""

    def __init__(self, read: Callable[[], list[Scraped]], described: bool = False) -> None:
        self._read, self._described = read, described
        self._core: Any = library("prometheus_client.core", "prometheus")

    def describe(self) -> Iterator[Any]:
        """The families that there may be, so that the registry notices one that is there twice."""
        yield from self._families().values() if self._described else ()

    def collect(self) -> Iterator[Any]:
        """Every family that has a sample."""
        families = self._families()
        runs: set[str] = set()
        for scraped in self._read():
            run = _unique(scraped.run, runs)
            families[_STEPS].add_metric([run], scraped.steps)
            layers: dict[str, set[str]] = {}
            for name, value in scraped.values.items():
                self._add(families, name, value, run, layers)
            for labels in dict.fromkeys(_labels(finding) for finding in scraped.findings):
                families[_FINDING].add_metric([run, *labels], 1)
        yield from (family for family in families.values() if family.samples)

    @staticmethod
    def _add(
        families: dict[str, Any], name: str, value: float, run: str, layers: dict[str, set[str]]
    ) -> None:
        root, quantity, *rest = name.split("/", 2)
        plain = f"{root}_{quantity}"
        if not rest:
            families[plain].add_metric([run], value)
        elif plain in _OF_LAYERS:
            layer = _unique(rest[0], layers.setdefault(plain, set()))
            families[plain.replace("surefoot_", _LAYER)].add_metric([run, layer], value)
        elif name.startswith(f"{LEARNING_RATE}/"):
            families["surefoot_group_learning_rate"].add_metric([run, clean(rest[0])], value)

    def _families(self) -> dict[str, Any]:
        gauge, counter = self._core.GaugeMetricFamily, self._core.CounterMetricFamily
        made = {_STEPS: counter(_STEPS, "Optimizer steps taken", labels=["run"])}
        for name, meaning in MEANINGS.items():
            plain = name.replace("/", "_")
            kind = counter if name in ACTS.values() else gauge
            made[plain] = kind(plain, meaning, labels=["run"])
            if plain in _OF_LAYERS:
                of_layer = plain.replace("surefoot_", _LAYER)
                made[of_layer] = gauge(of_layer, f"{meaning}, of a layer", labels=["run", "layer"])
        further = "surefoot_group_learning_rate"
        words = "Learning rate of a further parameter group"
        made[further] = gauge(further, words, labels=["run", "group"])
        labels = ["run", "rule", "severity", "layer"]
        made[_FINDING] = gauge(_FINDING, "1 for each finding that stands", labels=labels)
        return made


def _labels(finding: Finding) -> tuple[str, str, str]:
    return clean(finding.rule), str(finding.severity), clean(finding.layer or "")


def _unique(text: str, taken: set[str]) -> str:
    """Clean text that is not taken yet: a series that is there twice spoils the whole scrape."""
    plain, count = clean(text), 1
    while (made := plain if count == 1 else f"{plain}-{count}") in taken:
        count += 1
    taken.add(made)
    return made
