"""What ranks tell each other of a step that went wrong, and what is made of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from torch import distributed

from surefoot.attach.distributed import World
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.ranks import Local, in_words, locals_of, standing_out
from surefoot.layers import LayerTable
from surefoot.record.data import Event
from surefoot.watching import ranks as ranks_module
from surefoot.watching.ranks import Ranks


class Kept:
    """A ledger that keeps what it is told of ranks."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, int, list[dict[str, Any]]]] = []

    def ranks(self, *words: Any) -> None:
        self.told.append(words)


class Stage:
    """Rank 0 in a world whose other ranks speak when a test says so."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(0, size, distributed.HashStore(), "")
        monkeypatch.setattr(ranks_module, "alone", lambda: False)
        monkeypatch.setattr(ranks_module, "world", lambda key: self.world)
        self.ranks, self.ledger = Ranks(), Kept()

    def alarm(self, step: int) -> None:
        self.ranks.alarmed("spike", 1)
        self.end(step)

    def end(self, step: int) -> None:
        if self.ranks.busy:
            self.ranks.exchange(step, lambda: Case(LayerTable("", (), ()), {}), self.ledger)

    def says(self, step: int, **words: Any) -> None:
        one = Local(**words)
        self.world.say(f"spike/{step}/{one.rank}", json.dumps(one.to_json()))


def test_rank_0_hears_the_others_when_they_have_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(3, monkeypatch)
    stage.says(7, rank=2, scale=50.0)
    stage.alarm(7)
    stage.end(8)
    assert stage.ranks.busy and not stage.ledger.told
    stage.says(7, rank=1)
    stage.end(9)
    assert not stage.ranks.busy
    ((step, kind, size, told),) = stage.ledger.told
    assert (step, kind, size) == (7, "spike", 3)
    assert [(one["rank"], one["scale"]) for one in told] == [(0, 1.0), (1, 1.0), (2, 50.0)]


def test_those_that_never_speak_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(2, monkeypatch)
    stage.alarm(7)
    for step in range(8, 7 + ranks_module._STEPS):
        stage.end(step)
        assert stage.ranks.busy
    stage.end(7 + ranks_module._STEPS)
    assert not stage.ranks.busy
    assert [one["rank"] for one in stage.ledger.told[0][3]] == [0]


def test_the_end_waits_a_moment_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_AT_THE_END", 0.2)
    stage = Stage(3, monkeypatch)
    stage.alarm(7)
    stage.says(7, rank=1)
    begin = time.monotonic()
    stage.ranks.finish(stage.ledger)
    assert time.monotonic() - begin < 30
    assert [one["rank"] for one in stage.ledger.told[0][3]] == [0, 1]


def test_of_very_many_those_are_kept_that_say_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(200, monkeypatch)
    for rank in range(1, 200):
        stage.says(7, rank=rank, scale=90.0 if rank == 123 else 1.0)
    stage.alarm(7)
    (_, _, size, told) = stage.ledger.told[0]
    assert size == 200 and len(told) == ranks_module._KEPT
    odd = standing_out([Local(**one) for one in told], lambda one: one.scale > 5)
    assert in_words(odd) == "rank 123"


def test_a_store_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def set(self, *words: Any) -> None:
            raise RuntimeError("connection reset by peer")

        check = get = set

    monkeypatch.setattr(ranks_module, "_AT_THE_END", 100.0)
    stage = Stage(2, monkeypatch)
    stage.alarm(7)
    stage.world.store = Gone()
    begin = time.monotonic()
    stage.world.say("x", "y")
    assert stage.world.lost and stage.world.heard(["x"]) == {}
    stage.ranks.finish(stage.ledger)
    assert time.monotonic() - begin < 50
    assert [one["rank"] for one in stage.ledger.told[0][3]] == [0]


def test_nobody_stands_out_where_all_do() -> None:
    told = [Local(rank, scale=9.0) for rank in range(3)]
    assert standing_out(told, lambda one: one.scale > 5) == []
    assert standing_out([*told, Local(3)], lambda one: one.scale > 5) == told


def test_an_alarm_of_one_process_tells_of_none() -> None:
    assert locals_of(None) == []
    assert locals_of(Event(3, "alarm", {"kind": "spike"})) == []
