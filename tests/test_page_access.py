"""Who is let in to the page, and what every answer carries whoever asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from served_fixture import get, raw
from served_fixture import port as port
from served_fixture import runs as runs
from surefoot.page import access as access_module
from surefoot.page.access import Access, Door
from surefoot.page.app import ROUTES, create
from views_fixture import Page

ADDRESSES = (
    "/",
    "/list",
    "/run/a%20run",
    "/run/a%20run/summary",
    "/run/a%20run/figures.json?name=depth&name=timeline",
    "/run/a%20run/layers",
    "/run/a%20run/trials",
    "/run/a%20run/trials.json",
    "/metrics",
    "/run/a%20run/layer?name=layers.0",
    "/run/a%20run/layer.json?name=layers.0",
    "/compare?run=a%20run&run=hostile",
    "/compare.json?run=a%20run&run=hostile",
    "/rules",
    "/rule/SF101",
    "/remedy/activation.relu",
    "/lab",
    "/run/hostile",
    "/plotly.js",
    "/themes.json",
    "/report.css",
    "/static/page.css",
    "/static/icon.svg",
    "/static/run.js",
    "/nowhere",  # and what is wrong
    "/run/nothing",
    "/run/nothing/events",
    "/static/nothing.js",
    "/static",
    "/run/a%20run/",
)


@pytest.fixture(scope="module")
def client(runs: Path) -> Iterator[TestClient]:
    with TestClient(create(runs), base_url="http://localhost") as made:
        yield made


HOSTS = {
    "localhost": True,
    "localhost:1": True,  # a tunnel has a port of its own
    "localhost:65535": True,
    "LOCALHOST:80": True,
    "127.0.0.1": True,
    "127.0.0.1:8888": True,
    "127.1.2.3:80": True,
    "[::1]": True,
    "[::1]:8080": True,
    "[0:0:0:0:0:0:0:1]": True,
    "localhost:": True,  # an empty port is allowed by RFC 3986
    "evil.example": False,
    "evil.example:7575": False,
    "localhost.evil.example": False,
    "127.0.0.1.evil.example": False,
    "localhost.": False,
    "0.0.0.0:7575": False,  # which some systems connect to themselves
    "[::]:7575": False,
    "192.168.1.7": False,
    "[2001:db8::1]": False,
    "myhost.local": False,
    "user@localhost": False,
    "localhost@evil.example": False,
    "evil.example#localhost": False,
    "localhost/": False,
    "localhost:80:80": False,
    "localhost:x": False,
    "localhost:-1": False,
    "local host": False,
    "::1": False,
    "[localhost]": False,
    "[::1": False,
    "2130706433": False,  # 127.0.0.1 as one number
    "0x7f.1": False,
    "": False,
}


@pytest.mark.parametrize(("host", "known"), HOSTS.items())
def test_only_the_machines_own_names_are_answered(
    client: TestClient, host: str, known: bool
) -> None:
    for address in ("/", "/static/page.css", "/nowhere"):
        answer = client.get(address, headers={"host": host})
        assert (answer.status_code == 421) is not known, (address, answer.status_code)
    assert known or "surefoot view" in client.get("/", headers={"host": host}).text


def test_hosts_through_a_real_server(port: int) -> None:
    assert get(port, b"/") == 200
    assert get(port, b"/", host=b"Host:  LocalHost:99 ") == 200
    assert get(port, b"/", host=b"") == 400
    assert get(port, b"/", b"Host: localhost") == 400  # two of them
    assert get(port, b"/", b"Host: evil.example") == 400
    assert get(port, b"/", host=b"Host:") == 421
    assert get(port, b"/", host=b"Host: localhost\t.evil.example") == 421
    assert get(port, b"/", host=b"Host: local\xe9host") == 421
    assert get(port, b"http://localhost/", host=b"Host: evil.example") == 421
    assert raw(port, b"GET / HTTP/1.0\r\n\r\n")[0] == 421


def test_two_hosts_are_refused_whatever_the_server_lets_pass(client: TestClient) -> None:
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert client.get("/", headers=headers).status_code == 421
    assert client.get("/", headers=headers[::-1]).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", 200),
        ("https://localhost", 200),  # behind a proxy that speaks TLS
        ("http://LOCALHOST", 200),
        ("http://localhost:8000", 403),  # another program's page on this machine
        ("http://127.0.0.1", 403),
        ("http://evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("file://localhost", 403),
        ("chrome-extension://localhost", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("localhost", 403),
    ],
)
def test_requests_of_other_origins_are_refused(
    client: TestClient, origin: str, status: int
) -> None:
    assert client.get("/", headers={"origin": origin}).status_code == status


@pytest.mark.parametrize("site", ["cross-site", "same-site", "new-word"])
@pytest.mark.parametrize(
    ("mode", "dest", "status"),
    [
        ("navigate", "document", 200),  # a link in a mail
        ("navigate", "iframe", 403),
        ("navigate", "embed", 403),
        ("cors", "empty", 403),
        ("no-cors", "image", 403),
        ("no-cors", "script", 403),
        ("no-cors", "style", 403),
        ("websocket", "empty", 403),
        (None, None, 403),
    ],
)
def test_other_sites_may_link_here_and_ask_nothing(
    client: TestClient, site: str, mode: str | None, dest: str | None, status: int
) -> None:
    told = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    headers = {name: value for name, value in told.items() if value is not None}
    assert client.get("/", headers=headers).status_code == status
    headers["sec-fetch-site"] = "same-origin"
    assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("address", ["/", "/static/page.css", "/run/x/events"])
def test_nothing_can_be_changed(client: TestClient, method: str, address: str) -> None:
    answer = client.request(method, address)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("address", ["/", "/run/a%20run", "/static/page.css", "/plotly.js"])
def test_head_is_answered_without_a_body(client: TestClient, address: str) -> None:
    answer = client.head(address)
    assert (answer.status_code, answer.content) == (200, b"")


def test_no_websocket_is_opened(client: TestClient, port: int) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://localhost/events"):
        pytest.fail("it was opened")
    upgrade = [
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    assert get(port, b"/", *upgrade) != 101
    assert get(port, b"/", *upgrade, b"Origin: http://evil.example") == 403


def assert_safe_headers(headers: object) -> None:
    get_header = headers.get  # type: ignore[attr-defined]
    policy = dict(
        part.strip().split(" ", 1) for part in get_header("content-security-policy").split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "http" not in get_header("content-security-policy")
    assert get_header("x-content-type-options") == "nosniff"
    assert get_header("referrer-policy") == "no-referrer"
    assert get_header("cross-origin-opener-policy") == "same-origin"
    assert get_header("cross-origin-resource-policy") == "same-origin"
    assert get_header("cache-control")
    assert get_header("access-control-allow-origin") is None


KINDS = {"text/html", "text/plain", "text/css", "text/javascript", "application/json"}


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_answer_has_the_headers(client: TestClient, address: str) -> None:
    answer = client.get(address, follow_redirects=False)
    assert answer.status_code < 500
    assert_safe_headers(answer.headers)
    kind = answer.headers.get("content-type", "")
    if answer.status_code == 200 and "/static/" not in address:
        assert kind.startswith(
            ("text/html", "text/plain", "application/json", "text/css", "text/j")
        )


def test_the_list_of_addresses_is_complete() -> None:
    """An address that is new in the app has to be added above."""
    asked = [address.partition("?")[0] for address in ADDRESSES]
    streams = ("/events", "/run/{name}/events", "/lab/result")
    for route in ROUTES:
        path = route.path  # type: ignore[attr-defined]
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        assert path in streams or any(re.fullmatch(pattern, a) for a in asked) or path == "/static"


def test_no_script_is_loaded_by_two_addresses(client: TestClient) -> None:
    """A browser would run it twice, and each key would count double."""
    folder = Path(access_module.__file__).parent / "static"
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    imported = set(re.findall(r'from "\./([\w.]+)";', code))
    assert "keyboard.js" in imported
    for address in HTML:
        sources = [a.get("src") or "" for a in Page(client.get(address).text).every("script")]
        versioned = {s.split("/")[-1].split("?")[0] for s in sources if "?" in s}
        assert not imported & versioned


def test_refusals_have_the_headers(client: TestClient, runs: Path) -> None:
    access = Access("0.0.0.0", "token")
    guarded = TestClient(create(runs, access), base_url="http://192.0.2.7")
    for answer in (
        client.get("/", headers={"host": "evil.example"}),
        client.get("/", headers={"origin": "null"}),
        client.post("/"),
        guarded.get("/"),
        guarded.get("/?token=token", follow_redirects=False),
    ):
        assert answer.status_code != 200
        assert_safe_headers(answer.headers)


def test_a_failure_of_the_page_itself_has_the_headers(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create(runs)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("surefoot.page.shelf.Shelf.runs", broken)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "terminal" in answer.text
    assert_safe_headers(answer.headers)


@pytest.mark.parametrize("address", ["/events", "/run/a%20run/events"])
def test_event_streams_have_the_headers(port: int, address: str) -> None:
    connection = http.client.HTTPConnection("localhost", port, timeout=10)
    connection.request("GET", address)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert_safe_headers(answer.headers)
    connection.close()


HTML = [a for a in ADDRESSES if not a.endswith((".js", ".css", ".svg")) and ".json" not in a]


@pytest.mark.parametrize("address", HTML)
def test_pages_run_no_script_of_their_own_and_load_nothing_from_elsewhere(
    client: TestClient, address: str
) -> None:
    answer = client.get(address)
    if not answer.headers.get("content-type", "").startswith("text/html"):
        return
    page = Page(answer.text)
    assert not [code for code in page.scripts if code.strip()]
    assert not re.search(r"javascript:|vbscript:|data:text", answer.text, re.IGNORECASE)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "applet", "img", "style")
        assert not any(name.startswith("on") or name == "srcdoc" for name in attributes), tag
        for name in ("src", "href", "action", "formaction", "data", "poster"):
            target = attributes.get(name)
            assert target is None or re.match(r"/(?![/\\])|#", target), (tag, target)
        if tag == "meta":
            assert attributes.get("http-equiv") is None


def test_static_files_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in (Path(access_module.__file__).parent / "static").iterdir():
        text = client.get(f"/static/{path.name}").text
        assert text == path.read_text(encoding="utf-8")
        found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))
        assert found <= {"http://www.w3.org"}, path  # the name of SVG
        assert not re.search(r"\beval\b|new Function|document\.write|insertAdjacentHTML", text)


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/x\r\nHost: localhost\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
     b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"],
)  # fmt: skip
def test_malformed_requests_are_refused(port: int, request_: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the rest of it was not even read
        assert raw(port, request_)[0] in (400, 431)
    assert get(port, b"/") == 200


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_the_door_lets_nothing_else_through(kind: str) -> None:
    """What no server sends today reaches the app neither, but for its start and end."""
    passed, sent = [], []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [], "method": "GET", "path": "/", "query_string": b""}
    asyncio.run(Door(app, Access())(scope, receive, send))
    assert passed == (["lifespan"] if kind == "lifespan" else [])
    assert bool(sent) == (kind != "lifespan")
