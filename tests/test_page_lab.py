"""The lab on the page: the form holds every choice, and what it says is what the engine says."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import pytest
from starlette.testclient import TestClient

from page_fixture import Site, links
from surefoot.lab import CHOICES, PRESETS, Choices, experiment
from surefoot.lab.choices import OneOf
from surefoot.page import lab
from surefoot.page.app import create
from surefoot.views.words import number
from views_fixture import Page

SIGMOID = Choices(activation="sigmoid", initialization="xavier_normal")
BROKEN = {"scale": "100", "learning_rate": "100", "loss": "squared_error"}  # NaN and infinity
SMALL = {"depth": "2", "width": "8"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(TestClient(create(tmp_path_factory.mktemp("runs")), base_url="http://localhost"))


def address(chosen: dict[str, str], path: str = "/lab") -> str:
    return f"{path}?{urlencode(chosen)}"


def answer(site: Site, chosen: dict[str, str], code: int = 200) -> dict[str, Any]:
    """What the page's script is told; strict JSON."""
    told = site.client.get(address(chosen, "/lab/result"))
    assert told.status_code == code
    return json.loads(told.text, parse_constant=pytest.fail)


def controls(text: str) -> dict[str, tuple[dict[str, str | None], str | None]]:
    """For each name in the form its element and the value that would be sent."""
    found: dict[str, tuple[dict[str, str | None], str | None]] = {}
    name = ""
    for tag, attributes in Page(text).elements:
        if tag in ("input", "select") and attributes.get("name"):
            name = str(attributes["name"])
            assert name not in found
            found[name] = (attributes, attributes.get("value"))
        elif tag == "option" and "selected" in attributes:
            assert found[name][1] is None, "two are selected"
            found[name] = (found[name][0], attributes["value"])
    return found


def text_of(site: Site, chosen: dict[str, str], code: int = 200) -> str:
    told = site.client.get(address(chosen))
    assert told.status_code == code
    return told.text


# The form.


def test_every_choice_is_in_the_form(site: Site) -> None:
    text = text_of(site, {})
    page, found = Page(text), controls(text)
    assert [key for _, keys in lab.GROUPS for key in keys] == list(found)
    assert sorted(found) == sorted(choice.key for choice in CHOICES)
    labels = {a["for"]: a["id"] for a in page.every("label") if "for" in a}
    ids = {a["id"] for _, a in page.elements if "id" in a}
    for element, _ in found.values():
        assert element["id"] in labels
        assert element["aria-describedby"] in ids
    for choice in CHOICES:
        assert choice.label in page.text
        assert choice.sentence in page.text
    sliders = {a["data-of"]: a for a in page.every("input") if a.get("type") == "range"}
    assert list(sliders) == ["depth", "width", "scale", "seed", "learning_rate"]
    for key, slider in sliders.items():
        assert slider["aria-labelledby"] == labels[f"choice-{key}"]
        assert "name" not in slider  # or it would be sent a second time
    assert float(sliders["learning_rate"]["value"] or "") == pytest.approx(
        math.log10(0.05), abs=1e-4
    )
    assert (sliders["learning_rate"]["min"], sliders["learning_rate"]["max"]) == ("-6.0", "2.0")
    assert (sliders["width"]["value"], sliders["width"]["step"]) == ("64", "8")


CHOSEN = (
    Choices(),
    SIGMOID,
    Choices(depth=3, width=16, learning_rate=0.012345678912345, scale=1 / 3, seed=7),
    Choices(depth=1, width=8, learning_rate=1e-6, optimizer="adam", skips="rezero"),
)


@pytest.mark.parametrize("chosen", CHOSEN)
def test_what_the_form_would_send_is_what_is_shown(site: Site, chosen: Choices) -> None:
    text = text_of(site, chosen.to_query())
    sent = {key: value or "" for key, (_, value) in controls(text).items()}
    assert Choices.parse(sent) == chosen
    assert all(isinstance(c, OneOf) or len(sent[c.key]) < 20 for c in CHOICES)


def test_it_is_whole_without_a_script(site: Site) -> None:
    page = site.ask(address(SMALL))
    (form,) = [a for a in page.every("form") if "action" in a]
    assert (form["action"], form.get("method", "get")) == ("/lab", "get")
    assert [a for a in page.every("button") if a.get("id") == "update" and "hidden" not in a]
    found = experiment(Choices.parse(SMALL))
    assert found.sentence in " ".join(page.text.split())


def test_presets_are_links_and_the_current_one_is_marked(site: Site) -> None:
    page = site.ask(address(SIGMOID.to_query()))
    presets = [a for a in page.every("a") if "title" in a and "data-choose" in a]
    reached = [Choices.parse(dict(parse_qsl(urlsplit(str(a["href"])).query))) for a in presets]
    assert reached == [chosen for _, _, chosen in PRESETS]
    assert [a["title"] for a in presets] == [told for _, told, _ in PRESETS]
    assert [a["href"] for a in presets if "aria-current" in a] == [address(SIGMOID.to_query())]
    assert not any("aria-current" in a for a in site.ask(address(SMALL)).every("a") if "title" in a)


# What is said.


def test_a_sigmoid_vanishes_and_what_is_suggested_helps(site: Site) -> None:
    told = answer(site, SIGMOID.to_query())
    page = Page(told["told"] + told["numbers"])
    assert (told["heading"], told["verdict"]) == ("Unstable: vanishing gradients", "unstable")
    assert "/rule/SF101" in links(page)
    assert experiment(SIGMOID).sentence in " ".join(page.text.split())
    (first, *_) = [a for a in page.every("a") if "data-choose" in a]
    better = answer(site, dict(parse_qsl(urlsplit(str(first["href"])).query)))
    assert better["verdict"] == "healthy"


def test_a_sound_network_is_healthy(site: Site) -> None:
    told = answer(site, {})
    assert (told["verdict"], told["query"]) == ("healthy", "")
    assert told["heading"].startswith("Healthy: the loss goes from 1.70 to 0.00")
    assert "Try this" not in told["told"]


@pytest.mark.parametrize("chosen", [Choices(), SIGMOID, Choices.parse(BROKEN), Choices(depth=1)])
def test_numbers_and_verdict_are_the_engines(site: Site, chosen: Choices) -> None:
    found = experiment(chosen)
    text = text_of(site, chosen.to_query())
    cells = re.findall(r'<td class="num" role="cell">(.*?)</td>', text)
    assert cells == [number(row.value) for row in found.numbers]
    assert f'class="verdict {found.verdict}"' in text
    tiles = dict(re.findall(r'<dd data-kept="(\w+)">(.*?)</dd>', text))
    assert tiles["loss"] == number(found.training.series["loss"].last[-1, 0])
    assert ("whole" in tiles) is (chosen.depth > 1)  # one layer has none to compare to
    rules = {f.rule for data in (found.check, found.training) for f in data.report.findings}
    shown = [link.removeprefix("/rule/") for link in links(Page(text)) if "/rule/" in link]
    assert sorted(shown) == sorted(rules)


def test_the_pages_words_are_the_scripts_words(site: Site) -> None:
    told, text = answer(site, SMALL), text_of(site, SMALL)
    assert told["told"].strip() in text
    assert told["numbers"].strip() in text
    assert told["query"] == "depth=2&width=8"
    assert set(told["figures"]) == {
        a["data-figure"] for a in Page(text).every("div") if "data-figure" in a
    }


# Figures.


@pytest.mark.parametrize("chosen", [{}, BROKEN, {"depth": "1"}, {"depth": "64", "scale": "0.01"}])
def test_figures_are_strict_json(site: Site, chosen: dict[str, str]) -> None:
    figures = answer(site, chosen)["figures"]
    assert figures["depth"]["data"]
    assert figures["timeline"]["data"]
    assert all(f is None or "template" not in f["layout"] for f in figures.values())


def lines(figure: dict[str, Any]) -> dict[str, np.ndarray]:
    """Positions of the profile's lines over the gradient, from the input to the loss."""
    return {
        str(line.get("name")): numbers(line["x"])
        for line in figure["data"]
        if line.get("xaxis", "x") == "x"
    }


def numbers(values: Any) -> np.ndarray:
    """Plotly writes an array as a list or as its bytes."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(np.float64)
    return np.array(values, np.float64)


def test_the_profile_has_what_was_measured_and_what_theory_expects(site: Site) -> None:
    """Of linear layers of gain s sqrt(2) the gradient's norm grows by that in each, on average."""
    chosen = Choices(depth=12, width=256, activation="linear", scale=0.5)
    drawn = lines(answer(site, chosen.to_query())["figures"]["depth"])
    calls = experiment(chosen).check.flows[0].calls
    names = experiment(chosen).check.layers.layers
    norms = {names[c.layer].name: c.grad_output.norm for c in calls if c.grad_output}
    measured = [norms[f"layers.{i}.linear"] for i in range(12)]
    assert drawn["step 0"][:12] == pytest.approx(measured)
    theory = next(x for name, x in drawn.items() if name.startswith("theory, 0.707x"))
    assert theory[-1] == pytest.approx(measured[-1])
    assert theory[:-1] / theory[1:] == pytest.approx(np.full(11, 0.5 * math.sqrt(2)))
    assert measured[0] == pytest.approx(theory[0], rel=0.3)


@pytest.mark.parametrize(
    "chosen",
    [{"skips": "residual"}, {"depth": "1"}, {"normalization": "batch_norm", "activation": "tanh"}],
)
def test_no_line_of_theory_where_it_says_nothing(site: Site, chosen: dict[str, str]) -> None:
    drawn = lines(answer(site, chosen)["figures"]["depth"])
    assert not any("theory" in name for name in drawn)


# What cannot be.


def test_a_wrong_value_is_said_and_the_others_are_kept(site: Site) -> None:
    chosen = {"depth": "999", "width": "16", "activation": "tahn", "optimizer": "adam"}
    text = text_of(site, chosen, 422)
    assert "Expected depth as a whole number from 1 to 64, got &#39;999&#39;" in text
    assert "Expected activation as one of relu" in text
    found = controls(text)
    shown = {key: found[key][1] for key in chosen}
    assert shown == {"depth": "64", "width": "16", "activation": "tanh", "optimizer": "adam"}
    assert [key for key, (a, _) in found.items() if "aria-invalid" in a] == ["depth", "activation"]
    told = answer(site, chosen, 422)
    assert (told["heading"], told["query"], told["figures"]) == ("This cannot be chosen", None, {})
    (nearest,) = links(Page(told["told"]))
    assert dict(parse_qsl(urlsplit(nearest).query)) == shown


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "\x1b[31m",
    "\u202e12",
    "nan",
    "inf",
    "1e999",
    "-1",
    "\x00",
    "9" * 5000,
    "\u0664",  # a digit, of another script
)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", ["depth", "learning_rate", "activation"])
def test_whatever_an_address_holds_is_inert(site: Site, key: str, value: str) -> None:
    text = text_of(site, {key: value, "width": "16"}, 422)
    page = Page(text)
    assert not any(page.scripts)
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert not re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e]", page.text)
    assert value != "{{7*7}}" or value in page.text
    assert len(text) < 50_000
    assert controls(text)["width"][1] == "16"
    answer(site, {key: value}, 422)


def test_what_is_no_choice_is_ignored(site: Site) -> None:
    chosen = {"token": "<b>", "Depth": "3", "depth": " ", "width": ""}
    assert answer(site, chosen)["query"] == ""


def test_another_site_may_not_ask(site: Site) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
        assert site.client.get("/lab/result?depth=2", headers=headers).status_code == 403
