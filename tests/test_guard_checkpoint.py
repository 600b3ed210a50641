"""A guard in a checkpoint: what it goes on with, and that a state is taken whole or not at all."""

from __future__ import annotations

import copy
import io
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, SequentialLR, StepLR

import surefoot
from surefoot.guarding.acts import Act, Rung
from surefoot.guarding.clipping import AutoClip
from surefoot.guarding.snapshot import Snapshot, Subjects
from test_guard_steps import batches, guards, network, same, spoilt, state, step

__all__ = ["guards"]  # the fixture
Make = Callable[..., surefoot.Guard]
Path = tuple[Any, ...]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-3)


def spoil_weight(model: Any) -> None:
    with torch.no_grad():
        model[5].weight[0, 0] = math.nan


def through_a_file(tree: Any) -> Any:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -- all or nothing --------------------------------------------------------------------------------


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a tree of dicts and lists; of a long list the first and the last."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, (list, tuple)) and tree:
        for i in {0, len(tree) - 1}:
            yield from places(tree[i], (*path, i))


MISSING = object()
schedulers: list[Any] = []  # which nobody steps: a guard holds on to none


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    schedulers.clear()


def changed(tree: Any, path: Path, value: Any) -> Any:
    """A copy with another value at a place, or without it."""
    if not path:
        return value
    first, *rest = path
    made = dict(tree) if isinstance(tree, dict) else list(tree)
    if value is MISSING and not rest:
        del made[first]
    else:
        made[first] = changed(tree[first], tuple(rest), value)
    return made


def at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def put_in_place_of(value: Any, several: bool) -> list[Any]:
    """What a malformed file may hold there; each is wrong, or as good as what it replaces."""
    if not several:
        return [MISSING, object()]
    if not isinstance(value, (dict, list)):
        return [MISSING, None, object(), torch.ones(3, 5)]
    wrong = [MISSING, None, {"x": object()}, [object()]]
    return [*wrong, [*value, object()]] if isinstance(value, list) else wrong


def acted(guards: Make, clip: str) -> tuple[nn.Module, torch.optim.Optimizer, surefoot.Guard]:
    """A guard that has something in every part of its state, as after a rollback on trial."""
    model = network()
    optimizer = adam(model)
    schedulers.append(StepLR(optimizer, 50))
    guard = guards(optimizer, model, clip=clip, rollback=32)
    for x, y in batches(34):
        step(model, optimizer, x, y)
    guard.acts.add(Act(20, Rung.SKIP, "NaN", "0.weight", 3.0))
    roll_back(guard)
    return model, optimizer, guard


def roll_back(guard: surefoot.Guard) -> None:
    """As the ladder does where losses are out of line, with a limit that no loss keeps."""
    ladder = guard._ladder
    ladder._stood, ladder._trial, ladder._limit = [guard.steps - 1], [0.5], 0.0
    ladder._undone = [3]
    guard._roll_back()


def survives(
    model: Any, optimizer: Any, guard: surefoot.Guard, below: Path = (), snapshots: bool = False
) -> int:
    """Every place of the guard's state in turn is left out, or holds something else; how often that
    was refused, and left the guard as it was. What is taken (a remark may be missing, a number may
    be another) leaves one that goes on."""
    good = copy.deepcopy(guard.state_dict(snapshots))
    guard.load_state_dict(good)
    known, refused = plain(guard.state_dict(snapshots)), 0
    kept, (x, y) = state(model, optimizer), batches(1)[0]
    for path in places(at(good, below), below):
        for value in put_in_place_of(at(good, path), snapshots or bool(below)):
            try:
                guard.load_state_dict(changed(good, path, value))
            except ValueError as error:
                words, refused = str(error), refused + 1
            else:
                words = ""
                if path != ("halted",):  # it would stay so
                    step(model, optimizer, x, y)
                model.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
                guard.load_state_dict(good)
            assert not words or words.startswith("expected "), words
            assert same(plain(guard.state_dict(snapshots)), known), path
            free = path[0] == "snapshots" or path[:-1] == ("acts", "counts")
            required = isinstance(at(good, path[:-1]), dict) and not free
            assert words or value is not MISSING or not required, path
    return refused


def plain(tree: Any) -> Any:
    """With words in the place of numbers that are none, which are not equal to themselves."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return repr(tree) if isinstance(tree, float) else tree


@pytest.mark.parametrize("snapshots", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_malformed_state_is_refused_and_nothing_of_it_is_taken(
    snapshots: bool,
    guards: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surefoot.guarding.guard.helpers_of", lambda _: [])  # looks at every object
    refused = survives(*acted(guards, "auto"), snapshots=snapshots)
    assert refused > (500 if snapshots else 100)
    assert "stepped aside" not in caplog.text


@pytest.mark.parametrize("clip", ["auto", "agc", "autoclip", "zclip", "adagc"])
def test_so_is_that_of_every_clipping(
    clip: str, guards: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefoot.guarding.guard.helpers_of", lambda _: [])
    assert survives(*acted(guards, clip), ("optimizers", 0, "clip")) > 4
    assert "stepped aside" not in caplog.text


@pytest.mark.parametrize("given", [None, [], "x", {}, {"optimizers": 3}, {"optimizers": []}])
def test_what_is_no_state_is_refused(given: Any, guards: Make) -> None:
    model = network()
    guard = guards(adam(model), model)
    with pytest.raises(ValueError, match=r"^expected "):
        guard.load_state_dict(given)


def test_the_place_is_named(guards: Make) -> None:
    model = network()
    guard = guards(adam(model), model)
    kept = guard.state_dict()
    for path, value, words in (
        (
            ("ladder", "rows", 0, "lost"),
            "x",
            r"an integer for ladder\.rows\[0\]\.lost, got str 'x'",
        ),
        (("level", "limit"), MISSING, r"expected level\.limit, which is not there"),
        (("acts", "counts"), {"leap": 1}, r"one of clip, skip, .* for a key of acts\.counts"),
    ):
        with pytest.raises(ValueError, match=words):
            guard.load_state_dict(changed(kept, path, value))


def test_the_state_of_another_clipping_goes_into_none_of_several(guards: Make) -> None:
    """The first would take it, the second does not."""
    model: Any = network()
    halves = [model[:3].parameters(), model[3:].parameters()]
    pair = [torch.optim.SGD(half, lr=0.05) for half in halves]
    guard = guards(pair, model, clip="zclip")
    for x, y in batches(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in pair:
            optimizer.step()
    before = copy.deepcopy(guard.state_dict())
    other = changed(before, ("optimizers", 0, "clip", "first"), [9.0])
    other = changed(other, ("optimizers", 1, "clip"), AutoClip().state_dict())
    with pytest.raises(ValueError, match=r"first, which is not there.*with the same clip="):
        guard.load_state_dict(other)
    assert same(plain(guard.state_dict()), plain(before))


# -- going on --------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: StepLR(o, 40, gamma=0.5),
    "sequence": lambda o: SequentialLR(
        o, [LinearLR(o, 0.5, 1.0, 60), LinearLR(o, 1, 0.1, 90)], [60]
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # from PyTorch 2.6's own SequentialLR
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_of_the_taken_up_run_are_rolled_back_too(name: str, guards: Make) -> None:
    """They are not handed over, and those of the run before are gone."""
    data = batches(150)

    def begin() -> tuple[Any, Any, Any, surefoot.Guard]:
        model = network()
        optimizer = adam(model)
        return model, optimizer, SCHEDULES[name](optimizer), guards(optimizer, model, rollback=32)

    def train(model: Any, optimizer: Any, scheduler: Any, span: range) -> None:
        for i in span:
            if i == 100:
                spoil_weight(model)
            step(model, optimizer, *data[i])
            scheduler.step()

    *whole, guard = begin()
    train(*whole, range(80))
    kept = [*(one.state_dict() for one in whole), guard.state_dict(snapshots=True)]
    kept = through_a_file(kept)
    train(*whole, range(80, 150))
    guard.remove()
    *again, second = begin()
    for one, saved in zip([*again, second], kept, strict=True):
        one.load_state_dict(saved)
    train(*again, range(80, 150))
    assert [act.rung for act in second.acts] == [Rung.SKIP, Rung.SKIP, Rung.ROLL_BACK]
    assert [a.to_json() for a in second.acts] == [a.to_json() for a in guard.acts]
    for one, other in zip(again, whole, strict=True):
        assert same(one.state_dict(), other.state_dict())


def test_a_helper_is_known_by_its_optimizer_and_not_by_its_turn() -> None:
    """They are found in no order that could be relied on."""
    model: Any = network()
    pair = [torch.optim.SGD(model[k].parameters(), lr=0.1 * (k + 1)) for k in (0, 3)]
    first, second = (StepLR(optimizer, 5) for optimizer in pair)
    kept = Snapshot()
    kept.take(Subjects(pair, [model], [first, second]), 0)
    other = Snapshot()
    other.load_state_dict(through_a_file(kept.state_dict()))
    for scheduler in (first, second):
        scheduler.last_epoch = 7
    other.restore(Subjects(pair, [model], [second, first]))
    assert [s.state_dict()["base_lrs"] for s in (first, second)] == [[0.1], [pytest.approx(0.4)]]
    assert first.last_epoch == second.last_epoch == 0
    other.restore(Subjects(pair, [model], [second]))  # the other one is gone


def test_a_rollback_on_trial_is_still_taken_back(guards: Make) -> None:
    """Saved between it and its end: what it has left comes back, bit for bit."""
    data = batches(60)

    def begin() -> tuple[Any, Any, surefoot.Guard]:
        model = network()
        optimizer = adam(model)
        return model, optimizer, guards(optimizer, model, rollback=32)

    def train(model: Any, optimizer: Any, guard: surefoot.Guard) -> Any:
        for x, y in data[40:43]:
            step(model, optimizer, x, y)
        assert same(state(model, optimizer), before)
        for x, y in data[43:]:
            step(model, optimizer, x, y)
        guard.remove()
        assert [act.rung for act in guard.acts] == [Rung.UNDO]
        return [a.to_json() for a in guard.acts], state(model, optimizer)

    model, optimizer, guard = begin()
    for x, y in data[:40]:
        step(model, optimizer, x, y)
    before = state(model, optimizer)
    roll_back(guard)
    assert not same(state(model, optimizer), before)
    kept = through_a_file(
        [model.state_dict(), optimizer.state_dict(), guard.state_dict(snapshots=True)]
    )
    whole = train(model, optimizer, guard)
    again = begin()
    for one, saved in zip(again, kept, strict=True):
        one.load_state_dict(saved)
    assert same(train(*again), whole)


def test_a_rollback_on_trial_stands_where_what_it_left_is_not_saved(guards: Make) -> None:
    _, _, guard = acted(guards, "auto")
    kept = guard.state_dict()
    assert kept["ladder"]["trial"] == [0.5]
    guard.load_state_dict(kept)
    assert guard.state_dict()["ladder"]["trial"] is None
    assert guard._present is None and guard._snapshots.good.step is None


def test_a_first_batch_that_is_lost_leaves_the_loaded_statistics(guards: Make) -> None:
    """The guard was made before the weights were loaded, as scripts do."""
    trained = network()
    optimizer = adam(trained)
    before = guards(optimizer, trained)
    for x, y in batches(30):
        step(trained, optimizer, x, y)
    kept = through_a_file([trained.state_dict(), before.state_dict()])
    before.remove()
    model: Any = network()
    guard = guards(fresh := adam(model), model)
    model.load_state_dict(kept[0])
    guard.load_state_dict(kept[1])
    x, y = batches(1)[0]
    step(model, fresh, spoilt(model, x, "nan"), y)
    assert [act.rung for act in guard.acts] == [Rung.SKIP]
    assert same(model.state_dict(), kept[0])


def test_what_was_given_stays_as_it_is(guards: Make) -> None:
    """Two guards that go on from one state do not share memory, and neither writes into it."""
    model, optimizer, guard = acted(guards, "auto")
    kept = through_a_file(guard.state_dict(snapshots=True))
    first = copy.deepcopy(kept)
    guard.load_state_dict(kept)
    for x, y in batches(60):
        step(model, optimizer, x, y)
    assert guard._snapshots.good.step not in (None, first["snapshots"]["good"]["step"])
    assert same(plain(kept), plain(first))


def test_it_says_nothing_and_takes_nothing_of_snapshots_without_rollback(
    guards: Make, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, guard = acted(guards, "auto")
    kept = guard.state_dict(snapshots=True)
    guard.remove()
    model = network()
    other = guards(adam(model), model, rollback=False)
    with caplog.at_level(logging.WARNING, "surefoot"):
        other.load_state_dict(changed(kept, ("snapshots",), "x"))
    assert other.steps == guard.steps and not caplog.text
