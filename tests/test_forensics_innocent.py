"""Trying steps again leaves no trace: with it and without, everything is the same bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.signals.forensics import Inquiry
from surefoot.watching import forensics as forensics_module
from surefoot.watching.forensics import Rise
from surefoot.watching.session import Session
from unchanged_fixture import Attention, Moody, Recurrent, Tied

STEPS = 30
TRIED = (0, 3, 9, 20, 27)  # the steps that are tried again


class Renormed(nn.Module):
    """Its forward writes on a parameter: rows of the embedding that have grown are cut back."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8, max_norm=0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table((x[:, 0] * 8).long().clamp(0, 15)) * x)


def normed() -> nn.Module:
    layers = (nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3))
    return nn.Sequential(*layers, nn.utils.spectral_norm(nn.Linear(16, 4)))


def weight_normed() -> nn.Module:
    inner = nn.utils.parametrizations.weight_norm(nn.Linear(8, 16))
    return nn.Sequential(inner, nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))


def renormed_and_frozen() -> nn.Module:
    model = Renormed()
    return model.table.requires_grad_(False) and model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    return model[0].requires_grad_(False) and model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm, dropout, in-place, spectral norm": (normed, (16, 8)),
    "weight norm, layer norm": (weight_normed, (16, 8)),
    "recurrent": (Recurrent, (16, 6, 4)),
    "attention": (Attention, (16, 5, 8)),
    "tied": (Tied, (16, 8)),
    "three generators, attributes": (Moody, (16, 8)),
    "renormed embedding": (Renormed, (16, 8)),
    "renormed embedding, frozen": (renormed_and_frozen, (16, 8)),
    "frozen": (frozen, (16, 8)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True),
}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are suspect when the test wants it, as often and as long as it takes."""
    counts: dict[int, int] = {}

    def see(self: Rise, loss: float | None) -> bool:
        counts[id(self)] = counts.get(id(self), -1) + 1
        return counts[id(self)] in TRIED

    monkeypatch.setattr(Rise, "see", see)
    monkeypatch.setattr(forensics_module, "TIMES", dict.fromkeys(forensics_module.TIMES, 100))
    monkeypatch.setattr(forensics_module, "_APART", 1)
    monkeypatch.setattr(forensics_module, "ALLOWANCE", 1e9)


def exact(x: Any) -> Any:
    """A form that compares bit for bit."""
    if isinstance(x, torch.Tensor):
        return str(x.dtype), x.detach().numpy().tobytes()
    if isinstance(x, dict):
        return {str(k): exact(v) for k, v in x.items()}
    return [exact(v) for v in x] if isinstance(x, (list, tuple)) else x


def train(
    make: Callable[[], nn.Module], shape: tuple[int, ...], optimizer: Any, **options: Any
) -> tuple[dict[str, Any], tuple[Inquiry, ...]]:
    """(everything that a training leaves and shows at every step, what was tried)."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = make()
    stepper = optimizer([p for p in model.parameters() if p.requires_grad])
    calls: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: calls.update({name: calls.get(name, 0) + 1})

    for name, module in model.named_modules():
        module.register_forward_pre_hook(count(f"{name} before"))
        module.register_forward_hook(count(f"{name} after"))
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.register_hook(count(f"{name} gradient"))
    session = Session(adopt=False, **options)
    session.start()
    training = session.watch(model, stepper)
    seen = []
    for step in range(STEPS):
        x = torch.randn(shape) * (1000 if step == 20 else 1)
        stepper.zero_grad(set_to_none=step % 2 == 0)
        loss = F.cross_entropy(model(x), torch.randint(4, (16,)))
        loss.backward()
        stepper.step()
        state = model.state_dict(), [p.grad for p in model.parameters()], stepper.state_dict()
        generators = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
        seen.append(repr((loss.item(), exact(state), exact(generators))))
    session.stop()
    versions = [p._version for p in model.parameters()]
    attributes = {n: sorted(m.__dict__) for n, m in model.named_modules()}
    assert session._error is None
    left = {"steps": seen, "hooks": calls, "versions": versions, "attributes": attributes}
    return left, training.case().inquiries


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_trials_leave_no_trace(name: str, optimizer: str) -> None:
    make, shape = MODELS[name]
    tried, inquiries = train(make, shape, OPTIMIZERS[optimizer])
    alone, none = train(make, shape, OPTIMIZERS[optimizer], forensics=False)
    assert none == ()
    assert len(inquiries) >= 4
    assert sum(i.passes for i in inquiries) >= 4
    for key, value in alone.items():
        assert tried[key] == value, key
    # And not because nothing was tried (Moody draws numbers that cannot be drawn again).
    if name != "three generators, attributes":
        assert any(i.loss is not None and i.lengths for i in inquiries), inquiries


def test_a_trace_would_be_seen() -> None:
    """The comparison itself can fail: by the last bit of a weight, by one random number."""

    def nudged() -> nn.Module:
        model = frozen()
        with torch.no_grad():
            bias = model[2].bias
            bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
        return model

    def drawing() -> nn.Module:
        return torch.rand(()) is not None and frozen()

    sgd = OPTIMIZERS["sgd momentum"]
    plain = train(frozen, (16, 8), sgd, forensics=False)[0]["steps"]
    assert train(frozen, (16, 8), sgd, forensics=False)[0]["steps"] == plain
    assert train(nudged, (16, 8), sgd, forensics=False)[0]["steps"] != plain
    assert train(drawing, (16, 8), sgd, forensics=False)[0]["steps"] != plain
