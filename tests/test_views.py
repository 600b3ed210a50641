"""Figures, report and terminal: they show what was measured, and nothing that they show can act."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from rich.console import Console

from surefoot.findings import Cause, Finding, Pathology, Report, Severity
from surefoot.layers import Kind
from surefoot.record.data import Event, RunData
from surefoot.views import words
from surefoot.views.figures import FIGURES, figure
from surefoot.views.figures.style import DARK, LIGHT, LINES, RED, log_axis
from surefoot.views.outcome import outcome
from surefoot.views.report import render_report, save_report
from surefoot.views.terminal import print_verdict
from views_fixture import FIXTURES, HOSTILE, flow, run, thinned, whole

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def draw(data: RunData, name: str) -> go.Figure:
    drawn = FIGURES[name].draw(data)
    assert drawn is not None
    return drawn


def trace(drawn: go.Figure, name: str) -> Any:
    (found,) = [t for t in drawn.data if t.name == name]
    return found


# figures


@pytest.mark.parametrize("fixture", FIXTURES)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_every_run(fixture: str, name: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        drawn = FIGURES[name].draw(FIXTURES[fixture]())
    assert drawn is None or isinstance(drawn, go.Figure)
    assert (drawn is None) == (
        fixture == "bare" or (fixture == "all_nan" and name in ("heatmap", "updates"))
    )
    if drawn is not None:
        json.loads(drawn.to_json(), parse_constant=pytest.fail)


def test_heatmap_shows_log10_of_the_layer_norm() -> None:
    data = run(5, 40, 0.3, np.ones(40), Report())
    heat = draw(data, "heatmap").data[0]
    norms = data.series["gradient_norm"].last.astype(np.float64)
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
    norms = data.series["gradient_norm"].last.copy()
    norms[:, 0:2] = 0
    norms[:, 2:4] = np.nan
    drawn = draw(replace(data, series={"gradient_norm": whole(norms)}), "heatmap")
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
    norms = data.series["gradient_norm"].last.astype(np.float64)
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


def test_heatmap_knows_a_broken_step_without_the_counts() -> None:
    data = FIXTURES["nonfinite"]()
    kept = {k: s for k, s in data.series.items() if k != "gradient_detail"}
    kept["loss"] = whole(np.where(np.arange(100) > 60, np.inf, 1.0)[:, None])
    alarm = Event(60, "alarm", {"kind": "nonfinite", "parameters": [0, 1, 4, 999, "x"]})
    drawn = draw(replace(data, series=kept, events=(alarm,)), "heatmap")
    (bad,) = [t for t in drawn.data if t.type == "heatmap" and "NaN" in t.hovertemplate]
    shown = np.isfinite(bad.z)
    assert not shown[:, :60].any()
    np.testing.assert_array_equal(np.flatnonzero(shown[:, 60]), [0, 2])  # owners of 0, 1 and 4
    assert shown[:, 61:].all()


def test_timeline_has_no_line_to_zero_on_a_log_axis() -> None:
    norms = np.ones((50, 24))
    norms[20:30] = 0
    data = replace(FIXTURES["healthy"](), series={"gradient_norm": whole(norms)})
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
    with pytest.raises(ValueError, match="heatmap, depth, timeline, updates; got 'heat'"):
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


# report


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, text, scripts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


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
    assert "Not drawn" in pages["bare"][1].text


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


# terminal


def printed(report: Report, width: int, encoding: str = "utf-8", **paths: str) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    print_verdict(report, console=console, **paths)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_terminal_fits_and_never_fails(fixture: str, encoding: str, width: int) -> None:
    text = printed(FIXTURES[fixture]().report, width, encoding)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 100])
def test_terminal_verdict_says_everything(width: int) -> None:
    path = "/very/long/path" * 12 + "/report.html"
    text = printed(FIXTURES["vanishing"]().report, width, report_path=path)
    flat = " ".join(re.sub("[\u2500-\u257f]", " ", text).split())
    first_lines = " ".join(text.splitlines()[1:3])
    for fact in ("UNSTABLE  vanishing gradients", "starts at layers.18", "since step 0"):
        assert fact in first_lines
    for fact in (
        "cause: saturating activation",
        "Gradients shrink 4.0x per layer",
        "Do first: activation.relu on layers.*",
        "if isinstance(module, nn.Sigmoid):",
        "Symptom only: layers.0, layers.2, layers.4, layers.6 and 5 more",
        "SF301 stalled training",
        "follows from SF101",
        "3.81e-6",
    ):
        assert fact in flat
    assert f"Report: {path}\n" in text
    assert f"in a browser: file://{path}\n" in text


def test_terminal_healthy_takes_two_lines() -> None:
    text = printed(FIXTURES["healthy"]().report, 60, report_path="/r.html")
    assert text == "HEALTHY  300 steps watched, nothing wrong found.\nReport: /r.html\n"
    assert "Run folder: /runs/a\n" in printed(FIXTURES["healthy"]().report, 60, folder="/runs/a")
    assert "SF204 saturated units" in printed(FIXTURES["advised"]().report, 100)


def test_terminal_inconclusive_names_the_next_command() -> None:
    text = printed(FIXTURES["inconclusive"]().report, 100)
    assert text.startswith("INCONCLUSIVE  3 steps watched")
    assert "surefoot check" in " ".join(text.split())


def test_terminal_prints_names_as_they_are() -> None:
    finding = Finding("SF1", Pathology.DEAD, Cause.DEAD_RELU, Severity.FATAL, "[red]s[/red]", "[b]")
    text = printed(Report((finding,), 3), 100)
    assert "starts at [b]" in text
    assert "[red]s[/red]" in text


# words


def test_every_word_of_the_vocabulary_is_explained() -> None:
    assert set(words.PATHOLOGY) == set(Pathology)
    assert set(words.CAUSE) == set(Cause)
    assert set(words.SEVERITY) == set(Severity)
    for name, sentence in (*words.PATHOLOGY.values(), *words.CAUSE.values()):
        assert name == name.strip()
        assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,230"),
        (999.7, "1,000"),
        (2.3021, "2.30"),
        (0.0312, "0.0312"),
        (123.4, "123"),
        (4096.0, "4,096"),
        (-0.00012345, "-1.23e-4"),
        (3e25, "3e25"),
        (1234567, "1,234,567"),
        (np.float32(0.5), "0.500"),
        (float("nan"), "NaN"),
        ("-inf", "-infinity"),
        (True, "yes"),
    ],
)
def test_numbers_have_three_digits(value: Any, text: str) -> None:
    assert words.number(value) == text


def test_shorten_keeps_both_ends() -> None:
    short = words.shorten("model.encoder.layers.11.mlp.down_proj", 20)
    assert len(short) == 20
    assert short.startswith("model")
    assert short.endswith("down_proj")


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([], "not seen"),
        ([np.nan, np.nan], "not a finite number at any step"),
        ([2.0], "nothing to compare"),
        ([2.0, 2.01], "hardly any change"),
        ([2.0, 0.5], "75 % lower than at the start"),
        ([2.0, 8.0], "4 times as high"),
        ([-1.0, -5.0], "lower than at the start"),
        ([2.0, 1.0, np.inf], "from step 2 on it was no finite number"),
    ],
)
def test_outcome_states_what_the_loss_did(losses: list[float], said: str) -> None:
    series = {"loss": whole(np.array(losses)[:, None])} if losses else {}
    assert said in outcome(replace(FIXTURES["healthy"](), series=series))


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
