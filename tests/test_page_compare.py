"""Two runs side by side on the page: the numbers by numpy, and runs that cannot be shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from starlette.testclient import TestClient

from page_fixture import SHOWN, Site, links, shelf
from surefoot.page.app import create
from surefoot.page.differences import judged, measured, settings, worst_growth
from views_fixture import (
    Page,
    bare,
    healthy,
    hostile,
    nonfinite,
    stats,
    vanishing,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return shelf(tmp_path_factory.mktemp("runs"))


def pair(*names: str) -> str:
    return "/compare?" + urlencode([("run", name) for name in names])


def test_without_two_runs_there_is_a_form(site: Site) -> None:
    page = site.ask("/compare")
    assert [s["name"] for s in page.every("select")] == ["run", "run"]
    options = [o for o in page.every("option") if "selected" in o]
    assert len(options) == 2
    assert options[0] != options[1]
    values = [str(o["value"]) for o in page.every("option")]
    assert values[:10] == ["same", *reversed(SHOWN), "broken"]  # newest first
    assert page.every("form")[0]["action"] == "/compare"
    one = site.ask(pair("healthy"))
    assert [o["value"] for o in one.every("option") if "selected" in o] == ["healthy", "same"]
    assert "Choose a second run" in one.text
    assert "digits" not in one.text


def test_two_runs_stand_side_by_side(site: Site) -> None:
    page = site.ask(pair("vanishing", "healthy"))
    assert "Vanishing gradients" in page.text
    assert "saturating activation" in page.text
    assert "since step 0" in page.text
    assert pair("healthy", "vanishing") in links(page)
    streams = [s["data-events"] for s in page.every("section") if "data-events" in s]
    assert streams == ["/run/vanishing/events", "/run/healthy/events"]
    assert "/rule/SF101" in links(page)
    assert "gone" in page.text
    swapped = site.ask(pair("healthy", "vanishing"))
    assert "new" in swapped.text
    assert "gone" not in swapped.text


def test_findings_are_compared_by_rule() -> None:
    found = judged(vanishing(), nonfinite())
    assert [(row.rule, row.change) for row in found] == [
        ("SF101", "gone"),
        ("SF301", "gone"),
        ("SF201", "new"),
    ]
    assert found[1].a is not None
    assert found[1].a[0] == 2
    assert {row.change for row in judged(vanishing(), vanishing())} == {"in both"}
    unknown = judged(hostile(), bare())[0]
    assert not unknown.known


def test_numbers_of_both_are_those_of_numpy() -> None:
    a, b = healthy(), vanishing()
    rows = {row.title: row for row in measured(a, b)}
    assert (rows["Steps"].a, rows["Steps"].b) == ("300", "900")
    losses = [run.series["loss"].last[:, 0].astype(np.float64) for run in (a, b)]
    norms = [
        np.linalg.norm(r.series["gradient"].last[:, ::5].astype(float), axis=1) for r in (a, b)
    ]

    def near(title: str, one: float, other: float) -> None:
        row = rows[title]
        assert float(row.a) == pytest.approx(one, rel=6e-3)
        assert float(row.b) == pytest.approx(other, rel=6e-3)
        assert float(row.factor[:-1]) == pytest.approx(other / one, rel=6e-3)

    near("Loss at the start", losses[0][0], losses[1][0])
    near("Loss now", losses[0][-1], losses[1][-1])
    near("Lowest loss", losses[0].min(), losses[1].min())
    near("Gradient norm now", norms[0][-1], norms[1][-1])
    near("Gradient norm, median over the run", np.median(norms[0]), np.median(norms[1]))
    near("Learning rate now", 0.05, 0.05)
    near("Gradient at the first layer / at the last", 1.02**11, 0.25**11)


def test_numbers_that_are_none_are_told_from_those_never_taken() -> None:
    rows = {row.title: row for row in measured(nonfinite(), bare())}
    assert (rows["Loss now"].a, rows["Loss now"].b, rows["Loss now"].factor) == (
        "not finite",
        "-",
        "",
    )
    assert rows["Largest change of the gradient in one layer"].b == "-"
    assert all(row.b in ("-", "0") for row in rows.values())


def test_the_worst_growth_is_the_one_farthest_from_one() -> None:
    data = vanishing()
    calls = data.flows[0].calls
    calls[5] = replace(calls[5], grad_input=stats(0.001), grad_output=stats(0.1))
    calls[0] = replace(calls[0], grad_input=stats(1e-9))  # a container
    calls[7] = replace(calls[7], grad_input=stats(5.0), grad_output=stats(0.1))
    factor, name = worst_growth(data)
    assert factor == pytest.approx(0.01)
    assert name == "layers.4"


def test_environments_show_what_differs() -> None:
    a = replace(healthy(), environment={"torch": "2.13", "options": {"x": 1, "y": [2, 3]}})
    b = replace(healthy(), environment={"torch": "2.13", "options": {"x": 2, "y": [2, 3]}, "z": 1})
    differ, same = settings(a, b)
    assert [(s.key, s.a, s.b) for s in differ] == [("options.x", "1", "2"), ("z", None, "1")]
    assert [(s.key, s.a) for s in same] == [("torch", "2.13"), ("options.y", "2 3")]


def test_of_an_endless_environment_the_beginning_is_compared() -> None:
    many = {f"k{i}": i for i in range(20_000)}
    a = replace(bare(), environment=many)
    b = replace(bare(), environment=many | {"k7": 0, "k19999": 0})
    differ, same = settings(a, b)
    assert [setting.key for setting in differ] == ["k7"]
    assert len(same) == 200


def test_a_run_that_cannot_be_shown_leaves_the_other(site: Site) -> None:
    for name, words in (("nope", "There is no run"), ("broken", "broken")):
        for names in ((name, "vanishing"), ("vanishing", name)):
            page = site.ask(pair(*names))
            assert words in page.text
            assert "NOT SHOWN" in page.text
            assert "saturating activation" in page.text
            assert not page.every("figure")
    site.ask(pair("nope", "nix"), 404)


def test_the_same_run_twice_and_three_runs_are_told(site: Site) -> None:
    assert "Both sides are the same run." in site.ask(pair("vanishing", "vanishing")).text
    three = site.ask(pair("vanishing", "healthy", "bare"))
    assert "one is left out" in three.text
    assert len([s for s in three.every("section") if "data-events" in s]) == 2


def test_figures_of_two_runs_are_json(site: Site) -> None:
    told = site.client.get("/compare.json?run=vanishing&run=healthy").json()
    assert set(told) == {"timeline", "depth"}
    names = {trace["name"] for trace in told["depth"]["data"]}
    assert {"vanishing", "healthy"} <= names
    assert site.client.get("/compare.json?run=bare&run=bare").json() == {
        "timeline": None,
        "depth": None,
    }
    assert site.client.get("/compare.json?run=bare").json() == {"timeline": None, "depth": None}
    assert site.client.get("/compare.json?run=bare&run=nope").status_code == 404


@pytest.mark.parametrize("other", SHOWN)
def test_hostile_and_empty_runs_compare(site: Site, other: str) -> None:
    page = site.ask(pair("hostile", other))
    assert all(link.startswith(("/", "#")) for link in links(page))
    assert site.ask(pair(other, "bare")).every("table")


def test_an_empty_shelf_says_how_runs_come(tmp_path: Path) -> None:
    client = TestClient(create(tmp_path), base_url="http://localhost")
    page = Page(client.get("/compare").text)
    assert "There are no runs here yet." in page.text
    assert not page.every("select")
