"""What became of a run, from its losses alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from surefoot.diagnosis.case import Case, Facts
from surefoot.diagnosis.outcome import Outcome, outcome, trivial_loss
from surefoot.layers import build_table
from surefoot.record.series import Series
from surefoot.signals.loss import anatomy


def of(losses: list[float]) -> Outcome:
    values = np.array(losses, np.float32)[:, None]
    series = Series(np.arange(len(losses)), values, values, values)
    return outcome(Case(build_table([])[0], {"loss": series}, facts=Facts(steps=len(losses))))


@pytest.mark.parametrize(
    ("losses", "nonfinite", "climbed"),
    [
        (list(np.linspace(2, 0.1, 50)), False, False),
        ([*np.linspace(2, 0.1, 40), *[np.inf] * 20], True, False),  # a NaN out of a calm
        ([2.0, 2.1, 8.0, 60.0, 900.0, *[np.inf] * 20], True, True),
        ([2.5, 3e3, 2e7, 3e11, 5e13, 6.6, 36.0, 30.0, 3.3, *[np.inf] * 20], True, True),
        # a loss that is not meant to fall, as in reinforcement learning or between adversaries
        ([0.01, 0.02, *[0.05, 0.06] * 20, -0.01], False, False),
        ([0.1, *[0.7] * 60], False, False),
        # rare rewards: now and then a loss is twenty times the usual one, and one such ends it
        ([*[1e-3, 1e-3, 2e-2, 1e-3] * 20, 2e-2, *[np.inf] * 20], True, False),
    ],
)
def test_a_run_that_was_lost_is_told_from_one_whose_loss_merely_rises(
    losses: list[float], nonfinite: bool, climbed: bool
) -> None:
    seen = of(losses)
    assert seen.nonfinite is nonfinite
    assert seen.climbed is climbed


def test_the_skill_is_what_is_gone_of_the_first_loss() -> None:
    seen = of([2.0] * 30 + [0.5] * 30)
    assert seen.skill == pytest.approx(0.75)
    assert not seen.trivial
    assert of([1.0, -1.0] * 20).skill is None


def test_first_steps_that_blew_up_are_no_beginning() -> None:
    seen = of([1.4, *[1e13] * 60])
    assert seen.initial == pytest.approx(1.4) and seen.diverged


def test_what_gains_goes_on_gaining_by_more_than_it_scatters() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 80)
    assert of(list(2 + noise - np.linspace(0, 1, 80))).learning(0.25)
    assert not of(list(2 + noise - np.minimum(np.linspace(0, 3, 80), 1))).learning(0.25)  # at rest
    restless = 2 + 12 * noise
    restless[60:] -= 0.25
    seen = of(list(restless))
    assert seen.falling >= 0.05 and not seen.learning(0.0)


@pytest.mark.parametrize(
    ("losses", "descending"),
    [
        (list(np.linspace(4.7, 3.2, 20)), True),  # of a vocabulary of a hundred, on its way
        (list(np.linspace(4.7, 3.2, 60)), False),  # no longer young
        ([2.3, 2.31, 2.29, 2.32] * 5, False),
        ([4.7, 470.0, *np.linspace(4.7, 3.2, 20)], False),  # it leapt
        (list(np.linspace(1.0, 2.0, 20)), False),
    ],
)
def test_only_a_young_loss_that_never_leapt_descends(losses: list[float], descending: bool) -> None:
    assert of(losses).descending is descending


def test_a_loss_below_zero_that_only_scatters_has_not_moved() -> None:
    noise = np.random.default_rng(0).normal(-1, 0.2, 150)
    assert of(list(noise)).unmoved
    assert not of(list(noise - np.linspace(0, 1, 150))).unmoved
    assert not of(list(noise + 5)).unmoved  # above zero the share that is gone tells


def test_a_constant_that_was_searched_for_serves_where_none_is_known() -> None:
    def of(*constants: float) -> float | None:
        losses = tuple({"kind": "composite", "trivial": None, "constant": v} for v in constants)
        return trivial_loss(Case(build_table([])[0], {}, losses=losses))

    assert of(2.0, 2.2, 1.8) == pytest.approx(2.0)
    assert of(0.006, 0.12) is None  # targets that the network itself makes move away
    assert of() is None


def test_the_yardstick_has_the_unit_of_the_last_losses() -> None:
    def read(trivial: float, weight: float) -> dict[str, object]:
        return {"kind": "cross_entropy", "trivial": trivial * weight, "multiplier": weight}

    case = Case(build_table([])[0], {}, losses=tuple(read(2.3, w) for w in [1e3] * 6 + [1, 1.2]))
    assert trivial_loss(case) == pytest.approx(2.3 * 1.1)
    alike = {"kind": "bce", "trivial": 0.0, "multiplier": 1.0}
    assert trivial_loss(Case(build_table([])[0], {}, losses=(alike,))) is None


def test_other_labels_have_a_yardstick_of_their_own() -> None:
    def read(trivial: float, kind: str = "cross_entropy") -> dict[str, object]:
        return {"kind": kind, "trivial": trivial, "multiplier": 1.0}

    def of(*losses: dict[str, object]) -> float | None:
        return trivial_loss(Case(build_table([])[0], {}, losses=losses))

    assert of(*map(read, [1.4] * 7 + [2.3, 2.2])) == pytest.approx(2.25)
    assert of(*map(read, [1.4, 1.5, 1.2, 1.3])) == pytest.approx(1.35)  # batches differ that much
    assert of(*map(read, [0.7, 0.6, 0.0])) == pytest.approx(0.65)  # the last one holds one class
    assert of(*map(read, [0.0, 0.0])) is None
    # The variance of a few targets scatters by more than that: all of them count.
    assert of(*(read(v, "mse") for v in (1.0, 5.0, 1.0, 3.0))) == pytest.approx(2.0)


Y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
T = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("loss", "summed", "factor"),
    [  # a loss that cannot be read as a whole, and its factor on the mean of its largest term
        (lambda y: ((y - T) ** 2).sum(), True, 24),
        (lambda y: ((y - T) ** 2).mean(), False, 1),
        (lambda y: 5000 * (y - T).abs().mean(), False, 5000),
        (lambda y: 3 * F.l1_loss(y, T, reduction="sum") / 8, True, 9),
        (lambda y: F.mse_loss(y, T, reduction="sum") + 0.1 * y.square().mean(), True, 24),
        (lambda y: F.mse_loss(y, T) + 0.1 * F.l1_loss(y, T), False, 1),
        (lambda y: -y.log_softmax(1)[range(8), T.argmax(1)].sum(), True, 8),
        (lambda y: ((y - T) ** 2).sum(1).mean(), False, 1),
    ],
)
def test_the_factor_of_a_loss_that_is_made_by_hand(
    loss: Callable[[torch.Tensor], torch.Tensor], summed: bool, factor: float
) -> None:
    found = anatomy(loss(Y.clone().requires_grad_() * 1.0))
    assert (found.summed, found.multiplier) == (summed, pytest.approx(factor))
    assert found.kind in ("unknown", "composite") and found.trivial is None
