"""The page on a real port, served by a thread of the test's own process, and requests to it.

The fixtures at the end are imported by name into the modules that use them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from page_fixture import record
from surefoot.page.app import create
from surefoot.page.server import Server, listen
from views_fixture import hostile, one_step


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """The port at which `app` answers; it is stopped at the end."""
    answers = threading.Event()
    server = Server(app, answers.set)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
        thread.start()
        try:
            assert answers.wait(30)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def raw(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and the whole of the answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer


def get(port: int, target: bytes, *headers: bytes, host: bytes = b"Host: localhost") -> int:
    lines = [b"GET " + target + b" HTTP/1.1", *([host] if host else []), *headers]
    return raw(port, b"\r\n".join([*lines, b"Connection: close", b"", b""]))[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose name is not its address, and one whose layers are not theirs."""
    folder = tmp_path_factory.mktemp("runs")
    record(one_step(), folder / "a run")
    record(hostile(), folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def port(runs: Path) -> Iterator[int]:
    """A real server, for what no client library would send, or would tidy."""
    with served(create(runs)) as port:
        yield port
