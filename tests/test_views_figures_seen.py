"""Saturation, shattering and the ranks: what was seen now and then, drawn from steps and events."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

import surefoot
from surefoot.build import Build
from surefoot.checking import examine
from surefoot.diagnosis.ranks import Local
from surefoot.diagnosis.rules import dead
from surefoot.diagnosis.rules import saturated as saturated_rule
from surefoot.findings import Report
from surefoot.layers import Kind, Layer, LayerTable
from surefoot.probes.shattering import Shattering, shattering
from surefoot.record import Writer, new_folder, read_run
from surefoot.record.data import Event, RunData
from surefoot.views.figures import FIGURES, ranks
from surefoot.views.figures.saturation import LIMITS
from surefoot.watching.ledger import shattered
from views_fixture import FIXTURES, look
from views_parts_fixture import BATCH, WIDTH


def draw(data: RunData, name: str) -> go.Figure:
    drawn = FIGURES[name].draw(data)
    assert drawn is not None
    return drawn


def traces(drawn: go.Figure, name: str) -> list[Any]:
    return [t for t in drawn.data if t.name == name]


def shown(one: Any) -> dict[str, float]:
    return dict(zip(one.y, np.asarray(one.x, float), strict=True))


# saturation


def test_saturation_shows_the_shares_of_both_ends_of_the_run() -> None:
    drawn = draw(FIXTURES["saturated"](), "saturation")
    frozen, zeros = traces(drawn, "step 0")
    assert shown(frozen) == pytest.approx(
        {"layers.0 (relu)": np.nan, "layers.1": 0.1, "layers.3": 0.1}
        | dict.fromkeys(["layers.5", "layers.7", "layers.9"], 0.4),
        nan_ok=True,
    )
    share = round(0.55 * WIDTH * BATCH) / (WIDTH * BATCH)
    known = {k: v for k, v in shown(zeros).items() if not np.isnan(v)}
    assert known == pytest.approx({"layers.1": share, "layers.3": share})  # tanh makes no zeros
    late = shown(traces(drawn, "step 256")[0])
    assert (late["layers.0 (relu)"], late["layers.1"]) == (0.2, 0.97)
    assert list(late) == list(drawn.layout.yaxis.categoryarray)  # from the input upwards


def test_saturation_marks_where_the_rules_begin_to_ask() -> None:
    (marks,) = traces(draw(FIXTURES["saturated"](), "saturation"), "questionable from here on")
    assert shown(marks)["layers.0 (relu)"] == dead._DEAD
    assert shown(marks)["layers.9"] == saturated_rule._SOME
    assert set(LIMITS) == {"relu", *saturated_rule._KINDS}
    assert {LIMITS[kind] for kind in saturated_rule._KINDS} == {saturated_rule._SOME}


def test_saturation_leaves_replays_and_unknown_shares_out() -> None:
    data = FIXTURES["saturated"]()
    again = replace(data.flows[1], replayed=True)
    drawn = draw(replace(data, flows=(data.flows[0], again)), "saturation")
    assert not traces(drawn, "step 256")
    assert FIGURES["saturation"].draw(replace(data, flows=(again,))) is None
    assert FIGURES["saturation"].draw(replace(data, flows=())) is None


# shattering


def test_shattering_shows_the_first_and_the_last_look() -> None:
    drawn = draw(FIXTURES["shattered"](), "shattering")
    (first,), (last,) = traces(drawn, "step 32"), traces(drawn, "step 512")
    assert not traces(drawn, "step 128")
    assert next(iter(shown(first))) == "the input"
    assert shown(first)["the input"] == 0.02
    np.testing.assert_allclose(list(shown(first).values())[1:], 0.97 * 0.75 ** np.arange(12)[::-1])
    assert np.isnan(shown(last)["layers.6"])
    (lost,) = traces(drawn, "no finite gradient, step 512")
    assert list(lost.y) == ["layers.6"]
    (band,) = traces(drawn, "cannot be told from white noise")
    assert {*band.x} == {-0.08, 0.08}


def test_shattering_of_parameters_is_one_number_without_a_null() -> None:
    data = replace(
        FIXTURES["bare"](), events=(look(32, 0.3, [], of="parameters", white=0.0, samples=8),)
    )
    drawn = draw(data, "shattering")
    assert shown(traces(drawn, "step 32")[0]) == {"all parameters": 0.3}
    assert not traces(drawn, "cannot be told from white noise")


@pytest.mark.parametrize(
    "detail",
    [
        {},
        {"coherence": "nan", "curve": None},
        {"coherence": None, "curve": {"a": 1}},
        {"coherence": [1], "white": {}, "curve": [["a"], "ab", 3, ["b", None], [None, 1.0]]},
        {"coherence": True, "of": [], "white": True},
    ],
)
def test_shattering_of_a_strangers_event_is_not_drawn(detail: dict[str, Any]) -> None:
    data = replace(FIXTURES["bare"](), events=(Event(0, "shattering", detail),))
    assert FIGURES["shattering"].draw(data) is None


def test_shattering_without_a_limit_or_beyond_one_is_drawn_within_bounds() -> None:
    events = (look(0, 7.0, [["a", -1e9]], white="inf"), look(1, float("inf"), [["a", 0.5]]))
    drawn = draw(replace(FIXTURES["bare"](), events=events), "shattering")
    assert shown(traces(drawn, "step 0")[0]) == {"the input": 1.0, "a": -1.0}
    assert np.isnan(shown(traces(drawn, "step 1")[0])["the input"])
    json.loads(drawn.to_json(), parse_constant=pytest.fail)


def test_shattering_survives_the_record(tmp_path: Any) -> None:
    seen = Shattering(0.25, 0.1, "input", (("fc1", 0.5), ("fc2", float("nan"))), 64)
    event = shattered(32, seen)
    assert json.loads(json.dumps(event.detail, allow_nan=False)) == {
        "coherence": 0.25,
        "white": 0.1,
        "of": "input",
        "samples": 64,
        "curve": [["fc1", 0.5], ["fc2", "nan"]],
    }
    writer = Writer(new_folder(tmp_path, "one"), {})
    writer.declare(0, LayerTable("M", (Layer("", "M", Kind.OTHER, None, True),), ()), {"loss": 1})
    writer.put(0, 0, {"loss": np.ones(1)})
    writer.event(0, event)
    writer.close(Report(steps=1))
    live, read = (
        draw(data, "shattering")
        for data in (replace(FIXTURES["bare"](), events=(event,)), read_run(writer.folder))
    )
    assert shown(traces(live, "step 32")[0])["fc1"] == 0.5
    assert live.to_json() == read.to_json()


def test_a_check_draws_its_coherence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    model.append(nn.Linear(32, 3))
    batch = torch.randn(64, 8), torch.randint(3, (64,))
    _, data = examine(Build(model, batch, nn.CrossEntropyLoss(), None))
    (row,) = traces(draw(data, "shattering"), "step 0")
    names = [name for name in shown(row) if name != "the input"]
    seen = shattering(model, [batch[0]], along=names)
    assert shown(row) == pytest.approx({"the input": seen.coherence, **dict(seen.curve)})
    assert len(names) >= 2


def test_a_watch_draws_the_coherence_that_it_looked_at() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # learns nothing, so it is asked
    inputs = torch.randn(64, 8)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(40):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    drawn = watch.report().figure("shattering")
    (row,) = traces(drawn, "step 32")
    expected = shattering(model, [inputs]).coherence
    assert shown(row)["the input"] == pytest.approx(expected, abs=1e-6)


# ranks


def test_ranks_show_multiples_and_what_is_not_finite() -> None:
    drawn = draw(FIXTURES["ranked"](), "ranks")
    (first, second), (loss, _) = traces(drawn, "input"), traces(drawn, "loss")
    assert dict(zip(first.customdata, first.y, strict=True))[4] == 51.2
    assert dict(zip(loss.customdata, loss.y, strict=True))[4] == 8.0
    np.testing.assert_allclose(second.y, 1.0 + 0.1 * np.arange(8))
    (bad,) = traces(drawn, "not finite")
    assert list(bad.x) == [5]
    assert [a.text for a in drawn.layout.annotations] == [
        "step 40: spike; no word from ranks 3, 5",
        "step 60: nonfinite",  # once, though the alarm tells of them as well
    ]


def test_ranks_of_a_large_world_say_how_many_are_shown() -> None:
    told = [Local(rank, scale=2.0).to_json() for rank in range(0, 128, 4)]
    event = Event(7, "ranks", {"kind": "spike", "world": 128, "ranks": told})
    drawn = draw(replace(FIXTURES["bare"](), events=(event,)), "ranks")
    assert drawn.layout.annotations[0].text == "step 7: spike; 32 of 128 ranks shown"
    many = tuple(replace(event, step=step) for step in range(20))
    assert len(draw(replace(FIXTURES["bare"](), events=many), "ranks").layout.annotations) == 4


@pytest.mark.parametrize(
    "detail",
    [
        {"ranks": None},
        {"ranks": [1, "a", None, {}]},
        {"ranks": [{"rank": "1"}, {"rank": float("nan")}]},
    ],
)
def test_ranks_of_a_strangers_event_are_not_drawn(detail: dict[str, Any]) -> None:
    data = replace(FIXTURES["bare"](), events=(Event(0, "ranks", detail),))
    assert FIGURES["ranks"].draw(data) is None


def test_ranks_survive_values_that_are_no_numbers() -> None:
    told = [{"rank": 0, "scale": None, "loss": "inf"}, {"rank": 1e300, "scale": -1, "loss": 0}]
    event = Event(0, "ranks", {"world": -3, "ranks": told})
    data = replace(FIXTURES["bare"](), events=(event,))
    (alarm,) = ranks.read(data)
    assert alarm.bad.tolist() == [True, False]
    json.loads(draw(data, "ranks").to_json(), parse_constant=pytest.fail)
