"""Faults planted in trainings that go well without them, and what becomes of each under a guard.

    python -m faults [--fault NAME] [--guard NAME] [--optimizer NAME] [--seeds 5] [--jobs 2]
                     [--quick] [--markdown] [--each]

The other guards are of PyPI, and left out where they are not installed:

    PIP_CONSTRAINT=constraints.txt .venv/bin/pip install --no-deps -r faults/peers.txt
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Job:
    """One training: what is planted (of FAULTS), how it is guarded (of GUARDS), and the rest."""

    fault: str
    guard: str
    optimizer: str
    seed: int

    def against(self, fault: str, guard: str) -> Job:
        """The training that this one is compared with."""
        return replace(self, fault=fault, guard=guard)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it.

    accuracy: on the test set, in percent, of the weights that were left. halted: the cause that a
    guard gave for ending it. failed: what else was raised. trail: a checksum of all weights after
    each step. acted: the first of these steps at which the guard changed something; acts: how many
    there were; told: what it said of them.
    """

    job: Job
    accuracy: float
    halted: str | None
    failed: str | None
    trail: tuple[int, ...]
    acted: int | None
    acts: int
    told: tuple[str, ...]
    seconds: float
