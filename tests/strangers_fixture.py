"""A folder of runs, served, in which one run is sound; the tests put strangers' runs beside it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from record_fixture import REPORT, TABLE
from served_fixture import served
from surefoot.page.app import create
from surefoot.record import Writer
from surefoot.record.data import Event
from surefoot.record.database import PAGE
from views_fixture import Page

SECONDS = 10
MEMORY = 1 << 30  # bytes that the whole process may grow by, whatever is asked for
ADDRESSES = (
    "/run/{}",
    "/run/{}/summary",
    "/run/{}/figures.json?name=depth&name=heatmap&name=timeline&name=updates&name=ranks",
    "/run/{}/layers",
    "/run/{}/layer?name=fc",
    "/run/{}/layer.json?name=fc",
    "/run/{}/trials",
    "/run/{}/trials.json",
    "/run/{}?training=7",
    "/run/{}/events",
    "/compare?run={}&run=sound",
    "/compare.json?run=sound&run={}",
)


def sound(folder: Path) -> Path:
    """A small complete run, to be copied and damaged."""
    folder.mkdir()
    writer = Writer(folder, {"argv": ["x"]})
    writer.declare(0, TABLE, {"loss": 1, "gradient": 5})
    for step in range(40):
        writer.put(0, step, {"loss": np.array([step]), "gradient": np.full(5, step)})
    writer.event(0, Event(0, "alarm", {"x": 1}))
    writer.report(0, REPORT)
    writer.close(REPORT)
    return folder


class Stage:
    """A folder with one sound run, served; strangers' runs come beside it."""

    def __init__(self, sound: Path, runs: Path, port: int) -> None:
        self._sound, self.runs, self._port = sound, runs, port

    def folder(self, name: str) -> Path:
        """A copy of the sound run to be altered."""
        return Path(shutil.copytree(self._sound, self.runs / name))

    def get(self, target: str) -> tuple[int, str, str]:
        """Status, type and text; of an event stream its first event."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        with closing(connection):
            connection.request("GET", target)
            with closing(connection.getresponse()) as answer:
                kind = answer.headers["content-type"].partition(";")[0]
                lines = iter(lambda: answer.readline().strip(), b"")
                data = b"\n".join(lines) if kind == "text/event-stream" else answer.read()
                return answer.status, kind, data.decode()

    def visit(self, name: str) -> dict[str, int]:
        """The status of everything that there is about a run: each is checked on the way."""
        found = {}
        for address in ("/", "/list", *ADDRESSES):
            began = time.monotonic()
            status, kind, text = self.get(address.format(quote(name, safe="")))
            assert status in (200, 404, 422), (address, status, text[-2000:])
            assert time.monotonic() - began < SECONDS, address
            assert "Traceback" not in text
            if status == 200 and kind == "application/json":
                json.loads(text, parse_constant=pytest.fail)
            if kind == "text/html":
                inert(text)
            found[address] = status
        assert '"/run/sound"' in self.get("/list")[2]
        assert self.get("/run/sound")[0] == 200
        return found

    def problem(self, name: str) -> str:
        """What the list of runs says is wrong with one; empty if nothing is."""
        (line,) = [
            line for line in re.findall(r"<tr>.*?</tr>", self.get("/list")[2], re.DOTALL)
            if f'"/run/{quote(name)}"' in line
        ]  # fmt: skip
        text = " ".join(Page(line).text.split())
        return text.partition("cannot be read: ")[2]


SPOKEN = ("aria-label", "title", "alt", "placeholder", "data-label")


def inert(text: str) -> None:
    """Nothing of a stranger's became an element or an attribute that acts."""
    page = Page(text)
    assert not [code for code in page.scripts if code.strip()]
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "style"), tag
        assert not any(name.startswith("on") for name in attributes), attributes
        assert all(
            re.match(r"/(?![/\\])|#", attributes[name] or "#")
            for name in ("src", "href", "action") if name in attributes
        ), attributes  # fmt: skip
    shown = [page.text, *(a.get(name) or "" for _, a in page.elements for name in SPOKEN)]
    hidden = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
    assert not any(map(hidden.search, shown))


def largest() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def staged(folder: Path) -> Iterator[Callable[[], Stage]]:
    """A server, and what empties its folder and puts the sound run there."""
    original, runs = sound(folder / "sound"), folder / "runs"
    runs.mkdir()
    with served(create(runs)) as port:

        def fresh() -> Stage:
            for path in runs.iterdir():
                shutil.rmtree(path)
            shutil.copytree(original, runs / "sound")
            return Stage(original, runs, port)

        yield fresh


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def ten_gigabytes(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10 << 30)  # sparse: takes no room, and reading it would take all


def ten_gigabytes_after_a_good_header(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(10 << 30)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (id INTEGER PRIMARY KEY, secret TEXT)")
        connection.execute("INSERT INTO bookmarks VALUES (1, 'a secret of another program')")
        connection.commit()


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def endless_text(path: Path) -> None:
    """A text whose length is said to be huge, on a page that leads to itself again and again."""
    with closing(sqlite3.connect(path)) as connection:
        text = json.dumps({"x": "y" * 30_000})
        connection.execute("UPDATE training SET layers = ?", (text,))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    at = data.find(b"y" * 4000)
    page = at // PAGE
    data[page * PAGE : page * PAGE + 4] = (page + 1).to_bytes(4, "big")
    path.write_bytes(data)


# Imported by name into the modules that use them.


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Stage]]:
    with staged(tmp_path_factory.mktemp("strangers")) as made:
        yield made


@pytest.fixture
def stage(fresh: Callable[[], Stage]) -> Iterator[Stage]:
    """Asserts on the way out that nothing made the process much larger."""
    made, before = fresh(), largest()
    yield made
    assert largest() - before < MEMORY
