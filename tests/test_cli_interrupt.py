"""Ctrl-C and SIGTERM under `surefoot run`: who ends, when, and by which signal."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_fixture import Stage, ill
from surefoot.findings import Severity


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "work").mkdir()
    return Stage(tmp_path / "work")


TRAINS = """
import atexit, signal, torch
atexit.register(lambda: print("atexit", signal.getsignal(signal.SIGINT).__name__, flush=True))
print("ready", flush=True)
while True: signal.pause()
"""


class TestInterrupt:
    """Ctrl-C ends the training, not the verdict; the second one ends everything."""

    def test_verdict_then_death_by_signal(self, stage: Stage) -> None:
        with stage.popen(TRAINS, "--fail-on", "advice", report=ill(Severity.FATAL).to_json()) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            out, err = (x.decode() for x in p.communicate(timeout=60))
        assert p.returncode == -signal.SIGINT
        assert out == "atexit default_int_handler\n"
        traceback, _, verdict = err.partition("KeyboardInterrupt\n")
        assert traceback.startswith("Traceback (most recent call last):\n")
        assert "surefoot" not in traceback
        assert traceback.count("File") == 1
        assert verdict == "VERDICT unstable \n"

    def test_second_interrupt_ends_a_deaf_verdict(self, stage: Stage) -> None:
        with stage.popen(TRAINS, hang="deaf") as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            assert p.stderr is not None
            while p.stderr.readline() != b"DEAF\n":
                pass
            p.send_signal(signal.SIGINT)
            try:
                out, err = p.communicate(timeout=20)
            finally:
                p.kill()
        assert p.returncode == -signal.SIGINT
        assert (out, err) == (b"", b"")

    def test_interrupted_verdict_of_a_finished_script(self, stage: Stage) -> None:
        source = "import torch, atexit; atexit.register(print, 'atexit')"
        with stage.popen(source, hang="listening") as p:
            assert p.stderr is not None
            assert p.stderr.readline().startswith(b"VERDICT")
            p.send_signal(signal.SIGINT)
            out, err = (x.decode() for x in p.communicate(timeout=60))
        assert (p.returncode, out) == (0, "atexit\n")
        assert err == "surefoot: interrupted before the verdict was complete.\n"

    def test_handler_of_the_script(self, stage: Stage) -> None:
        source = TRAINS.replace(
            'print("ready', 'signal.signal(signal.SIGINT, lambda *_: exit(6))\nprint("ready'
        )
        with stage.popen(source) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.send_signal(signal.SIGINT)
            _, err = p.communicate(timeout=60)
        assert (p.returncode, err) == (6, b"VERDICT healthy \n")

    def test_sigterm_is_final(self, stage: Stage) -> None:
        with stage.popen(TRAINS) as p:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            p.terminate()
            _, err = p.communicate(timeout=60)
        assert (p.returncode, err) == (-signal.SIGTERM, b"")

    def test_the_key_itself(self, stage: Stage) -> None:
        """At a terminal: the key is pressed, the shell's child dies of SIGINT after the verdict."""
        command = [sys.executable, str(stage.folder.parent / "fakes.py"), "run"]
        command.append(stage.script(TRAINS))
        environment = stage.environment()
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(stage.folder)
            os.execve(command[0], command, environment)
        seen = b""
        for chunk in _chunks(terminal):
            seen += chunk
            if b"ready" in seen and b"^C" not in seen:
                os.write(terminal, b"\x03")
        status = os.waitpid(child, 0)[1]
        os.close(terminal)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGINT
        assert seen.index(b"KeyboardInterrupt") < seen.index(b"VERDICT") < seen.index(b"atexit")


def _chunks(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux says EIO when the other side has closed
            return
        if not chunk:
            return
        yield chunk
