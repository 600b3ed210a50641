"""Strange names and words on the page: of folders, of layers, and in addresses."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

import pytest

from page_fixture import record
from strangers_fixture import Stage, inert, largest
from strangers_fixture import fresh as fresh
from strangers_fixture import stage as stage
from views_fixture import Page, hostile, one_step

NAMES = (
    "<script>alert(1)</script>".replace("/", "\\"),
    '"><img src=x onerror=alert(1)>',
    "quotes ' and \" and `",
    "line\nbreak\r\ttab",
    "\x1b[31mred\x07",
    "日本語 naïve \u202egnp.exe",
    "{{7*7}}{% raw %}%(x)s",
    "...",
    ".hidden",
    "..x",
    "percent%2e%2e%2fetc",
    "question?query#part&and=1;x",
    "back\\slash",
    " spaces ",
    "C:",
    "~root",
    "n" * 255,
    "emoji 👩‍🚀",
)

pytestmark = pytest.mark.zoo  # with the heavier suite


def test_names_of_folders_are_text(stage: Stage) -> None:
    for name in NAMES:
        stage.folder(name)
    text = stage.get("/")[2]
    inert(text)
    links = [a["href"] for a in Page(text).every("a") if "data-line" in a]
    assert len(links) == len(NAMES) + 1
    for link in links:
        assert stage.get(str(link))[0] == 200, link
        inert(stage.get(str(link))[2])
        assert stage.get(f"{link}/figures.json?name=timeline")[0] == 200
        assert stage.get(f"{link}/events")[2].startswith("event: step")
    for name in NAMES:
        assert stage.get(f"/run/{quote(name, safe='')}")[0] == 200


def test_a_name_that_is_no_unicode_is_not_shown(stage: Stage) -> None:
    os.rename(stage.folder("odd"), os.fsencode(stage.runs) + b"/\xff\xfe")
    assert stage.get("/list")[2].count("data-line") == 1


def test_hostile_names_of_layers_are_text(stage: Stage) -> None:
    record(hostile(), stage.runs / "hostile")
    found = stage.visit("hostile")
    assert found["/run/{}"] == 200
    text = stage.get("/run/hostile")[2]
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    for link in {a["href"] for a in Page(text).every("a")}:
        if link and link.startswith("/"):
            assert stage.get(link)[0] in (200, 404), link
            inert(stage.get(link)[2])


def test_a_layer_whose_name_is_no_address(stage: Stage) -> None:
    for name in (
        "",
        "%00",
        "%ff",
        "x" * 20_000,
        "..%2f..",
        "fc&name=other",
        "fc%0d%0aset-cookie:x",
    ):
        for view in ("layer", "layer.json"):
            assert stage.get(f"/run/sound/{view}?name={name}")[0] in (200, 404, 422)


@pytest.mark.parametrize(
    "query",
    ["", "?run=sound", "?run=sound&run=sound", "?run=&run=", "?run=..&run=sound",
     "?run=a&run=b&run=c", "?run=%00&run=sound", "?run=" + "x" * 9000 + "&run=sound",
     "?" + "run=sound&" * 2000],
)  # fmt: skip
def test_runs_to_compare_that_are_not_there(stage: Stage, query: str) -> None:
    for view in ("/compare", "/compare.json"):
        assert stage.get(view + query)[0] in (200, 400, 404, 422)


@pytest.mark.parametrize(
    "query",
    ["?name=", "?name=nothing", "?name=depth&name=depth", "?" + "name=heatmap&" * 5000,
     "?name=%00", "?name=__class__", "?training=-1", "?training=1e9",
     "?training=999999999&name=depth", "?training=" + "9" * 5000, "?training=%C2%B2&name=depth"],
)  # fmt: skip
def test_figures_that_are_not_there(stage: Stage, query: str) -> None:
    status, _, text = stage.get(f"/run/sound/figures.json{query}")
    assert status in (200, 404)
    assert status == 404 or len(json.loads(text)) <= 1


@pytest.mark.parametrize(
    "address", ["/rule/{}", "/remedy/{}", "/lab?depth={}", "/lab/result?depth={}", "/lab?{}={}"]
)
@pytest.mark.parametrize(
    "word", ["..%2f..%2fetc%2fpasswd", "%00", "<b>", "-1", "1e999", "nan", "9" * 5000, "%ff"]
)
def test_strange_words_in_other_addresses(stage: Stage, address: str, word: str) -> None:
    status, kind, text = stage.get(quote(address.replace("{}", word), safe="/?=&%"))
    assert status in (200, 400, 404, 422)
    if kind == "text/html":
        inert(text)


def test_one_run_of_a_thousand_readers(stage: Stage) -> None:
    """Runs that are asked for once are not kept for ever."""
    for number in range(30):
        record(one_step(), stage.runs / f"run-{number}")
    before = largest()
    for number in range(30):
        assert stage.get(f"/run/run-{number}")[0] == 200
    assert largest() - before < 200 << 20
