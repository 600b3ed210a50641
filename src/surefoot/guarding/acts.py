"""What the guard has done, each act with its reason."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from surefoot.guarding.form import Form, each, keys, maybe, number, one_of, table, text, whole

_FIRST, _NEWEST = 100, 400  # acts that are kept


class Rung(StrEnum):
    """How far the guard goes, from the gentlest to the last; UNDO takes a rollback back."""

    CLIP = "clip"
    SKIP = "skip"
    ROLL_BACK = "roll back"
    UNDO = "undo"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class Act:
    """One act. step: of the guard, the first is 0; parameter: the one that stands out most; factor:
    how many times its usual size the gradient was, None where it is not known or not finite."""

    step: int
    rung: Rung
    reason: str
    parameter: str | None = None
    factor: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "rung": str(self.rung)}


_ACT = keys(step=whole, rung=one_of(Rung), reason=text, parameter=maybe(text), factor=maybe(number))


class Acts:
    """The first and the newest acts, and how many there were of each kind.

    listeners are told of each; one that fails is told no more.

    >>> acts = Acts()
    >>> acts.add(Act(3, Rung.SKIP, "NaN"))
    >>> acts.count(Rung.SKIP), [act.step for act in acts]
    (1, [3])
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[Act], None]] = []
        self._first: list[Act] = []
        self._newest: deque[Act] = deque(maxlen=_NEWEST)
        self._counts: Counter[str] = Counter()

    def add(self, act: Act) -> None:
        """Keep one, and tell of it."""
        self._counts[act.rung] += 1
        if len(self._first) < _FIRST:
            self._first.append(act)
        else:
            self._newest.append(act)
        for listener in list(self.listeners):
            try:
                listener(act)
            except Exception:
                self.listeners.remove(listener)

    def count(self, rung: Rung) -> int:
        """How many there were of a kind."""
        return self._counts[rung]

    def __iter__(self) -> Iterator[Act]:
        yield from self._first
        yield from self._newest

    def __len__(self) -> int:
        return len(self._first) + len(self._newest)

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain values."""
        return {
            "counts": {str(k): n for k, n in self._counts.items()},
            "acts": [act.to_json() for act in self],
        }

    @staticmethod
    def form() -> Form:
        """That of the state."""
        return keys(counts=table(one_of(Rung), whole), acts=each(_ACT, most=_FIRST + _NEWEST))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        kept = [
            Act(one["step"], Rung(one["rung"]), one["reason"], one["parameter"], one["factor"])
            for one in state["acts"]
        ]
        self._counts = Counter({Rung(k): int(n) for k, n in state["counts"].items()})
        self._first, self._newest = kept[:_FIRST], deque(kept[_FIRST:], maxlen=_NEWEST)
