"""A step that went wrong, as each of several ranks saw it: whose data it was.

Reduced gradients are the same on all ranks, and so is every alarm. What went into them is not: each
rank has its own batch, its own loss, and a forward pass in which the first non-finite value was
made, or was not. A rank is named if its own evidence stands out and that of another does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from surefoot.record.data import Event
from surefoot.signals.forensics import Inquiry

_NAMED = 4  # ranks, where many stand out


@dataclass(frozen=True, slots=True)
class Local:
    """What one rank saw of a step.

    scale, loss: of its input and its loss, as multiples of what was usual there; bad: values of
    its batch that are not finite; lost: whether its own part of the step was not finite; origin:
    where the first such value was made, and anatomy: how the loss was, both as `Flow` keeps them;
    samples: an `Inquiry` as JSON, with the samples that stand out in its batch.
    """

    rank: int
    scale: float = 1.0
    loss: float = 1.0
    bad: int = 0
    lost: bool = False
    origin: dict[str, Any] | None = None
    anatomy: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, for the other ranks and for the record."""
        return asdict(self)

    @property
    def oddness(self) -> tuple[bool, float]:
        """How far it stands out: what is not finite most of all."""
        known = [x for x in (self.scale, self.loss) if not math.isnan(x)]
        return self.lost, max(known, default=0.0)

    @property
    def inquiry(self) -> Inquiry | None:
        """The samples that stand out, None where it was not looked for them."""
        return Inquiry.from_json(self.samples) if self.samples else None


def locals_of(alarm: Event | None) -> list[Local]:
    """What the ranks have told of an alarm, in their order; empty for a process by itself."""
    told = alarm.detail.get("ranks", []) if alarm is not None else []
    return [Local(**one) for one in told]


def standing_out(told: list[Local], odd: Callable[[Local], bool]) -> list[Local]:
    """Those that are odd; none if all are, for then it is not a matter of the rank."""
    found = [one for one in told if odd(one)]
    return found if len(found) < len(told) else []


def in_words(told: list[Local]) -> str:
    """
    >>> in_words([Local(1)]), in_words([Local(0), Local(2), Local(5)])
    ('rank 1', 'ranks 0, 2 and 5')
    >>> in_words([Local(rank) for rank in range(9)])
    'ranks 0, 1, 2, 3 and 5 more'
    """
    *most, last = [str(one.rank) for one in told]
    if len(most) > _NAMED:
        most, last = most[:_NAMED], f"{len(told) - _NAMED} more"
    return f"ranks {', '.join(most)} and {last}" if most else f"rank {last}"


def multiples_in_words(told: list[Local], of: str) -> str:
    """Each rank's multiple, `of` its "scale" or its "loss".

    >>> multiples_in_words([Local(0), Local(1, scale=51.2)], "scale")
    'rank 0: 1, rank 1: 51.2'
    """
    numbers: Mapping[int, float] = {one.rank: getattr(one, of) for one in told}
    return ", ".join(f"rank {rank}: {_number(x)}" for rank, x in numbers.items())


def _number(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "not finite"
