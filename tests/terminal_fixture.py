"""A real terminal for the tests of what is said at one: a program on the far side of a pty."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from cli_fixture import ENVIRONMENT

LINES = 40
# What surefoot writes into the stream of a script: titles, and lines after a row of spaces.
TITLE = re.compile(rb"(?:\x1b\[22;0t)?\x1b\]0;[^\x07\x1b]*\x07|\x1b\[23;0t")
REMARK = re.compile(rb" {20,}\rsurefoot: [^\n]*\n")


class Terminal:
    """`python WORDS` in charge of a terminal of its own; `seen` is all that it has written there.

    Line ends are left as they are written (no ONLCR).
    """

    def __init__(
        self, folder: Path, *words: str, columns: int = 100, **environment: str | None
    ) -> None:
        variables: Mapping[str, str | None] = {
            **ENVIRONMENT, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment
        }  # fmt: skip
        self.seen = b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        state = termios.tcgetattr(theirs)
        state[1] &= ~termios.ONLCR
        termios.tcsetattr(theirs, termios.TCSANOW, state)
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={k: v for k, v in variables.items() if v is not None},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def until(self, words: bytes | re.Pattern[bytes], seconds: float = 60) -> bytes:
        """Read until the words have come; returns all that was seen."""
        pattern = re.compile(re.escape(words)) if isinstance(words, bytes) else words
        end = time.monotonic() + seconds
        while not pattern.search(self.seen):
            assert time.monotonic() < end, f"{words!r} did not come: {self.seen[-2000:]!r}"
            assert self._read(0.05), f"{words!r} did not come before the end: {self.seen!r}"
        return self.seen

    def press(self, key: bytes) -> None:
        """As if somebody pressed it; b"\\x03" is Ctrl-C."""
        os.write(self._ours, key)

    def end(self, seconds: float = 60) -> int:
        """Read to the end; returns the exit status, negative for a signal."""
        limit = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < limit, f"it did not end: {self.seen[-2000:]!r}"
        return self.process.wait(timeout=10)

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.process.send_signal(signal.SIGKILL)

    def _read(self, seconds: float) -> bool:
        """Take in what has come; False when nobody holds the far side any more."""
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if not ready:
            return True
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux says EIO when the far side has closed
            return False
        self.seen += chunk
        return bool(chunk)
