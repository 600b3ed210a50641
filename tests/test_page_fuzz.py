"""Hostile requests to every address of the page: none fails, none leads out of its folder.

The addresses are those of the app itself, so that a new one is covered from its first day. The
requests are given to the app as a server would, without a client that tidies them.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message

from strangers_fixture import inert, sound
from surefoot.lab import Choices, experiment
from surefoot.lab import experiments as engine
from surefoot.page.app import ROUTES, create
from test_page_access import assert_safe_headers
from test_promises_golden import FOLDER as GOLDEN

SECRET = "the secret beside the folder"
PATHS = [getattr(route, "path", "") for route in ROUTES]
WORST = ("nan", "-1", "9" * 400, "\x00<script>", "%ff/../")
SOUND = [("run", "sound"), ("run", "golden"), ("name", "fc")]
KNOWN = ("sound", "SF101", "activation.relu", "page.css")  # one is known at each address


@dataclass
class Answer:
    """What an app has sent. streamed: whether the reader had to break it off."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    streamed: bool = False

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]


async def ask(app: ASGIApp, method: str, path: str, query: str, more: dict[str, str]) -> Answer:
    """One request; of a stream the first events are read, and then the reader goes."""
    named = {"host": "localhost", **more}
    sent: list[Message] = []
    gone = asyncio.Event()

    async def receive() -> Message:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and message.get("body"):
            gone.set()  # a whole answer does not care

    asked: list[bool] = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": re.sub("%([0-9a-f]{2})", _byte, path), "root_path": "",
        "raw_path": path.encode("latin-1", "replace"), "query_string": query.encode(),
        "headers": [(k.encode(), v.encode("latin-1", "replace")) for k, v in named.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 20)
    start, *rest = sent
    assert start["type"] == "http.response.start" and all("body" in m for m in rest), sent
    assert rest, "no end of the answer"
    body = b"".join(message["body"] for message in rest)
    streamed = bool(rest[-1].get("more_body"))
    return Answer(start["status"], Headers(raw=start["headers"]), body, streamed)


def _byte(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


HOSTILE = st.one_of(
    st.sampled_from(
        ["..", "../secret", ".", "/etc/passwd", "%2e%2e", "..%2f..%2fsecret", "%00", "%ff", "%",
         "sound/../../secret", "<script>alert(1)</script>", "\u202e\ud7ff\U0010ffff", "-1", "1e999",
         "nan", "inf", "9" * 400, "x" * 5000, "{{7*7}}", "a b&c=d#e?f", "\r\nset-cookie: a=b"]
    ),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip
NAMES = st.one_of(st.sampled_from([*KNOWN, "golden", "damaged", "broken"]), HOSTILE)
FIELDS = ("run", "name", "nth", "training", "layers", "token", "v", "x", "depth", "width",
          "activation", "learning_rate", "")  # fmt: skip
QUERIES = st.lists(
    st.tuples(st.sampled_from(FIELDS), st.one_of(NAMES, st.sampled_from(["fc", "depth", "1"]))),
    max_size=4,
)
METHODS = st.sampled_from(["GET"] * 12 + ["HEAD"] * 3 + ["POST", "OPTIONS", "TRACE", "get", "BREW"])
HEADERS = st.dictionaries(
    st.sampled_from(
        ["accept", "accept-encoding", "accept-language", "authorization", "connection", "cookie",
         "content-length", "if-modified-since", "if-none-match", "last-event-id", "origin", "range",
         "referer", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "te", "upgrade",
         "user-agent", "x-forwarded-host", "x-forwarded-proto", "x-http-method-override"]
    ),
    st.one_of(
        st.sampled_from(
            ["gzip", "bytes=0-1", "bytes=9-1,-5", "bytes=-0", '"x"', "websocket", "null",
             "cross-site", "same-origin", "Thu, 99 Jan 0000 00:00:00 GMT", "a" * 9000]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    max_size=3,
)  # fmt: skip


@dataclass
class Stage:
    """The app with a sound, an older, a cut and a foreign run, and what is beside their folder."""

    app: ASGIApp
    runner: asyncio.Runner

    def ask(
        self, method: str, path: str, query: str = "", more: dict[str, str] | None = None
    ) -> Answer:
        return self.runner.run(ask(self.app, method, path, query, more or {}))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("page")
    (root / "runs").mkdir()
    for beside in ("secret", "run.json", "run.sqlite", "proof.json"):
        (root / beside).write_text(SECRET)
    sound(root / "runs" / "sound")
    for name in ("golden", "damaged", "broken"):
        shutil.copytree(GOLDEN, root / "runs" / name)
    (root / "runs" / "damaged" / "run.sqlite").write_bytes(
        (GOLDEN / "run.sqlite").read_bytes()[:9000]
    )
    (root / "runs" / "broken" / "run.sqlite").write_bytes(b"no database" * 1000)
    made = experiment(Choices(depth=2, width=8))
    # What may be chosen is tested elsewhere; here each choice would cost an experiment.
    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "experiment", lambda _: made)
        yield Stage(create(root / "runs"), runner)


def filled(path: str, name: str) -> str:
    """An address of the app with a name in it, as it stands in a request."""
    word = quote(name, safe="/%.:<>{}'\"\\")
    return f"{path}/{word}" if path == "/static" else path.replace("{name}", word)


def assert_sound(answer: Answer, method: str) -> None:
    """Whatever was asked: it is an answer in words, and nothing of what lies beside the folder."""
    assert answer.status < 500 or (answer.status == 503 and "lab" in answer.body.decode())
    assert_safe_headers(answer.headers)
    assert "set-cookie" not in answer.headers
    if method not in ("GET", "HEAD"):
        assert answer.status == 405
    if method == "HEAD":
        assert not answer.streamed
        return
    if answer.headers.get("content-encoding") == "gzip":
        return
    text = answer.body.decode("utf-8", "replace" if "javascript" in answer.kind else "strict")
    assert SECRET not in text and "Traceback" not in text
    if answer.kind == "text/html":
        inert(text)
    if answer.kind == "application/json":
        json.loads(text, parse_constant=pytest.fail)


def attack(stage: Stage, path: str, examples: int) -> None:
    """Hostile requests to one address."""

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(name=NAMES, query=QUERIES, method=METHODS, more=HEADERS)
    def hostile(name: str, query: list[tuple[str, str]], method: str, more: dict[str, str]) -> None:
        answer = stage.ask(method, filled(path, name), urlencode(query, errors="replace"), more)
        assert_sound(answer, method)

    hostile()


def fields_of(stage: Stage, path: str) -> set[str]:
    """The fields of a query that the answer at an address depends on; one has to know a name."""
    asked: set[str] = set()

    def noted(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda query, field, *more: (asked.add(field), read(query, field, *more))[1]

    with pytest.MonkeyPatch.context() as patch:
        for way in ("get", "getlist"):
            patch.setattr(QueryParams, way, noted(getattr(QueryParams, way)))
        answers = [
            stage.ask("GET", address, urlencode(SOUND))
            for address in sorted({filled(path, name) for name in KNOWN})
        ]
    for answer in answers:
        assert_sound(answer, "GET")
    kept = path.endswith(("trials", "trials.json"))  # of which no run here has any
    assert kept or 200 in [answer.status for answer in answers], "no name that is known there"
    return asked


@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_the_page_fail(stage: Stage, path: str) -> None:
    """Each field that the address reads with each of the worst, then whatever comes to mind."""
    for key, value in product(sorted(fields_of(stage, path)), WORST):
        others = [(known, good) for known, good in SOUND if known != key]
        query = urlencode([*others, (key, value)])
        for name in KNOWN if "{" in path else KNOWN[:1]:
            assert_sound(stage.ask("GET", filled(path, name), query), "GET")
    attack(stage, path, 4)


@pytest.mark.zoo
@pytest.mark.parametrize("path", PATHS)
def test_nor_do_many(stage: Stage, path: str) -> None:
    attack(stage, path, 100)


def test_what_an_address_reads_is_found_out(stage: Stage) -> None:
    assert fields_of(stage, "/run/{name}/layer") == {"name", "nth", "training"}
    assert fields_of(stage, "/compare") == {"run"}
    assert fields_of(stage, "/rules") == set()
