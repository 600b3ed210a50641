"""Whose turn it is: several optimizers may train one model, and their steps make one together."""

from __future__ import annotations

from collections.abc import Collection

_REMEMBERED = 1024  # ids of optimizers: of those that are gone nobody tells


class Turns:
    """Of one training. stepped: ids of the optimizers that have taken the step under way.

    >>> turns = Turns()
    >>> turns.stepped.add(1)
    >>> turns.complete({1, 2})  # the other one may follow
    False
    >>> turns.end()  # it did not: the first has begun the next step
    >>> turns.stepped.add(1)
    >>> turns.complete({1, 2})
    True
    """

    def __init__(self) -> None:
        self.stepped: set[int] = set()
        self._regular: set[int] = set()  # those that took the step before

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
