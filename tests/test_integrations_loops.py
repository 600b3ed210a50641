"""A loop of one's own in the manner of torchtitan: blocks compiled, then sharded, then accumulated.

Its optimizers are in a container, and it clips across the ranks by the two public halves of
`clip_grad_norm_`. Nothing here needs an integration: `surefoot.watch` takes the container.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

import surefoot
from distributed_fixture import on_ranks
from surefoot.findings import Pathology, Report, Verdict

RANKS, STEPS, MICRO, WIDTH, BAD = 2, 24, 2, 16, 9


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.silu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, WIDTH)
        self.layers = nn.ModuleDict({str(i): Block() for i in range(depth)})
        self.output = nn.Linear(WIDTH, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x)
        for block in self.layers.values():
            x = block(x)
        return self.output(x)


class Container(Optimizer):
    """torchtitan's OptimizersContainer: an Optimizer that hands everything on to several."""

    def __init__(self, parts: list[nn.Module]) -> None:
        self.optimizers = [torch.optim.AdamW(p.parameters(), lr=3e-3) for p in parts]
        parameters = [p for part in parts for p in part.parameters()]
        Optimizer.__init__(self, parameters, {})

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


def clip(parameters: list[nn.Parameter], most: float) -> None:
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch.nn.utils.clip_grads_with_norm_(parameters, most, whole)


def train(rank: int, fault: bool = False, watched: bool = True) -> tuple[list[Any], Report | None]:
    """(this rank's weights, the report) of a training that learns to repeat a token."""
    torch.manual_seed(0)
    model = Model()
    for name, block in model.layers.items():
        model.layers.register_module(name, torch.compile(block, backend="aot_eager"))
    for block in model.layers.values():
        fully_shard(block)
    fully_shard(model)
    optimizers = Container([model])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizers.optimizers[0], lambda step: min(1.0, (step + 1) / 4)
    )
    torch.manual_seed(rank)
    watch = surefoot.watch(model, optimizers) if watched else nullcontext()
    with watch:
        for step in range(STEPS):
            optimizers.zero_grad()
            for micro in range(MICRO):
                model.set_requires_gradient_sync(micro == MICRO - 1)
                x = torch.randint(11, (16, 4))
                loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())
                if fault and step == BAD and rank == 1:
                    loss = loss * torch.tensor(-1.0).log()
                (loss / MICRO).backward()
            clip(list(model.parameters()), 1.0)
            optimizers.step()
            schedule.step()
    weights = [p.to_local().flatten().tolist() for p in model.parameters()]
    return weights, watch.report() if isinstance(watch, surefoot.Watch) else None


def both(rank: int, size: int) -> dict[str, Any]:
    """What the test of this process asks for, on one rank."""
    alone, _ = train(rank, watched=False)
    seen, report = train(rank)
    _, faulty = train(rank, fault=True)
    return {"same": seen == alone, "report": report, "faulty": faulty}


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    return on_ranks(RANKS, "test_integrations_loops", "both")


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(RANKS))
def test_such_a_loop_is_unchanged_and_silent(rank: int, ranks: list[Any]) -> None:
    assert ranks[rank]["same"]
    report = ranks[rank]["report"]
    assert report.steps == STEPS
    assert report.verdict is Verdict.HEALTHY, report.findings


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(RANKS))
def test_a_loss_that_is_no_number_on_one_rank_is_found(rank: int, ranks: list[Any]) -> None:
    report = ranks[rank]["faulty"]
    assert report.verdict is Verdict.UNSTABLE, report.missing
    assert report.root.pathology is Pathology.NONFINITE
    assert report.root.first_step == BAD
