"""`surefoot run --view`: a page beside the run, and nothing of it in the script's process."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli_fixture import ENVIRONMENT
from record_fixture import wait_until
from surefoot import live_page
from surefoot.page import beside
from surefoot.record.folder import this_process
from surefoot.voice import Voice

SECONDS = 60
SCRIPT = """
import os, signal, sys, threading, time
import torch
from torch import nn

def children():
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return "none"

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.01)
print("children:", children(), "groups:", os.getpgrp() == os.getpid(), flush=True)
for step in range(100_000):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).pow(2).mean().backward()
    optimizer.step()
    if step > 20:
        time.sleep(0.01)
        if os.path.exists("end"):
            break
        if os.path.exists("die"):
            os._exit(7)
print("children:", children(), "threads:", threading.active_count() > 9, flush=True)
sys.exit(5)
"""


class Run:
    """A `surefoot run` that goes on, in a session of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "train.py").write_text(SCRIPT)
        words = [*options, "--name", "it", "train.py"]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "surefoot", "run", *words],
                cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, start_new_session=True,
                stdout=out, stderr=err,
            )  # fmt: skip
        self._folder = folder

    @property
    def words(self) -> str:
        return (self._folder / "err").read_text()

    @property
    def printed(self) -> str:
        return (self._folder / "out").read_text()

    def address(self) -> str:
        """Where the page is, once it is said."""
        wait_until(lambda: "live page" in self.words, SECONDS)
        (line,) = [line for line in self.words.splitlines() if "live page" in line]
        found = re.fullmatch(r"surefoot: live page: (http://\S+) \(it ends with the run\)", line)
        assert found, line
        return found[1]


def get(address: str) -> tuple[int, str]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def answers(address: str) -> bool:
    try:
        return get(address)[0] > 0
    except OSError:
        return False


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Run]:
    run = Run(folder, *options)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()


@pytest.mark.zoo
def test_the_script_is_as_without_it(tmp_path: Path) -> None:
    printed, status = {}, {}
    for which in ("with", "without"):
        folder = tmp_path / which
        folder.mkdir()
        with started(folder, *(["--view"] if which == "with" else [])) as run:
            address = run.address() if which == "with" else ""
            if address:
                assert address.endswith("/run/it")
                wait_until(lambda place=address: ">live<" in get(place)[1], SECONDS)
            (folder / "end").touch()
            status[which] = run.process.wait(SECONDS)
            printed[which] = run.printed
            if address:
                code, text = get(address)  # it has the last word, and then it ends
                assert (code, "HEALTHY" in text) == (200, True)
                wait_until(lambda place=address: not answers(place), SECONDS)
    assert printed["with"] == printed["without"]
    assert printed["with"].count("children: none") == 2
    assert status == {"with": 5, "without": 5}


@pytest.mark.zoo
@pytest.mark.parametrize("how", ["dies", "is killed", "is interrupted"])
def test_the_page_ends_however_the_run_does(tmp_path: Path, how: str) -> None:
    with started(tmp_path, "--view") as run:
        address = run.address()
        assert answers(address)
        if how == "dies":
            (tmp_path / "die").touch()
        elif how == "is killed":
            run.process.kill()
        else:  # as a terminal does it: whoever belongs to the job
            os.killpg(run.process.pid, signal.SIGINT)
        status = run.process.wait(SECONDS)
        assert status == {"dies": 7, "is killed": -signal.SIGKILL}.get(how, status)
        if how == "is interrupted":
            assert status in (-signal.SIGINT, 1, 130)
            assert "KeyboardInterrupt" in run.words
            assert answers(address)  # the interrupt was not for it
        began = time.monotonic()
        wait_until(lambda: not answers(address), SECONDS)
        assert time.monotonic() - began < 20


class Silent(Voice):
    """Keeps what is said. shown: whether this process may write to its terminal, look by look."""

    def __init__(self, *shown: bool) -> None:
        self.lines: list[str] = []
        self.terminal, self._shown = bool(shown), list(shown)

    def write(self, text: str) -> None:
        self.lines.append(text)

    def _columns(self) -> int:
        return 0

    def in_front(self) -> bool:
        return self._shown.pop(0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("http://127.0.0.1:1/run/x\n", "live page: http://127.0.0.1:1/run/x (it ends with"),
        ("", "there is no live page: its process failed. Next: surefoot view"),
    ],
)
def test_what_is_said_of_it(said: str, told: str) -> None:
    voice, answer = Silent(), io.StringIO(said)
    live_page._tell(answer, voice)
    assert [line.startswith(f"surefoot: {told}") for line in voice.lines] == [True]
    assert answer.closed


def test_a_page_that_does_not_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    voice = Silent()
    live_page.open_page(tmp_path / "run", voice)
    wait_until(lambda: voice.lines, SECONDS)
    assert "there is no live page" in voice.lines[0]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        live_page.open_page(tmp_path / "run", voice)


def test_nothing_is_said_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `stty tostop` is set, writing from there would stop the training."""
    monkeypatch.setattr(live_page, "_PATIENCE", 0)
    voice = Silent(False, False, True)
    live_page._tell(io.StringIO("http://127.0.0.1:1/\n"), voice)
    assert len(voice.lines) == 1
    assert voice._shown == []


def test_a_process_that_has_gone_does_not_go_on() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        known: dict[str, Any] = this_process() | {"pid": other.pid, "begun": None}
        assert beside.goes_on(known)  # where only its number is known
        other.kill()
    assert not beside.goes_on(known)
    assert not beside.goes_on(this_process() | {"pid": other.pid})
