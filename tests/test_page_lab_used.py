"""The lab on the page as it is used: by several at once, in the browser, until Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

import test_page_lab as forms
from browser_fixture import NARROW, WIDE, assert_clean, draw, look_at, opened
from browser_fixture import axe as axe
from browser_fixture import browser as browser
from page_fixture import Site
from record_fixture import wait_until
from served_fixture import served
from surefoot.findings import Verdict
from surefoot.lab import Choices, experiment
from surefoot.lab import experiments as engine
from surefoot.page import lab
from surefoot.page.app import create
from test_page_lab import BROKEN, SIGMOID, SMALL, address, answer, text_of
from test_view_command import view

site = forms.site

# One at a time.


class Gate:
    """The engine, which waits until it is let go; asked: the depths in their order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.open = threading.Event()

    def __call__(self, chosen: Choices) -> engine.Experiment:
        self.asked.append(chosen.depth)
        assert self.open.wait(60)
        return experiment(chosen)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(engine, "experiment", made)
    yield made
    made.open.set()


def waiting() -> int:
    """Requests that are computed or wait for it."""
    return 1 + lab.WAITING - lab._room._value  # type: ignore[attr-defined]


def test_too_many_are_told_so(site: Site, gate: Gate) -> None:
    codes: list[int] = []

    def ask(depth: int) -> None:
        chosen = {**SMALL, "depth": str(depth)}
        codes.append(site.client.get(address(chosen, "/lab/result")).status_code)

    threads = [threading.Thread(target=ask, args=[depth]) for depth in range(1, 6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiting() == 5 and gate.asked)
    assert len(gate.asked) == 1  # the others wait for their turn
    assert answer(site, SMALL, 503)["heading"] == "Too much at once"
    assert "Try it again in a moment." in text_of(site, SMALL, 503)
    gate.open.set()
    for thread in threads:
        thread.join(60)
    assert codes == [200] * 5
    assert answer(site, SMALL)["verdict"]


def test_nothing_is_computed_for_who_has_gone(tmp_path: Path, gate: Gate) -> None:
    with served(create(tmp_path)) as port:
        made = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for depth, connection in enumerate(made, 1):
            target = address({**SMALL, "depth": str(depth)}, "/lab/result")
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(lambda wanted=depth: waiting() == wanted)
        wait_until(lambda: gate.asked == [1])
        made[1].close()
        threading.Event().wait(0.3)  # until the server has noticed
        gate.open.set()
        assert made[2].recv(12) == b"HTTP/1.1 200"
        assert gate.asked == [1, 3]
        for connection in made:
            connection.close()


def test_a_failure_leaves_the_room_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Choices) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(engine, "experiment", broken)
    client = TestClient(
        create(tmp_path), base_url="http://localhost", raise_server_exceptions=False
    )
    for _ in range(2 + lab.WAITING):
        failed = client.get("/lab/result")
        assert failed.status_code == 500
        assert failed.headers["content-type"].startswith("text/html")  # which the script knows
        assert "secret" not in failed.text
    assert waiting() == 0
    monkeypatch.undo()
    assert client.get(address(SMALL, "/lab/result")).status_code == 200


def test_getting_ready_makes_no_result_that_is_shown() -> None:
    engine._experiment.cache_clear()
    lab.warm()
    assert engine._experiment.cache_info().currsize == 1
    default = experiment(Choices())
    assert default.verdict is Verdict.HEALTHY
    assert engine._experiment.cache_info().hits == 0


@pytest.mark.zoo
def test_ctrl_c_ends_it_in_the_middle_of_an_experiment(tmp_path: Path) -> None:
    with view(tmp_path, "--port", "0") as process:
        assert process.get(address(SMALL, "/lab/result"))[0] == 200
        connection = socket.create_connection(("127.0.0.1", process.port or 0))
        target = address({"depth": "64", "width": "256"}, "/lab/result")
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        threading.Event().wait(0.4)
        seconds = process.end(signal.SIGINT)
        print(f"it took {seconds:.1f} s")
        assert process.process.returncode == 0
        connection.close()


@pytest.mark.zoo
def test_the_end_waits_for_what_is_computed_in_the_background() -> None:
    """A thread that comes back from PyTorch in an interpreter that ends would abort it."""
    code = (
        "import os, threading, time\n"
        "from surefoot.lab import experiments\n"
        "from surefoot.page import lab\n"
        "begun = threading.Event()\n"
        "def slow(chosen): begun.set(); time.sleep(0.5); os.write(1, b'computed')\n"
        "experiments.experiment = slow\n"
        "lab.lab_figures.drawn = lambda found: None\n"
        "threading.Thread(target=lab.warm, daemon=True).start()\n"
        "begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"computed")


# In the browser.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(create(tmp_path_factory.mktemp("lab"))) as port:
        yield f"http://localhost:{port}"


def settled(page: Any, query: str) -> str:
    """Waits until the result of a query is shown; returns what is said."""
    page.wait_for_function(
        "query => location.search === query && "
        "document.getElementById('result').getAttribute('aria-busy') === 'false'",
        arg=query,
    )
    return page.locator("#heading").inner_text()


@pytest.mark.browser
@pytest.mark.zoo
def test_it_answers_to_the_keyboard(browser: Any, home: str) -> None:
    with opened(browser, f"{home}/lab?activation=sigmoid&depth=2&width=8") as page:
        before = settled(page, "?depth=2&width=8&activation=sigmoid")  # in the form's own order
        tiles = page.locator("[data-kept]").all_inner_texts()
        slider = page.get_by_role("slider", name="Depth")
        slider.focus()
        page.keyboard.press("End")  # in one key: what came between would be what was before
        after = settled(page, "?depth=64&width=8&activation=sigmoid")
        assert page.locator("#choice-depth").input_value() == "64"
        assert slider.get_attribute("aria-valuetext") == "64"
        assert after == "Unstable: vanishing gradients" != before
        assert page.locator("[data-was=whole]").inner_text() == f"before: {tiles[0]}"
        assert page.evaluate("document.activeElement.dataset.of") == "depth"
        shown = page.locator("#told .told").inner_text()
        page.reload()
        assert settled(page, "?depth=64&width=8&activation=sigmoid") == after
        assert page.locator("#told .told").inner_text() == shown
        rate = page.get_by_role("slider", name="Learning rate")
        rate.focus()
        page.keyboard.press("ArrowRight")
        settled(page, "?depth=64&width=8&activation=sigmoid&learning_rate=0.056")
        page.locator("#choice-loss").select_option("squared_error")
        settled(page, "?depth=64&width=8&activation=sigmoid&learning_rate=0.056&loss=squared_error")


@pytest.mark.browser
@pytest.mark.zoo
def test_links_choose_and_back_undoes_them(browser: Any, home: str) -> None:
    with opened(browser, f"{home}/lab") as page:
        page.evaluate("window.same = true")
        assert settled(page, "").startswith("Healthy")
        sigmoid = f"?{urlencode(SIGMOID.to_query())}"
        page.get_by_role("link", name="Sigmoid, ten layers").click()
        assert settled(page, sigmoid) == "Unstable: vanishing gradients"
        assert page.locator("#choice-activation").input_value() == "sigmoid"
        assert page.locator(".presets [aria-current]").inner_text().startswith("Sigmoid")
        assert page.locator("figure:not([hidden]) .main-svg").count() >= 3
        page.locator(".try a").first.press("Enter")
        assert settled(page, "").startswith("Healthy")
        assert page.evaluate("document.activeElement.id") == "heading"  # the link is gone
        page.go_back()
        assert settled(page, sigmoid) == "Unstable: vanishing gradients"
        page.go_back()
        assert settled(page, "").startswith("Healthy")
        assert page.locator("#choice-activation").input_value() == "relu"
        assert page.evaluate("window.same")


@pytest.mark.browser
@pytest.mark.zoo
def test_what_goes_wrong_is_said(browser: Any, tmp_path: Path) -> None:
    page = browser.page()
    with served(create(tmp_path)) as port:
        page.goto(f"http://localhost:{port}/lab?depth=2&width=8")
        settled(page, "?depth=2&width=8")
        page.locator("#choice-depth").fill("65")
        page.get_by_text("Expected depth as a whole number from 1 to 64").wait_for()
        assert page.locator("figure:not([hidden])").count() == 0
        page.get_by_role("link", name="Choose the nearest instead").press("Enter")
        settled(page, "?depth=64&width=8")
    page.locator("#choice-depth").fill("3")
    page.locator("#heading", has_text="No answer").wait_for()
    assert "surefoot view" in page.locator("#told").inner_text()
    page.close()


@pytest.mark.browser
@pytest.mark.zoo
@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)])
@pytest.mark.parametrize("chosen", [SIGMOID.to_query(), {"depth": "64", **BROKEN}])
def test_it_is_accessible(
    browser: Any, axe: Any, home: str, scheme: str, viewport: Any, chosen: dict[str, str]
) -> None:
    query = urlencode(Choices.parse(chosen).to_query())
    with opened(browser, f"{home}/lab?{query}") as page:
        look_at(page, (scheme, viewport))
        assert settled(page, f"?{query}").startswith("Unstable")
        assert draw(page, scheme) >= 3
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert_clean(axe, page)
        # On a phone the verdict is in sight while the controls fill the screen.
        box = page.locator("#heading").bounding_box()
        assert box["y"] + box["height"] <= viewport["height"]
