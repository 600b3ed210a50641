"""`surefoot view` as a process: what it prints, what it serves, and how it ends."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from click.testing import CliRunner

from cli_fixture import ENVIRONMENT
from page_fixture import record
from record_fixture import REPORT, TABLE
from surefoot.cli import cli
from surefoot.page import server
from surefoot.page.server import PortTaken, listen, serve
from surefoot.record import Writer
from views_fixture import healthy

SECONDS = 60  # a limit for what never takes so long


class Viewed:
    """A `surefoot view` that runs: its address is known, so it answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.words: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert process.stdout is not None
        self.address = process.stdout.readline().strip()
        assert self.address, "".join(self.words)
        self.port = urlsplit(self.address).port

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.words.extend(self.process.stderr)

    def get(self, target: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    @contextmanager
    def stream(self, target: str) -> Iterator[Iterator[tuple[str, str]]]:
        """The events (name, data) of a stream as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == 200
        try:
            yield events(answer)
        finally:
            answer.close()
            connection.close()

    def end(self, by: signal.Signals = signal.SIGINT) -> float:
        """The seconds that it took to stop."""
        began = time.monotonic()
        self.process.send_signal(by)
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return time.monotonic() - began


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    found: dict[str, str] = {}
    while line := answer.readline():
        name, _, value = line.decode().strip().partition(": ")
        if name:
            found[name] = value
        elif "event" in found:
            yield found["event"], found.get("data", "")
            found = {}


@contextmanager
def view(folder: Path, *options: str, cwd: Path | None = None) -> Iterator[Viewed]:
    command = [sys.executable, "-m", "surefoot", "view", str(folder), "--no-browser", *options]
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield Viewed(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Viewed]]:
    """One process for all that does not need one of its own; its folder comes after it."""
    folder = tmp_path_factory.mktemp("view") / "runs"
    with view(folder, "--port", "0") as process:
        yield folder, process


def test_a_folder_that_comes_later(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", process.address)
    assert process.get("/")[0] == 200
    assert "No runs here yet" in process.get("/")[1]
    with process.stream("/events") as told:
        record(healthy(), folder / "first")
        assert next(told) == ("runs", "")
    assert "first" in process.get("/list")[1]
    assert "does not exist yet" in "".join(process.words)


def live(folder: Path) -> Writer:
    writer = Writer(folder, {"argv": ["train.py"]})
    writer.declare(0, TABLE, {"loss": 1})
    return writer


def test_a_step_is_told_within_a_second(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    (folder / "live").mkdir(parents=True)
    writer = live(folder / "live")
    writer.put(0, 0, {"loss": np.array([9.0])})
    waited = []
    with process.stream("/run/live/events") as told:
        while json.loads(next(told)[1])["steps"] != "1":
            pass
        for step in range(1, 8):
            time.sleep(0.31)  # so that the writer's and the reader's beat meet differently
            began = time.monotonic()
            writer.put(0, step, {"loss": np.array([float(step)])})
            while (seen := json.loads(next(told)[1]))["steps"] != str(step + 1):
                pass
            waited.append(time.monotonic() - began)
            assert (seen["loss"], seen["live"]) == (str(step), True)
        print(f"a step is told after {statistics.median(waited):.2f} s, {max(waited):.2f} at most")
        assert statistics.median(waited) < 1.0
        assert max(waited) < 2.0
        verdict = seen["verdict"]
        writer.close(REPORT)
        while (seen := json.loads(next(told)[1]))["live"]:
            pass
        assert seen["verdict"] != verdict


def test_a_run_that_is_deleted_says_so(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    record(healthy(), folder / "gone")
    with process.stream("/run/gone/events") as told, process.stream("/events") as changes:
        assert next(told)[0] == "step"
        shutil.rmtree(folder / "gone")
        assert next(told)[0] == "gone"
        assert next(told, None) is None  # and that is the end of it
        assert next(changes) == ("runs", "")
    assert process.get("/run/gone")[0] == 404
    assert "gone" not in process.get("/list")[1]


def test_a_run_in_the_place_of_another_is_shown(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    record(healthy(), folder / "again")
    assert ">300<" in process.get("/run/again")[1]
    shutil.rmtree(folder / "again")
    (folder / "again").mkdir()
    writer = live(folder / "again")
    writer.put(0, 0, {"loss": np.array([5.0])})
    writer.close(REPORT)
    text = process.get("/run/again")[1]
    assert ">300<" not in text
    assert "layers.0" not in text


def test_three_hundred_runs_are_listed_at_once(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    record(healthy(), folder / "many-0")
    for number in range(1, 300):
        shutil.copytree(folder / "many-0", folder / f"many-{number}")
    began = time.monotonic()
    assert process.get("/")[1].count("data-line") >= 300
    cold = time.monotonic() - began
    waited = []
    for _ in range(5):
        began = time.monotonic()
        process.get("/")
        waited.append(time.monotonic() - began)
    print(f"/ with 300 runs: {cold:.2f} s, then {statistics.median(waited):.3f} s")
    assert min(waited) < 0.5


def test_the_folder_is_deleted_while_it_is_shown(viewed: tuple[Path, Viewed]) -> None:
    folder, process = viewed
    folder.mkdir(exist_ok=True)  # whichever test comes first
    shutil.rmtree(folder)
    assert "No runs here yet" in process.get("/")[1]
    record(healthy(), folder / "back")
    assert "back" in process.get("/list")[1]


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_ends_at_once_while_streams_are_open(
    tmp_path: Path, by: signal.Signals, status: int
) -> None:
    record(healthy(), tmp_path / "one")
    with (
        view(tmp_path) as process,
        process.stream("/run/one/events") as told,
        process.stream("/events"),
        socket.create_connection(("127.0.0.1", process.port or 0)),  # which asks for nothing
    ):
        next(told)
        seconds = process.end(by)
        print(f"{by.name}: {seconds:.2f} s")
        assert seconds < 2
        assert process.process.returncode == status
        assert process.process.stdout is not None
        assert process.process.stdout.read() == ""
        assert process.words == ["surefoot view: Ctrl-C ends it.\n"]


def test_a_single_run_may_be_given(tmp_path: Path) -> None:
    record(healthy(), tmp_path / "one")
    record(healthy(), tmp_path / "two")
    with view(Path("."), "--port", "0", cwd=tmp_path / "one") as process:
        assert process.get("/run/one")[0] == 200
        assert process.get("/run/two")[0] == 404


def test_any_other_address_has_a_token(tmp_path: Path) -> None:
    with view(tmp_path, "--host", "0.0.0.0", "--port", "0") as process:
        address = urlsplit(process.address)
        assert address.hostname == socket.gethostname().lower()
        assert re.fullmatch(r"token=[\w-]{32}", address.query)
        assert process.get("/")[0] == 401
        assert process.get("/?" + address.query)[0] == 303
        assert address.query not in "".join(process.words)


@contextmanager
def occupied(port: int) -> Iterator[int]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield other.getsockname()[1]


class TestPort:
    """The usual port if it is free, any other if not; the one that was asked for, or none."""

    def test_another_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with occupied(0) as port:
            monkeypatch.setattr(server, "USUAL_PORT", port)
            with listen("127.0.0.1", None) as listener:
                assert listener.getsockname()[1] not in (0, port)
        with listen("127.0.0.1", None) as listener:
            assert listener.getsockname() == ("127.0.0.1", port)

    def test_the_one_asked_for_is_taken(self, tmp_path: Path) -> None:
        with occupied(0) as port:
            with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
                listen("127.0.0.1", port)
            done = CliRunner().invoke(cli, ["view", str(tmp_path), "--port", str(port)])
        assert done.exit_code == 1
        assert f"Next: surefoot view {tmp_path} --port 0" in done.output
        assert "http" not in done.output

    def test_a_port_that_only_the_system_may_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(socket.socket, "bind", refuse)
        with pytest.raises(PortTaken, match=r"127\.0\.0\.1:80: Permission denied"):
            listen("127.0.0.1", 80)

    @pytest.mark.parametrize(
        "host", ["192.0.2.1", "no such host", "nowhere.invalid", "2001:db8::1"]
    )
    def test_an_address_of_another_machine(self, tmp_path: Path, host: str) -> None:
        done = CliRunner().invoke(cli, ["view", str(tmp_path), "--host", host, "--port", "0"])
        assert done.exit_code == 1
        assert f"cannot listen at {host}" in done.output
        assert "Next: --host" in done.output


class TestBrowser:
    """It is opened once the page answers, and is not needed."""

    def served(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: bool) -> None:
        """Serve until the server is told to end, from a thread that watches it."""
        real = server.Server

        class Ended(real):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                threading.Timer(0.5, setattr, [self, "should_exit", True]).start()

        monkeypatch.setattr(server, "Server", Ended)
        serve(tmp_path, port=0, say=lambda _: None, **options)

    def test_it_is_opened_when_the_page_answers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def opened(address: str) -> None:
            port = urlsplit(address).port
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            connection.request("GET", "/static/icon.svg")
            seen.append((address, connection.getresponse().status))
            connection.close()

        monkeypatch.setattr(server.webbrowser, "open", opened)
        self.served(tmp_path, monkeypatch, browser=True)
        ((address, status),) = seen
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert status == 200
        self.served(tmp_path, monkeypatch, browser=False)
        assert len(seen) == 1

    def test_without_one_the_page_is_served(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(address: str) -> None:
            raise server.webbrowser.Error("could not locate runnable browser")

        monkeypatch.setattr(server.webbrowser, "open", broken)
        self.served(tmp_path, monkeypatch, browser=True)


def test_a_file_is_no_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    done = CliRunner().invoke(cli, ["view", str(tmp_path / "train.py")])
    assert done.exit_code == 2
    assert "expected a folder of runs, got the file" in done.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = record(healthy(), tmp_path / "runs" / "one")
    for path in (folder, folder.parent):
        path.chmod(0o555)
    try:
        with view(tmp_path / "runs", "--port", "0") as process:
            assert process.get("/run/one")[0] == 200
    finally:
        for path in (folder.parent, folder):
            path.chmod(0o755)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "sse_starlette"])
def test_what_the_page_needs_is_named(tmp_path: Path, missing: str) -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}: raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from surefoot.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "view", str(tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: expected {missing}, found none: install what the page needs with "
        "`pip install 'surefoot[view]'`\n"
    )


def test_help_needs_none_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "surefoot", "view", "--help"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert "--no-browser" in done.stdout
    assert not re.search(r"\| +(starlette|uvicorn|plotly|torch)\b", done.stderr)
