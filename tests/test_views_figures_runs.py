"""A run's timeline with the guard's acts, one layer over time, two runs in one, and long runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from surefoot.findings import Report
from surefoot.guarding.acts import Act, Rung
from surefoot.record.data import Event, RunData
from surefoot.record.series import Series
from surefoot.views.figures import COMPARED, FIGURES, LAYER_FIGURES, compared, layer_figure
from surefoot.views.figures.events import RUNGS
from views_fixture import FIXTURES, HOSTILE, act
from views_parts_fixture import run, statistics, thinned, whole


def timeline(data: RunData) -> go.Figure:
    drawn = FIGURES["timeline"].draw(data)
    assert drawn is not None
    return drawn


def trace(drawn: go.Figure, name: str) -> Any:
    (found,) = [t for t in drawn.data if t.name == name]
    return found


# the guard's acts


def test_each_rung_has_a_colour_and_a_symbol_of_its_own() -> None:
    assert set(RUNGS) == {str(rung) for rung in Rung}
    for looks in zip(*RUNGS.values(), strict=True):
        assert len(set(looks)) == len(RUNGS)
    drawn = timeline(FIXTURES["guarded"]())
    shown = {
        t.name: (t.marker.symbol, t.marker.color, list(t.x))
        for t in drawn.data
        if t.name in {words for _, _, words in RUNGS.values()}
    }
    assert shown == {
        "clipped": (*RUNGS["clip"][:2], list(range(20, 180, 8))),
        "held back": (*RUNGS["skip"][:2], [60, 61]),
        "rolled back": (*RUNGS["roll back"][:2], [62]),
        "undone": (*RUNGS["undo"][:2], [90]),
        "halted": (*RUNGS["halt"][:2], [199]),
    }
    strip = drawn.layout.yaxis4.categoryarray
    assert list(strip) == ["nonfinite", "halted", "undone", "rolled back", "held back", "clipped"]


def test_an_act_says_why() -> None:
    drawn = timeline(FIXTURES["guarded"]())
    expected = "<br>out of line<br>7.50 times the usual size<br>layers.4.weight"
    assert trace(drawn, "clipped").text[0] == expected
    hostile = trace(drawn, "held back").text[1]
    assert "&lt;script&gt;" in hostile
    assert HOSTILE not in hostile


def test_a_dry_run_is_said_so() -> None:
    events = (act(1, "skip"), act(2, "skip", dry_run=True), act(3, "clip", dry_run=True))
    drawn = timeline(replace(FIXTURES["healthy"](), events=events))
    assert list(trace(drawn, "held back").x) == [1]
    assert list(trace(drawn, "dry run: held back").x) == [2]
    assert list(trace(drawn, "dry run: clipped").x) == [3]


def test_an_act_of_the_guard_is_drawn_as_it_is_kept() -> None:
    kept = Event(3, "guard", Act(3, Rung.ROLL_BACK, "the loss rose", None, None).to_json())
    assert list(trace(timeline(replace(FIXTURES["healthy"](), events=(kept,))), "rolled back").x)


def test_a_flood_of_events_hides_no_act() -> None:
    flood = [Event(step, "alarm", {"kind": "spike"}) for step in range(5000)]
    data = replace(FIXTURES["healthy"](), events=(*flood, act(7, "halt")))
    drawn = timeline(data)
    assert len(trace(drawn, "spike").x) <= 400
    assert list(trace(drawn, "halted").x) == [7]


def test_a_strangers_act_is_an_event_like_others() -> None:
    odd = (Event(0, "guard", {"rung": ["clip"]}), Event(1, "guard", {"rung": "fly"}))
    drawn = timeline(replace(FIXTURES["healthy"](), events=odd))
    assert list(trace(drawn, "guard").x) == [0, 1]


def test_timeline_shows_the_scale_of_the_loss_where_there_is_one() -> None:
    data = FIXTURES["healthy"]()
    scaling = np.array([[2.0**16, 0], [2.0**16, 1], [2.0**15, 0]])
    series = {**data.series, "loss_scaling": whole(scaling)}
    drawn = timeline(replace(data, series=series))
    assert list(trace(drawn, "scale").y) == [65536, 65536, 32768]
    none = whole(np.array([[np.nan, 0.0]] * 3))
    drawn = timeline(replace(data, series={**data.series, "loss_scaling": none}))
    assert not [t for t in drawn.data if t.name == "scale"]


# one layer


def one_layer() -> RunData:
    data = run(3, 64, 0.5, np.ones(64), Report())
    zeros = np.zeros((64, 6))
    zeros[:, 2] = 1024  # a quarter of layers.2.weight
    norms = data.series["gradient"].last[:, ::5].astype(np.float64)
    rows = statistics(norms).reshape(64, 6, 5)
    rows[:, :, 4] = zeros
    sizes = np.tile([0.1, 0.01], 3) + np.arange(64)[:, None] * 1e-3
    series = {**data.series, "gradient": whole(rows.reshape(64, -1)), "weight": whole(sizes)}
    return replace(data, series=series)


def index(data: RunData, name: str) -> int:
    return [layer.name for layer in data.layers.layers].index(name)


def test_layer_shows_gradient_ratio_size_and_zeros() -> None:
    data = one_layer()
    drawn = LAYER_FIGURES["layer"].draw(data, index(data, "layers.2"))
    assert drawn is not None
    norm, zeros = (t for t in drawn.data if t.name == "whole layer")
    norms = data.series["gradient"].last[:, ::5].astype(np.float64)
    np.testing.assert_allclose(norm.y, np.hypot(norms[:, 2], norms[:, 3]))
    np.testing.assert_allclose(zeros.y, 1024 / (64 * 64 + 64))
    ratio, size = (t for t in drawn.data if t.name == "weight")
    np.testing.assert_allclose(ratio.y, data.series["update_ratio"].last[:, 2])
    np.testing.assert_allclose(size.y, data.series["weight"].last[:, 2])
    titles = [drawn.layout[f"yaxis{i}"].title.text for i in ("", 2, 3, 4)]
    assert titles == ["gradient norm", "update / weights", "weights, rms", "share of zeros"]
    matches = {drawn.layout[f"xaxis{i}"].matches for i in ("", 2, 3)}
    assert matches == {"x4"}  # one axis of steps


def test_layer_marks_what_is_not_finite_and_keeps_a_thinned_spike() -> None:
    data = FIXTURES["nonfinite"]()
    drawn = layer_figure(data, index(data, "layers.4"))
    np.testing.assert_array_equal(trace(drawn, "no finite value").x, np.arange(60, 100))
    norms = np.ones((5000, 24))
    norms[3333, 4] = 70.0
    thin = thinned(statistics(norms))
    drawn = layer_figure(replace(data, series={"gradient": thin}), index(data, "layers.4"))
    envelope = trace(drawn, "lowest to highest of the steps drawn as one")
    assert envelope.y.max() == pytest.approx(np.hypot(70, 1))
    other = layer_figure(replace(data, series={"gradient": thin}), index(data, "layers.6"))
    assert max(t.y.max() for t in other.data if t.mode == "lines") == pytest.approx(np.sqrt(2))


def test_layer_without_parameters_or_measurements_has_no_figure() -> None:
    data = one_layer()
    draw = LAYER_FIGURES["layer"].draw
    assert draw(data, index(data, "layers.1")) is None  # an activation
    assert draw(replace(data, series={}), 1) is None
    nothing = {k: whole(np.full_like(s.last, np.nan)) for k, s in data.series.items()}
    assert draw(replace(data, series=nothing), 1) is None
    assert "Nothing to draw" in layer_figure(data, 2).layout.annotations[0].text
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match="a layer from 0 to 5"):
            layer_figure(data, wrong)
    with pytest.raises(ValueError, match="layer; got 'lair'"):
        layer_figure(data, 1, "lair")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_every_layer_of_every_run_is_drawn_as_strict_json(fixture: str) -> None:
    data = FIXTURES[fixture]()
    with np.errstate(all="raise", under="ignore"):
        for layer in range(min(len(data.layers.layers), 4)):
            text = str(layer_figure(data, layer).to_json())
            json.loads(text, parse_constant=pytest.fail)
            assert "<script" not in text


# two runs


def test_compared_draws_both_losses_and_norms() -> None:
    a, b = FIXTURES["vanishing"](), replace(FIXTURES["healthy"](), name="digits-relu")
    drawn = compared(a, b)
    assert set(drawn) == set(COMPARED) == {"timeline", "depth"}
    for run_, name in ((a, "digits-sigmoid"), (b, "digits-relu")):
        loss, norm = (t for t in drawn["timeline"].data if t.name == name)
        finite = np.isin(run_.series["loss"].steps, loss.x)
        np.testing.assert_array_equal(loss.y, run_.series["loss"].last[finite, 0])
        norms = run_.series["gradient"].last[:, ::5].astype(np.float64)
        norms = norms[np.isin(run_.series["gradient"].steps, norm.x)]
        np.testing.assert_allclose(norm.y, np.linalg.norm(norms, axis=1))
    looks = {
        (t.line.color, t.line.dash)
        for t in drawn["timeline"].data
        if t.name in ("digits-sigmoid", "digits-relu")
    }
    assert len(looks) == 2
    assert len({color for color, _ in looks}) == len({dash for _, dash in looks}) == 2


def test_compared_depth_has_the_layers_that_both_know() -> None:
    a = run(6, 3, 0.5, np.ones(3), Report())
    b = run(4, 3, 2.0, np.ones(3), Report())
    drawn = compared(a, replace(b, name="b"))["depth"]
    one, other = (t for t in drawn.data if t.name in ("digits-sigmoid", "b"))
    assert list(one.y) == list(other.y) == ["layers.0", "layers.2", "layers.4", "layers.6"]
    np.testing.assert_allclose(one.x, 0.05 * 0.5 ** np.arange(5, 1, -1.0))
    np.testing.assert_allclose(other.x, 0.05 * 2.0 ** np.arange(3, -1, -1.0))


@pytest.mark.parametrize("fixture", FIXTURES)
def test_compared_with_any_run_never_fails(fixture: str) -> None:
    a, b = FIXTURES["hostile"](), FIXTURES[fixture]()
    with np.errstate(all="raise", under="ignore"):
        for pair in ((a, b), (b, a), (b, b)):
            for drawn in compared(*pair).values():
                text = str(drawn.to_json())
                json.loads(text, parse_constant=pytest.fail)
                assert "<script" not in text
    assert ("timeline" in compared(b, b)) == (fixture != "bare")


def test_compared_runs_of_one_name_are_told_apart() -> None:
    data = FIXTURES["healthy"]()
    names = {t.name for t in compared(data, data)["depth"].data}
    assert {"digits-sigmoid", "digits-sigmoid (2)"} <= names


# long runs


@pytest.mark.parametrize(("depth", "buckets"), [(8, 65_536), (500, 512)])
def test_a_long_run_draws_small_and_keeps_its_spike(depth: int, buckets: int) -> None:
    data = run(depth, 16, 1.0, np.ones(16), Report((), 100_000))
    steps = np.linspace(0, 99_999, buckets).astype(np.int64)
    spike = buckets // 3
    norms = np.ones((buckets, 2 * depth), np.float32)
    norms[spike] *= 1000
    gradient = statistics(norms).astype(np.float32)
    series = {"loss": norms[:, :1], "learning_rate": norms[:, :1], "update_ratio": norms}
    held = {k: Series(steps, v, v, v) for k, v in {**series, "gradient": gradient}.items()}
    data = replace(data, series=held)
    drawn = {name: spec.draw(data) for name, spec in FIGURES.items()}
    drawn |= {"layer": layer_figure(data, 1), **compared(data, data)}
    for name, one in drawn.items():
        assert one is None or len(one.to_json()) < 500_000, name
    for name in ("timeline", "layer", "updates"):
        tops = [np.nanmax(t.y) for t in drawn[name].data if len(t.y)]
        assert max(tops) >= 1000, name
    heat = drawn["heatmap"].data[0]
    column = np.searchsorted(heat.x, steps[spike]) - 1
    assert heat.z[:, column].min() > 2.9
    assert np.delete(heat.z, column, axis=1).max() < 0.5
