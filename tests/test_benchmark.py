"""What watching costs: the arithmetic, turns under a fake clock, and the copies that train."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark_fixture import FEW, generators, small
from check_fixture import same
from surefoot.benchmark import (
    PROCESSOR,
    WALL,
    Clock,
    Contender,
    Extent,
    Times,
    measure,
    ratio,
    take_turns,
)
from surefoot.benchmark.copies import Copy, make_copies
from surefoot.benchmark.interleave import interleave
from surefoot.benchmark.measurement import fitting_clock
from surefoot.build import Build, BuildError, BuildFailed

# -- arithmetic -----------------------------------------------------------------------------------


def test_a_ratio_by_hand() -> None:
    first = Times({"watched": [2.0, 6.0, 8.0], "plain": [1.0, 2.0, 2.0]}, others=0.5)
    second = Times({"watched": [1.0, 1.0, 2.0], "plain": [1.0, 2.0, 4.0]}, others=0.7)
    seen = ratio([first, second], "watched", "plain")
    assert seen.typical == pytest.approx((3.0 + 0.5) / 2)  # medians of 2, 3, 4 and of 1, .5, .5
    assert seen.total == pytest.approx((16 / 5 * 4 / 7) ** 0.5)
    assert (seen.low, seen.high) == (0.625, 2.75)  # quartiles of .5 .5 1 2 3 4
    assert seen.rounds == 6
    # What the process's other threads did is the first one's, and moves only the sums.
    threads = ratio([first, second], "watched", "plain", threads=True)
    assert threads.total == pytest.approx((16.5 / 5 * 4.7 / 7) ** 0.5)
    assert (threads.typical, threads.error) == (seen.typical, seen.error)


def test_the_faster_copy_cancels() -> None:
    """A copy that is a tenth faster plays both parts: what is left is the cost of watching."""
    cost, fast = 1.05, 0.9
    there = Times({"watched": [cost * fast] * 5, "plain": [1.0] * 5})
    back = Times({"watched": [cost] * 5, "plain": [fast] * 5})
    seen = ratio([there, back], "watched", "plain")
    assert seen.total == pytest.approx(cost)
    assert seen.typical == pytest.approx(cost, abs=0.006)  # (0.9 + 1 / 0.9) / 2 = 1.0056
    assert seen.error == 0


def test_the_error_is_how_far_medians_scatter() -> None:
    """Against the scatter itself, over many drawn measurements of two turns."""
    draw = np.random.default_rng(0)
    ratios = draw.normal(1.05, 0.1, (400, 2, 101))
    seen = [
        ratio([Times({"a": list(t), "b": [1.0] * 101}) for t in one], "a", "b") for one in ratios
    ]
    scatter = np.std([s.typical for s in seen])
    assert np.mean([s.error for s in seen]) == pytest.approx(scatter, rel=0.1)


# -- turns under a fake clock ---------------------------------------------------------------------


class Stage:
    """A clock that only the players move, and a list of what they did."""

    def __init__(self) -> None:
        self.now, self.acts = 0.0, []
        self.clock = Clock("fake", lambda: self.now, lambda: self.now / 10, lambda: self.now)

    def act(self, name: str, seconds: float) -> None:
        self.acts.append(name)
        self.now += seconds

    def player(self, name: str, seconds: float, around: float = 100.0) -> Contender:
        stage = self

        class Fake:
            def step(self) -> None:
                stage.act(name, seconds)

            def settle(self) -> None:
                stage.act("settle", 0.25)

        return Contender(
            Fake(),  # type: ignore[arg-type]
            lambda: stage.act(f"{name} on", around),
            lambda: stage.act(f"{name} off", around),
        )


def test_only_the_step_is_timed_with_what_it_set_going() -> None:
    stage = Stage()
    players = {"a": stage.player("a", 1.0), "b": stage.player("b", 2.0)}
    times = interleave(players, FEW, stage.clock)
    assert times.steps == {"a": [1.25] * 6, "b": [2.25] * 6}  # the wait after it, not before it
    for k in range(0, len(stage.acts), 5):
        who = stage.acts[k + 2]
        assert stage.acts[k : k + 5] == [f"{who} on", "settle", who, "settle", f"{who} off"]
    assert stage.acts.count("a") == stage.acts.count("b") == 9  # three of them to warm up
    kept = 6 * (2 * 200 + 2 * 0.5 + 3.0)
    assert times.others == pytest.approx(kept / 10)


def test_the_order_is_random_and_the_users_generator_is_not_used() -> None:
    stage, state = Stage(), random.getstate()
    interleave({n: stage.player(n, 1.0) for n in "ab"}, Extent(rounds=20, warm=0), stage.clock)
    firsts = [a for a in stage.acts if a in ("a", "b")][::2]
    assert {"a", "b"} == set(firsts)
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("seconds", "warm", "kept"),
    [
        (0.0, 2, 3),  # the least that is measured
        (40.0, 10, 30),  # a quarter of the time to warm up
        (400.0, 20, 380),  # all of what was asked for to warm up
    ],
)
def test_the_time_is_bounded(seconds: float, warm: int, kept: int) -> None:
    stage = Stage()
    player = stage.player("a", 0.5, around=0.0)  # and half a second to settle: one a round
    times = interleave({"a": player}, Extent(seconds=seconds, warm=20), stage.clock)
    assert (stage.acts.count("a"), len(times.steps["a"])) == (warm + kept, kept)


def test_a_step_that_raises_is_left_in_order() -> None:
    stage = Stage()

    class Broken:
        def step(self) -> None:
            raise KeyboardInterrupt

        def settle(self) -> None:
            pass

    off: list[str] = []
    player = Contender(Broken(), pause=lambda: off.append("off"))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        interleave({"a": player}, FEW, stage.clock)
    assert off == ["off"]


def test_places_change_from_turn_to_turn_and_every_turn_is_closed() -> None:
    stage, seen = Stage(), []

    def regime(name: str) -> Any:
        @contextmanager
        def enter(copy: Any) -> Iterator[Contender]:
            seen.append((name, copy))
            yield stage.player(name, 1.0)
            seen.append((name, "closed"))

        return enter

    names = ["plain", "watched", "other"]
    copies: Any = ["x", "y", "z"]
    turns = take_turns({n: regime(n) for n in names}, copies, FEW, stage.clock, 3)
    assert len(turns) == 3
    placed = [s for s in seen if s[1] != "closed"]
    assert sorted(placed) == sorted((n, c) for n in names for c in copies)
    assert len([s for s in seen if s[1] == "closed"]) == 9


# -- copies ---------------------------------------------------------------------------------------


def test_copies_are_equal_share_nothing_and_draw_from_nobody() -> None:
    before = generators()
    one, two = make_copies(small, "small")
    assert before == generators()
    assert same(one.model.state_dict(), two.model.state_dict())
    assert not {id(p) for p in one.parameters} & {id(p) for p in two.parameters}
    random.random(), np.random.rand(), torch.rand(())
    assert same(one.model.state_dict(), make_copies(small, "again")[0].model.state_dict())
    one.step()
    assert not same(one.model.state_dict(), two.model.state_dict())


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LBFGS"])
def test_a_step_is_that_of_a_loop_by_hand(name: str) -> None:
    options = {"lr": 0.05}

    def make() -> Build:
        build = small()
        kind = getattr(torch.optim, name)
        optimizer = kind(build.model.parameters(), **options)
        return Build(build.model, build.batch, build.loss_fn, optimizer)

    one, two = make_copies(make, name)
    for _ in range(4):
        one.step()
    (x, y), optimizer = two._build.batch, two.optimizer

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(two.model(x), y)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(evaluate)
    assert same(one.model.state_dict(), two.model.state_dict())
    assert (one.taken, one.loss) == (4, None)


def test_a_build_without_an_optimizer_gets_one() -> None:
    def make() -> Build:
        build = small()
        build.model[0].bias.requires_grad_(False)  # type: ignore[index]
        return Build(build.model, build.batch, build.loss_fn)

    one, _ = make_copies(make, "bare")
    assert type(one.optimizer) is torch.optim.AdamW
    assert len(one.parameters) == 3


def test_what_is_handed_out_twice_is_copied_and_not_touched() -> None:
    build = small()
    make_copies(lambda: build, "once")[0].step()
    assert build.optimizer is not None
    before = copy.deepcopy((build.model.state_dict(), build.optimizer.state_dict()))
    measure(lambda: build, "once", FEW)
    assert same(before, (build.model.state_dict(), build.optimizer.state_dict()))
    assert all(p.grad is None for p in build.model.parameters())


def test_what_cannot_be_copied_is_said() -> None:
    build = small()
    held = Build(build.model, build.batch, lambda out, y: build.model[0].weight.sum())  # type: ignore
    with pytest.raises(BuildError, match="reaches the model by another way"):
        make_copies(lambda: held, "held")
    build.model.file = open(os.devnull)  # type: ignore[assignment]  # noqa: SIM115
    with pytest.raises(
        BuildError, match=r"no copy can be made \(TypeError.*inside of the function"
    ):
        make_copies(lambda: build, "file")
    build.model.file.close()  # type: ignore[operator]


def test_a_failing_step_is_the_projects() -> None:
    class NoWayBack(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            raise ValueError("no way back")

    def make(loss: Any) -> Build:
        return Build(small().model, (torch.randn(16, 4), torch.zeros(16)), loss)

    with pytest.raises(BuildFailed, match="a training step of here") as caught:
        measure(lambda: make(lambda out, y: NoWayBack.apply(out).sum()), "here", FEW)
    assert str(caught.value.__cause__) == "no way back"
    with pytest.raises(BuildError, match="expected one number as the loss"):
        measure(lambda: make(lambda out, y: out), "here", FEW)


def test_a_device_is_waited_for_and_then_the_wall_clock_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    elsewhere = Copy(Build(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2), None), "meta")
    elsewhere.settle()
    assert waited == [torch.device("meta")]
    make_copies(small, "small")[0].settle()
    assert len(waited) == 1
    assert fitting_clock(torch.device("cuda")) is WALL
    assert fitting_clock(torch.device("cpu")) is PROCESSOR  # the tests run at one thread
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert fitting_clock(torch.device("cpu")) is WALL
