"""Trainings in the ways PyTorch is run, each with the same mathematical step in float64 beside it.

A training is run once alone and once watched. Before each step of the one that is alone, the
gradient of that step is computed on a copy of the model in float64, by plain eager autograd: its
norms are what the watched one's record must hold.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from surefoot.watching.session import Session

Loss = Callable[[nn.Module], torch.Tensor]
STEPS = 20  # instrumented are 0, 4 and 16; the first eight and a few more are sampled


@pytest.fixture(scope="module", autouse=True)
def patched_by_torch() -> None:
    """The compiler replaces `Module.__init__` for good when it is used for the first time."""
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Nothing is compiled yet, and nothing stays so."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.compiled_autograd.reset()
    counters.clear()
    gc.collect()


@dataclass
class Mode:
    """A training in progress. step: takes a step and returns its loss; exact: name -> norm of the
    gradient that this step is about to use; optimizers: whose state must not differ."""

    modules: list[nn.Module]
    step: Callable[[int], float]
    exact: Callable[[int], Mapping[str, float]] = lambda i: {}
    optimizers: Sequence[torch.optim.Optimizer] = ()


@dataclass
class Trained:
    """What a training leaves behind, and the exact norms where they were asked for."""

    losses: list[float] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: list[Mapping[str, float]] = field(default_factory=list)


def train(make: Callable[[], Mode], session: Session | None = None, steps: int = STEPS) -> Trained:
    """From its seed to its end: alone, with the exact norms, or in a session."""
    if session is not None:
        session.start()
    trained = Trained()
    try:
        torch.manual_seed(0)
        mode = make()
        for i in range(steps):
            if session is None:
                trained.norms.append(undisturbed(mode.exact, i))
            trained.losses.append(mode.step(i))
    finally:
        if session is not None:
            session.stop()
    trained.tensors = state(mode)
    return trained


def undisturbed(function: Callable[[int], Any], i: int) -> Any:
    """A function's value, with the random numbers where they were."""
    before = torch.get_rng_state()
    value = function(i)
    torch.set_rng_state(before)
    return value


def state(mode: Mode) -> dict[str, torch.Tensor]:
    """Weights, gradients, buffers, states of optimizers and random numbers, by name."""
    found: dict[str, torch.Tensor] = {"random numbers": torch.get_rng_state()}
    for k, module in enumerate(mode.modules):
        for name, p in module.named_parameters():
            found[f"{k} {name}"] = p.detach().clone()
            if p.grad is not None:
                found[f"{k} {name} gradient"] = p.grad.detach().clone()
        found |= {f"{k} {name}": b.clone() for name, b in module.named_buffers()}
    for k, optimizer in enumerate(mode.optimizers):
        for i, (key, value) in enumerate(_flat(optimizer.state_dict()["state"])):
            found[f"optimizer {k} {key} {i}"] = torch.as_tensor(value).clone()
    return found


def _flat(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [pair for key, x in tree.items() for pair in _flat(x, f"{path}.{key}")]
    if isinstance(tree, (list, tuple)):
        return [pair for key, x in enumerate(tree) for pair in _flat(x, f"{path}.{key}")]
    return [(path, tree)] if isinstance(tree, (torch.Tensor, int, float)) else []


def assert_unchanged(alone: Trained, watched: Trained) -> None:
    """Bit for bit, a NaN equal to a NaN."""
    assert list(map(repr, alone.losses)) == list(map(repr, watched.losses))
    assert alone.tensors.keys() == watched.tensors.keys()
    for name, tensor in alone.tensors.items():
        same = torch.allclose(tensor, watched.tensors[name], rtol=0, atol=0, equal_nan=True)
        assert same and tensor.dtype == watched.tensors[name].dtype, name


def assert_measured(
    session: Session, alone: Trained, rtol: float = 1e-5, training: int = 0
) -> None:
    """One row for each step, in which every gradient has its exact norm, and no other has one."""
    watched = session.trainings[training]
    names = [p.name for p in watched.layers.parameters]
    norms = watched.case().get("gradient").last[:, ::5]
    assert len(norms) == len(alone.norms) == watched.step
    for step, exact in enumerate(alone.norms):
        assert exact.keys() <= set(names)
        expected = np.array([exact.get(name, np.nan) for name in names])
        np.testing.assert_allclose(norms[step], expected, rtol=rtol, err_msg=f"step {step}")


def watch(
    make: Callable[[], Mode], rtol: float = 1e-5, steps: int = STEPS, losses: bool = True
) -> Session:
    """Run it both ways; nothing may differ, and what was recorded must be exact."""
    alone = train(make, None, steps)
    session = Session()
    watched = train(make, session, steps)
    assert_unchanged(alone, watched)
    assert session._error is None
    assert_measured(session, alone, rtol)
    if losses:
        seen = session.trainings[0].case().get("loss").last[:, 0]
        np.testing.assert_allclose(seen, alone.losses, rtol=1e-6)
    return session


def exact(
    model: nn.Module, losses: Callable[[int], Sequence[Loss]], scale: float = 1.0
) -> Callable[[int], dict[str, float]]:
    """Norms of the gradient of a sum of losses on a float64 copy of the model, times scale."""

    def norms(i: int) -> dict[str, float]:
        twin = copy.deepcopy(model).double()
        wanted = {name: p for name, p in twin.named_parameters() if p.requires_grad}
        with torch.compiler.set_stance("force_eager"):
            total = torch.stack([loss(twin) for loss in losses(i)]).sum()
        twin.zero_grad()
        total.backward()  # reentrant checkpoints refuse `torch.autograd.grad`
        return {n: scale * float(p.grad.norm()) for n, p in wanted.items() if p.grad is not None}

    return norms


# -- data and models ------------------------------------------------------------------------------


def batch(i: int, part: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sixteen random points in four classes, the same ones whenever a step asks for them."""
    source = torch.Generator().manual_seed(1000 * i + part)
    return torch.randn(16, 8, generator=source), torch.randint(4, (16,), generator=source)


def cross_entropy(i: int, part: int = 0, share: float = 1.0) -> Loss:
    """The loss of a model on a batch, at the precision of the model."""
    x, y = batch(i, part)

    def loss(model: nn.Module) -> torch.Tensor:
        return share * F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)

    return loss


class Block(nn.Module):
    """One of a trunk's alike parts, with a branch past it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.activation = nn.Tanh()
        self.outer = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.activation(self.inner(x)))


class Trunk(nn.Module):
    """A stem, three blocks and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def chain() -> nn.Sequential:
    """Nothing but torch's own modules, whose code the compiler treats in a way of its own."""
    layers = (nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    return nn.Sequential(*layers)


def usual(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    call: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Mode:
    """The usual step: zero, forward (by `call` if given), backward, step."""
    called = model if call is None else call  # a compiled form has no truth value

    def step(i: int) -> float:
        x, y = batch(i)
        optimizer.zero_grad()
        loss = F.cross_entropy(called(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Mode([model], step, exact(model, lambda i: [cross_entropy(i)]), [optimizer])
