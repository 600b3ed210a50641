"""What ends with its `with` block, and whose failure stops no training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_LOG = logging.getLogger("surefoot")


class Ending:
    """Has an end: `finish()`, or that of the `with` block.

    When the place that it serves fails, that is said once (`problem`), it does nothing more, and
    the training goes on.
    """

    name = "the output"  # how words call it

    def __init__(self) -> None:
        self.problem: str | None = None
        self._finished = False

    def finish(self) -> None:
        """End it; idempotent. What you opened yourself stays open. Raises no ordinary exception."""
        if self._finished:
            return
        self._finished = True
        if self.problem is None:
            self._safely(self._last)
        self._safely(self._close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()

    def _safely(self, action: Callable[..., Any], *args: Any) -> Any:
        """What it gives, or None where it fails."""
        try:
            return action(*args)
        except Exception as error:
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        first, self.problem = self.problem is None, f"{type(error).__name__}: {error}"
        if first:
            words = " ".join(self.problem.split())
            _LOG.warning(
                "surefoot writes no more to %s, the training goes on: %s", self.name, words
            )
            _LOG.debug("where it failed", exc_info=error)

    # -- what others say ------------------------------------------------------------------------

    def _last(self) -> None:
        """Give the last word, where there has been no problem."""

    def _close(self) -> None:
        """Let go of what it has opened itself, whatever has been."""
