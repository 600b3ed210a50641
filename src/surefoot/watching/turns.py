"""Whose turn it is: several optimizers may train one model, and their steps make one together."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

_REMEMBERED = 1024  # ids of optimizers: of those that are gone nobody tells


class Turns:
    """Of one training. stepped: ids of the optimizers that have taken the step under way.

    >>> turns, weights = Turns(), np.arange(3)
    >>> turns.take(1, weights)
    >>> turns.complete({1, 2})  # the other one may follow
    False
    >>> turns.again(1, weights)  # it did not: the first has begun the next step
    True
    >>> turns.end()
    >>> turns.take(1, weights)
    >>> turns.complete({1, 2})
    True
    """

    def __init__(self) -> None:
        self.stepped: set[int] = set()
        self._regular: set[int] = set()  # those that took the step before
        self._places: list[np.ndarray] = []  # of the parameters that took this one

    def take(self, key: int, places: np.ndarray) -> None:
        """An optimizer takes the step with its parameters, which stand at `places`."""
        self.stepped.add(key)
        self._places.append(places)

    def again(self, key: int, places: np.ndarray) -> bool:
        """Whether it would be the next step: this optimizer or one of these parameters took it."""
        return key in self.stepped or any(_meet(places, taken) for taken in self._places)

    def complete(self, sharing: Collection[int]) -> bool:
        """Whether nobody is waited for; sharing: all that train the model.

        One that was idle last time is not waited for, and one that was idle waits for nobody.
        """
        awaited = self._regular.intersection(sharing) if self._regular else set(sharing)
        return self.stepped >= awaited or self.stepped.isdisjoint(awaited)

    def end(self) -> None:
        """The step is over."""
        alone = self.stepped.isdisjoint(self._regular)
        both = self.stepped | self._regular if alone else self.stepped
        self._regular = set(both if len(both) <= _REMEMBERED else self.stepped)
        self.stepped.clear()
        self._places.clear()


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two lists of places have one in common; foreign parameters stand at -1."""
    if not len(a) or not len(b) or a.max() < b.min() or b.max() < a.min():
        return False  # as a rule, each of several optimizers trains a part of its own
    return bool(np.isin(a[a >= 0], b).any())
