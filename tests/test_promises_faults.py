"""Promise: surefoot's own failure never stops a training, wherever it happens.

Every function of surefoot's that runs in a watched training's thread is found by running one. Each
of them is then made to raise at one of its calls: weights, losses and random numbers stay those of
the unwatched training, something is said once, and no hook is left.

Left out are only those that PyTorch calls itself: what they call is in, and that they do nothing
else is what `THIN` lists.
"""

from __future__ import annotations

import gc
import logging
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot.watching.budget import Budget
from surefoot.watching.session import Session

HERE = str(Path(surefoot.__file__).parent)
STEPS, BAD = 19, 17  # the gate knows what is usual from step 16 on
ERRORS: tuple[type[BaseException], ...] = (RuntimeError, MemoryError, RecursionError)

# The catchers themselves, and what they ask before they catch: nothing around them could help.
THIN = {
    "surefoot.attach.closures.closure_of",
    "surefoot.attach.patches.Patches._after_step",
    "surefoot.attach.patches.Patches._before_step",
    "surefoot.attach.patches.Patches._tell",
    "surefoot.attach.patches.Patches.remove",
    "surefoot.compiler.compiler",
    "surefoot.compiler.outside",
    "surefoot.guarding.optimizer_guard.OptimizerGuard._gradients_there",
    "surefoot.guarding.optimizer_guard.OptimizerGuard._safely",
    "surefoot.probes.module_hooks._nothing",
    "surefoot.probes.tap._Enter.__call__",
    "surefoot.probes.tap._Leave.__call__",
    "surefoot.watching.session.Session.failed",
}


@pytest.fixture(autouse=True)
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time budget: what runs does not depend on the machine."""
    monkeypatch.setattr(Budget, "affordable", lambda self, cost: True)


# -- the training ----------------------------------------------------------------------------------


def train(session: Session | None, record: list[Any], models: list[nn.Module]) -> None:
    """A training whose batch is lost at a step.

    record: gets weights and random numbers after each step; models: the model.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Tanh(), nn.Linear(6, 2))
    models.append(model)
    if session is not None:
        session.start()
    try:
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        record.append(state(model))
        for step in range(STEPS):
            x, y = torch.randn(8, 4), torch.randint(2, (8,))
            if step == BAD:
                x[0, 0] = torch.nan
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            record.append(state(model))
    finally:
        if session is not None:
            session.stop()


def state(model: nn.Module) -> tuple[str, str]:
    """Weights and the generator, in a form in which a NaN equals itself."""
    weights = [p.detach().flatten().tolist() for p in model.parameters()]
    return repr(weights), repr(torch.get_rng_state().tolist())


def hooks_left(models: list[nn.Module]) -> list[str]:
    """Every hook on the modules and parameters of models that have none of their own."""
    tables = [
        (name, key, value)
        for root in models
        for name, module in root.named_modules()
        for key, value in module.__dict__.items()
        if "hook" in key and hasattr(value, "__len__")
    ]
    left = [f"{name} {key}" for name, key, value in tables if len(value)]
    return left + [n for m in models for n, p in m.named_parameters() if p._backward_hooks]


# -- functions, and how they are made to fail ------------------------------------------------------


def functions() -> dict[str, types.FunctionType]:
    """Every function and method of surefoot that exists, by name; not those made within others."""
    found: dict[str, types.FunctionType] = {}
    for f in gc.get_objects():
        if type(f) is not types.FunctionType or not f.__code__.co_filename.startswith(HERE):
            continue
        plain = "<" not in f.__qualname__ and f.__code__.co_freevars == ()
        if plain and not f.__code__.co_flags & (0x20 | 0x80 | 0x200):  # generators fail elsewhere
            name = f"{f.__module__}.{f.__qualname__}"
            hidden = f.__qualname__ != f.__code__.co_qualname  # under a decorator
            found[f"{name} within" if hidden else name] = f
    return found


class Patched:
    """A function that tells of its calls, with everything that holds it left as it is."""

    def __init__(self, function: types.FunctionType, called: Callable[[types.FrameType], None]):
        self._function, self._code = function, function.__code__
        own = types.FunctionType(
            self._code, function.__globals__, function.__name__, function.__defaults__
        )
        own.__kwdefaults__ = function.__kwdefaults__

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            called(sys._getframe(2))
            return own(*args, **kwargs)

        self._name = f"_stand_in_{id(self)}"
        function.__globals__[self._name] = stand_in
        source = f"def stub(*args, **kwargs): return {self._name}(*args, **kwargs)"
        made: dict[str, Any] = {}
        exec(source, made)
        function.__code__ = made["stub"].__code__

    def undo(self) -> None:
        self._function.__code__ = self._code
        del self._function.__globals__[self._name]


def called(run: Callable[[], object]) -> tuple[dict[str, int], set[str]]:
    """How often each function was called in this thread, and those that were from outside."""
    counts: dict[str, int] = {}
    outer: set[str] = set()
    thread = sys.modules["threading"].get_ident

    def note(name: str, of: int) -> Callable[[types.FrameType], None]:
        def tell(frame: types.FrameType) -> None:
            if thread() == of:
                counts[name] = counts.get(name, 0) + 1
                if not frame.f_code.co_filename.startswith(HERE):
                    outer.add(name)

        return tell

    patched = [Patched(f, note(name, thread())) for name, f in functions().items()]
    try:
        run()
    finally:
        for one in patched:
            one.undo()
    return counts, outer


class Failing:
    """While it is entered, a function raises at its k-th call in this thread."""

    def __init__(self, name: str, k: int, error: type[BaseException]) -> None:
        self._function, self._k, self._error = functions()[name], k, error
        self.raised, self._count = False, 0

    def __enter__(self) -> Failing:
        here = sys.modules["threading"].get_ident
        mine = here()

        def tell(frame: types.FrameType) -> None:
            self._count += here() == mine
            if self._count == self._k and not self.raised:
                self.raised = True
                raise self._error("injected")

        self._patched = Patched(self._function, tell)
        return self

    def __exit__(self, *_: object) -> None:
        self._patched.undo()


# -- the promise -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    record: list[Any] = []
    train(None, record, [])
    return record


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often each place is come by: those where a failure is ours to catch."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Budget, "affordable", lambda self, cost: True)
    try:
        train(watching(tmp_path_factory.mktemp("warm") / "run"), [], [])  # imports what is lazy
        session = watching(tmp_path_factory.mktemp("places") / "run")
        counts, outer = called(lambda: train(session, [], []))
    finally:
        patch.undo()
    assert {name.rpartition(".")[2] for name in outer} >= {"_pre_hook", "_post_hook", "__call__"}
    assert THIN - set(counts) <= {"surefoot.watching.session.Session.failed"}
    return {name: n for name, n in sorted(counts.items()) if name not in outer | THIN}


def watching(folder: Path) -> Session:
    """With everything on that changes nothing."""
    folder.mkdir()
    return Session(folder=folder, guard="dry run")


def check(
    name: str, k: int, error: type[BaseException], alone: list[Any], folder: Path
) -> list[str]:
    """Run it with this failure; what is wrong with the outcome."""
    log = logging.getLogger("surefoot")
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    record: list[Any] = []
    session = watching(folder)
    wrong: list[str] = []
    models: list[nn.Module] = []
    try:
        with Failing(name, k, error) as fault:
            train(session, record, models)
        if not fault.raised:
            wrong.append("it was not reached")
        session.report()
    except Exception as reached:
        wrong.append(f"the script saw {type(reached).__name__}: {reached}")
    finally:
        log.removeHandler(handler)
    if record != alone:
        wrong.append(f"the training differs from step {len(record) - 1} on or before")
    wrong += [f"left: {name}" for name in hooks_left(models)]
    if session._patches._undo:
        wrong.append("the patches are still there")
        session._patches.remove()
    if session._writer is not None:
        session._writer.close()  # where it was made to fail itself
    if len(said) > 2:  # two parts may have needed it
        wrong.append(f"said {len(said)} times: {said}")
    return wrong


def cases(places: dict[str, int]) -> Iterator[tuple[str, int, type[BaseException]]]:
    """For each place its first call, and another one; each kind of error in turn."""
    for number, (name, count) in enumerate(places.items()):
        yield name, 1, ERRORS[number % 3]
        if count > 1:
            yield name, min(count, (2, 7, count)[number % 3]), ERRORS[(number + 1) % 3]


def failures(
    chosen: list[tuple[str, int, type[BaseException]]], alone: list[Any], tmp_path: Path
) -> list[str]:
    found = []
    for i, (name, k, error) in enumerate(chosen):
        wrong = check(name, k, error, alone, tmp_path / f"run{i}")
        found += [f"{name}, call {k}, {error.__name__}: {words}" for words in wrong]
    return found


def interrupted(name: str, k: int, alone: list[Any], folder: Path) -> list[str]:
    """Press Ctrl-C in the midst of surefoot's own work; what is wrong afterwards."""
    record: list[Any] = []
    session = watching(folder)
    wrong = []
    models: list[nn.Module] = []
    with Failing(name, k, KeyboardInterrupt):
        try:
            train(session, record, models)
            wrong.append("the script was not interrupted")
        except KeyboardInterrupt:
            pass
    session.stop()
    if session._writer is not None:
        session._writer.close()  # interrupted in its end, it leaves a record that was cut off
    if record != alone[: len(record)]:
        wrong.append("the training differs before")
    if models:  # it was interrupted within a step, or between two: its weights are those of either
        weights, near = state(models[0])[0], alone[max(len(record) - 1, 0) : len(record) + 1]
        if weights not in [there for there, _ in near]:
            wrong.append("the weights are of no step")
    wrong += [f"left: {name}" for name in hooks_left(models)]
    if session._patches._undo:
        wrong.append("the patches are still there")
        session._patches.remove()
    return [f"{name}, call {k}: {words}" for words in wrong]


def test_the_places_are_many(places: dict[str, int]) -> None:
    modules = {name.split(".")[1] for name in places}
    assert len(places) > 300
    assert {"attach", "probes", "watching", "guarding", "record", "diagnosis"} <= modules


@pytest.mark.slow
def test_a_failure_anywhere_is_survived(
    places: dict[str, int], alone: list[Any], tmp_path: Path
) -> None:
    """One in seventy of them; all of them in the heavier suite."""
    assert not failures(list(cases(places))[::71], alone, tmp_path)


@pytest.mark.slow
def test_ctrl_c_within_passes_through(
    places: dict[str, int], alone: list[Any], tmp_path: Path
) -> None:
    wrong = []
    for i, (name, k, _) in enumerate(list(cases(places))[5::141]):
        wrong += interrupted(name, k, alone, tmp_path / f"run{i}")
    assert not wrong


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("part", range(8))
def test_ctrl_c_anywhere_within_passes_through(
    part: int, places: dict[str, int], alone: list[Any], tmp_path: Path
) -> None:
    wrong = []
    for i, (name, k, _) in enumerate(list(cases(places))[part::8]):
        wrong += interrupted(name, k, alone, tmp_path / f"run{i}")
    assert not wrong


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("part", range(8))
def test_a_failure_in_every_place_is_survived(
    part: int, places: dict[str, int], alone: list[Any], tmp_path: Path
) -> None:
    assert not failures(list(cases(places))[part::8], alone, tmp_path)
