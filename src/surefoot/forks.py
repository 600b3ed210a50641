"""Whether this process has been forked since: what a parent has begun is not the child's to go on.

Asking the system for the process's number takes a call into the kernel; this is a comparison.
"""

from __future__ import annotations

import os


class Fork:
    """The process in which it was made.

    >>> Fork().here
    True
    """

    _count = 0

    def __init__(self) -> None:
        self._born = Fork._count

    @property
    def here(self) -> bool:
        """Whether this is still that process, and not a child that was forked from it."""
        return self._born == Fork._count

    @staticmethod
    def _forked() -> None:
        Fork._count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Fork._forked)
