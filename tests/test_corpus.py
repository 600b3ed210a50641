"""The corpus itself: its sizes, its labels, and the figures that are made of it."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
from corpus import ANY, Entry, load
from corpus.figures import Row, counted, wilson
from corpus.run import hurts, judge, judge_all, judge_early
from corpus.trainings.tasks import measure
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `pytest` without `python -m`

from surefoot.findings import Cause

ROOT = Path(__file__).parents[1]
CASES: dict[str, Entry] = load()
REPORT = [e for e in CASES.values() if e.part == "report"]


def test_it_is_as_large_as_its_page_and_the_readme_say() -> None:
    page, readme = ((ROOT / name).read_text() for name in ("docs/corpus.md", "README.md"))
    for part in ("tune", "report"):
        healthy = sum(e.healthy for e in CASES.values() if e.part == part)
        faulty = sum(not e.healthy for e in CASES.values() if e.part == part)
        assert faulty >= 150 and healthy >= 150
        assert f"| {part} | {healthy} | {faulty} |" in page
    assert f"{healthy} with nothing" in readme and f"{faulty} with one thing wrong" in readme


def test_a_training_is_judged_as_if_it_had_ended_early() -> None:
    rows = judge_early(CASES["exploding_weights_x3_15"], 0, (3, 20, 10**9))
    assert [r.steps for r in rows] == [3, 20] and rows[-1].detected
    calm = judge_early(CASES["mlp_relu_sgd"], 0, (3, 20))
    assert [(r.steps, r.detected) for r in calm] == [(3, True), (20, True)]
    assert all(r.steps is None for r in [judge(CASES["mlp_relu_sgd"], 0)])


def test_every_cause_is_planted_in_the_part_to_report_on() -> None:
    planted = {cause for e in REPORT for cause in e.causes}
    assert set(Cause) - planted == {Cause.UNKNOWN}


@pytest.mark.parametrize("entry", [e for e in REPORT if not e.healthy], ids=lambda e: e.name)
def test_a_fault_changes_a_healthy_row(entry: Entry) -> None:
    twin = CASES[entry.name.partition("/")[0]]
    assert twin.healthy and twin.part == entry.part and twin.run is entry.run
    changed = {k: v for k, v in entry.change.items() if entry.base.get(k) is not v}
    assert changed, "the faulty case is its own twin"
    assert entry.pathologies and entry.layers


@pytest.mark.parametrize(("hits", "runs"), [(0, 7), (7, 7), (1, 80), (79, 80), (150, 340)])
def test_the_interval_is_scipys(hits: int, runs: int) -> None:
    expected = binomtest(hits, runs).proportion_ci(method="wilson")
    assert wilson(hits, runs) == pytest.approx((expected.low, expected.high), abs=1e-12)


def row(name: str, *, healthy: bool, right: tuple[bool, bool, bool, bool], placed: bool) -> Row:
    detected, cause, layer, pathology = right
    return Row(
        name=name, part="report", seed=0, healthy=healthy, fault="" if healthy else "bad_batch",
        placed=placed, expected="", verdict="", rule="", pathology="", cause="", layer=None,
        severity="", others=(), score=None, detected=detected, right_cause=cause,
        right_layer=layer, right_pathology=pathology, silent=False, seconds=0.0,
    )  # fmt: skip


def test_shares_are_of_the_rows_that_they_speak_of() -> None:
    rows = [
        row("a", healthy=False, right=(True, True, False, True), placed=True),
        row("b", healthy=False, right=(True, False, True, True), placed=False),
        row("c", healthy=False, right=(False, False, False, False), placed=True),
        row("d", healthy=True, right=(False, False, False, False), placed=False),
        row("e", healthy=True, right=(True, True, True, True), placed=False),
    ]
    words = ("detection", "false alarms", "pathology", "cause", "origin", "all of these")
    assert [counted(rows, w) for w in words] == [(2, 3), (1, 2), (2, 3), (1, 3), (0, 2), (0, 3)]


@pytest.mark.long
@pytest.mark.timeout(14400)
def test_the_part_to_tune_on_keeps_its_shares() -> None:
    entries = [e for e in CASES.values() if e.part == "tune" and e.runs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = judge_all(entries, [0])
    least = {"detection": 0.97, "pathology": 0.96, "cause": 0.95, "origin": 0.96}
    for word, share in least.items():
        hits, runs = counted(rows, word)
        assert hits >= share * runs, word
    alarms, runs = counted(rows, "false alarms")
    assert alarms <= 0.005 * runs


@pytest.mark.long
@pytest.mark.timeout(14400)
def test_every_fault_hurts() -> None:
    """The truth of the corpus itself: the change makes the training clearly worse."""
    faulty = [e for e in CASES.values() if not e.healthy and e.runs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harmless = [e.name for e in faulty if not hurts(e.train(0), e.train_twin(0))]
    assert not harmless


def test_a_constant_answer_scores_one_and_the_truth_scores_nothing() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    p = torch.tensor([3 / 6, 2 / 6, 1 / 6])
    assert measure("entropy", p.log().expand(6, 3), y) == pytest.approx(1.0)
    assert measure("error", p.expand(6, 3), y) == pytest.approx(1.0)
    assert measure("error", torch.eye(3)[y], y) == 0.0
    uniform = torch.zeros(6, 3)
    entropy = -sum(q * math.log(q) for q in (1 / 2, 1 / 3, 1 / 6))
    assert measure("entropy", uniform, y) == pytest.approx(math.log(3) / entropy)
    values = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 8.0]])
    assert measure("squares", values.mean(0).expand(3, 2), values) == pytest.approx(1.0)
    assert measure("squares", values, values) == 0.0
    bits = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert measure("bits", torch.full((4, 1), -1.0), bits) == pytest.approx(1.0)
    assert measure("bits", bits - 0.5, bits) == 0.0


def test_every_layer_of_a_label_is_a_name_or_none() -> None:
    for entry in REPORT:
        assert entry.layers == (ANY,) or ANY not in entry.layers
