"""Optimizers that torch does not have, and those of torch that need more than parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from corpus.recipes import Optimizer


def of(name: str, **options: Any) -> Optimizer:
    """One of torch.optim by its name."""
    return lambda parameters: getattr(torch.optim, name)(parameters, **options)


class Lion(torch.optim.Optimizer):
    """The sign of a blend of gradient and momentum (Chen et al. 2023)."""

    def __init__(
        self, parameters: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.99)
    ):
        super().__init__(parameters, dict(lr=lr, betas=betas))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            one, two = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.add_((one * m + (1 - one) * p.grad).sign(), alpha=-group["lr"])
                m.lerp_(p.grad, 1 - two)


class Centred(torch.optim.SGD):
    """SGD on gradients from which each output's mean is taken first."""

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.dim() > 1:
                    p.grad.sub_(p.grad.mean(1, keepdim=True))
        super().step()


class Lookahead(torch.optim.Adam):
    """Adam whose weights are drawn half-way back every five steps."""

    def __init__(self, parameters: Iterable[Any], lr: float):
        super().__init__(parameters, lr=lr)
        self.count = 0
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        super().step()
        self.count += 1
        if self.count % 5:
            return
        with torch.no_grad():
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    s.lerp_(p, 0.5)
                    p.copy_(s)


def muon(lr: float) -> Optimizer:
    """torch's Muon; it takes matrices only."""
    return lambda matrices: torch.optim.Muon(matrices, lr=lr)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with two dimensions; the others stay as they are."""
    return [p for p in model.parameters() if p.dim() == 2]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What is not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def by_layer(lr: float, decay: float) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """A learning rate for each child, `decay` times smaller for each child further down."""

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        children = [c for c in model.modules() if list(c.parameters(recurse=False))]
        return [
            {"params": list(c.parameters(recurse=False)), "lr": lr * decay ** (len(children) - i)}
            for i, c in enumerate(children)
        ]

    return groups
