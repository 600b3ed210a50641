"""The HTML report: one inert, accessible file that opens on the verdict, in a browser too."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.findings import Severity
from surefoot.views import words
from surefoot.views.figures import FIGURES
from surefoot.views.figures.style import DARK, LIGHT, LINES, RED
from surefoot.views.report import render_report, save_report
from surefoot.views.story import story
from views_fixture import FIXTURES, HOSTILE, Page

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[str, Page]]:
    documents = {name: render_report(fixture()) for name, fixture in FIXTURES.items()}
    return {name: (text, Page(text)) for name, text in documents.items()}


@pytest.mark.parametrize("fixture", FIXTURES)
def test_report_is_one_inert_file(fixture: str, pages: dict[str, tuple[str, Page]]) -> None:
    document, page = pages[fixture]
    assert len(document.encode()) < 6_000_000
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "link", "object", "embed", "form", "base")
        assert not any(a.startswith("on") or a == "src" for a in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    payload, *code = page.scripts
    assert len(code) == 2
    assert not {"<", ">", "&"} & set(payload)
    drawn = json.loads(payload, parse_constant=pytest.fail)["figures"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {f"figure-{name}" for name in drawn} <= set(ids)
    (policy,) = [a["content"] or "" for a in page.every("meta") if "http-equiv" in a]
    digests = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in code]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_report_is_accessible(fixture: str, pages: dict[str, tuple[str, Page]]) -> None:
    _, page = pages[fixture]
    levels = [int(t[1]) for t, _ in page.elements if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.every("html")[0]["lang"] == "en"
    ids = {a["id"] for _, a in page.elements if "id" in a}
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labels) <= ids
    assert all("scope" in a for a in page.every("th"))
    assert all(a.get("aria-hidden") == "true" for a in page.every("svg"))


def test_report_opens_on_the_verdict(pages: dict[str, tuple[str, Page]]) -> None:
    text = " ".join(pages["vanishing"][1].text.split())
    order = (
        "UNSTABLE",
        "Vanishing gradients, starting at layers.18",
        "Gradients shrink 4.0x per layer",
        "since step 0",
        "saturating activation",
        "activation.relu on layers.*",
        "proposed, not yet tried",
        "Problem",
        "Consequence",
        "Outcome of this run",
        "hardly any change",
        "Findings",
        "3.81e-6",
        "0.14 to 7.4",
        "9 layers with the symptom only",
        "setattr(model, name, nn.ReLU())",
        "proven by a trial: loss before 2.30, loss after 0.0312",
        "follows from 1",
        "--ignore SF101",
        "Gradient of every layer at every step",
        "Environment",
        "native (AVX-512)",
    )
    place = 0
    for words_ in order:
        assert words_ in text[place:], words_
        place = text.index(words_, place)


def test_report_tells_each_problem_that_no_other_explains() -> None:
    data = FIXTURES["vanishing"]()
    first, stall = data.report.findings
    own = [replace(stall, follows=None, rule=f"SF30{i}", victims=("a", "b")) for i in range(7)]
    advice = replace(stall, severity=Severity.ADVICE, follows=None)
    report = replace(data.report, findings=(advice, stall, *own, first))
    rows = story(replace(data, report=report))
    assert [(row.number, row.finding.rule) for row in rows] == [
        (10, "SF101"),  # what the verdict speaks of
        (3, "SF300"),
        (4, "SF301"),
        (5, "SF302"),
        (6, "SF303"),  # the fifth is the last
    ]
    assert rows[0].outcome.startswith("The loss went from 2.30 at step 0 to 2.30")
    assert rows[0].outcome.endswith("The symptom also shows in 9 other layers.")
    expected = "Seen from step 200 to 899. The symptom also shows in 2 other layers."
    assert {row.outcome for row in rows[1:]} == {expected}
    assert story(FIXTURES["advised"]()) == []
    page = Page(render_report(replace(data, report=report)))
    labels = [a["data-label"] for _, a in page.elements if "data-label" in a]
    assert labels == ["Problem", "Consequence", "Outcome of this run"] * 5


def test_report_of_a_healthy_run_is_calm(pages: dict[str, tuple[str, Page]]) -> None:
    text = pages["healthy"][1].text
    assert "HEALTHY" in text
    assert "Nothing is wrong" in text
    for word in ("Problem", "Findings", "UNSTABLE", "--ignore"):
        assert word not in text
    assert "1 piece of advice" in pages["advised"][1].text
    assert "UNSTABLE" not in pages["advised"][1].text


def test_report_says_what_was_missing(pages: dict[str, tuple[str, Page]]) -> None:
    text = pages["inconclusive"][1].text
    assert "INCONCLUSIVE" in text
    assert "surefoot check project.train:build" in text
    text = pages["bare"][1].text
    assert "Not drawn" in text
    assert "the run over time" in text
    for name, spec in FIGURES.items():  # what few runs hold is not missed
        assert (spec.title.lower() in text) == spec.always, name


def test_report_prints_hostile_names_as_text(pages: dict[str, tuple[str, Page]]) -> None:
    document, page = pages["hostile"]
    shown = words.clean(HOSTILE)
    assert f"{shown}.18" in page.text  # in full, as it is called
    assert "\x1b" not in document
    assert "\u202e" not in document
    assert "{{7*7}}" in page.text


def test_report_shows_long_names_in_full(pages: dict[str, tuple[str, Page]]) -> None:
    data = FIXTURES["long_names"]()
    assert str(data.report.findings[0].layer) in pages["long_names"][1].text


def test_save_report_writes_all_or_nothing(tmp_path: Path) -> None:
    path = save_report(FIXTURES["one_step"](), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_report(FIXTURES["one_step"](), tmp_path / "file" / "report.html")


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2.1."""
    digits = color.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_in_light_dark_and_print() -> None:
    css = (Path(words.__file__).parent / "templates" / "report.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w+);", b)) for b in re.findall(r":root {(.*?)}", css, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        for paper in ("page", "card", "soft"):
            for ink in ("ink", "muted", "link", "bad", "good", "open"):
                assert contrast(theme[ink], theme[paper]) >= 4.5, (ink, paper, theme)
        for tone in ("bad", "good", "open"):
            assert contrast(theme[tone], theme[f"{tone}-soft"]) >= 4.5
    for template in (LIGHT, DARK):
        paper = template.layout.paper_bgcolor
        assert contrast(template.layout.font.color, paper) >= 4.5
        assert all(contrast(color, paper) >= 3 for color in (*LINES, RED))


# browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which(CHROMIUM):
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("fixture", "scheme", "width"),
    [("vanishing", "dark", 1280), ("hostile", "light", 390)],
)
def test_report_works_in_chromium(
    browser: Any,
    pages: dict[str, tuple[str, Page]],
    tmp_path: Path,
    fixture: str,
    scheme: str,
    width: int,
) -> None:
    path = tmp_path / "report.html"
    path.write_text(pages[fixture][0], encoding="utf-8")
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
    page.on("request", lambda r: trouble.append(r.url) if r.url != path.as_uri() else None)
    page.on("request", lambda r: trouble.remove(r.url) if r.url.startswith("data:") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert not trouble
    assert page.locator(".plot .main-svg").count() >= len(FIGURES)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = "[...document.querySelectorAll('.plot .main-svg')].map(s => s.style.background)[0]"
    on_screen = page.evaluate(paper)
    assert on_screen == ("rgb(25, 29, 35)" if scheme == "dark" else "rgb(255, 255, 255)")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(f"{paper} === 'rgb(255, 255, 255)'")
    assert not trouble
    page.close()
