"""Who may see the page: this machine alone, or whoever holds the token.

A web page of a stranger, open in the same browser, can send requests to this machine, or give its
own name this machine's address (DNS rebinding). So the names that requests are made to are checked,
and requests that another site makes are refused. Nothing here changes anything: every method but
GET and HEAD is refused as well.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Scripts come from files of this server only. Plotly sets styles of single elements itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-z._-]+))(?::[0-9]{0,5})?", re.ASCII)
_FOREIGN = "expected a request from this page itself\n"


@dataclass(frozen=True, slots=True)
class Access:
    """What is let in. host: the address that is listened at; token: None on loopback alone."""

    host: str = "127.0.0.1"
    token: str | None = None
    names: frozenset[str] = field(default_factory=frozenset)

    @staticmethod
    def at(host: str) -> Access:
        """Loopback is open to this machine; any other address gets a token of its own.

        >>> Access.at("localhost").token is None, len(Access.at("0.0.0.0").token or "") > 20
        (True, True)
        """
        if _is_loopback(host.lower()):
            return Access(host)
        own = {host, socket.gethostname(), f"{socket.gethostname()}.local", socket.getfqdn()}
        return Access(host, secrets.token_urlsafe(24), frozenset(name.lower() for name in own))

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. An address cannot be rebound; a name can.

        Any port will do: the server may be reached through a tunnel.

        >>> access = Access()
        >>> access.knows("localhost:8000"), access.knows("evil.example:8000"), access.knows("")
        (True, False, False)
        """
        name = hostname(host)
        if _is_loopback(name) or name in self.names:
            return True
        return self.token is not None and _address(name) is not None

    @property
    def cookie(self) -> str:
        """The cookie's name, of this server only: other ports of the host have the same cookies."""
        return f"surefoot-{hashlib.sha256((self.token or '').encode()).hexdigest()[:12]}"


def hostname(host: str) -> str:
    """The name in a Host header, without its port; empty if it is malformed.

    >>> hostname("[::1]:80"), hostname("LocalHost"), hostname("user@host"), hostname("a b")
    ('::1', 'localhost', '', '')
    """
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


class Door:
    """The outermost layer of the app: refuses what `Access` does not let in, adds the headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            elif scope["type"] == "websocket":  # there are none here
                await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._key(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._access.knows(hosts[0]):
            return PlainTextResponse(
                "expected a request to this machine by its own name. Open the address that "
                "`surefoot view` has printed, or the same with the machine's IP address.\n",
                421,
            )
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(
                "expected GET: this page changes nothing\n", 405, {"allow": "GET, HEAD"}
            )
        if any(not _same_site(origin, hosts[0]) for origin in origins):
            return PlainTextResponse(_FOREIGN, 403)
        # A link from elsewhere may open a page; another site's script or picture may ask nothing.
        opened = headers.get("sec-fetch-mode") == "navigate" and (
            headers.get("sec-fetch-dest", "document") == "document"
        )
        if _crossed(headers) and not opened:
            return PlainTextResponse(_FOREIGN, 403)
        return None

    def _key(self, scope: Scope) -> Response | None:
        """Where a token is asked for: None with it, a way to it, or a refusal."""
        token, headers = self._access.token, Headers(scope=scope)
        if token is None:
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if any(name == "token" and _same(value, token) for name, value in query):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            answer = _onward(scope, f"?{rest}" if rest else "", _crossed(headers))
            answer.set_cookie(
                self._access.cookie, token, httponly=True, samesite="strict", path="/"
            )
            return answer
        # Cookies of the host's other ports come along, and may be anything.
        cookies = [part.strip() for line in headers.getlist("cookie") for part in line.split(";")]
        if any(_same(cookie, f"{self._access.cookie}={token}") for cookie in cookies):
            return None
        return PlainTextResponse(
            "expected the token. Open the address that `surefoot view` has printed.\n", 401
        )


def _crossed(headers: Headers) -> bool:
    """Whether a browser says that another site asks."""
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _same_site(origin: str, host: str) -> bool:
    """Whether an Origin header names the host that the request was made to."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _onward(scope: Scope, rest: str, crossed: bool) -> Response:
    """To the same address without the token, which is not to stay in the browser's history.

    A strict cookie is not sent along where a link on another site began the way here, nor after a
    redirect. There the page itself goes on.
    """
    path = scope.get("raw_path") or scope["path"].encode()
    target = "/" + path.decode("latin-1").partition("?")[0].lstrip("/\\")
    answer = RedirectResponse(f"{target}{rest}", 303)
    if crossed:
        answer.headers["refresh"] = f"0; url={answer.headers['location']}"
        del answer.headers["location"]
        answer.status_code = 200
    return answer


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode("utf-8", "replace"), other.encode())
