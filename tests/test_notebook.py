"""Reports that draw themselves: figures, page and card; and what becomes of them elsewhere."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import surefoot
from surefoot.findings import Check, Report
from surefoot.layers import LayerTable
from surefoot.record import RecordError, Writer, new_folder
from surefoot.record.data import RunData
from surefoot.views.notebook import shown
from surefoot.views.words import clean
from views_fixture import FIXTURES, HOSTILE, VANISHING, Page
from views_parts_fixture import table


def drawn(name: str) -> Report:
    data = FIXTURES[name]()
    return shown(data.report, lambda: data)


def train(steps: int = 5) -> surefoot.Watch:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(8, 3)).square().mean().backward()
            optimizer.step()
    return watch


def recorded(runs: Path, report: Report, layers: LayerTable) -> Path:
    writer = Writer(new_folder(runs, "one"), {})
    writer.declare(0, layers, {"loss": 1})
    for step in range(4):
        writer.put(0, step, {"loss": np.array([4.0 - step])})
    writer.close(report)
    return writer.folder


def test_report_of_a_watch_draws_and_saves(tmp_path: Path) -> None:
    watch = train()
    report = watch.report()
    loss = next(t for t in report.figure("timeline").data if t.name == "loss")
    assert list(loss.x) == [0, 1, 2, 3, 4]
    assert watch.figure("timeline").to_json() == report.figure("timeline").to_json()
    page = report.save(tmp_path / "new" / "report.html")
    assert page.read_text().startswith("<!doctype html>")
    assert watch.save(tmp_path / "other.html").exists()
    assert watch.stop().figure("depth").data


def test_report_is_read_when_a_figure_is_asked_for() -> None:
    asked = []
    data = FIXTURES["vanishing"]()

    def read() -> RunData:
        asked.append(1)
        return data

    report = shown(data.report, read)
    assert "UNSTABLE" in report._repr_html_()
    assert str(report).startswith("unstable after 900 steps [SF101]")
    assert not asked
    report.figure("depth")
    assert asked == [1]


def test_report_before_training_says_what_to_do() -> None:
    model = nn.Linear(2, 1)
    watch = surefoot.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for ask in (watch.figure, watch.report().figure):
        with pytest.raises(RuntimeError, match=r"call start\(\)"):
            ask("depth")


def test_check_draws_and_saves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(6) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    batch = torch.randn(64, 16), torch.randint(2, (64,))
    check = surefoot.check(model, batch, nn.CrossEntropyLoss())
    assert isinstance(check, Check)
    rows = next(t for t in check.figure("depth").data if t.name == "step 0").y
    assert len(rows) == 7
    assert "before training" in Page(check._repr_html_()).text
    assert "Along the depth" in check.save(tmp_path / "check.html").read_text()
    assert json.loads(check.dumps())["check"]["layers"]


def test_report_of_a_folder_draws(tmp_path: Path) -> None:
    layers = table(2, lambda i: f"layers.{i}")
    folder = recorded(tmp_path, Report((VANISHING,), 4, (), "0.1.0"), layers)
    for place in (folder, str(folder)):
        report = surefoot.report(place)
        assert report.findings == (VANISHING,)
        loss = next(t for t in report.figure("timeline").data if t.name == "loss")
        assert list(loss.y) == [4, 3, 2, 1]
    with pytest.raises(RecordError, match=r"expected a run folder .* none in .*none.*Next: "):
        surefoot.report(tmp_path / "none")


def test_an_unknown_figure_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"heatmap, depth, timeline, .*; got 'nope'"):
        drawn("vanishing").figure("nope")


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda r: Report.from_json(r.to_json()),
        lambda r: pickle.loads(pickle.dumps(r)),
        lambda r: Report(r.findings, r.steps, r.missing, r.surefoot, guard=r.guard),
    ],
)
def test_a_report_without_its_run_says_how_to_get_it(
    elsewhere: Callable[[Report], Report], tmp_path: Path
) -> None:
    alone = elsewhere(drawn("vanishing"))
    assert alone == drawn("vanishing")
    for ask in (lambda: alone.figure("depth"), lambda: alone.save(tmp_path / "x.html")):
        with pytest.raises(RuntimeError, match=r"Next: surefoot\.report\(FOLDER\)"):
            ask()
    assert "SF101" in Page(alone._repr_html_()).text


def test_a_copied_report_still_draws_what_it_says() -> None:
    report = drawn("vanishing")
    assert copy.copy(report).figure("depth").data
    assert copy.deepcopy(report).figure("depth").data
    fewer = replace(report, findings=report.findings[1:])
    assert fewer != report
    labels = {a.text for a in fewer.figure("timeline").layout.annotations}
    assert labels == {"1 stalled training"}  # of the report asked, not of the run


def test_views_are_no_part_of_the_verdict() -> None:
    report = drawn("vanishing")
    plain = FIXTURES["vanishing"]().report
    assert report == plain
    assert repr(report) == repr(plain)
    assert hash(drawn("healthy")) == hash(FIXTURES["healthy"]().report)
    assert report.dumps() == plain.dumps()
    assert not hasattr(report, "__dict__")  # slots


@pytest.mark.parametrize("fixture", FIXTURES)
def test_card_is_inert_and_says_the_verdict(fixture: str) -> None:
    report = drawn(fixture)
    card = report._repr_html_()
    page = Page(card)
    assert len(card) < 12_000
    assert str(report.verdict).upper() in page.text
    for tag, attributes in page.elements:
        assert tag in {"div", "span", "code", "b", "i", "ul", "li"}
        assert set(attributes) <= {"style"}
    assert "\x1b" not in card
    assert "\u202e" not in card
    opened, closed = re.findall(r"<([a-z]+)[ >]", card), re.findall(r"</([a-z]+)>", card)
    assert sorted(opened) == sorted(closed)


def test_card_says_where_and_what_to_do() -> None:
    text = " ".join(Page(drawn("vanishing")._repr_html_()).text.split())
    place = 0
    for words in (
        "UNSTABLE after 900 steps",
        "Vanishing gradients from layers.18",
        "Gradients shrink 4.0x per layer",
        "Do first: activation.relu on layers.*.",
        "proposed, not yet tried",
        "Stalled training, harmful (SF301)",
        '.figure("depth")',
    ):
        assert words in text[place:], words
        place = text.index(words, place)
    assert clean(HOSTILE) in Page(drawn("hostile")._repr_html_()).text
    assert "3 steps were seen" in Page(drawn("inconclusive")._repr_html_()).text
    assert "held back 2 steps" in Page(drawn("guarded")._repr_html_()).text


def test_a_bare_report_escapes_what_it_says() -> None:
    report = FIXTURES["hostile"]().report
    assert {tag for tag, _ in Page(report._repr_html_()).elements} == {"pre"}


def test_asking_for_a_report_copies_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = train()
    calls: list[Any] = []
    monkeypatch.setattr(watch._session, "data", lambda: calls.append(1))
    watch.report()._repr_html_()
    assert not calls
