"""Odd tensors, entering a model or trained in it, are watched without a change or a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from surefoot.watching.session import Session

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Ss]parse.*:UserWarning", "ignore:.*[Nn]ested.*:UserWarning"
)


class Subclass(torch.Tensor):
    """A tensor by another name."""


class Model(nn.Module):
    """A linear layer behind any function of the inputs."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(8, 4)

    def forward(self, *args: Any) -> torch.Tensor:
        return self.linear(self.function(*args))


def data() -> torch.Tensor:
    return torch.randn(16, 8)


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=layout)


def join(x: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(x.unbind()))


INPUTS: dict[str, tuple[Callable[..., torch.Tensor], Callable[[], list[Any]]]] = {
    "plain": (lambda x: x, lambda: [data()]),
    "nested": (join, lambda: [nested(torch.strided)]),
    "jagged": (join, lambda: [nested(torch.jagged)]),
    "sparse": (lambda x: x.to_dense(), lambda: [data().to_sparse()]),
    "sparse rows": (lambda x: x.to_dense(), lambda: [data().to_sparse_csr()]),
    "complex": (lambda x: x.real, lambda: [torch.randn(16, 8, dtype=torch.complex64)]),
    "negated": (
        lambda x: x.resolve_neg(),
        lambda: [torch.randn(16, 8, dtype=torch.complex64).conj().imag],
    ),
    "expanded": (lambda x: x, lambda: [torch.randn(1, 8).expand(16, 8)]),
    "transposed": (lambda x: x, lambda: [torch.randn(8, 16).T]),
    "every second": (lambda x: x, lambda: [torch.randn(16, 16)[:, ::2]]),
    "empty": (lambda x, y: x, lambda: [data(), torch.empty(0)]),
    "scalar": (lambda x, y: x * y, lambda: [data(), torch.tensor(2.0)]),
    "eight bits": (lambda x, y: x, lambda: [data(), torch.ones(4).to(torch.float8_e4m3fn)]),
    "bfloat16": (lambda x: x.float(), lambda: [data().bfloat16()]),
    "float16": (lambda x: x.float(), lambda: [data().half()]),
    "huge": (lambda x, y: x, lambda: [data(), torch.full((3,), 1e300, dtype=torch.float64)]),
    "with gradient": (lambda x: x, lambda: [data().requires_grad_()]),
    "subclass": (lambda x: x.as_subclass(torch.Tensor), lambda: [data().as_subclass(Subclass)]),
    "meta": (lambda x, y: x, lambda: [data(), torch.empty(3, device="meta")]),
    "twelve": (lambda *x: sum(x), lambda: [data() for _ in range(12)]),
    "other things": (lambda x, y, z: x, lambda: [data(), None, (1, "a")]),
    "a tree": (lambda x: x["a"], lambda: [{"a": data(), "b": [data(), {"c": data()}]}]),
}


class Odd(nn.Module):
    """Parameters of every kind in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.turning = nn.Parameter(torch.randn(8, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scalar = nn.Parameter(torch.tensor(1.5))
        self.wide = nn.Parameter(torch.randn(8, dtype=torch.float64))
        self.transposed = nn.Parameter(torch.randn(4, 8).T)
        self.unused = nn.Parameter(torch.randn(3))
        self.frozen = nn.Parameter(torch.randn(8, 4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x * self.turning).abs() * self.scalar + self.wide.float()
        return x @ (self.transposed + self.frozen) + self.empty.sum()


def train(
    make: Callable[[], nn.Module], inputs: Callable[[], list[Any]], session: Session | None
) -> list[torch.Tensor]:
    """Six steps, the fifth with a NaN loss that the script does not notice."""
    torch.manual_seed(0)
    model, args = make(), inputs()
    if session is not None:
        session.start()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(6):
        optimizer.zero_grad()
        loss = model(*args).square().mean()
        (loss * float("nan") if step == 4 else loss).backward()
        if step == 4:
            for p in model.parameters():
                p.grad = torch.nan_to_num(p.grad) if p.grad is not None else None
        optimizer.step()
    if session is not None:
        session.stop()
    return [p.detach().clone() for p in model.parameters()]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) and a.dtype == b.dtype


@pytest.mark.parametrize("name", INPUTS)
def test_any_input(name: str, caplog: pytest.LogCaptureFixture) -> None:
    function, inputs = INPUTS[name]
    session = Session()
    plain = train(lambda: Model(function), inputs, None)
    watched = train(lambda: Model(function), inputs, session)
    assert all(same(a, b) for a, b in zip(plain, watched, strict=True))
    assert not caplog.records
    assert [t.step for t in session.trainings] == [6]
    assert session.report().missing == ()


@pytest.mark.parametrize("name", INPUTS)
def test_a_lost_step_is_replayed_with_any_input(name: str) -> None:
    function, inputs = INPUTS[name]
    torch.manual_seed(0)
    model, args = Model(function), inputs()
    session = Session()
    session.start()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        (model(*args).square().mean() * (float("nan") if step == 2 else 1.0)).backward()
        optimizer.step()
    session.stop()
    assert [a.detail["replay"] for a in session.trainings[0].ledger.alarms] == ["exact"]


def test_parameters_of_every_kind(caplog: pytest.LogCaptureFixture) -> None:
    session = Session()
    plain = train(Odd, lambda: [data()], None)
    watched = train(Odd, lambda: [data()], session)
    assert all(same(a, b) for a, b in zip(plain, watched, strict=True))
    assert not caplog.records
    assert session.trainings[0].step == 6
