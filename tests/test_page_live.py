"""The page in Chromium while runs go on, and for hands that stay on the keyboard."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser_fixture import Window, draw, opened
from browser_fixture import browser as browser
from browser_fixture import home as home
from browser_fixture import runs as runs
from page_fixture import begin, record
from surefoot.findings import Report
from views_fixture import one_step, vanishing

pytestmark = pytest.mark.browser


STEPS = "steps => document.querySelector('[data-now=steps]').innerText === steps"


def shown(page: Any, key: str) -> str:
    return page.locator(f"[data-now={key}]").inner_text()


def test_a_live_run_is_followed(browser: Window, home: str, runs: Path) -> None:
    """Numbers, words and figures are renewed; what the reader has done to the page stays."""
    data = vanishing()
    writer = begin(data, runs / "live")
    width = {name: series.last.shape[1] for name, series in data.series.items()}
    try:
        with opened(browser, f"{home}/run/live") as page:
            page.wait_for_function(
                "() => document.querySelector('[data-now=steps]').innerText === '900'"
            )
            assert page.locator("#live").is_visible()
            draw(page, "light")
            plot = page.locator("[data-figure=timeline]")
            plot.scroll_into_view_if_needed()
            page.evaluate(
                """() => {
                  window.same = true;  // gone after a reload
                  document.querySelector('.details details').open = true;
                  const details = document.querySelector('#summary details');
                  if (details) details.open = !details.open;
                  window.folded = details?.open;
                }"""
            )
            box = plot.locator(".nsewdrag").first.bounding_box()
            across, down = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
            page.mouse.move(across, down)  # to zoom in as a reader does
            page.mouse.down()
            page.mouse.move(across + box["width"] / 3, down, steps=4)
            page.mouse.up()
            zoomed = "plot => plot._fullLayout.xaxis.range.map(Math.round)"
            kept = plot.evaluate(zoomed)
            assert 150 < kept[0] < kept[1] < 700
            link = page.locator("#summary a").first
            link.evaluate("link => link.focus({preventScroll: true})")  # what is far off can wait
            target = link.get_attribute("href")
            drawn = int(plot.get_attribute("data-drawn"))
            waited = []
            for step in range(900, 904):
                rows = {n: np.full(c, 1e-3) for n, c in width.items() if n != "update_ratio"}
                began = time.monotonic()
                writer.put(0, step, {**rows, "loss": np.array([step / 7])})
                page.wait_for_function(STEPS, arg=str(step + 1), polling=20)
                waited.append(time.monotonic() - began)
            print(f"on screen after {np.median(waited):.2f} s, {max(waited):.2f} s at most")
            assert np.median(waited) < 1
            assert shown(page, "loss") == "129"
            page.wait_for_function(
                "([plot, drawn]) => Number(plot.dataset.drawn) > drawn",
                arg=[plot.element_handle(), drawn],
            )
            page.wait_for_function(
                "plot => plot._fullData.some((line) => line.x && Math.max(...line.x) >= 903)",
                arg=plot.element_handle(),
            )
            assert plot.evaluate(zoomed) == kept
            page.mouse.dblclick(across, down)  # out again, and on with the run
            writer.put(0, 1200, {"loss": np.array([1.0])})
            end = "plot => plot._fullLayout.xaxis.range[1] > 1200"
            page.wait_for_function(end, arg=plot.element_handle())
            assert page.evaluate("document.querySelector('.details details').open")
            assert page.evaluate("document.activeElement.getAttribute('href')") == target
            assert page.evaluate("window.same")
            writer.close(data.report)
            page.wait_for_function("() => document.getElementById('live').hidden")
            page.wait_for_timeout(300)  # for the words to be renewed as well
            assert page.evaluate("window.same")
            folded = "document.querySelector('#summary details')?.open"
            assert page.evaluate(folded) == page.evaluate("window.folded")
            assert page.evaluate("document.activeElement.getAttribute('href')") == target
    finally:
        writer.close(data.report)


@pytest.mark.parametrize(
    "address",
    ["/run/{}", *(pytest.param(a, marks=pytest.mark.zoo) for a in (
        "/run/{}/layer?name=", "/compare?run={}&run=healthy",
    ))],
)  # fmt: skip
def test_what_came_before_the_stream_is_not_missed(
    browser: Window, home: str, runs: Path, address: str
) -> None:
    """A run ends, with another verdict, after the page was made and before it listens."""
    name, data = f"early{len(address)}", one_step()
    writer = begin(replace(data, report=Report(missing=("too early",), steps=1)), runs / name)
    sentence = data.report.findings[0].sentence
    held: list[Any] = []

    def hold(page: Any) -> None:
        page.route(f"**/run/{name}/events", lambda route: held.append(route))

    try:
        with opened(browser, home + address.format(name), prepare=hold) as page:
            while not held:
                page.wait_for_timeout(20)
            assert not page.get_by_text(sentence).count()
            writer.close(data.report)
            held.pop().continue_()
            page.get_by_text(sentence).first.wait_for()
    finally:
        writer.close(data.report)


def test_the_list_is_kept_up_to_date(browser: Window, home: str, runs: Path) -> None:
    """A new run appears; what is ticked, typed and focused stays."""
    with opened(browser, f"{home}/") as page:
        compare = page.locator("#compare")
        assert compare.is_disabled()
        for name in ("vanishing", "healthy"):
            page.locator(f"input[value={name}]").check()
        assert compare.is_enabled()
        page.locator("#filter").fill("h")
        healthy = page.locator("a[data-line]", has_text="healthy")
        healthy.focus()
        began = time.monotonic()
        record(one_step(), runs / "a-fresh-one")
        page.locator("a[data-line]", has_text="a-fresh-one").wait_for()
        assert time.monotonic() - began < 5
        assert page.locator("input:checked").count() == 2
        assert page.evaluate("document.activeElement.innerText") == "healthy"
        page.locator("input[value=vanishing]").focus()
        writer = begin(one_step(), runs / "one-that-goes-on")
        writer.close(one_step().report)
        page.locator("a[data-line]", has_text="one-that-goes-on").wait_for()
        assert page.evaluate("document.activeElement.value") == "vanishing"
        assert page.locator("#filter").input_value() == "h"
        assert not page.locator("a[data-line]", has_text="deep").is_visible()
        compare.click()
        page.wait_for_url(
            re.compile(r"/compare\?run=(vanishing&run=healthy|healthy&run=vanishing)")
        )


def test_by_keyboard(browser: Window, home: str) -> None:
    with opened(browser, f"{home}/") as page:
        press = page.keyboard.press
        focused = "document.activeElement.innerText"
        press("Tab")
        assert page.evaluate(focused) == "Skip to the content"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.goto(f"{home}/")
        names = []
        for _ in range(12):
            press("Tab")
            names.append(
                page.evaluate(f"{focused} || document.activeElement.getAttribute('aria-label')")
            )
            ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", names[-1]
        assert names[:6] == ["Skip to the content", "surefoot", "Runs", "Compare", "Lab", "Rules"]
        assert any(name and name.startswith("Compare ") for name in names)
        page.reload()
        press("j")
        press("j")
        press("k")
        first = page.locator("a[data-line]").first.inner_text()
        assert page.evaluate(focused) == first
        press("k")
        assert page.evaluate(focused) == first  # the end of the list
        press("Enter")
        page.wait_for_url(re.compile("/run/"))
        press("g")
        press("r")
        page.wait_for_url(f"{home}/")
        press("?")
        assert page.locator("dialog#keys").is_visible()
        press("g")
        press("l")  # not behind the dialog's back
        press("Escape")
        assert not page.locator("dialog#keys").is_visible()
        assert page.url == f"{home}/"
        press("/")
        assert page.evaluate("document.activeElement.id") == "filter"
        page.keyboard.type("nonfinite gr?j")  # where one types, keys are letters
        assert page.url == f"{home}/"
        assert page.locator("#filter").input_value() == "nonfinite gr?j"
        assert page.locator("a[data-line]:visible").count() == 0
        page.locator("#filter").fill("NONFINITE")
        assert page.locator("a[data-line]:visible").all_inner_texts() == ["nonfinite"]
        press("Escape")
        press("j")
        assert page.evaluate(focused) == "nonfinite"


def test_keys_can_be_turned_off(browser: Window, home: str) -> None:
    with opened(browser, f"{home}/", java_script_enabled=True) as page:
        page.keyboard.press("?")
        page.get_by_label("Do not listen to single keys").check()
        page.get_by_role("button", name="Close").click()
        assert not page.locator("dialog#keys").is_visible()
        for _ in range(2):
            for key in ("?", "j", "/", "g", "l"):
                page.keyboard.press(key)
            assert page.url == f"{home}/"
            assert not page.locator("dialog#keys").is_visible()
            assert page.evaluate("document.activeElement === document.body || "
                                 "document.activeElement.id === 'keys-open'")  # fmt: skip
            page.reload()  # and stay so
        page.get_by_role("button", name="Keys").click()
        assert page.get_by_label("Do not listen to single keys").is_checked()
