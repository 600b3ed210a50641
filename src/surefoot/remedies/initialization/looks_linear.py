"""Looks-linear initialisation: a ReLU net that is exactly linear at the start, width unchanged.

The units of each hidden layer are paired: the second half has the negated weights of the first, so
that the halves carry relu(z) and relu(-z), and the next layer, whose columns are [Q, -Q], sees
relu(z) - relu(-z) = z. Balduzzi et al. double the width for that (CReLU); here the width stays, and
half of it is the rank at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.probes.statistics import float_tensors
from surefoot.remedies.initialization.drawn import (
    Fed,
    clear_bias,
    matrix,
    orthogonal,
    outward,
    trained,
)
from surefoot.remedies.initialization.measured import calling
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment

_MIRRORING = ("relu", "leaky_relu")  # phi(z) - phi(-z) is linear in z
_SLOPE = 0.01  # of leaky ReLU, as good as always
_ERROR = {torch.float64: 1e-9, torch.float32: 1e-3}  # relative, of rounding over many layers


class LooksLinear(Treatment):
    """Mirrored weights [Q, -Q] in each chain of layers that ReLU or leaky ReLU connects.

    Hidden widths have to be even. Where a batch is known it is checked that each chain is linear,
    and refused otherwise: the reason may be max-pooling, normalisation or a skip connection inside.
    Dropout is left out of the check.
    """

    name = "init.looks_linear"
    why = "makes the net exactly linear at the start, so that its gradients are not shattered"
    guarantee = (
        "at the start f(a x + b y) = a f(x) + b f(y) from the input of each chain of layers "
        "joined by ReLU or leaky ReLU to its output, and the gradient is the same at every input"
    )
    formula = (
        "W_first = [Q; -Q], W_hidden = [[Q, -Q], [-Q, Q]], W_last = [Q, -Q], Q orthogonal, b = 0: "
        "W [relu(z); relu(-z)] = Q z"
    )
    source = "Balduzzi et al. 2017, section 3.2 (there with CReLU, which doubles the width)"
    limits = (
        "behind other activations than ReLU and leaky ReLU",
        "through max-pooling or normalisation, which are not linear, and beside skip connections, "
        "which do not need it",
        "after training has begun: it is a start, not a constraint",
        "half of the units of a hidden layer are the other half's mirror images until training "
        "has told them apart, so that its rank is half its width",
    )
    cost = "one QR decomposition a layer and four calls of the model, once"

    conflicts: ClassVar[Mapping[str, str]] = {
        "normalization": "it is not linear, so that the net no longer is at the start",
        "residual": "a net with skip connections has no need of it",
    }

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        layers = layers_with(subject, None)
        named = {id(m) for _, m in subject.weighted(self.target)}
        aimed = trained([fed for fed in layers if id(fed[1]) in named], self.target)
        chains = _chains(layers, {id(module) for _, module, _ in aimed})
        if not chains:
            raise NotApplicable("no layer is fed by the ReLU of another one")
        for chain in chains:
            _check(chain)
        with subject.drawing(), torch.no_grad():
            for chain in chains:
                for place, (_, module, function) in enumerate(chain):
                    weight = subject.keep(matrix(module))
                    _draw(weight, module, function, place > 0, place < len(chain) - 1)
                    clear_bias(subject, module)
        if subject.call is not None:
            for chain in chains:
                _prove(subject, chain[0][1], chain[-1][1])

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "for k, layer in enumerate(layers):  # linear layers with ReLU between them\n"
            "    first, last = k == 0, k == len(layers) - 1\n"
            "    rows, columns = layer.weight.shape\n"
            "    q = torch.empty(rows if last else rows // 2, columns if first else columns // 2)\n"
            "    nn.init.orthogonal_(q)\n"
            "    q = q if first else torch.cat([q, -q], 1)\n"
            "    layer.weight.data = q if last else torch.cat([q, -q])\n"
            "    nn.init.zeros_(layer.bias)"
        )


def _chains(layers: list[Fed], aimed: set[int]) -> list[list[Fed]]:
    """Runs of two layers or more, each fed by the ReLU of the one before; others come between."""
    chains: list[list[Fed]] = [[]]
    for fed in layers:
        if id(fed[1]) not in aimed:
            chains.append([])
        elif fed[2] in _MIRRORING:
            chains[-1].append(fed)
        else:
            chains.append([fed])
    return [chain for chain in chains if len(chain) > 1]


def _check(chain: list[Fed]) -> None:
    for place, (name, module, _) in enumerate(chain):
        view = outward(module, matrix(module))
        if isinstance(module, nn.Bilinear):
            raise NotApplicable(f"{name} is bilinear")
        if int(getattr(module, "groups", 1)) != 1:
            raise NotApplicable(f"{name} is a convolution in groups, which mirrored units cross")
        if place < len(chain) - 1 and view.shape[0] % 2:
            raise NotApplicable(f"the width of {name}, {view.shape[0]}, is not even")
        if place and view.shape[1] % 2:
            raise NotApplicable(f"the number of inputs of {name}, {view.shape[1]}, is not even")


def _draw(
    weight: torch.Tensor, module: nn.Module, function: str | None, fed: bool, hidden: bool
) -> None:
    """Mirror columns where a mirrored layer feeds this one, and rows where it feeds another."""
    view = outward(module, weight)
    rows, columns = view.shape[0] // (1 + hidden), view.shape[1] // (1 + fed)
    q = orthogonal(rows, columns * view[0, 0].numel()).reshape(rows, columns, *view.shape[2:])
    if fed:
        q = q / (1 + _SLOPE) if function == "leaky_relu" else q
        q = torch.cat([q, -q], 1)
    view.copy_(torch.cat([q, -q]) if hidden else q)


def _prove(subject: Subject, first: nn.Module, last: nn.Module) -> None:
    """Raise NotApplicable where the map from the one's input to the other's output isn't linear."""
    x = _through(subject, first, last, lambda x: x)
    y = _through(subject, first, last, _other)
    both = _through(subject, first, last, lambda x: x + 2 * _other(x))
    scale = x.abs().max() + y.abs().max()
    limit = _ERROR.get(x.dtype, 0.1)
    if not bool((both - x - 2 * y).abs().max() <= limit * scale) or not bool(scale > 0):
        raise NotApplicable(
            "something between the layers is not linear (max-pooling, normalisation), or they are "
            "no plain chain"
        )


def _other(x: torch.Tensor) -> torch.Tensor:
    """A random batch of the same scale."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return z.to(x) * x.detach().square().mean().sqrt()


def _through(
    subject: Subject, first: nn.Module, last: nn.Module, change: Callable[[torch.Tensor], Any]
) -> torch.Tensor:
    """What the last layer puts out when the input of the first is changed, without dropout."""
    outputs: list[torch.Tensor] = []
    inputs: list[bool] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        outputs.extend(y.detach().clone() for y in float_tensors(output))

    def swap(module: nn.Module, args: Any) -> Any:
        inputs.append(True)
        return (change(args[0]), *args[1:])

    modules = {id(m): m for root in subject.models for m in root.modules()}
    modes = {key: m.training for key, m in modules.items()}
    with calling(subject, {id(last): note}) as again:
        handle = first.register_forward_pre_hook(swap)
        try:
            for module in modules.values():
                if kind_of(module) is not Kind.NORMALIZATION:
                    module.training = False
            again()
        finally:
            handle.remove()
            for key, module in modules.items():
                module.training = modes[key]
    if len(outputs) != 1 or len(inputs) != 1:
        raise NotApplicable("a layer is called more than once, which mirrored weights do not allow")
    return outputs[0]
