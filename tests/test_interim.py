"""The verdict so far: said when two looks in a row agree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from surefoot.findings import Cause, Finding, Pathology, Report, Severity
from surefoot.watching import interim
from surefoot.watching.interim import Interim


def finding(rule: str, severity: Severity = Severity.HARMFUL, **more: Any) -> Finding:
    return Finding(
        rule=rule,
        severity=severity,
        pathology=Pathology.EXPLODING,
        cause=Cause.UNKNOWN,
        layer="a",
        first_step=0,
        last_step=more.pop("last_step", 1),
        sentence="it explodes",
        **more,
    )


class Record:
    """What would be written, by training."""

    def __init__(self) -> None:
        self.told: dict[int, tuple[Finding, ...]] = {}

    def report(self, training: int, report: Report) -> None:
        self.told[training] = report.findings


class Looks:
    """An interim verdict whose looks find what `find` is given, one tuple a training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record, self.heard = Record(), 0
        self.interim = Interim(())
        self.interim.writer = self.record  # type: ignore[assignment]
        monkeypatch.setattr(interim, "diagnose", self._diagnose)

    def _diagnose(self, case: tuple[Finding, ...], ignore: object) -> Report:
        self.heard += 1
        return Report(case)

    @staticmethod
    def trainings(found: tuple[tuple[Finding, ...], ...]) -> list[Any]:
        return [SimpleNamespace(case=lambda one=one: one, index=i) for i, one in enumerate(found)]

    def find(self, *found: tuple[Finding, ...]) -> tuple[Finding, ...] | None:
        self.interim.look(self.trainings(found))
        return self.interim.standing


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


A, B = finding("SF101"), finding("SF102")
LATER = finding("SF101", last_step=9)
ADVICE = finding("SF204", Severity.ADVICE)


def test_two_looks_agree(looks: Looks) -> None:
    assert looks.find((A,)) is None
    assert looks.record.told == {}, "one look says nothing"
    assert looks.find((LATER, B)) == (LATER,)
    assert looks.record.told == {0: (LATER,)}
    assert looks.find((B,)) == (B,)
    assert looks.find(()) == ()
    assert looks.find((A,)) == ()
    assert looks.record.told == {0: ()}


def test_healthy_twice(looks: Looks) -> None:
    assert looks.find(()) is None
    assert looks.find(()) == ()
    assert looks.record.told == {0: ()}


def test_advice_is_recorded_and_does_not_stand(looks: Looks) -> None:
    looks.find((ADVICE,))
    assert looks.find((ADVICE,)) == ()
    assert looks.record.told == {0: (ADVICE,)}


def test_what_follows_from_a_finding_goes_with_it(looks: Looks) -> None:
    """Else a symptom would be told without its root."""
    b, c = finding("SF102", follows="SF101"), finding("SF103", follows="SF102")
    advice = finding("SF204", Severity.ADVICE, follows="SF103")
    looks.find((b, c))
    assert looks.find((A, b, c, advice)) == ()
    assert looks.record.told == {0: ()}
    assert looks.find((A, b, c, advice)) == (A, b, c)


def test_a_training_that_began_later_is_looked_at_twice_as_well(looks: Looks) -> None:
    looks.find((A,))
    assert looks.find((A,), (B,)) == (A,)
    assert looks.record.told == {0: (A,)}
    assert looks.find((A,), (B,)) == (A, B)


def test_what_is_gone_is_forgotten(looks: Looks) -> None:
    """A script may make a model for every step, for a week."""
    looks.find((A,), (B,))
    looks.find((A,))
    assert looks.interim._latest == {0: {"SF101"}}
    assert looks.find((A,), (B,)) == (A,)


def test_the_last_word_is_not_weighed(looks: Looks) -> None:
    looks.interim.last(looks.trainings(((A, B),)))
    assert looks.record.told == {0: (A, B)}


def test_nobody_asks(looks: Looks) -> None:
    """Without a record and without a terminal the rules are not heard before the end."""
    one, trainings = looks.interim, looks.trainings(((A,),))
    one.writer = None
    one.now_and_then(trainings)
    one.last(trainings)
    assert (looks.heard, one.standing) == (0, None)
    one.asked = True
    one.now_and_then(trainings)
    one.now_and_then(trainings)
    assert looks.heard == 1, "two seconds have not passed"
