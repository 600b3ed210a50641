"""surefoot's own words while a stranger's program runs, on the stderr that it was started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TextIO

# Terminals that would print the escapes of a title instead of following them.
_WITHOUT_TITLE = ("", "dumb", "unknown", "linux", "ansi", "emacs", "vt52", "vt100", "vt102")


class Voice:
    """surefoot's own words: they go to the stderr it was started with, or nowhere.

    The script may close stderr, replace it, or open a file that is then given its number: what is
    written to is always checked to be the very file that stderr was at the start.

    terminal: whether that is a terminal; titled: and one that shows a title.
    """

    def __init__(self) -> None:
        self._given: TextIO | None = sys.stderr
        self._spare = -1
        self._identity: tuple[int, int] | None = None
        self.terminal = self.titled = False
        try:
            number = sys.stderr.fileno()
            self._identity = _identity(number)
            self._spare = os.dup(number)
            self.terminal = os.isatty(number)
        except (AttributeError, OSError, ValueError):
            return  # not a file (a test's buffer, a notebook), or closed from the start
        self.titled = self.terminal and os.environ.get("TERM", "") not in _WITHOUT_TITLE
        # A daemon forked by the script must be able to let go of stderr.
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        if _identity(self._spare) == self._identity:
            os.close(self._spare)
        self._spare = -1

    def _number(self) -> int | None:
        """A descriptor of the stderr of the start, None if it has none any more."""
        return next((n for n in (self._spare, 2) if _identity(n) == self._identity), None)

    @contextmanager
    def stream(self) -> Iterator[IO[str] | None]:
        """A stream to write to, None if the stderr of the start is gone."""
        if self._identity is None:
            yield self._given
            return
        number = self._number()
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

    def write(self, text: str) -> None:
        """As it is, in one piece; never raises an ordinary exception."""
        with suppress(Exception), self.stream() as stream:  # a broken pipe: no one is left to tell
            if stream is not None:
                stream.write(text)

    def say(self, sentence: str) -> None:
        """One line, marked as surefoot's; never raises an ordinary exception."""
        self.write(f"surefoot: {sentence}\n")

    def interject(self, sentence: str) -> None:
        """The same on a terminal, where the script may have stopped in the middle of a line.

        Where the cursor stands cannot be known. As many spaces as a line is wide leave an empty
        line where it is, and take the cursor to the next from any other.
        """
        width = self._columns()
        new_line = f"{' ' * width}\r" if width else ""
        self.write(f"{new_line}surefoot: {sentence}\n")

    def _columns(self) -> int:
        number = self._number() if self.titled else None
        with suppress(OSError, ValueError):
            return os.get_terminal_size(number).columns if number is not None else 0
        return 0

    def in_front(self) -> bool:
        """Whether the terminal is this process's to write to, and not another job's of its shell.

        One in the background would be stopped for it where `stty tostop` is set.
        """
        number = self._number() if self._identity is not None else None
        try:
            return number is not None and os.tcgetpgrp(number) == os.getpgrp()
        except OSError:  # no shell has put it in charge of jobs
            return True


def _identity(number: int) -> tuple[int, int] | None:
    """Which file a descriptor stands for: device and inode; None if it is closed."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
