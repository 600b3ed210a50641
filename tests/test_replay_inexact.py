"""Steps whose replay is another one, which says so: what a forward draws or reads out of sight."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from replay_fixture import Body, assert_exact, inexact, replayed, x
from surefoot.probes.replay import Replay


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
