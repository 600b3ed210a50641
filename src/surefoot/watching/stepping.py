"""Which optimizer steps are under way, and when the gradients of the outermost are there."""

from __future__ import annotations

_DEEPEST = 8  # steps in one another; more have raised before their closure ran


class Stepping:
    """Told of each step that begins and ends, and of the closures that steps call.

    Steps lie in one another (a wrapper that calls the step of its base): the outermost is the one
    to measure, with a closure when that has run for the first time. heard: whether it was.
    """

    def __init__(self) -> None:
        self._under_way: list[int] = []  # whose steps, outermost first
        self._closures = 0  # running, one in another
        self.heard = False

    def begin(self, key: int, closure: bool) -> bool:
        """A step of the optimizer `key` begins; returns whether to measure it now."""
        # None hands on to itself a closure that it has run: its last step raised.
        again = closure and self.heard and not self._closures and self._under_way[:1] == [key]
        if again or len(self._under_way) == _DEEPEST:
            self.broken_off()
        self._under_way.append(key)
        return len(self._under_way) == 1 and not closure

    def closure_begun(self) -> None:
        """What runs until it has ended belongs to the step."""
        self._closures += 1

    def closure_ran(self) -> bool:
        """It has; returns whether to measure the step now."""
        self._closures = max(self._closures - 1, 0)
        now = bool(self._under_way) and not self.heard
        self.heard = self.heard or now
        return now

    def broken_off(self) -> None:
        """The steps under way will not be heard to end."""
        self._under_way.clear()
        self._closures, self.heard = 0, False

    def backward(self) -> None:
        """One begins. Outside of a closure no step calls it: one that is under way has raised."""
        if not self._closures:
            self.broken_off()

    def end(self) -> bool:
        """A step has ended; returns whether it was the outermost."""
        del self._under_way[-1:]
        return not self._under_way
