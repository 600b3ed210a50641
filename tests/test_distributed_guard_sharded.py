"""Guards of parameters that lie in pieces on several ranks (FSDP2)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from sharded_fixture import Ranks, made, reader, whole
from test_distributed_guard import (
    BACK,
    SKIP,
    STEPS,
    Fault,
    Late,
    fine,
    leap_at,
    left,
    lost_at,
    nothing,
    same,
    weight_at,
)

pytestmark = pytest.mark.zoo  # with the heavier suite: its processes take a minute


class Sharded:
    """A training of some steps: what was left after each, and what its guard did."""

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        guarded: bool = True,
        without: tuple[int, ...] = (),
        fault: Fault = fine,
        late: Late = nothing,
        plain: bool = False,
        cleared: int | None = None,
        **options: Any,
    ) -> None:
        model = made("fsdp", size)
        make = torch.optim.SGD if plain else torch.optim.AdamW
        optimizer = make(model.parameters(), lr=0.01)
        guard = surefoot.guard(optimizer, model, **options) if guarded else None
        self.states: list[list[torch.Tensor]] = []
        self.moves: list[tuple[list[torch.Tensor], ...]] = []  # weights, gradients, what they did
        for step in range(STEPS):
            if step in without:
                continue
            if step == cleared:
                optimizer.state.clear()
            optimizer.zero_grad()
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1000 * rank + step))
            x = fault(rank, step, x, model)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            late(rank, step, model)
            if plain:
                self._move(model, optimizer)
            else:
                optimizer.step()
            self.states.append(left(model, optimizer))
        self.acts = [] if guard is None else [(a.step, a.rung) for a in guard.acts]
        self.counts = None if guard is None else (guard.steps, guard.clipped)
        if guard is not None:
            guard.remove()

    def _move(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        before = [whole(p).clone() for p in model.parameters()]
        gradients = [whole(p.grad).clone() for p in model.parameters()]
        optimizer.step()
        after = [whole(p) for p in model.parameters()]
        moved = [b - a for a, b in zip(before, after, strict=True)]
        self.moves.append((before, gradients, moved))


def sharded(rank: int, size: int) -> dict[str, Any]:
    unlike = {"fault": lost_at(20, 40), "late": leap_at(50)}
    return {
        "unguarded": Sharded(rank, size, guarded=False),
        "healthy": Sharded(rank, size),
        "without": Sharded(rank, size, guarded=False, without=(20, 40, 50)),
        "bad": Sharded(rank, size, **unlike),
        "nan weight": Sharded(rank, size, fault=weight_at(50, math.nan)),
        "cleared": Sharded(rank, size, fault=weight_at(50, math.nan), cleared=50),
        "units": Sharded(rank, size, plain=True, clip="agc"),
        "clipped": Sharded(
            rank, size, plain=True, clip=1.0, late=leap_at(*range(30, 40), factor=1e3)
        ),
    }


@pytest.fixture(scope="module")
def pieces() -> Ranks:
    return reader(2, "test_distributed_guard_sharded", "sharded")


def test_with_parameters_in_pieces_a_healthy_run_is_left_alone(pieces: Ranks) -> None:
    for healthy, unguarded in zip(pieces("healthy"), pieces("unguarded"), strict=True):
        assert healthy.acts == []
        assert same(healthy.states[-1], unguarded.states[-1])


def test_with_parameters_in_pieces_all_skip_what_one_has_lost_and_what_leaps(pieces: Ranks) -> None:
    for bad, without in zip(pieces("bad"), pieces("without"), strict=True):
        assert bad.acts == [(20, SKIP), (40, SKIP), (50, SKIP)]
        assert all(same(bad.states[at], bad.states[at - 1]) for at in (20, 40, 50))
        assert same(bad.states[-1], without.states[-1])


@pytest.mark.parametrize("what", ["nan weight", "cleared"])
def test_a_piece_that_became_nan_is_rolled_back_on_all(what: str, pieces: Ranks) -> None:
    """With its moments, even where the script has thrown them away."""
    first, second = pieces(what)
    assert first.acts == second.acts == [(50, SKIP), (51, SKIP), (52, BACK)]
    to = [
        [at for at, state in enumerate(one.states[:50]) if same(state, one.states[52])]
        for one in (first, second)
    ]
    assert len(to[0]) == 1 and to[0] == to[1]


def test_units_of_parameters_in_pieces_are_clipped(pieces: Ranks) -> None:
    """Adaptive gradient clipping looks at the rows of matrices, of which a rank has some; its
    formula in float64, for all but the last matrix."""
    for run in pieces("units"):
        beyond = 0
        for step, (weights, gradients, moved) in enumerate(run.moves):
            if step in [at for at, rung in run.acts if rung is SKIP]:
                continue
            for w, g, m in [
                t for t in zip(weights, gradients, moved, strict=True) if t[0].dim() == 2
            ][:-1]:
                limit = 0.01 * w.norm(dim=1, keepdim=True).clamp(min=1e-3)
                divisor = (g.norm(dim=1, keepdim=True) / limit).clamp(min=1.0)
                beyond += int((divisor > 1.0).sum())
                torch.testing.assert_close(m, -0.01 * g / divisor, rtol=1e-4, atol=2e-7)
        assert beyond > STEPS and run.counts == (STEPS, STEPS - len(run.acts))


def test_the_norm_that_clips_is_that_of_the_whole(pieces: Ranks) -> None:
    """Against SGD by hand on the full tensors in float64; a lasting leap is clipped after three."""
    for run in pieces("clipped"):
        held = [step for step, rung in run.acts if rung is SKIP]
        assert held == [30, 31, 32]
        clipped = 0
        for step, (_, gradients, moved) in enumerate(run.moves):
            norm = float(torch.stack([g.norm() for g in gradients]).norm())
            divisor = max(1.0, norm + 1e-6)
            clipped += divisor > 1.0 and step not in held
            for g, m in zip(gradients, moved, strict=True):
                wanted = torch.zeros_like(g) if step in held else -0.01 * g / divisor
                torch.testing.assert_close(m, wanted, rtol=1e-4, atol=2e-7)
        assert clipped >= 7
