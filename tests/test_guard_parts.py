"""What the guard's decisions rest on: what is out of line, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.guarding.loss_level import LossLevel
from surefoot.guarding.outliers import Outliers
from surefoot.guarding.slowdown import Slowdown


def rows(*norms: float, nonfinite: int = 0) -> np.ndarray:
    made = np.zeros((len(norms), 5))
    made[:, 0] = norms
    made[0, 3] = nonfinite
    return made


def judged(values: list[float]) -> list[bool]:
    outliers = Outliers(1)
    return [outliers.judge(rows(v), v).outlying for v in values]


def noise(count: int, spread: float, seed: int = 0) -> list[float]:
    return np.exp(spread * np.random.default_rng(seed).standard_normal(count)).tolist()


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_out_of_line(spread: float, seed: int) -> None:
    """Log-normal norms: six robust deviations, and eight times, are far out in each of them."""
    assert not any(judged(noise(2000, spread, seed)))


def test_a_slow_growth_of_a_million_times_is_never_out_of_line() -> None:
    assert not any(judged([math.exp(0.014 * i) for i in range(1000)]))


@pytest.mark.parametrize("factor", [20.0, 1e3, 1e12])
def test_ten_spikes_in_a_hundred_steps_are_all_out_of_line(factor: float) -> None:
    values = noise(300, 0.3)
    at = set(np.random.default_rng(1).choice(np.arange(200, 300), 10, replace=False).tolist())
    found = judged([v * factor if i in at else v for i, v in enumerate(values)])
    assert {i for i, out in enumerate(found) if out} == at


def test_the_size_of_gradients_does_not_matter() -> None:
    """A loss times any number gives the same judgements."""
    values = [v * (100.0 if i % 41 == 40 else 1.0) for i, v in enumerate(noise(400, 0.4))]
    assert len({tuple(judged([v * s for v in values])) for s in (1e-30, 1.0, 1e25)}) == 1


@settings(max_examples=50, deadline=None)
@given(
    factor=st.floats(9.0, 1e6),
    spread=st.floats(0.0, 0.5),
    at=st.integers(30, 120),
    period=st.integers(1, 3),
)
def test_a_new_level_is_accepted_within_a_bounded_number_of_steps(
    factor: float, spread: float, at: int, period: int
) -> None:
    """Of every step, or of every second or third."""
    values = noise(400, spread)
    found = judged([v * factor if i >= at and not i % period else v for i, v in enumerate(values)])
    assert sum(found) <= 24 and not any(found[at + 100 :])


def test_what_is_not_finite_moves_nothing() -> None:
    with_nan, without = Outliers(2), Outliers(2)
    for i, v in enumerate(noise(200, 0.3)):
        if i % 3 == 0:
            lost = with_nan.judge(rows(math.nan, 1e9, nonfinite=4), math.nan)
            assert lost.lost == (0,) and not lost.outlying
        a, b = with_nan.judge(rows(v, v), v), without.judge(rows(v, v), v)
        assert a == b
    kept = [o.state_dict()["gate"] for o in (with_nan, without)]
    for name in kept[0]:
        np.testing.assert_equal(kept[0][name].numpy(), kept[1][name].numpy())


def test_gradients_that_come_and_go_are_not_out_of_line() -> None:
    """Of an expert that gets a sample now and then: NaN is no gradient, zero is one."""
    outliers = Outliers(2)
    for i, v in enumerate(noise(400, 0.3)):
        own = [math.nan, 0.0, v][i % 3]
        judgement = outliers.judge(rows(v, own), v)
        assert not judgement.outlying and not judgement.local


def test_the_loss_of_noise_is_never_out_of_line_eight_times_in_a_row() -> None:
    """Heavy tails and all: the limit is above the largest of 32."""
    random = np.random.default_rng(0)
    for _ in range(50):
        level, losses = LossLevel(), 5 * np.exp(-np.arange(600) / 50) + 1
        for loss in losses * np.exp(0.5 * random.standard_t(3, 600)):
            level.hear(float(loss))
            assert level.in_a_row < 3


@pytest.mark.parametrize("after", [2.4, 50.0, 1e20])
def test_a_loss_that_leaves_its_level_is_out_of_line_at_once(after: float) -> None:
    level = LossLevel()
    random = np.random.default_rng(0)
    for i in range(300):
        level.hear(0.1 + 2.2 * math.exp(-i / 40) + 0.02 * random.random())
    assert [level.hear(after) for _ in range(5)] == [True] * 5
    assert level.hear(0.1) is False and level.in_a_row == 0


@pytest.mark.parametrize("kind", ["rewards", "rising", "unknown", "flat"])
def test_a_loss_that_tells_nothing_is_never_out_of_line(kind: str) -> None:
    level, random = LossLevel(), np.random.default_rng(0)
    for i in range(400):
        noisy = float(random.standard_normal())
        loss = {"rewards": noisy, "rising": i + noisy, "unknown": None, "flat": 2.3 + noisy / 100}
        level.hear(loss[kind])
    assert level.hear(1e9) is False


def test_losses_that_are_not_finite_are_not_heard() -> None:
    level = LossLevel()
    for i in range(100):
        level.hear(2.0 * math.exp(-i / 30))
    before = level.state_dict()
    assert not level.hear(math.nan) and not level.hear(math.inf)
    assert level.state_dict() == before


def test_rates_are_held_at_half_and_come_back() -> None:
    slow = Slowdown()
    slow.begin([[0.1, 0.2]], 1, 100)
    assert slow.factor(100) == slow.factor(131) == 0.5
    assert slow.factor(148) == pytest.approx(0.5**0.5)
    assert slow.factor(164) == math.inf
    assert slow.limited([[9.0, 0.05]], 110) == [[0.05, 0.05]]
    slow.begin([[0.1]], 3, 0)
    assert slow.factor(31) == 0.125 and slow.factor(64) == math.inf
