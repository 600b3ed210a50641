"""Steps that cannot be run again as they were: refused in words, with nothing changed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from replay_fixture import Body, Work, assert_exact, inexact, replayed, x

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


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
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
