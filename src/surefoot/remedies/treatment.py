"""A remedy's definition: what it guarantees, when it does not help, how it is applied and undone.

`findings.Remedy` is one of these prescribed: its name, its target and its parameters, as data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.findings import Remedy
from surefoot.remedies.subject import Subject


class Treatment(ABC):
    """One remedy, aimed at one target with its parameters.

    name: group.method, as a report prints it; why: what it does, in a clause; guarantee: what is
    true once it is applied; formula; source: paper and equation; limits: when it does not help,
    each a clause; cost; defaults: its parameters; conflicts: names or groups ("normalization") that
    it must not be combined with, with the reason.
    """

    name: ClassVar[str]
    why: ClassVar[str]
    guarantee: ClassVar[str]
    formula: ClassVar[str] = ""
    source: ClassVar[str]
    limits: ClassVar[tuple[str, ...]]
    cost: ClassVar[str] = "none"
    defaults: ClassVar[Mapping[str, Any]] = {}
    conflicts: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        unknown = parameters.keys() - self.defaults.keys()
        if unknown:
            known = ", ".join(self.defaults) or "none"
            raise ValueError(
                f"expected parameters of {self.name} ({known}), got {', '.join(sorted(unknown))}"
            )
        self.target = target
        self.parameters: dict[str, Any] = {**self.defaults, **parameters}

    @abstractmethod
    def apply(self, subject: Subject) -> None:
        """Act on a training, so that `subject.undo()` takes it back.

        Raises NotApplicable where it cannot; what was done up to there is undone by the caller.
        """

    @abstractmethod
    def code(self) -> str:
        """Itself as a line or a few to paste."""

    def explain(self) -> str:
        """What it is, in plain text: a line each for guarantee, formula, limits, cost, source."""
        rows = [f"{self.name}: {self.why}.", f"Guarantee: {self.guarantee}."]
        rows += [f"Formula: {self.formula}"] if self.formula else []
        rows += [f"Does not help: {limit}." for limit in self.limits]
        rows += [f"Cost: {self.cost}.", f"Source: {self.source}."]
        return "\n".join(rows)

    def remedy(self, why: str = "") -> Remedy:
        """The same as data, for a finding; parameters are those that are not as usual."""
        own = {k: v for k, v in self.parameters.items() if v != self.defaults[k]}
        return Remedy(self.name, self.target, why or self.why, self.code(), own)
