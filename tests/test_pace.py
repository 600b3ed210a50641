"""How far the weights go, from samples of single steps, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from surefoot.diagnosis.case import Case, Facts
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.pace import pace
from surefoot.diagnosis.rules.learning_rate_low import _warms_up
from surefoot.layers import build_table
from surefoot.record.series import Series

TABLE = build_table([nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))])[
    0
]  # two matrices, two biases


def series(steps: list[int], rows: np.ndarray) -> Series:
    values = rows.astype(np.float32)
    return Series(np.array(steps), values, values, values)


def case(
    steps: list[int], ratios: list[float], many: int, losses: list[float] | None = None
) -> Case:
    rows = np.full((len(steps), 4), 99.0)  # what the biases do is not looked at
    rows[:, [0, 2]] = np.array(ratios)[:, None]
    given = {"update_ratio": series(steps, rows)}
    if losses is not None:
        given["loss"] = series(list(range(len(losses))), np.array(losses)[:, None])
    return Case(TABLE, given, facts=Facts(steps=many))


def test_the_path_of_an_even_pace_is_its_sum() -> None:
    seen = pace(case([0, 1, 2, 4, 8, 50], [2e-3] * 6, many=100))
    assert seen is not None
    assert seen.path == pytest.approx(0.2)
    assert seen.last == pytest.approx(2e-3)


def test_the_path_of_a_pace_that_fades_is_never_too_short() -> None:
    rate = 1e-2 * 0.5 ** np.arange(64)
    steps = [0, 1, 2, 3, 4, 8, 16, 32]
    seen = pace(case(steps, list(rate[steps]), many=64))
    assert seen is not None
    assert rate.sum() <= seen.path <= 1.2 * rate.sum()


def test_a_step_to_infinity_has_no_length() -> None:
    seen = pace(case([0, 1, 2], [1e-3, np.inf, np.inf], many=10))
    assert seen is not None
    assert seen.highest == pytest.approx(1e-3)
    nothing = pace(case([0, 1], [np.inf, np.inf], many=10))
    assert nothing is not None and nothing.samples == 0


FALLEN = [5e4, 4e4, 7e5, *[0.4] * 40]


@pytest.mark.parametrize(
    ("ratios", "losses", "inert"),
    [
        ([0.5, 0.1, 0.0, 0.0, 0.0], FALLEN, True),  # flung away, and nothing moves any more
        ([0.5, 0.1, 1e-3, 1e-3, 1e-3], FALLEN, False),
        ([0.5, 0.1, 0.0, 0.0, 1e-9], FALLEN, True),  # the median of what was sampled late
        ([0.0, 0.0, 0.0, 0.0, 0.0], FALLEN, False),  # frozen from the start: not trained at all
        ([0.5, 0.1, 0.0, 0.0, 0.0], [*FALLEN[:-20], *[0.0] * 20], False),  # nothing left to learn
    ],
)
def test_a_run_in_which_nothing_moves_has_not_learned(
    ratios: list[float], losses: list[float], inert: bool
) -> None:
    seen = outcome(case([0, 1, 22, 30, 40], ratios, many=len(losses), losses=losses))
    assert seen.inert is inert
    assert seen.poor(0.5) is inert
    assert ("no weight moves" in seen.words()) is inert


@pytest.mark.parametrize(
    ("rates", "rises"),
    [
        ([[1.0], [2.0], [3.0]], True),
        ([[1.0], [1.0], [1.0]], False),
        ([[3.0], [2.0], [1.0]], False),
        ([[1.0, np.nan], [2.0, np.nan], [3.0, 1.0]], True),
        ([[np.nan]] * 3, False),  # none is known, and nothing is warned of
    ],
)
def test_a_rate_that_still_rises_warms_up(rates: list[list[float]], rises: bool) -> None:
    values = np.array(rates, np.float32)
    series = Series(np.arange(len(values)), values, values, values)
    assert _warms_up(Case(TABLE, {"learning_rate": series})) is rises
