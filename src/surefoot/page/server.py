"""Serving the page until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from surefoot.page.access import Access
from surefoot.page.app import create

USUAL_PORT = 7575
_TAKEN = (errno.EADDRINUSE, errno.EACCES)  # by another program, or kept for the system's own


class PortTaken(Exception):
    """The port that was asked for is another program's."""


class Server(uvicorn.Server):
    """uvicorn, which says when it answers: no browser can come too early then."""

    def __init__(self, app: ASGIApp, answers: Callable[[], None]) -> None:
        # What is written here is what is tested, whatever else is installed: h11 is the strictest
        # parser, and there are no websockets.
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="error",  # a stranger's malformed request is no news
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self._answers = answers

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at once: streams never do by themselves, and cutting them off is no news."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)
        self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._answers()


def serve(
    runs: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the runs of a folder until Ctrl-C, which is how it is meant to end.

    port: None takes 7575, or any free one if that is taken. browser: open the page there.
    Raises PortTaken for a port that cannot be had, OSError for an address that is not this
    machine's.
    """
    access = Access.at(host)
    app = create(runs, access)
    with listen(host, port) as listener:
        address = _address(host, listener.getsockname()[1], access.token)

        def answers() -> None:
            say(address)
            if browser:
                threading.Thread(target=_open, args=[address], daemon=True).start()

        with contextlib.suppress(KeyboardInterrupt):
            Server(app, answers).run(sockets=[listener])


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens at the address; raises PortTaken, and OSError for a wrong address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = ""
    for number in (USUAL_PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere it would take the port from whoever listens there
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)  # two programs can bind one port, until one of them listens
            return listener
        except OSError as error:
            listener.close()
            if error.errno not in _TAKEN:
                raise
            problem = f"cannot listen at {host}:{number}: {error.strerror}"
    raise PortTaken(problem)


def _open(address: str) -> None:
    """A machine without a browser is no error: the address is on the terminal."""
    with contextlib.suppress(Exception):
        webbrowser.open(address)


def _address(host: str, port: int, token: str | None) -> str:
    """Where to point a browser: an address that any interface answers to is none to go to.

    >>> _address("::1", 80, None), _address("10.0.0.7", 80, "x")
    ('http://[::1]:80/', 'http://10.0.0.7:80/?token=x')
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    where = f"[{name}]" if ":" in name else name
    return f"http://{where}:{port}/" + (f"?token={token}" if token else "")
