"""Any address but loopback asks for a token: who has it, and what becomes of it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from served_fixture import raw, served
from served_fixture import runs as runs
from surefoot.page import access as access_module
from surefoot.page.access import Access
from surefoot.page.app import create
from test_page_access import ADDRESSES, assert_safe_headers

TOKEN = "a-token-of-this-test"
GUARDED = Access("0.0.0.0", TOKEN, frozenset({"box", "box.local"}))


@pytest.fixture
def guarded(runs: Path) -> TestClient:
    """The page behind a token."""
    return TestClient(create(runs, GUARDED), base_url="http://192.0.2.7:7575")


@pytest.mark.parametrize("address", [*ADDRESSES, "/events", "/run/a%20run/events"])
def test_nothing_is_shown_without(guarded: TestClient, address: str) -> None:
    for wrong in ({}, {"cookie": f"{GUARDED.cookie}=x"}, {"cookie": f"surefoot={TOKEN}"}):
        answer = guarded.get(address, headers=wrong, follow_redirects=False)
        assert answer.status_code == 401
        assert TOKEN not in answer.text
        assert "set-cookie" not in answer.headers
        assert "surefoot" not in answer.headers.get("location", "")


@pytest.mark.parametrize(
    "query",
    ["?token=", "?token=wrong", f"?token={TOKEN}x", f"?token={TOKEN[:-1]}", f"?x={TOKEN}",
     f"?Token={TOKEN}", "?token=%00", "?token=%ff", "?token=%ED%A0%80", f"?token=%20{TOKEN}"],
)  # fmt: skip
def test_nothing_is_shown_with_a_wrong_one(guarded: TestClient, query: str) -> None:
    assert guarded.get(f"/{query}", follow_redirects=False).status_code == 401


def test_the_right_one_leads_to_an_address_without_it(guarded: TestClient) -> None:
    first = guarded.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"{GUARDED.cookie}={TOKEN};")
    options = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert options == {"httponly", "samesite=strict", "path=/"}
    second = guarded.get("/")
    assert second.status_code == 200
    assert TOKEN not in second.text
    assert guarded.get("/static/run.js").status_code == 200


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/?a=1&token={}&b=", "/?a=1&b="),
        ("/run/a%20run?token={}&training=2", "/run/a%20run?training=2"),
        ("/run/a%3Fb%23c%2Fd?token={}", "/run/a%3Fb%23c%2Fd"),
        ("/compare?run=a&run=b&token={}", "/compare?run=a&run=b"),
        ("/rule/%0d%0aset-cookie:x?token={}&x=%0d%0ay", "/rule/%0d%0aset-cookie:x?x=%0D%0Ay"),
    ],
)
def test_the_rest_of_the_address_is_kept(guarded: TestClient, asked: str, led: str) -> None:
    answer = guarded.get(asked.format(TOKEN), follow_redirects=False)
    assert answer.headers["location"] == led


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", "///evil.example"])
def test_it_never_leads_elsewhere(runs: Path, path: str) -> None:
    with served(create(runs, GUARDED)) as port:
        target = f"GET {path}?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        _, answer = raw(port, f"{target}Connection: close\r\n\r\n".encode())
    (location,) = re.findall(rb"(?i)\r\nlocation: (.*?)\r\n", answer)
    assert re.match(rb"/(?![/\\])", location)


def test_a_link_on_another_site_leads_in_as_well(guarded: TestClient) -> None:
    """No strict cookie is sent after a redirect that another site began."""
    crossed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    address = f"/run/a%20run?token={TOKEN}&training=0"
    answer = guarded.get(address, headers=crossed, follow_redirects=False)
    assert answer.status_code == 200
    assert answer.headers["refresh"] == "0; url=/run/a%20run?training=0"
    assert "location" not in answer.headers
    assert_safe_headers(answer.headers)


def test_the_cookie_is_found_among_those_of_other_ports(guarded: TestClient) -> None:
    """Cookies know no ports: those of other programs on the machine are sent along."""
    own = f"{GUARDED.cookie}={TOKEN}"
    for other in (
        "a=1",
        'json={"x": [1, 2]}',
        "broken",
        "=",
        "x=\xff",
        f"{GUARDED.cookie}=old",
    ):
        for together in (f"{other}; {own}", f"{own}; {other}", f"{own};{other}"):
            headers = {"cookie": together.encode("latin-1")}
            assert guarded.get("/", headers=headers).status_code == 200, together


def test_two_pages_on_one_machine_do_not_share_a_cookie() -> None:
    one, other = Access.at("0.0.0.0"), Access.at("0.0.0.0")
    assert one.token != other.token
    assert one.cookie != other.cookie
    assert (one.token or "") not in one.cookie


def test_the_token_is_compared_in_constant_time(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return False

    monkeypatch.setattr(access_module.secrets, "compare_digest", compare)
    assert guarded.get(f"/?token={TOKEN}").status_code == 401
    headers = {"cookie": f"{GUARDED.cookie}={TOKEN}"}
    assert guarded.get("/", headers=headers).status_code == 401
    assert TOKEN.encode() in compared
    assert any(seen.endswith(b"=" + TOKEN.encode()) for seen in compared)


@pytest.mark.parametrize(
    ("host", "known"),
    [("192.0.2.7", True), ("[2001:db8::7]:80", True), ("box:80", True), ("BOX.local", True),
     ("localhost:7575", True), ("evil.example", False), ("box.evil.example", False)],
)  # fmt: skip
def test_host_names_are_checked_as_well(guarded: TestClient, host: str, known: bool) -> None:
    headers = {"host": host, "cookie": f"{GUARDED.cookie}={TOKEN}"}
    assert guarded.get("/", headers=headers).status_code == (200 if known else 421)


def test_which_addresses_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "MyHost")
    monkeypatch.setattr(socket, "getfqdn", lambda: "myhost.lab.example")
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "::1", "127.0.0.2"):
        assert Access.at(host).token is None
    for host in ("0.0.0.0", "::", "192.0.2.7", "myhost", "2001:db8::1", ""):
        made = Access.at(host)
        assert len(made.token or "") >= 32  # 24 bytes
        for name in ("myhost", "myhost.local", "myhost.lab.example:80", "localhost:9"):
            assert made.knows(name), name
        assert not made.knows("evil.example")
