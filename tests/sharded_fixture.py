"""Models in pieces on several ranks, and a watched training of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import surefoot
from distributed_fixture import on_ranks

STEPS = 12
Ranks = Callable[[str], list[Any]]


class Network(nn.Module):
    """Sizes that two ranks cannot share evenly: the last layer's are on one of them alone."""

    def __init__(self, hidden: int = 5, classes: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.a, self.b = nn.Linear(8, hidden), nn.Linear(hidden, 8)
        self.out = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(torch.relu(self.a(self.norm(x)))))


def fsdp(size: int) -> nn.Module:
    model = Network()
    for part in (model.a, model.out):
        fully_shard(part)
    return fully_shard(model)


def mixed(size: int) -> nn.Module:
    """Some parameters are whole on every rank."""
    model = Network()
    fully_shard(model.b)
    return model


def tensor_parallel(size: int) -> nn.Module:
    model = Network(6, 3)
    plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def sequence_parallel(size: int) -> nn.Module:
    """Each rank has a part of the sequence, and so a summand of the gradients of `norm`."""
    model = Network(6, 3)
    plan = {
        "norm": SequenceParallel(),
        "a": ColwiseParallel(input_layouts=Shard(1)),
        "b": RowwiseParallel(output_layouts=Replicate()),
    }
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def both(rows: int) -> Callable[[int], nn.Module]:
    """Data parallel over the rows of a mesh, tensor parallel over its columns."""

    def make(size: int) -> nn.Module:
        shape = (rows, size // rows)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
        model = Network(6, 3)
        plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
        return fully_shard(model, mesh=mesh["data"])

    return make


def hybrid(rows: int) -> Callable[[int], nn.Module]:
    """The same on each row of a mesh, cut along it."""

    def make(size: int) -> nn.Module:
        shape = (rows, size // rows)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts"))
        return fully_shard(Network(), mesh=mesh)

    return make


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "fsdp": fsdp,
    "mixed": mixed,
    "tensor": tensor_parallel,
    "sequence": sequence_parallel,
    "tensor 1x": both(1),
    "data 2x": both(2),
    "hybrid 1x": hybrid(1),
    "hybrid 2x": hybrid(2),
}
FOUR = {"both 2x2": both(2), "hybrid 2x2": hybrid(2), "fsdp on 4": fsdp}


def made(kind: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    return (KINDS | FOUR)[kind](size)


def batches(kind: str, rank: int) -> torch.Generator:
    """Ranks that share tensors have the same data, others their own."""
    alike = any(word in kind for word in ("tensor", "sequence", "both"))
    return torch.Generator().manual_seed(0 if alike else rank)


def whole(t: torch.Tensor) -> torch.Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().double()


def local(t: torch.Tensor) -> torch.Tensor:
    return (t.to_local() if isinstance(t, DTensor) else t).detach().double()


class Run:
    """A watched training of some steps; `seen` is called with each step's model and optimizer."""

    def __init__(self, kind: str, rank: int, size: int, watched: bool = True) -> None:
        self.rank, self.model = rank, made(kind, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.watch = surefoot.watch(self.model, self.optimizer)
        self.data, self.losses = batches(kind, rank), list[float]()
        torch.manual_seed(7 + rank)
        if watched:
            self.watch.start()

    def step(self, target: float = 1.0) -> None:
        self.optimizer.zero_grad()
        x = torch.randn(4, 6, 8, generator=self.data)
        x[..., 2] = 0.0
        loss = (self.model(x) - target).square().mean()
        loss.backward()
        self.losses.append(loss.item())

    def gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.model.parameters()]

    def end(self) -> Any:
        """What every part of the training is at the end, as plain tensors."""
        self.watch.stop()
        state = [local(p) for p in self.model.parameters()]
        return self.losses, state, torch.get_rng_state()

    def series(self, name: str) -> Any:
        return self.watch._session.data().series[name]


def reader(size: int, module: str, function: str) -> Ranks:
    """What each rank found, by part, where `function` returns all parts."""
    found = on_ranks(size, module, function)
    return lambda part: [one[part] for one in found]
