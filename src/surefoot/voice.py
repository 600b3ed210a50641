"""surefoot's own words while a stranger's program runs, on the stderr that it was started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TextIO


class Voice:
    """surefoot's own words: they go to the stderr it was started with, or nowhere.

    The script may close stderr, replace it, or open a file that is then given its number: what is
    written to is always checked to be the very file that stderr was at the start.
    """

    def __init__(self) -> None:
        self._given: TextIO | None = sys.stderr
        self._spare = -1
        self._identity: tuple[int, int] | None = None
        try:
            number = sys.stderr.fileno()
            self._identity = _identity(number)
            self._spare = os.dup(number)
        except (AttributeError, OSError, ValueError):
            return  # not a file (a test's buffer, a notebook), or closed from the start
        # A daemon forked by the script must be able to let go of stderr.
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        if _identity(self._spare) == self._identity:
            os.close(self._spare)
        self._spare = -1

    @contextmanager
    def stream(self) -> Iterator[IO[str] | None]:
        """A stream to write to, None if the stderr of the start is gone."""
        if self._identity is None:
            yield self._given
            return
        number = next((n for n in (self._spare, 2) if _identity(n) == self._identity), None)
        if number is None:
            yield None
            return
        encoding = getattr(self._given, "encoding", None) or "utf-8"
        with open(number, "w", encoding=encoding, errors="backslashreplace", closefd=False) as file:
            yield file

    def speak_for(self, logger: str) -> None:
        """Say what a logger warns of, and keep it out of the script's own log and stdout."""
        import logging

        voice = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                voice.say(record.getMessage())

        log = logging.getLogger(logger)
        log.propagate = False
        log.addHandler(Handler(logging.WARNING))

    def say(self, sentence: str) -> None:
        """One line, marked as surefoot's; never raises an ordinary exception."""
        with suppress(Exception), self.stream() as stream:  # a broken pipe: no one is left to tell
            if stream is not None:
                stream.write(f"surefoot: {sentence}\n")


def _identity(number: int) -> tuple[int, int] | None:
    """Which file a descriptor stands for: device and inode; None if it is closed."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
