"""Putting back what is the script's: all of it, whatever fails or interrupts on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def thoroughly(acts: Iterable[Callable[[], object]]) -> None:
    """Do every act, and one that fails once more; its failure is raised when all are done.

    A half restored model would go on with other weights than its optimizer has. So Ctrl-C waits as
    well, and so does whatever an object of the script's raises.

    >>> put_back = []
    >>> try:
    ...     thoroughly([lambda: 1 / 0, lambda: put_back.append("the rest")])
    ... except ZeroDivisionError:
    ...     print(put_back)
    ['the rest']
    """
    failure: BaseException | None = None
    for act in acts:
        for _ in range(2):
            try:
                act()
                break
            except BaseException as error:
                failure = error
    if failure is not None:
        raise failure
