"""The ladder's decisions, from sequences of what was seen: pure, no training needed."""

from __future__ import annotations

import math

import pytest

from surefoot.guarding.acts import Rung
from surefoot.guarding.ladder import Ladder, Seen

FINE, LOST, SPIKE = Seen(loss=1.0), Seen(lost=True), Seen(outlying=True, loss=1.0)


def ladder(optimizers: int = 1) -> Ladder:
    made = Ladder()
    made.serve(optimizers)
    return made


def climb(steps: list[Seen], ready: bool = True, made: Ladder | None = None) -> list[Rung | None]:
    made = made or ladder()
    return [made.decide(0, seen, i, ready)[0] for i, seen in enumerate(steps)]


def test_nothing_is_done_while_nothing_is_wrong() -> None:
    assert climb([FINE] * 300) == [None] * 300


def test_one_lost_step_is_skipped_and_forgotten() -> None:
    assert climb([FINE, LOST, FINE, FINE]) == [None, Rung.SKIP, None, None]


def test_lost_steps_apart_from_each_other_never_roll_back() -> None:
    acts = climb([LOST, LOST, FINE] * 20)
    assert acts.count(Rung.ROLL_BACK) == 0 and acts.count(Rung.SKIP) == 40


def test_three_lost_in_a_row_roll_back_once_and_then_wait_for_the_batches_to_end() -> None:
    acts = climb([LOST] * 20 + [FINE])
    assert acts[:4] == [Rung.SKIP, Rung.SKIP, Rung.ROLL_BACK, Rung.SKIP]
    assert acts.count(Rung.ROLL_BACK) == 1 and acts[-1] is None


def test_lost_for_good_halts_within_a_bounded_number_of_steps() -> None:
    acts = climb([FINE] * 50 + [LOST] * 200)
    assert Rung.HALT in acts and acts.index(Rung.HALT) == 50 + 64


def test_two_of_three_lost_halt_too() -> None:
    acts = climb([LOST, LOST, FINE] * 100)
    assert Rung.HALT in acts and acts.index(Rung.HALT) < 200


def test_a_tenth_lost_goes_on_for_ever() -> None:
    acts = climb(([FINE] * 9 + [LOST]) * 200)
    assert set(acts) == {None, Rung.SKIP}


def test_without_a_good_state_lost_steps_are_skipped_until_the_halt() -> None:
    acts = climb([LOST] * 100, ready=False)
    assert Rung.ROLL_BACK not in acts and Rung.HALT in acts


def test_a_lasting_level_is_taken_at_its_usual_size_after_three_skips() -> None:
    assert climb([SPIKE] * 6) == [Rung.SKIP] * 3 + [Rung.CLIP] * 3


def test_frequent_leaps_are_clipped_instead() -> None:
    assert climb([Seen(outlying=True, frequent=True)] * 2) == [Rung.CLIP] * 2


def high(n: int, outlying: bool = False) -> Seen:
    return Seen(outlying=outlying, loss=9.0, limit=2.0, high=n)


def test_losses_out_of_line_roll_back_after_eight_and_it_stands_if_they_fall() -> None:
    made = ladder()
    acts = climb([high(n) for n in range(1, 9)] + [FINE] * 10, made=made)
    assert acts == [None] * 7 + [Rung.ROLL_BACK] + [None] * 10
    assert made.rollbacks == 1 and made.calm


def test_with_the_gradient_out_of_line_as_well_three_are_enough() -> None:
    acts = climb([high(n, outlying=True) for n in range(1, 4)])
    assert acts == [Rung.SKIP, Rung.SKIP, Rung.ROLL_BACK]


def test_a_rollback_that_does_not_help_is_taken_back() -> None:
    made = ladder()
    acts = climb([high(n) for n in range(1, 13)], made=made)
    assert acts[7] is Rung.ROLL_BACK and acts[11] is Rung.UNDO
    assert made.rollbacks == 0


def test_rollbacks_that_help_for_a_moment_only_end_in_a_halt() -> None:
    cycle = [high(n) for n in range(1, 9)] + [FINE] * 20
    acts = climb(cycle * 5)
    assert acts.count(Rung.ROLL_BACK) == 3 and Rung.HALT in acts


def test_rollbacks_far_apart_never_halt() -> None:
    cycle = [high(n) for n in range(1, 9)] + [FINE] * 600
    acts = climb(cycle * 10)
    assert acts.count(Rung.ROLL_BACK) == 10 and Rung.HALT not in acts


def test_rollbacks_that_never_help_are_given_up_without_a_halt() -> None:
    cycle = [high(n) for n in range(1, 13)]
    acts = climb(cycle * 10)
    assert acts.count(Rung.ROLL_BACK) == acts.count(Rung.UNDO) == 3 and Rung.HALT not in acts


def test_each_optimizer_has_a_row_of_its_own() -> None:
    made = ladder(2)
    acts = [made.decide(which, LOST, 0, True)[0] for which in (0, 1, 0, 1)]
    assert acts == [Rung.SKIP] * 4


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_it_goes_on_from_its_state(at: int) -> None:
    steps = [FINE, LOST, LOST, LOST, SPIKE] + [high(n) for n in range(1, 9)] + [FINE] * 9
    steps = steps * 2
    whole, fresh = ladder(), ladder()
    expected = [whole.decide(0, seen, i, True) for i, seen in enumerate(steps)]
    first = ladder()
    for i, seen in enumerate(steps[:at]):
        first.decide(0, seen, i, True)
    fresh.load_state_dict(first.state_dict())
    rest = [fresh.decide(0, seen, at + i, True) for i, seen in enumerate(steps[at:])]
    assert rest == expected[at:]
    assert math.isinf(Seen().limit)
