"""Rules on networks so small that the truth can be written down."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from tests.test_probes import flow_of
from torch import nn

import surefoot
from surefoot.diagnosis.case import Case, Facts
from surefoot.diagnosis.growth import outlier
from surefoot.diagnosis.profile import forward_explosion, profile
from surefoot.diagnosis.rules.recurrent import _profiles
from surefoot.findings import Cause
from surefoot.layers import Kind, kind_of


class Loop(nn.Module):
    """A linear cell in a loop: h <- R h + x_t, or, without memory, a sum of R x_t."""

    def __init__(self, radius: float, memory: bool, width: int = 16) -> None:
        super().__init__()
        self.back = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.back.weight, gain=radius)
        self.memory = memory

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, B, D] -> [B, D]."""
        h = torch.zeros_like(x[0])
        for row in x:
            h = self.back(h) + row if self.memory else h + self.back(row)
        return h


def through_time(radius: float, memory: bool, steps: int = 20) -> dict[int, list[float]]:
    torch.manual_seed(0)
    flow, table = flow_of(Loop(radius, memory), torch.randn(steps, 4, 16))
    return _profiles(Case(table, {}, (flow,), facts=Facts()), flow)


@pytest.mark.parametrize("radius", [2.0, 0.5])
def test_a_cell_by_hand_grows_by_its_radius_at_every_call(radius: float) -> None:
    ((_, logs),) = through_time(radius, memory=True).items()
    exact = float(torch.tensor(radius).log10())
    if radius > 1:  # what a loss read at every call would add up to is taken away
        logs = [x + math.log10(20 - i) for i, x in enumerate(logs)]
    steps = [a - b for a, b in itertools.pairwise(logs)]
    assert len(logs) == 20
    assert steps == pytest.approx([exact] * 19, abs=1e-4)


def test_a_memory_that_is_read_at_every_step_does_not_grow() -> None:
    """Of twenty terms that stay as they are, the first state receives all and the last one."""

    class Read(Loop):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, out = torch.zeros_like(x[0]), torch.zeros_like(x[0])
            for row in x:
                h = self.back(h) + row
                out = out + h
            return out

    torch.manual_seed(0)
    model = Read(1.0, memory=True)
    nn.init.eye_(model.back.weight)
    flow, table = flow_of(model, torch.randn(20, 4, 16))
    ((_, logs),) = _profiles(Case(table, {}, (flow,), facts=Facts()), flow).items()
    assert logs == pytest.approx([logs[-1]] * 20, abs=1e-4)


def test_a_layer_that_is_merely_called_often_is_no_recurrence() -> None:
    assert through_time(2.0, memory=False) == {}


def test_nor_is_a_loop_of_a_few_calls() -> None:
    assert through_time(2.0, memory=True, steps=7) == {}


@pytest.mark.parametrize(("place", "factor"), [(1, 1e4), (2, 1e-4)])
def test_one_of_four_layers_can_stand_out(place: int, factor: float) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64) for _ in range(4)]
    chain = nn.Sequential(*layers, nn.Linear(64, 4))
    flow, table = flow_of(chain, torch.randn(32, 64))
    sound = profile(flow, table)
    assert sound is not None and sound.culprit() is None
    with torch.no_grad():
        layers[place].weight.mul_(factor)
    flow, table = flow_of(chain, torch.randn(32, 64))
    seen = profile(flow, table)
    assert seen is not None
    culprit = seen.culprit()
    assert culprit is not None
    assert table.title(seen.stages[culprit[0]].weight_layer or 0) == str(place)


class Gated(nn.Module):
    """Layers of two maps side by side, whose outputs are added up."""

    def __init__(self, depth: int = 4, width: int = 64) -> None:
        super().__init__()
        self.told = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.kept = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, D]."""
        for told, kept in zip(self.told, self.kept, strict=True):
            x = torch.sigmoid(told(x) + kept(x))
        return self.head(x)


def test_maps_side_by_side_are_one_layer_of_the_profile() -> None:
    torch.manual_seed(0)
    model, x = Gated(), torch.randn(32, 64)
    flow, table = flow_of(model, x)
    seen = profile(flow, table)
    assert seen is not None and not seen.residual
    assert len(seen.stages) == 4 and not any(c.identity or c.fork for c in flow.calls)
    # By autograd: from the pair of the last layer to the pair of the first, side by side.
    outputs: list[torch.Tensor] = []
    maps = [*model.told, *model.kept]
    hooks = [m.register_forward_hook(lambda *a: outputs.append(a[2])) for m in maps]
    y = model(x)
    for hook in hooks:
        hook.remove()
    weight = torch.randn_like(y)
    made = torch.autograd.grad((y * weight).sum(), outputs)
    pairs = zip(made[::2], made[1::2], strict=True)
    sizes = [math.hypot(float(a.norm()), float(b.norm())) for a, b in pairs]
    flow, _ = flow_of(model, x, weight)
    again = profile(flow, table)
    assert again is not None
    assert again.growth == pytest.approx(math.log10(sizes[0] / sizes[3]), abs=1e-3)
    # A sigmoid's slope, 1/4 at most, and both of a pair receive what comes to their sum.
    assert all(s.activation <= math.log10(2**0.5 / 4) for s in again.stages[:-1])


def test_of_maps_side_by_side_the_one_that_is_too_large_is_named() -> None:
    torch.manual_seed(0)
    model = Gated()
    with torch.no_grad():
        model.told[2].weight.mul_(100)
    flow, table = flow_of(model, torch.randn(32, 64))
    found = outlier(flow, Case(table, {}, (flow,)))
    assert found is not None and table.title(found) == "told.2"
    with torch.no_grad():
        model.told[2].weight.div_(100)
    flow, table = flow_of(model, torch.randn(32, 64))
    assert outlier(flow, Case(table, {}, (flow,))) is None


class Towers(nn.Module):
    """Two towers on the same data, each with a head of its own, called after both."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.right = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.one, self.other = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, D]."""
        a, b = x, x
        for layer in self.left:
            a = layer(a).tanh()
        for layer in self.right:
            b = layer(b).tanh()
        return self.one(a) + self.other(b)


def test_a_head_that_is_small_on_purpose_breaks_no_chain() -> None:
    """As policies begin: a hundredth in one head says nothing of the towers beside it."""
    torch.manual_seed(0)
    model = Towers()
    with torch.no_grad():
        model.one.weight.mul_(0.01)
    flow, table = flow_of(model, torch.randn(64, 32))
    by_name = {table.title(c.layer): c for c in flow.calls}
    assert by_name["one"].sources == [by_name["left.2"].order]
    assert by_name["other"].sources == [by_name["right.2"].order]
    seen = profile(flow, table)
    assert seen is not None and seen.culprit() is None
    assert all(abs(s.step) < 0.6 for s in seen.stages)


class Act(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return self.function(x)


def test_an_activation_that_overflows_at_once_is_measured_where_it_goes_in() -> None:
    torch.manual_seed(0)
    steep = nn.Sequential(
        nn.Linear(16, 16), Act(lambda x: x**3), nn.Linear(16, 16), Act(lambda x: x * 1e30),
        nn.Linear(16, 16), Act(lambda x: x**3), nn.Linear(16, 4),
    )  # fmt: skip
    flow, table = flow_of(steep, torch.randn(32, 16))
    found = forward_explosion(flow, table)
    assert found is not None
    layer, weights, activation = found
    assert table.title(layer) == "0"
    # Of 1e30 and two cubes, one of which is lost, not a decade is the weights'.
    assert activation > 28 and abs(weights) < 2


def test_a_forward_that_stays_finite_explodes_nowhere() -> None:
    flow, table = flow_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(3, 4))
    assert forward_explosion(flow, table) is None


class DenseLinear(nn.Module):
    """An affine layer that is not torch's."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2)) if affine else None


@pytest.mark.parametrize(("affine", "kind"), [(True, Kind.LINEAR), (False, Kind.OTHER)])
def test_a_linear_layer_of_another_library_is_one_if_it_has_weights(
    affine: bool, kind: Kind
) -> None:
    assert kind_of(DenseLinear(affine)) is kind


def faded(scale: float, rate: float) -> surefoot.Report:
    """Ten ReLU layers with weights of that size, after sixty steps on noise."""
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    for p in model.parameters():
        nn.init.zeros_(p) if p.dim() == 1 else nn.init.normal_(p, std=scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    x, y = torch.randn(128, 64), torch.arange(128) % 4
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.report()


def test_steps_are_not_too_short_where_the_signal_fades_with_the_gradient() -> None:
    """The last layer receives the whole gradient, and 1e-11 of the signal: it is as still."""
    found = faded(0.01, 0.05).root
    assert found is not None and found.cause is Cause.WEIGHTS_TOO_SMALL
    sound = faded(math.sqrt(2 / 64), 1e-9)  # here it is the rate that keeps the weights in place
    assert "SF101" not in {finding.rule for finding in sound.findings}
