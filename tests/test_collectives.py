"""A pass that one process makes alone never speaks to the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed import nn as talking
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from surefoot.probes.collectives import Silence, Spoken, refusal

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",  # some collectives are getting old
    "ignore:DTensor random operators",  # PyTorch 2.6 says so of any on the CPU
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A world of one: its collectives go the same way as any."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # torch replaces it for good
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


ONE = torch.ones(2)
COLLECTIVES: dict[str, Callable[[], Any]] = {
    "allreduce": lambda: distributed.all_reduce(ONE.clone()),
    "allgather": lambda: distributed.all_gather([torch.empty(2)], ONE),
    "into one": lambda: distributed.all_gather_into_tensor(torch.empty(2), ONE),
    "objects": lambda: distributed.all_gather_object([None], "x"),
    "broadcast": lambda: distributed.broadcast(ONE.clone(), 0),
    "broadcast objects": lambda: distributed.broadcast_object_list(["x"], 0),
    "reduce scatter": lambda: distributed.reduce_scatter_tensor(torch.empty(2), ONE.clone()),
    "all to all": lambda: distributed.all_to_all_single(torch.empty(2), ONE.clone()),
    "barrier": distributed.barrier,
    "differentiable": lambda: talking.functional.all_reduce(ONE.clone()),
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_stopped(name: str, world: None) -> None:
    COLLECTIVES[name]()  # it does work
    with Silence(), pytest.raises(Spoken, match="communicates with other processes"):
        COLLECTIVES[name]()


def test_in_backward_too(world: None) -> None:
    class Talks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            distributed.all_reduce(g)
            return g

    x = torch.ones(2, requires_grad=True)
    with Silence(), pytest.raises(Spoken):
        torch.autograd.grad(Talks.apply(x).sum(), x)


def test_what_a_distributed_tensor_does_by_itself_is_stopped(world: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    tensor = distribute_tensor(torch.arange(4.0), mesh, [Shard(0)])
    with Silence():
        assert isinstance(tensor * 2, DTensor)  # each its own piece: nothing is said
        with pytest.raises(Spoken):
            torch.distributed._functional_collectives.all_reduce(tensor.to_local(), "sum", mesh)


def test_all_else_is_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(3, 4)
    usual = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    with Silence():
        silent = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    assert all(map(torch.equal, usual, silent))


def test_modules_that_need_the_others_are_refused(world: None) -> None:
    assert "batches of all processes" in refusal([nn.Linear(2, 2), nn.SyncBatchNorm(3)])
    assert refusal([nn.SyncBatchNorm(3).eval(), nn.BatchNorm1d(3)]) == ""
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(
        distribute_tensor(layer.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
    )
    assert "sharded" in refusal([layer])
