"""The page in Chromium: every view, light and dark, wide and narrow, by keyboard, and live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser_fixture import (
    NARROW,
    PAPER,
    WIDE,
    Look,
    Window,
    assert_clean,
    draw,
    look_at,
    opened,
)
from browser_fixture import axe as axe
from browser_fixture import browser as browser
from browser_fixture import home as home
from browser_fixture import runs as runs
from page_fixture import begin
from served_fixture import served
from surefoot.page.access import Access
from surefoot.page.app import create
from views_fixture import FIXTURES, vanishing
from zoo_fixture import mostly_zoo

pytestmark = pytest.mark.browser
LIGHT, DARK = "light", "dark"
# Each kind of page, in both schemes and both widths.
VIEWS = {
    "/": 200,
    "/run/vanishing": 200,
    "/run/vanishing/layer?name=layers.18": 200,
    "/compare": 200,
    "/compare?run=vanishing&run=healthy": 200,
    "/rules": 200,
    "/rule/SF101": 200,
    "/remedy/activation.relu": 200,
    "/lab": 200,
    "/nowhere": 404,
}
# More of a kind, with contents of its own: on a phone, where they have the least room.
OTHERS = {
    "/run/deep": 200,
    "/run/hostile": 200,
    "/run/vanishing/layer?name=": 200,
    "/run/nonfinite/layer?name=layers.9": 200,
    "/run/vanishing/layer?name=nothing": 404,
    "/compare?run=hostile&run=deep": 200,
    "/run/nothing": 404,
}
FURTHER = {f"/run/{name}": 200 for name in FIXTURES if f"/run/{name}" not in VIEWS | OTHERS}


def assert_good(browser: Window, axe: Any, address: str, status: int, looks: list[Look]) -> None:
    first, *others = looks
    with opened(browser, address, status, lambda page: look_at(page, first)) as page:
        assert page.locator("h1").count() == 1
        assert "surefoot" in page.title()
        for look in (first, *others):
            look_at(page, look)
            scheme, viewport = look
            count = draw(page, scheme)
            if address.endswith(("/run/vanishing", "/run/deep", "/run/hostile")):
                assert count >= 4
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], look
            assert_clean(axe, page)


@pytest.mark.parametrize("address", VIEWS)
def test_every_view(browser: Window, axe: Any, home: str, address: str) -> None:
    schemes = (LIGHT, DARK) if list(VIEWS).index(address) % 2 else (DARK, LIGHT)
    looks: list[Look] = list(zip(schemes, (WIDE, NARROW), strict=True))
    assert_good(browser, axe, home + address, VIEWS[address], looks)


SUITE = ("/run/hostile", "/run/vanishing/layer?name=nothing", "/run/nothing")


@pytest.mark.parametrize("address", mostly_zoo([*OTHERS, *FURTHER], *SUITE))
def test_others_of_a_kind(browser: Window, axe: Any, home: str, address: str) -> None:
    known = OTHERS | FURTHER
    scheme = (LIGHT, DARK)[list(known).index(address) % 2]
    assert_good(browser, axe, home + address, known[address], [(scheme, NARROW)])


def test_nothing_moves_where_that_is_asked_for(browser: Window, home: str, runs: Path) -> None:
    writer = begin(vanishing(), runs / "moving")
    moves = "document.getAnimations().length"
    try:
        with opened(browser, f"{home}/run/moving", reduced_motion="no-preference") as page:
            assert page.evaluate(moves) > 0  # the point beside `live`
            page.emulate_media(reduced_motion="reduce")
            assert page.evaluate(moves) == 0
    finally:
        writer.close(vanishing().report)


def test_it_is_printed_on_white(browser: Window, home: str) -> None:
    with opened(browser, f"{home}/run/vanishing", color_scheme="dark") as page:
        draw(page, "dark")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == PAPER["light"]
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert not page.locator("header.bar").is_visible()
        assert len(page.pdf()) > 20_000


def test_a_page_without_script_says_what_is_there(browser: Window, home: str) -> None:
    with opened(browser, f"{home}/run/vanishing", java_script_enabled=False) as page:
        assert "UNSTABLE" in page.locator(".badge").inner_text()
        assert page.get_by_text("What this means").is_visible()
    with opened(browser, f"{home}/", java_script_enabled=False) as page:
        assert page.get_by_role("link", name="vanishing").is_visible()


def test_a_token_leads_in_from_anywhere(browser: Window, runs: Path) -> None:
    """From the terminal, and from a link on another site; and stays out of the address."""
    access = Access("127.0.0.1", "a-token", frozenset())
    with served(create(runs, access)) as port:
        home = f"http://127.0.0.1:{port}"
        context = browser.browser.new_context()
        page = context.new_page()
        assert page.goto(f"{home}/").status == 401
        page.goto(f"{home}/rule/SF101?token=a-token")
        assert page.url == f"{home}/rule/SF101"
        assert page.locator("h1").inner_text().startswith("SF101")
        context.close()
        context = browser.browser.new_context()
        page = context.new_page()
        page.route("http://elsewhere.example/", lambda route: route.fulfill(
            content_type="text/html", body=f'<a href="{home}/?token=a-token">in</a>',
        ))  # fmt: skip
        page.goto("http://elsewhere.example/")
        page.get_by_text("in").click()
        page.wait_for_url(f"{home}/")
        assert page.get_by_role("link", name="vanishing").is_visible()
        assert "token" not in page.evaluate("document.referrer + document.cookie")
        context.close()


def test_other_pages_learn_nothing(browser: Window, home: str) -> None:
    """A stranger's page, open in the same browser, can neither read, nor load, nor frame it."""
    page = browser.page()
    page.route("http://elsewhere.example/", lambda route: route.fulfill(
        content_type="text/html", body="<title>elsewhere</title>",
    ))  # fmt: skip
    page.goto("http://elsewhere.example/")
    tried = page.evaluate(
        """async (home) => {
          const ask = (path, how) => fetch(home + path, how).then((r) => r.type, () => 'refused');
          const load = (tag, path) => new Promise((done) => {
            const made = document.createElement(tag);
            made.onload = () => done('loaded');
            made.onerror = () => done('refused');
            made[tag === 'link' ? 'href' : 'src'] = home + path;
            if (tag === 'link') made.rel = 'stylesheet';
            document.head.append(made);
          });
          const stream = await new Promise((done) => {
            const source = new EventSource(home + '/events');
            source.onopen = () => done('opened');
            source.onerror = () => { source.close(); done('refused'); };
          });
          const socket = await new Promise((done) => {
            const made = new WebSocket(home.replace('http', 'ws') + '/events');
            made.onopen = () => done('opened');
            made.onerror = () => done('refused');
          });
          const frame = document.createElement('iframe');
          frame.src = home + '/';
          document.body.append(frame);
          await new Promise((done) => { frame.onload = done; setTimeout(done, 2000); });
          return [
            await ask('/'), await ask('/themes.json', {mode: 'no-cors'}),
            await ask('/', {method: 'POST', mode: 'no-cors'}),
            await load('script', '/plotly.js'), await load('link', '/report.css'),
            await load('img', '/static/icon.svg'), stream, socket,
          ];
        }""",
        home,
    )
    assert tried == ["refused"] * 8
    (frame,) = [frame for frame in page.frames if frame is not page.main_frame]
    assert frame.url.startswith("chrome-error:")
    page.close()
