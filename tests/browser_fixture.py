"""Chromium for the tests of the page: windows on which nothing may go wrong, and what they show.

The fixtures at the end are imported by name into the modules that use them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from page_fixture import put
from served_fixture import served
from surefoot.page.app import create
from test_views_report import CHROMIUM, CHROMIUM_ARGS

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
Look = tuple[str, dict[str, int]]  # light or dark, and the window
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(25, 29, 35)"}


class Window:
    """A browser, and the profile that most pages share: what they have loaded is kept."""

    def __init__(self, browser: Any) -> None:
        self.browser, self.shared = browser, browser.new_context(viewport=WIDE)

    def page(self, **options: Any) -> Any:
        """A page; with options it has a profile of its own, which goes when it is closed."""
        return (
            self.browser.new_page(viewport=WIDE, **options) if options else self.shared.new_page()
        )

    def close(self) -> None:
        self.shared.close()


@contextmanager
def opened(
    browser: Window,
    address: str,
    status: int = 200,
    prepare: Callable[[Any], object] = lambda page: None,
    **options: Any,
) -> Iterator[Any]:
    """A page at an address; on the way out nothing has gone wrong on it.

    prepare: what is done to the page before it goes there.
    """
    page = browser.page(**options)
    prepare(page)
    home = re.match(r"http://[^/]+", address)[0]  # type: ignore[index]
    trouble: list[str] = []
    missing = "Failed to load resource: the server responded with a status of 404"
    page.on(
        "console",
        lambda m: (status == 404 and m.text.startswith(missing)) or trouble.append(m.text),
    )
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append("a dialog"), dialog.dismiss()))
    page.on("requestfailed", lambda r: ended(r) or trouble.append(f"{r.url} failed: {r.failure}"))
    page.on("popup", lambda p: trouble.append(f"a window: {p.url}"))
    page.on("request", lambda r: foreign(r.url, home) and trouble.append(f"foreign {r.url}"))
    try:
        assert page.goto(address).status == status
        yield page
        assert not trouble
    finally:
        page.close()


def ended(request: Any) -> bool:
    """Whether the page itself has ended it: a stream of events, or all when it was left."""
    return request.failure == "net::ERR_ABORTED"


def foreign(url: str, home: str) -> bool:
    return not url.startswith((f"{home}/", "data:", "blob:"))


def look_at(page: Any, look: Look) -> None:
    """In that scheme and window, with nothing that moves."""
    scheme, viewport = look
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(viewport)


def draw(page: Any, scheme: str) -> int:
    """Bring each figure near the screen, until all are drawn on the paper of that look."""
    figures = page.locator("figure:not([hidden]) .plot")
    for number in range(figures.count()):
        figures.nth(number).evaluate("plot => plot.scrollIntoView({behavior: 'instant'})")
        page.wait_for_timeout(20)  # until it is noticed
    page.wait_for_function(
        """paper => [...document.querySelectorAll('figure:not([hidden]) .plot')].every((plot) =>
          plot.dataset.drawn && plot.querySelector('.main-svg')?.style.background === paper)""",
        arg=PAPER[scheme],
        polling=30,
    )
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')", polling=30)
    return figures.count()


@contextmanager
def started() -> Iterator[Window]:
    """Debian's Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which(CHROMIUM):
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        with closing(Window(opened)) as window:
            yield window
        opened.close()


def assert_clean(axe: Any, page: Any) -> None:
    # What Plotly draws inside is a picture; and looking at its thousands of elements takes seconds.
    context = {"exclude": [[".plot .svg-container"]]}
    told = axe.run(page, context, options={"resultTypes": ["violations"]})  # not all that is well
    found = told.response["violations"]
    said = [(v["id"], n["html"][:300], n["failureSummary"]) for v in found for n in v["nodes"][:3]]
    assert not said


# A browser of each module: while Playwright holds one, no test may run an event loop of its own.


@pytest.fixture(scope="module")
def browser() -> Iterator[Window]:
    with started() as window:
        yield window


@pytest.fixture(scope="module")
def axe() -> Any:
    module = pytest.importorskip("axe_playwright_python.sync_playwright")
    return module.Axe()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def home(runs: Path) -> Iterator[str]:
    with served(create(runs)) as port:
        yield f"http://localhost:{port}"
