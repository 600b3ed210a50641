"""What the entries measure on networks of their own, by autograd alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from surefoot.lab.figures import Line
from surefoot.lab.stack import Kind, plain


def gradient_norms(model: nn.Module, x: torch.Tensor) -> list[float]:
    """Norm of the gradient at the output of each linear layer, first to last, from a random
    cotangent at the model's output.

    >>> gradient_norms(nn.Sequential(nn.Linear(2, 1)), torch.zeros(3, 2))[0] > 0
    True
    """
    seen: list[torch.Tensor] = []
    hooks = [
        m.register_forward_hook(lambda module, args, out: seen.append(out))
        for m in model.modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        y = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(y, seen, torch.randn_like(y))
    return [float(g.double().norm()) for g in gradients]


def growth(norms: Sequence[float]) -> float:
    """Factor of the squared norm a layer, towards the input, over all but the last (the head).

    >>> growth([4.0, 2.0, 1.0, 9.0])
    4.0
    """
    hidden = norms[:-1]
    return (hidden[0] / hidden[-1]) ** (2 / (len(hidden) - 1))


def wide_growth(
    activation: Kind,
    weights: float,
    biases: float = 0.0,
    norm: Callable[[int], nn.Module] | None = None,
    *,
    batch: int = 64,
    variance: float = 1.0,
    networks: int = 4,
) -> float:
    """`growth` of 30 layers of 512 units, mean of some networks.

    The inputs are what such a layer puts out, of a given variance before its activation, so that
    the first layer is like all others.
    """
    found = []
    for _ in range(networks):
        model = plain(activation, 30, 512, weights, biases, norm)
        x = activation()(variance**0.5 * torch.randn(batch, 512))
        found.append(growth(gradient_norms(model, x)))
    return sum(found) / len(found)


def sharpness(loss: torch.Tensor, parameters: Sequence[torch.Tensor], turns: int = 40) -> float:
    """The eigenvalue of the loss's Hessian that is largest in size, by so many power iterations.

    The graph of the loss is kept.

    >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> round(sharpness((torch.tensor([3.0, 1.0]) * w.square()).sum() / 2, [w]), 4)
    3.0
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])
    v, value = torch.randn_like(flat), 0.0
    for _ in range(turns):
        v = v / v.norm()
        products = torch.autograd.grad(flat, parameters, v, retain_graph=True)
        turned = torch.cat([p.flatten() for p in products])
        value, v = float(v @ turned), turned
    return value


def profile(name: str, norms: Sequence[float]) -> Line:
    """The norms over the layers, relative to that at the last hidden one."""
    hidden = norms[:-1]
    return Line(name, range(1, len(hidden) + 1), [n / hidden[-1] for n in hidden])


def alike(hidden: torch.Tensor) -> float:
    """Mean cosine of different rows of [samples, units]: 1 where all inputs look the same."""
    rows = nn.functional.normalize(hidden.flatten(1), dim=1)
    count = len(rows)
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))
