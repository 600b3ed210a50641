"""What a forward leaves behind it: a replay starts from what the step found, and takes it all back.

And where it cannot be the step's bit for bit, it says so and changes nothing either.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from replay_fixture import Work, assert_exact, replayed
from surefoot.probes import aside as aside_module
from surefoot.probes import habits as habits_module
from surefoot.probes import randomness as randomness_module
from surefoot.probes.replay import Replay


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (16, 6)))


class Counted:
    """A plain object that a module keeps."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, [torch.zeros(2)]


class Drawn:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)


class Body(nn.Module):
    """Two layers; what subclasses do on the way goes into the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.on_the_way(torch.tanh(self.a(x))))


class CountsUp(Body):
    count = 0

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return h * self.count


class Hidden(Body):
    """Carries a state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros(6)

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.state
        self.state = h.detach().mean(0)
        return h


class HiddenInPlace(Hidden):
    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.state.clone()
        self.state.copy_(h.detach().mean(0))
        return h


class Averaging(Body):
    """A moving average in a buffer, used before it is moved on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        h = h - self.mean
        self.mean.lerp_(h.detach().mean(0), 0.5)
        return h


class AveragingAnew(Averaging):
    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        h = h - self.mean
        self.mean = 0.5 * self.mean + h.detach().mean(0)
        return h


class DrawsFromPython(Body):
    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h * random.random() + random.gauss(0, 1)


class DrawsFromNumpy(Body):
    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h * np.random.rand() + float(np.random.standard_normal())


class DropsLayers(Body):
    """Stochastic depth, as many write it."""

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h if random.random() < 0.5 else torch.dropout(h, 0.3, self.training)


EXACT: dict[str, Callable[[], Body]] = {
    kind.__name__: kind
    for kind in (
        CountsUp,
        Hidden,
        HiddenInPlace,
        Averaging,
        AveragingAnew,
        DrawsFromPython,
        DrawsFromNumpy,
        DropsLayers,
    )
}


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_a_call_is_made_again_from_what_it_found(name: str, calls: int) -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = EXACT[name]()

    def work(step: int) -> None:
        for _ in range(calls):
            model(x()).square().mean().backward()

    assert_exact(replayed(model, work, steps=4), model)


class Late(Body):
    """Draws only from some step on."""

    source = "torch"
    on = False

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return h
        return torch.dropout(h, 0.5, True) if self.source == "torch" else h * random.random()


@pytest.mark.parametrize("source", ["torch", "python"])
@pytest.mark.parametrize(("steps", "exact"), [(25, False), (40, True)])
def test_what_is_drawn_only_later_is_noticed_later(source: str, steps: int, exact: bool) -> None:
    """A module is looked at again at steps 1, 2, 4 ... 32: until then the replay says no."""
    torch.manual_seed(0)
    model = Late()
    model.source = source

    def work(step: int) -> None:
        model.on = step >= 20
        model(x()).square().mean().backward()

    result = replayed(model, work, steps=steps)
    assert isinstance(result, Replay)
    assert result.exact is exact


def test_a_module_in_another_mode_is_looked_at_anew() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    def work(step: int) -> None:
        model.train(step >= 9)
        model(x()).square().mean().backward()

    assert_exact(replayed(model, work, steps=10), model)


def test_an_accelerator_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of the host's in the part of a device's: there is no device here."""
    there = torch.Generator().manual_seed(7)
    device = torch.device("xpu", 0)
    for module in (habits_module, aside_module):
        monkeypatch.setattr(module, "accelerators", lambda tensors: [device])
    for module in (habits_module, randomness_module):
        monkeypatch.setattr(module, "device_state", lambda d: there.get_state())
        monkeypatch.setattr(module, "set_device_state", lambda d, state: there.set_state(state))

    class There(Body):
        def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
            return h * torch.rand(6, generator=there)

    torch.manual_seed(0)
    model = There()

    def work(step: int) -> None:
        for _ in range(2):
            model(x()).square().mean().backward()

    assert_exact(replayed(model, work, steps=5, watched=[there]), model)


@pytest.mark.parametrize("kind", ["torch", "python", "numpy", "numpy state"])
def test_a_generator_that_is_passed_in(kind: str) -> None:
    generators = {
        "torch": lambda: torch.Generator().manual_seed(1),
        "python": lambda: random.Random(1),
        "numpy": lambda: np.random.default_rng(1),
        "numpy state": lambda: np.random.RandomState(1),
    }
    draws = {
        "torch": lambda g: torch.rand((), generator=g),
        "python": lambda g: g.random(),
        "numpy": lambda g: float(g.standard_normal()),
        "numpy state": lambda g: float(g.rand()),
    }

    class Given(Body):
        def forward(self, x: torch.Tensor, generator: Any) -> torch.Tensor:
            return super().forward(x * draws[kind](generator))

    torch.manual_seed(0)
    model, generator = Given(), generators[kind]()

    def work(step: int) -> None:
        model(x(), generator=generator).square().mean().backward()

    assert_exact(replayed(model, work, watched=[generator]), model)


# -- what cannot be known: said so, and nothing is changed -----------------------------------------


class KeepsAll(Body):
    """Writes into every kind of container and object that a module may keep."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []
        self.table: dict[str, Any] = {}
        self.nested = {"a": [{"b": torch.zeros(2)}], "c": (torch.zeros(3), [])}
        self.counter: Counter[str] = Counter()
        self.lists: defaultdict[int, list[int]] = defaultdict(list)
        self.last: deque[int] = deque(maxlen=2)
        self.names: set[int] = set()
        self.object, self.space = Counted(), SimpleNamespace(n=0, t=torch.ones(2))
        self.array, self.generator = np.zeros(3), torch.Generator()
        self.dice = random.Random(0)
        self.drawn = Drawn()
        self.weights = [self.a.weight]

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        n = len(self.items)
        self.items.append(h.detach())
        self.table[str(n)] = self.table["latest"] = n
        self.nested["a"][0]["b"].add_(1)  # type: ignore[index, union-attr]
        self.nested["c"][0].add_(1)  # type: ignore[index, union-attr]
        self.nested["c"][1].append(n)  # type: ignore[index, union-attr]
        self.counter["calls"] += 1
        self.lists[n % 2].append(n)
        self.last.append(n)
        self.names.add(n)
        self.object.calls += 1
        self.object.seen[0].mul_(2).add_(1)
        self.space.n, self.space.new = n, n
        self.space.t.add_(1)
        self.array[:] += 1
        torch.rand((), generator=self.generator)
        self.dice.random()
        self.drawn.rng.random()
        with torch.no_grad():
            self.b.weight.mul_(0.99)  # a forward that writes on its own weights
        return h


def test_everything_that_a_module_keeps_is_put_back() -> None:
    torch.manual_seed(0)
    model = KeepsAll()
    result = replayed(
        model,
        lambda step: model(x()).square().mean().backward(),
        watched=[model.generator, model.dice, model.object, model.space, model.drawn],
    )
    assert isinstance(result, Replay)
    assert result.exact is False  # the weights that the step began with are gone


class NotRegistered(Body):
    """Keeps a module where torch does not look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm1d(6), {"inner": nn.BatchNorm1d(6)}]

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return self.hidden[0](h) + self.hidden[1]["inner"](h)  # type: ignore[operator, index]


def test_a_module_in_a_list_is_set_aside_too() -> None:
    torch.manual_seed(0)
    model = NotRegistered()
    result = replayed(model, lambda step: model(x()).square().mean().backward())
    assert_exact(result, model)


class Clock(Body):
    """What the forward computes hangs on a world outside of it."""

    time = itertools.count(1)

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h * next(Clock.time)


class OwnGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        return h * torch.rand((), generator=self.generator)


class LongList(Body):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[int] = []

    def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
        self.kept.append(1)
        return h * len(self.kept)


@pytest.mark.parametrize("kind", [Clock, OwnGenerator, LongList])
def test_a_forward_that_cannot_be_the_same_is_said_to_differ(kind: type[Body]) -> None:
    torch.manual_seed(0)
    model = kind()
    result = replayed(model, lambda step: model(x()).square().mean().backward())
    assert isinstance(result, Replay)
    assert result.exact is False


def inexact(model: nn.Module, work: Work, **options: Any) -> None:
    result = replayed(model, work, **options)
    assert isinstance(result, Replay), result
    assert result.exact is False


def test_a_checkpoint_that_draws_anew() -> None:
    """Without `preserve_rng_state` what backward draws depends on when it is called."""
    drop = nn.Dropout(0.5)

    class Loose(Body):
        def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
            return checkpoint(drop, h, use_reentrant=False, preserve_rng_state=False)

    torch.manual_seed(0)
    model = Loose()

    def work(step: int) -> None:
        y = model(x())
        torch.rand(7)
        y.square().mean().backward()

    inexact(model, work)


def test_a_penalty_on_the_weights_does_not_pass_the_model() -> None:
    model = Body()

    def work(step: int) -> None:
        penalty = sum(p.square().sum() for p in model.parameters())
        (model(x()).square().mean() + penalty).backward()  # type: ignore[union-attr]

    inexact(model, work)


def test_gradients_of_an_earlier_step_that_were_left() -> None:
    model = Body()

    def work(step: int) -> None:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        model(x()).square().mean().backward()

    inexact(model, work)


def test_a_gradient_that_came_by_another_way() -> None:
    """A layer that the replay finds no gradient for has one all the same."""
    model = Body()
    model.other = nn.Linear(2, 2)

    def work(step: int) -> None:
        model.other(x(4, 2)).sum().backward()  # type: ignore[operator]
        model(x()).square().mean().backward()

    inexact(model, work)


def test_weights_of_a_functional_call_are_not_the_models() -> None:
    torch.manual_seed(0)
    model = Body()

    def work(step: int) -> None:
        weights = {k: v * 0.9 for k, v in model.named_parameters()}
        torch.func.functional_call(model, weights, (x(),)).square().mean().backward()

    inexact(model, work)


def test_hooks_on_parameters_that_alter_gradients() -> None:
    """The step's gradients are compared as the optimizer sees them, after the script's hooks."""
    model, calls = Body(), []
    model.a.weight.register_hook(lambda g: calls.append(1) or g.clamp(-1e-3, 1e-3))
    inexact(model, lambda step: model(x()).square().mean().backward())
    assert len(calls) == 3  # one a step: the replay has not called it


def test_hooks_that_only_look_on_are_not_called_again() -> None:
    torch.manual_seed(0)
    model, calls = Body(), []
    model.a.weight.register_hook(lambda g: calls.append("parameter"))
    model.b.register_forward_hook(lambda m, i, o: calls.append("forward"))
    model.b.register_forward_pre_hook(lambda m, i: calls.append("before"))
    model.a.register_full_backward_hook(lambda m, i, o: calls.append("backward"))
    model.b.weight.register_post_accumulate_grad_hook(lambda p: calls.append("after"))
    result = replayed(model, lambda step: model(x().requires_grad_()).square().mean().backward())
    assert_exact(result, model)
    assert Counter(calls) == dict.fromkeys(["parameter", "forward", "before", "backward"], 3) | {
        "after": 3
    }


# -- refused, with the reason ----------------------------------------------------------------------


def refused(model: nn.Module | list[nn.Module], work: Work, **options: Any) -> str:
    result = replayed(model, work, **options)
    assert isinstance(result, str)
    return result


def test_an_input_that_was_overwritten() -> None:
    model, given = Body(), x()

    def work(step: int) -> None:
        given.normal_()
        model(given).square().mean().backward()

    assert "changed in place" in refused(model, work, then=lambda: given.mul_(2))


def test_an_input_that_the_forward_overwrites() -> None:
    class Greedy(Body):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(2))

    model = Greedy()
    assert "changed in place" in refused(model, lambda step: model(x()).sum().backward())


def test_arguments_that_the_forward_takes_apart() -> None:
    class Popping(Body):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return super().forward(batch.pop("x"))

    model = Popping()
    work = lambda step: model({"x": x(), "y": x()}).sum().backward()  # noqa: E731
    assert "changed in place" in refused(model, work)


def test_an_iterator_among_the_arguments() -> None:
    class Reading(Body):
        def forward(self, batches: Any) -> torch.Tensor:
            return super().forward(next(batches))

    model, batches = Reading(), iter([x() for _ in range(9)])
    assert "iterator" in refused(model, lambda step: model(batches).sum().backward())
    assert len(list(batches)) == 6  # three steps have taken one each


def test_an_array_that_the_forward_overwrites() -> None:
    class Greedy(Body):
        def forward(self, array: np.ndarray) -> torch.Tensor:
            array *= 1.5
            return super().forward(torch.from_numpy(array.copy()))

    model, arrays = Greedy(), [np.ones((4, 6), np.float32) for _ in range(3)]
    work = lambda step: model(arrays[step]).sum().backward()  # noqa: E731
    inexact(model, work, watched=arrays)


def test_a_model_that_went_over_to_evaluation() -> None:
    model = Body()
    words = refused(model, lambda step: model(x()).sum().backward(), then=lambda: model.eval())
    assert "evaluation" in words


def test_a_gradient_of_a_gradient() -> None:
    model = Body()

    def work(step: int) -> None:
        given = x().requires_grad_()
        y = model(given).square().mean()
        (slope,) = torch.autograd.grad(y, given, create_graph=True)
        (y + slope.square().sum()).backward()

    assert "create_graph" in refused(model, work)


def test_nothing_came_back() -> None:
    model = Body()
    assert "no module call" in refused(model, lambda step: (model(x()), None)[1])


class Reading(Body):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source


def test_what_would_move_on_is_not_touched(tmp_path: Path) -> None:
    sources = [iter([1, 2]), itertools.count(), (i for i in range(3))]
    with (tmp_path / "log").open("w") as file:
        for source in [*sources, [file]]:
            model = Reading(source)
            words = refused(model, lambda step, m=model: m(x()).sum().backward())
            assert "source" in words


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_scripted_module() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.jit.trace(nn.Linear(6, 6), x())
            self.outer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(self.inner(x))

    model = Around()
    assert "scripted" in refused(model, lambda step: model(x()).sum().backward())


def test_a_stranger_behind_a_reentrant_checkpoint() -> None:
    """Its `.grad` would be added to: torch allows no other backward there."""
    loose = torch.ones(6, requires_grad=True)

    class Reentrant(Body):
        def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
            return checkpoint(torch.tanh, h * loose, use_reentrant=True)

    model = Reentrant()
    words = refused(model, lambda step: model(x()).sum().backward(), watched=[loose])
    assert "reentrant" in words


def test_a_forward_that_refuses_to_run_again_leaves_all_as_it_was() -> None:
    class Once(Body):
        broken = False

        def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
            if Once.broken:
                raise ValueError("not again")
            return h

    def break_it() -> None:
        Once.broken = True

    model = Once()
    words = refused(model, lambda step: model(x()).sum().backward(), then=break_it)
    assert words == "refused: ValueError: not again"


# -- odd ways to be called -------------------------------------------------------------------------


class Tree(nn.Module):
    """Calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.node = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, depth: int = 2) -> torch.Tensor:
        x = torch.tanh(self.node(x))
        return x if depth == 0 else self(x, depth - 1) + self(x * 2, depth - 1)


def test_a_module_that_calls_itself() -> None:
    torch.manual_seed(0)
    model = Tree()
    assert_exact(replayed(model, lambda step: model(x()).square().mean().backward()), model)


def test_a_call_that_raised_and_was_made_again() -> None:
    """As a script does that halves its batch when memory runs out."""

    class Full(Body):
        def on_the_way(self, h: torch.Tensor) -> torch.Tensor:
            if len(h) > 8:
                raise MemoryError
            return h

    torch.manual_seed(0)
    model = Full()

    def work(step: int) -> None:
        with pytest.raises(MemoryError):
            model(x(16, 6))
        model(x(8, 6)).square().mean().backward()

    assert_exact(replayed(model, work), model)


def test_inference_tensors_go_in() -> None:
    torch.manual_seed(0)
    model = Body()

    def work(step: int) -> None:
        with torch.inference_mode():
            given = x()
        model(given.clone()).square().mean().backward()

    assert_exact(replayed(model, work), model)


def test_spectral_norm_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 3))).eval()
    assert_exact(replayed(model, lambda step: model(x()).square().mean().backward()), model)
