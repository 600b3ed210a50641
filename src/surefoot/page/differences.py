"""In what two runs differ: their findings, their numbers, their environments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from surefoot.diagnosis import RULES
from surefoot.findings import Finding
from surefoot.page.seen import growth
from surefoot.record.data import RunData
from surefoot.views import words
from surefoot.views.figures import depth
from surefoot.views.figures.rows import found, keyed
from surefoot.views.report import flat
from surefoot.views.vitals import Vitals, vitals

_MOST = 200  # rows of any of the tables
_SETTINGS = 5000  # of an environment that are compared


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule by which one run or both have a finding. known: whether it has a page."""

    rule: str
    title: str
    known: bool
    a: tuple[int, Finding] | None
    b: tuple[int, Finding] | None

    @property
    def change(self) -> str:
        """What became of it from the first run to the second."""
        if self.a is None:
            return "new"
        return "gone" if self.b is None else "in both"


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of both runs; a, b: as words; factor: of the second to the first, "" without."""

    title: str
    a: str
    b: str
    factor: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing of the environment, as words; a, b: None where it is not there."""

    key: str
    a: str | None
    b: str | None


def judged(a: RunData, b: RunData) -> list[Judged]:
    """The findings of both runs by rule: the worst of each in each, as the reports order them."""
    one, other = _by_rule(a), _by_rule(b)
    return [
        Judged(
            rule,
            RULES[rule].title if rule in RULES else "",
            rule in RULES,
            one.get(rule),
            other.get(rule),
        )
        for rule in list(dict.fromkeys([*one, *other]))[:_MOST]
    ]


def measured(a: RunData, b: RunData) -> list[Measured]:
    """Where both runs stand, number beside number."""
    one, other = vitals(a), vitals(b)
    nothing = (None, None, None)
    rows = [Measured("Steps", f"{_steps(a, one):,}", f"{_steps(b, other):,}")]
    for title, place in (("Loss at the start", 2), ("Loss now", 0), ("Lowest loss", 1)):
        rows.append(_row(title, (one.loss or nothing)[place], (other.loss or nothing)[place]))
    rows += [
        _row("Gradient norm, median over the run", _usual(one), _usual(other)),
        _row("Gradient norm now", _newest(one), _newest(other)),
        _row("Learning rate now", _rate(a), _rate(b)),
        _row("Gradient at the first layer / at the last", _reach(a), _reach(b)),
    ]
    ends = [worst_growth(data) for data in (a, b)]
    told = [f"{words.number(x)}x at {words.shorten(at, 40)}" if at else "-" for x, at in ends]
    rows.append(Measured("Largest change of the gradient in one layer", *told))
    return rows


def worst_growth(data: RunData) -> tuple[float, str]:
    """The factor farthest from 1 by which a layer changes the gradient, at the first whole step.

    With the layer's name; NaN and "" where nothing was measured. Containers do not count.
    """
    worst, name = math.nan, ""
    for call in data.flows[0].calls if data.flows else ():
        factor = growth(call)
        if not data.layers.layers[call.layer].leaf or math.isnan(factor):
            continue
        if math.isnan(worst) or _decades(factor) > _decades(worst):
            worst, name = factor, data.layers.title(call.layer)
    return worst, name


def settings(a: RunData, b: RunData) -> tuple[list[Setting], list[Setting]]:
    """What differs in the environments, and what is the same in both."""
    one, other = (dict(islice(_leaves(run.environment), _SETTINGS)) for run in (a, b))
    every = [Setting(key, one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other])]
    differ = [setting for setting in every if setting.a != setting.b]
    return differ[:_MOST], [setting for setting in every if setting.a == setting.b][:_MOST]


def _by_rule(data: RunData) -> dict[str, tuple[int, Finding]]:
    """Of each rule the worst finding, the first of those, with its number from 1."""
    found_by: dict[str, tuple[int, Finding]] = {}
    for number, finding in enumerate(data.report.findings, 1):
        held = found_by.get(finding.rule)
        if held is None or finding.severity.rank > held[1].severity.rank:
            found_by[finding.rule] = (number, finding)
    return found_by


def _leaves(environment: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The environment with a line for each option of its own, all as words."""
    for key, value in environment.items():
        name = f"{prefix}{words.clean(key)}"
        if isinstance(value, dict) and value and not prefix:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, flat(value)


def _row(title: str, a: float | None, b: float | None) -> Measured:
    """None: not measured; NaN: measured, and no number."""
    if a is None or b is None:
        return Measured(title, _word(a), _word(b))
    known = math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0
    return Measured(title, _word(a), _word(b), f"{words.number(b / a)}x" if known else "")


def _word(value: float | None) -> str:
    return "-" if value is None else words.finite(value)


def _decades(factor: float) -> float:
    return abs(math.log10(factor)) if factor > 0 else math.inf


def _steps(data: RunData, now: Vitals) -> int:
    return max(data.report.steps, 0 if now.step is None else now.step + 1)


def _usual(now: Vitals) -> float | None:
    return None if now.gradient is None else now.gradient.usual


def _newest(now: Vitals) -> float | None:
    return None if now.gradient is None else now.gradient.now


def _rate(data: RunData) -> float | None:
    series = found(data, "learning_rate")
    return None if series is None else float(series.last[-1, 0])


def _reach(data: RunData) -> float | None:
    """What is left at the first layer of the gradient at the last, at the first whole step."""
    keys = depth.order(data)
    if len(keys) < 2:
        return None
    known = set(keyed(data.flows[0]))
    one = depth.profile(data, data.flows[0], [key for key in keys if key in known])
    if len(one.gradient) < 2 or one.bad_gradient[[0, -1]].any():
        return None
    first, last = one.gradient[[0, -1]]
    return float(first / last) if np.isfinite(first) and last > 0 else None
