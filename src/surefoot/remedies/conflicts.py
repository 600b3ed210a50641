"""Remedies that must not be combined, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two remedies that do not go together; why: in a clause."""

    first: str
    second: str
    why: str

    def __str__(self) -> str:
        """The conflict in words."""
        return f"{self.first} and {self.second} do not go together: {self.why}"


def conflicts(names: Iterable[str]) -> list[Conflict]:
    """The conflicts among some remedies, by name.

    >>> print(conflicts(["dtype.bfloat16", "amp.grad_scaler"])[0])
    dtype.bfloat16 and amp.grad_scaler do not go together: bfloat16 needs no loss scale
    >>> conflicts(["init.kaiming_normal", "learning_rate.scale"])
    []
    """
    found = []
    for first, second in combinations(dict.fromkeys(names), 2):
        why = _why(first, second) or _why(second, first)
        if why:
            found.append(Conflict(first, second, why))
    return found


def _why(one: str, other: str) -> str:
    """What one remedy's definition says of the other, by its name or its group."""
    from surefoot.remedies import TREATMENTS

    known = TREATMENTS[one].conflicts if one in TREATMENTS else {}
    return known.get(other) or known.get(other.partition(".")[0]) or ""
