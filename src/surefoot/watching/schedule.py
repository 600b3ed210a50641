"""The steps at which every run is looked at, whatever its budget."""

from __future__ import annotations


def milestone(step: int) -> bool:
    """Steps 0, 1, 2, 4 ... 1024.

    >>> [step for step in range(20) if milestone(step)]
    [0, 1, 2, 4, 8, 16]
    """
    return step <= 1024 and step & (step - 1) == 0
