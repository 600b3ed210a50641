"""What a forward leaves behind it: a replay starts from what the step found, and takes it all back.

And where it cannot be the step's bit for bit, it says so and changes nothing either.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from replay_fixture import Body, assert_exact, replayed, x
from surefoot.probes import aside as aside_module
from surefoot.probes import random_state as randomness_module
from surefoot.probes import side_effects as habits_module
from surefoot.probes.replay import Replay


class Counted:
    """A plain object that a module keeps."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, [torch.zeros(2)]


class Drawn:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)


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
