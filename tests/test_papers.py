"""The quick rows of the table of published and theoretical values; `python -m tests.papers`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from tests.papers import Row, Seen, controls, cost, networks, rows
from tests.papers.__main__ import main

QUICK = [row for row in rows() if row.quick]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_the_value_is_that_of_the_source(row: Row) -> None:
    value = row.measure()
    assert row.holds(value), f"{value} {row.bound} {row.theory} +- {row.tolerance}"


def test_the_table_is_long_enough_and_says_how_well_each_source_is_known() -> None:
    assert len(rows()) >= 50
    assert len({row.name for row in rows()}) == len(rows())
    assert {row.seen for row in rows()} == set(Seen)
    assert all(row.why and row.source for row in rows())


def test_every_row_can_fail() -> None:
    for row in rows():
        assert not row.holds(math.nan)
        if row.bound == "=":
            assert row.tolerance <= max(0.3 * abs(row.theory), 0.06), row.name
        else:
            assert row.tolerance == 0.0
            assert not row.holds(row.theory + (1e-9 if row.bound == "<" else -1e-9)), row.name


def test_a_bound_is_passed_on_one_side_only() -> None:
    row = replace(rows()[0], theory=2.0, tolerance=0.0, bound="<")
    assert [row.error(value) for value in (1.5, 2.5)] == [0.0, 0.5]
    row = replace(row, bound=">")
    assert [row.error(value) for value in (1.5, 2.5)] == [0.5, 0.0]
    row = replace(row, bound="=", tolerance=0.5)
    assert [row.holds(value) for value in (1.4, 1.5, 2.5, 2.6)] == [False, True, True, False]


def test_arms_differ_in_what_they_say_and_in_nothing_else() -> None:
    x = networks.digits()[0][:64]
    for family in ("ripples", "batch norm"):
        arms = [arm for arm in controls.ARMS if arm.family == family and not arm.shattered]
        outputs, gradients = [], []
        for arm in arms:
            torch.manual_seed(0)
            model = arm.make()
            model(x).sum().backward()
            outputs.append(model(x).detach())
            gradients.append([p.grad.double().norm() for p in model.parameters()])  # type: ignore[union-attr]
        assert torch.equal(*outputs)
        growth = float((gradients[1][0] / gradients[0][0]).log10())
        assert growth == pytest.approx(controls.EXPLODES, abs=1e-4)
        assert gradients[0][-1] == gradients[1][-1]  # the head's: nothing lies behind it


def test_ripples_leave_the_function_as_it_was() -> None:
    x = networks.digits()[0][:256]
    outputs = []
    for slope in (0.0, controls.AMPLITUDE):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(controls.rippled(slope)(x))
    assert 0.001 < float((outputs[1] - outputs[0]).norm() / outputs[0].norm()) < 0.02


def test_a_run_that_diverges_costs_the_most_and_an_end_of_the_list_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "STEPS", 25)
    sound = controls.ARMS[0].make
    assert cost.train(sound, "SGD", 100.0, 0) == cost.LOST
    assert cost.train(sound, "SGD", 0.03, 0) < math.log(10)
    assert cost.Cost((0.1, 0.3, 0.2), 0.01, False).words() == "0.20 (0.10 to 0.30) at 0.01"
    assert cost.Cost((0.1, 10.0, 0.2), 3.0, True).words() == "0.20 (0.10 to lost) at 3*"


def test_the_command_fails_for_a_value_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in rows() if row.name.endswith("by gain()"))
    wrong = replace(row, theory=row.theory + 1)
    for table, status in (((row,), 0), ((row, wrong), 1)):
        monkeypatch.setattr("tests.papers.__main__.rows", lambda table=table: table)
        result = CliRunner().invoke(main, ["--quick"])
        assert result.exit_code == status
        assert f"{len(table)} values, {status} out of bounds" in result.output
