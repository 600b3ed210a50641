"""The figures: they show what was measured, of every run, and no name in them can act."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from surefoot.findings import Report
from surefoot.layers import Kind
from surefoot.record.data import RunData
from surefoot.views.figures import FIGURES, figure
from surefoot.views.figures.style import log_axis
from views_fixture import FIXTURES
from views_parts_fixture import flow, run, statistics, thinned, whole


def draw(data: RunData, name: str) -> go.Figure:
    drawn = FIGURES[name].draw(data)
    assert drawn is not None
    return drawn


def trace(drawn: go.Figure, name: str) -> Any:
    (found,) = [t for t in drawn.data if t.name == name]
    return found


@pytest.mark.parametrize("fixture", FIXTURES)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_every_run(fixture: str, name: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        drawn = FIGURES[name].draw(FIXTURES[fixture]())
    assert drawn is None or isinstance(drawn, go.Figure)
    if FIGURES[name].always:
        missing = {"all_nan": ("heatmap", "updates"), "shattered": ("depth",), "bare": (*FIGURES,)}
        assert (drawn is None) == (name in missing.get(fixture, ()))
    else:
        held = {"saturation": "saturated", "shattering": "shattered", "ranks": "ranked"}
        assert (drawn is None) == (fixture not in (held[name], "hostile"))
    if drawn is not None:
        json.loads(drawn.to_json(), parse_constant=pytest.fail)


def test_heatmap_shows_log10_of_the_layer_norm() -> None:
    data = run(5, 40, 0.3, np.ones(40), Report())
    heat = draw(data, "heatmap").data[0]
    norms = data.series["gradient"].last[:, ::5].astype(np.float64)
    for layer in range(5):
        expected = np.log10(np.hypot(norms[:, 2 * layer], norms[:, 2 * layer + 1]))
        np.testing.assert_allclose(heat.z[layer], expected, rtol=1e-6)
    assert list(heat.y) == [f"layers.{2 * i}" for i in range(5)]  # the input at the bottom
    np.testing.assert_array_equal(heat.x, np.arange(41) - 0.5)


def test_heatmap_follows_execution_order() -> None:
    data = run(4, 8, 1.0, np.ones(8), Report())
    backwards = data.flows[0]
    for call in backwards.calls:
        call.order = len(backwards.calls) - call.order
    rows = draw(replace(data, flows=(backwards,)), "heatmap").data[0].y
    assert list(rows) == ["layers.6", "layers.4", "layers.2", "layers.0"]


def test_heatmap_of_a_long_run_is_small_and_keeps_the_spike() -> None:
    drawn = draw(FIXTURES["deep"](), "heatmap")
    z, borders = drawn.data[0].z, drawn.data[0].x
    assert z.shape[0] == 500
    assert z.size <= 60_000
    assert len(drawn.to_json()) < 600_000
    column = np.searchsorted(borders, 2500) - 1
    others = np.delete(z, column, axis=1)
    assert (z[:, column] - others.max(axis=1) > 2).all()  # x1000, in every layer


def test_heatmap_marks_cells_that_are_not_finite() -> None:
    drawn = draw(FIXTURES["nonfinite"](), "heatmap")
    (bad,) = [t for t in drawn.data if t.type == "heatmap" and "NaN" in t.hovertemplate]
    shown = np.isfinite(bad.z)
    assert not shown[:, :60].any()
    assert shown[:, 60:].all()
    assert "NaN or infinite" in [t.name for t in drawn.data]  # said in words, not only in colour
    assert np.isnan(drawn.data[0].z[:, 60:]).all()


def test_heatmap_tells_zero_from_not_measured() -> None:
    data = run(3, 10, 1.0, np.ones(10), Report())
    norms = data.series["gradient"].last[:, ::5].copy()
    norms[:, 0:2] = 0
    norms[:, 2:4] = np.nan
    drawn = draw(replace(data, series={"gradient": whole(statistics(norms))}), "heatmap")
    (zero,) = [t for t in drawn.data if t.type == "heatmap" and "zero" in t.hovertemplate]
    assert np.isfinite(zero.z[0]).all()
    assert np.isnan(zero.z[1:]).all()


def test_heatmap_flags_the_origin() -> None:
    data = FIXTURES["vanishing"]()
    drawn = draw(data, "heatmap")
    assert {"1 origin", "2 stalled training"} == {a.text for a in drawn.layout.annotations}
    (flag,) = [t for t in drawn.data if t.type == "scatter"]
    assert (flag.x[0], flag.y[0]) == (0, "layers.18")
    inner = replace(data.report.findings[0], layer="layers.17")  # an activation: no weights
    moved = replace(data, report=Report((inner,), 900))
    assert draw(moved, "heatmap").data[-1].y[0] == "layers.16"


def test_depth_shows_the_flow_and_the_band() -> None:
    data = run(6, 3, 0.5, np.ones(3), Report())
    drawn = draw(data, "depth")
    gradient, signal = (t for t in drawn.data if t.name == "step 0")
    np.testing.assert_allclose(gradient.x, 0.05 * 0.5 ** np.arange(6)[::-1])
    outputs = [c.output for c in data.flows[0].calls if data.layers.layers[c.layer].kind.weighted]
    expected = [o.norm / o.numel**0.5 for o in outputs if o is not None]
    np.testing.assert_allclose(signal.x, expected)
    band = trace(drawn, "healthy band, 7.4x either way")
    np.testing.assert_allclose(sorted({*band.x}), np.array([1, 10**1.74]) * 0.025 * 10**-0.87)


def test_depth_compares_first_and_last_flow() -> None:
    data = run(4, 3, 0.5, np.ones(3), Report())
    alarm = flow(data.layers, 2, 3.0, replayed=True)
    drawn = draw(replace(data, flows=(*data.flows, alarm)), "depth")
    late = next(t for t in drawn.data if t.name == "step 2 (re-executed)")
    np.testing.assert_allclose(late.x, 0.05 * 3.0 ** np.arange(4)[::-1])


def test_depth_of_a_model_without_affine_layers_takes_its_leaves() -> None:
    data = run(3, 3, 1.0, np.ones(3), Report())
    other = tuple(replace(x, kind=Kind.RECURRENT) if x.leaf else x for x in data.layers.layers)
    drawn = draw(replace(data, layers=replace(data.layers, layers=other)), "depth")
    rows = next(t for t in drawn.data if t.name == "step 0").y
    assert len(rows) == 5  # three layers and the two between them


def test_timeline_shows_loss_rate_and_global_norm() -> None:
    data = FIXTURES["healthy"]()
    drawn = draw(data, "timeline")
    np.testing.assert_array_equal(trace(drawn, "loss").y, data.series["loss"].last[:, 0])
    np.testing.assert_allclose(trace(drawn, "group 0").y, 0.05)
    norms = data.series["gradient"].last[:, ::5].astype(np.float64)
    np.testing.assert_allclose(trace(drawn, "all layers").y, np.linalg.norm(norms, axis=1))
    assert drawn.layout.yaxis.type == "log"  # the loss falls a hundredfold
    assert draw(FIXTURES["vanishing"](), "timeline").layout.yaxis.type != "log"


def test_timeline_keeps_a_spike_that_thinning_hid() -> None:
    losses = np.ones((5000, 1))
    losses[3333] = 70.0
    data = replace(FIXTURES["bare"](), series={"loss": thinned(losses)})
    assert data.series["loss"].last.max() == 1  # no bucket ends at the spike
    drawn = draw(data, "timeline")
    assert trace(drawn, "loss").y.max() == 1
    assert max(t.y.max() for t in drawn.data) == 70


def test_timeline_crosses_out_what_is_not_finite() -> None:
    drawn = draw(FIXTURES["nonfinite"](), "timeline")
    crosses = [t for t in drawn.data if t.name == "no finite value"]
    assert len(crosses) == 2  # the loss and the gradient
    for marks in crosses:
        np.testing.assert_array_equal(marks.x, np.arange(60, 100))


def test_timeline_has_no_line_to_zero_on_a_log_axis() -> None:
    norms = np.ones((50, 24))
    norms[20:30] = 0
    data = replace(FIXTURES["healthy"](), series={"gradient": whole(statistics(norms))})
    drawn = draw(data, "timeline")
    line = trace(drawn, "all layers").y
    assert np.isnan(line[20:30]).all()
    assert np.isfinite(np.delete(line, np.s_[20:30])).all()
    np.testing.assert_array_equal(trace(drawn, "exactly zero").x, np.arange(20, 30))


def test_updates_show_median_and_extremes() -> None:
    data = FIXTURES["vanishing"]()
    ratio = data.series["update_ratio"].last.astype(np.float64)
    drawn = draw(data, "updates")
    expected = np.median(ratio, axis=1)
    np.testing.assert_allclose(trace(drawn, "median of those that move").y, expected)
    np.testing.assert_allclose(trace(drawn, "moves most: layers.22.weight").y, ratio[:, 22])
    np.testing.assert_allclose(trace(drawn, "moves least: layers.0.bias").y, ratio[:, 1])
    assert {*trace(drawn, "typical, not a limit").y} == {1e-4, 1e-2}


def test_updates_leave_frozen_and_broken_parameters_out() -> None:
    rows = np.array([[0.0, 1e-3, np.inf, np.nan]])
    data = replace(FIXTURES["bare"](), series={"update_ratio": whole(rows)})
    np.testing.assert_allclose(trace(draw(data, "updates"), "median of those that move").y, [1e-3])
    none = replace(data, series={"update_ratio": whole(rows[:, [0, 2, 3]])})
    assert FIGURES["updates"].draw(none) is None


def test_figures_survive_a_record_that_does_not_fit_its_table() -> None:
    data = FIXTURES["healthy"]()
    more = {k: whole(np.tile(s.last, 3), s.steps) for k, s in data.series.items()}
    fewer = {k: whole(s.last[:, :1], s.steps) for k, s in data.series.items()}
    empty = {k: whole(s.last[:0]) for k, s in data.series.items()}
    for series in (more, fewer, empty):
        for spec in FIGURES.values():
            spec.draw(replace(data, series=series))


def test_figure_explains_itself_or_names_the_known_ones() -> None:
    drawn = figure(FIXTURES["healthy"](), "depth")
    assert drawn.layout.title.text == FIGURES["depth"].title
    assert drawn.layout.title.subtitle.text.replace("<br>", " ") == FIGURES["depth"].caption
    assert "Nothing to draw" in figure(FIXTURES["bare"](), "depth").layout.annotations[0].text
    with pytest.raises(ValueError, match=r"heatmap, depth, timeline, updates, .*; got 'heat'"):
        figure(FIXTURES["healthy"](), "heat")


def test_log_axis_labels_match_their_places() -> None:
    for low, high in ((-8.2, -0.7), (-1.2, 1.1), (-0.3, 0.4), (-40, 38)):
        axis = log_axis(low, high)
        assert 2 <= len(axis["tickvals"]) <= 16
        for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True):
            power = re.fullmatch(r"10<sup>(-?\d+)</sup>", text)
            assert value == pytest.approx(10 ** int(power[1]) if power else float(text))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (s for k, v in value.items() for part in (k, v) for s in strings(part))
    elif isinstance(value, list):
        yield from (s for v in value for s in strings(v))


@pytest.mark.parametrize("name", FIGURES)
def test_no_name_becomes_markup_in_a_figure(name: str) -> None:
    drawn = json.loads(figure(FIXTURES["hostile"](), name).to_json())
    found = [s for s in strings(drawn) if "script" in s]
    assert found
    for text in strings(drawn):
        assert set(re.findall(r"<[^>]*>?", text)) <= {
            "<br>",
            "<sup>",
            "</sup>",
            "<extra>",
            "</extra>",
        }
        assert "\x1b" not in text
        assert "\u202e" not in text
    templates = [t.get("hovertemplate", "") for t in drawn["data"]]
    assert not any("7*7" in t for t in templates)  # %{y} in a name would be filled in
