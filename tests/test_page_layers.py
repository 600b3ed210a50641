"""Layers on the page: what it says of them is what numpy says; their names stay inert."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from starlette.testclient import TestClient

from page_fixture import Site, begin, links, record, shelf
from record_fixture import wait_until
from surefoot.diagnosis import RULES
from surefoot.page import layers
from surefoot.page.app import create
from surefoot.page.seen import growth, seen
from surefoot.record.data import RunData
from surefoot.signals.flow import Flow, TensorStats
from views_fixture import (
    HOSTILE,
    Page,
    bare,
    flow,
    healthy,
    nonfinite,
    one_step,
    saturated,
    stats,
    table,
    vanishing,
    whole,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return shelf(tmp_path_factory.mktemp("runs"))


def rel(page: Page, which: str) -> str | None:
    found = [a.get("href") for a in page.every("a") if a.get("rel") == which]
    assert len(found) <= 1
    return found[0] if found else None


def address(run: str, name: str, **more: object) -> str:
    return f"/run/{run}/layer?{urlencode({'name': name, **more})}"


# The table of layers.


def test_rows_say_what_numpy_says() -> None:
    data = vanishing()
    norms = data.series["gradient"].last[:, ::5].astype(np.float64)
    updates = data.series["update_ratio"].last[-1]
    found = layers.rows(data)
    assert [row.title for row in found] == [f"layers.{2 * i}" for i in range(12)]
    for i, row in enumerate(found):
        mine = np.hypot(norms[:, 2 * i], norms[:, 2 * i + 1])
        assert row.gradient.now == pytest.approx(mine[-1], rel=1e-6)
        assert row.gradient.usual == pytest.approx(np.median(mine), rel=1e-6)
        assert row.gradient.factor == pytest.approx(mine[-1] / np.median(mine), rel=1e-6)
        assert row.update == pytest.approx(updates[2 * i : 2 * i + 2].max(), rel=1e-6)
        assert row.parameters == 64 * 64 + 64
        assert not row.broken
        assert not row.idle


def test_rows_name_origins_and_victims_by_number() -> None:
    found = {row.title: row for row in layers.rows(vanishing())}
    assert found["layers.18"].origin == (1,)
    assert found["layers.18"].victim == ()
    assert found["layers.0"].victim == (1,)
    first, *others = vanishing().report.findings
    both = replace(first, victims=("layers.18", "layers.0", "layers.0"))
    report = replace(vanishing().report, findings=(*others, both))
    rows = {row.title: row for row in layers.rows(replace(vanishing(), report=report))}
    assert (rows["layers.18"].origin, rows["layers.18"].victim) == ((2,), ())
    assert rows["layers.0"].victim == (2,)
    assert found["layers.22"].origin == found["layers.22"].victim == ()


def test_rows_tell_zero_from_nan() -> None:
    data = nonfinite()
    assert all(row.broken and not row.idle for row in layers.rows(data))
    zero = whole(np.zeros_like(data.series["gradient"].last))
    still = layers.rows(replace(data, series={"gradient": zero}))
    assert all(row.idle and not row.broken for row in still)
    assert still[0].cells == ("0", "-", "-")


def test_rows_of_a_run_without_numbers_are_dashes() -> None:
    found = layers.rows(replace(vanishing(), series={}))
    assert len(found) == 12
    assert {row.cells for row in found} == {("-", "-", "-")}
    assert layers.rows(bare()) == []


def test_layers_come_in_the_order_in_which_they_are_called() -> None:
    data = vanishing()
    calls = [replace(call, order=-call.order) for call in data.flows[0].calls]
    backwards = layers.rows(replace(data, flows=(Flow(0, calls),)))
    assert [row.title for row in backwards] == [f"layers.{2 * i}" for i in reversed(range(12))]


def test_a_short_table_is_open_and_a_long_one_folded(site: Site) -> None:
    few, many = site.ask("/run/vanishing/layers"), site.ask("/run/deep/layers")
    assert not few.every("details")
    assert len(few.every("tr")) == 13
    assert few.every("a")[0]["href"] == "/run/vanishing/layer?name=layers.0"
    assert len(many.every("details")) == 1
    assert "open" not in many.every("details")[0]
    assert len(many.every("tr")) == 501
    assert [f["data-filter"] for f in site.ask("/run/deep").every("input") if "data-filter" in f]
    assert not [f for f in site.ask("/run/vanishing").every("input") if "data-filter" in f]


def test_a_run_without_layers_has_room_for_them(site: Site) -> None:
    section = [s for s in site.ask("/run/bare").every("section") if s.get("id") == "layers-now"]
    assert len(section) == 1
    assert "hidden" in section[0]
    assert site.ask("/run/bare/layers").elements == []
    shown = [s for s in site.ask("/run/deep").every("section") if s.get("id") == "layers-now"]
    assert "hidden" not in shown[0]


def test_a_table_ends_at_a_thousand_rows(tmp_path: Path) -> None:
    data = replace(bare(), layers=table(1200, lambda i: f"layers.{i}"))
    record(data, tmp_path / "wide")
    client = TestClient(create(tmp_path), base_url="http://localhost")
    page = Page(client.get("/run/wide/layers").text)
    assert len(page.every("tr")) == 1001
    assert "The first 1,000 of 1,200 layers are listed." in page.text


def test_the_table_follows_a_live_run(tmp_path: Path) -> None:
    data = one_step()
    writer = begin(data, tmp_path / "live")
    client = TestClient(create(tmp_path), base_url="http://localhost")
    wait_until(lambda: writer.committed.get(0) == 0)
    assert "1x" in client.get("/run/live/layers").text
    assert 'id="live">live' in client.get(address("live", "layers.4")).text
    row = data.series["gradient"].last[0]
    writer.put(0, 1, {"gradient": row * 3})
    wait_until(lambda: writer.committed.get(0) == 1)
    text = client.get("/run/live/layers").text
    assert text.count(">1.50x<") == 12  # 3 over the median of 1 and 3
    writer.close(data.report)
    assert 'id="live" hidden>live' in client.get(address("live", "layers.4")).text


# What was seen of a layer.


def layer_flow(**changes: object) -> RunData:
    data = vanishing()
    one = flow(data.layers, 0, 0.25)
    one.calls[5] = replace(one.calls[5], **changes)
    return replace(data, flows=(one,))


def said(data: RunData, layer: int = 5) -> dict[str, tuple[str | None, ...]]:
    return {row.title: row.values for row in seen(data, layer).rows}


def test_numbers_of_a_layer_are_those_of_its_call() -> None:
    data = layer_flow(
        input=stats(32 * 2**0.5),
        output=TensorStats(90.0, 9.0, 0.0, 0, 512, 2048),
        grad_output=stats(0.08),
        grad_input=stats(0.02),
        frozen=0.4,
        cosine=0.25,
        weight_norm=12.0,
        weight_rows=64,
    )
    assert said(data) == {
        "Signal coming in, rms": ("1",),  # sqrt(2048) / sqrt(2048)
        "Signal going out, rms": ("1.99",),  # 90 / sqrt(2048) = 1.9887
        "Gradient arriving, norm": ("0.0800",),
        "Gradient leaving, norm": ("0.0200",),
        "Growth of the gradient": ("0.250x",),
        "Gain of the weights": ("1.50",),  # 12 / 8
        "Units that pass nothing on": ("40 %",),
        "Likeness of the samples": ("0.250",),
        "Zeros going out": ("25 %",),
        "NaN or infinity": ("none",),
    }


def test_the_gradient_through_time_is_a_factor() -> None:
    data = layer_flow(through_time=[-3.0, -1.5, 0.0])
    assert said(data)["Gradient through time"] == ("0.00100x",)
    rules = {row.title: row.rules for row in seen(data, 5).rows}
    assert rules["Gradient through time"] == rules["Growth of the gradient"] == ("SF103",)
    assert said(layer_flow(through_time=[float("nan")])).get("Gradient through time") is None


def test_what_is_not_finite_is_no_number() -> None:
    broken = layer_flow(output=stats(3.0, 7), grad_output=stats(0.0, 2048))
    found = said(broken)
    assert found["Gradient arriving, norm"] == ("no finite value",)
    assert found["NaN or infinity"] == ("7 in the signal, 2,048 in the gradient",)
    assert "Growth of the gradient" not in found


@pytest.mark.parametrize("end", ["grad_input", "grad_output"])
@pytest.mark.parametrize("norm", [None, stats(float("nan")), stats(float("inf")), stats(1.0, 1)])
def test_no_growth_without_two_finite_ends(end: str, norm: TensorStats | None) -> None:
    assert np.isnan(growth(layer_flow(**{end: norm}).flows[0].calls[5]))


def test_growth_from_nothing_and_to_nothing() -> None:
    call = vanishing().flows[0].calls[5]
    assert np.isnan(growth(replace(call, grad_output=stats(0.0))))
    assert growth(replace(call, grad_input=stats(0.0))) == 0


def test_first_and_last_step_stand_side_by_side() -> None:
    data = saturated()
    found = seen(data, 2)
    assert found.steps == ("step 0", "step 256")
    between = replace(data, flows=(data.flows[0], Flow(9), data.flows[1]))
    assert seen(between, 2) == found
    shares = {row.title: row for row in found.rows}["Units that pass nothing on"]
    assert shares.values == ("10 %", "97 %")
    assert shares.rules == ("SF105",)
    assert {r.title: r.rules for r in seen(data, 8).rows}["Units that pass nothing on"] == (
        "SF108",
    )
    assert seen(nonfinite(), 3).steps == ("step 0", "step 60 (re-executed)")


def test_limits_of_what_was_seen_are_told() -> None:
    data = vanishing()
    once = data.flows[0]
    twice = Flow(9, [*once.calls[:5], replace(once.calls[4], order=99, identity=True)])
    notes = seen(replace(data, flows=(once, twice)), 4).notes
    assert notes == ("It was called 2 times in step 9; the numbers are of its first call.",)
    assert seen(replace(data, flows=(once, twice)), 7).notes == ("It was not called in step 9.",)
    assert "holds other layers" in seen(data, 0).notes[0]
    assert seen(replace(data, flows=()), 4).rows == ()


# The page of a layer.


def test_a_layer_page_has_its_name_parameters_and_findings(site: Site) -> None:
    page = site.ask(address("vanishing", "layers.4"))
    assert "Layer layers.4" in page.text
    assert "4,160 parameters of its own" in page.text
    assert "layers.4.weight" in page.text
    assert "64 × 64" in page.text
    assert "shows here, and starts elsewhere" in page.text
    assert "/run/vanishing#finding-1" in links(page)
    assert "/run/vanishing" in links(page)
    origin = site.ask(address("vanishing", "layers.18"))
    assert "starts here" in origin.text
    assert "starts elsewhere" not in origin.text
    assert "No finding names this layer." in site.ask(address("vanishing", "layers.22")).text
    assert "the run has no findings" in site.ask(address("healthy", "layers.4")).text


def test_rules_that_judge_are_linked_and_there(site: Site) -> None:
    page = site.ask(address("vanishing", "layers.4"))
    rules = {link for link in links(page) if link.startswith("/rule/")}
    assert {"/rule/SF101", "/rule/SF102", "/rule/SF201"} <= rules
    assert all(link.removeprefix("/rule/") in RULES for link in rules)


def test_every_layer_is_reached_by_next_and_by_previous(site: Site) -> None:
    names = ["", *(f"layers.{i}" for i in range(23))]
    here: str | None = address("vanishing", "")
    assert rel(site.ask(str(here)), "prev") is None
    walked = []
    while here:
        walked.append(here)
        here = rel(site.ask(here), "next")
    assert walked == [address("vanishing", name) for name in names]
    back = [rel(site.ask(a), "prev") for a in walked[1:]]
    assert back == walked[:-1]


def test_the_root_has_all_within(site: Site) -> None:
    page = site.ask(address("vanishing", ""))
    assert "Layer Mlp" in page.text
    assert "starts inside it, at layers.18" in page.text
    inside = [str(a["href"]) for a in page.every("a") if "data-line" in a]
    assert inside == [address("vanishing", f"layers.{i}") for i in range(23)]
    many = site.ask(address("deep", ""))
    assert len([a for a in many.every("a") if "data-line" in a]) == 200
    assert "And 799 more." in many.text


def test_a_training_is_kept_in_every_link(site: Site) -> None:
    page = site.ask(address("vanishing", "layers.4", training=0))
    for link in (rel(page, "prev"), rel(page, "next"), page.every("div")[-1].get("data-from")):
        assert link is None or "training=0" in link
    assert "/run/vanishing?training=0#finding-1" in links(page)
    assert next(d["data-events"] for d in page.every("div") if "data-events" in d) == (
        "/run/vanishing/events?training=0"
    )
    for view in ("", "/summary"):
        told = links(site.ask(f"/run/vanishing{view}?training=0"))
        layers_of = [link for link in told if "/layer?" in link]
        assert layers_of and all(link.endswith("&training=0") for link in layers_of)
    table_of = site.ask("/run/vanishing/layers?training=0")
    assert links(table_of)[0] == address("vanishing", "layers.0", training=0)
    site.ask(address("vanishing", "layers.4", training=7), 404)


def test_figures_of_a_layer_are_json(site: Site) -> None:
    told = site.client.get("/run/healthy/layer.json?name=layers.4").json()
    assert set(told) == {"layer"}
    curve = told["layer"]["data"][0]["y"]
    norms = healthy().series["gradient"].last[:, ::5].astype(np.float64)
    drawn = np.frombuffer(base64.b64decode(curve["bdata"]), curve["dtype"])
    assert drawn == pytest.approx(np.hypot(norms[:, 4], norms[:, 5]), rel=1e-6)
    assert "template" not in told["layer"]["layout"]
    assert site.client.get("/run/vanishing/layer.json?name=").json() == {"layer": None}
    assert site.client.get("/run/vanishing/layer.json?name=nope").status_code == 404


def test_an_unknown_layer_says_so_and_leads_back(site: Site) -> None:
    page = site.ask(address("vanishing", "layer.4"), 404)
    assert "The run vanishing has no layer layer.4." in page.text
    assert "/run/vanishing" in links(page)
    assert address("vanishing", "layers.4") in links(page)
    site.ask(address("nope", "layers.4"), 404)
    site.ask(address("vanishing", HOSTILE), 404)
    site.ask(address("vanishing", "x" * 20_000), 404)


def test_hostile_names_are_text(site: Site) -> None:
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    name = f"{HOSTILE.replace(chr(27), chr(0xFFFD))}.18"
    page = site.ask(address("hostile", name))
    assert f"{shown}.18" in page.text
    assert "49" not in page.text.split("</script>")[0]  # {{7*7}} is not computed
    following = rel(page, "next")
    assert following == address("hostile", f"{HOSTILE.replace(chr(27), chr(0xFFFD))}.19")
    site.ask(str(following))
    assert all(link.startswith(("/", "#")) for link in links(page))
    rows = site.ask("/run/hostile/layers")
    assert links(rows)[0] == address("hostile", f"{HOSTILE.replace(chr(27), chr(0xFFFD))}.0")


def test_long_names_and_names_that_come_twice_have_pages_of_their_own(site: Site) -> None:
    last = site.ask("/run/long_names/layers").every("a")[-1]["href"]
    assert len(str(last)) > 250
    assert "block.22.fc" in site.ask(str(last)).text
    rows = links(site.ask("/run/same/layers"))
    assert rows[:2] == [address("same", "same"), "#finding-1"]
    assert {address("same", "same", nth=3), address("same", "same", nth=23)} <= set(rows)
    second = site.ask(address("same", "same", nth=3))
    assert rel(second, "next") == address("same", "same", nth=4)
    assert rel(second, "prev") == address("same", "same", nth=2)
    assert rel(site.ask(address("same", "same")), "next") == address("same", "same", nth=2)
    site.ask(address("same", "same", nth=24), 404)


def test_runs_with_next_to_nothing_have_layer_pages(site: Site) -> None:
    empty = site.ask(address("bare", ""))
    assert "nothing to show here yet" in empty.text
    assert "Nothing yet: the run has no findings." in empty.text
    assert any(d.get("id") == "over-time" and "hidden" in d for d in empty.every("section"))
    assert "This is the only such step." in site.ask(address("one_step", "layers.4")).text
