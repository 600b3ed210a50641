"""The affine layers of a model in the order in which a call reaches them, and what feeds each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surefoot.layers import kind_of
from surefoot.remedies.subject import NotApplicable, Subject

# Autograd's name of an elementwise function -> ours, which torch.nn.functional has too.
FUNCTIONS = {
    "ReluBackward0": "relu",
    "TanhBackward0": "tanh",
    "SigmoidBackward0": "sigmoid",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "EluBackward0": "elu",
    "LeakyReluBackward0": "leaky_relu",
    "SoftplusBackward0": "softplus",
    "MishBackward0": "mish",
    "HardswishBackward0": "hardswish",
    "HardtanhBackward0": "hardtanh",
    "SoftsignBackward0": "softsign",
    "ErfBackward0": "erf",
    "SinBackward0": "sin",
}
# Further names of the same.
FUNCTIONS |= {"HardtanhBackward1": "hardtanh", "ReluBackward1": "relu", "EluBackward1": "elu"}
_AFFINE = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "NativeLayerNorm")
_AFFINE += ("NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "FusedRmsNorm", "Embedding")
_NEAR = 12  # nodes looked at behind an input


@dataclass(frozen=True, slots=True)
class Visit:
    """One affine layer at its first call.

    fed_by: the elementwise function its input comes from, None for none or an unknown one; the
    first layer after normalisation or the data has None. shape: of its input; out: of its output.
    """

    name: str
    module: nn.Module
    fed_by: str | None
    shape: tuple[int, ...]
    out: tuple[int, ...]


def trace(subject: Subject, target: str | None = None) -> list[Visit]:
    """The affine layers that a target names, in execution order; a layer called twice counts once.

    Raises NotApplicable without a call to trace, or where the model refuses to be called again.

    >>> from surefoot.remedies.subject import FirstCall
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> subject = Subject([net], call=FirstCall(net, (torch.ones(2, 4),)))
    >>> [(v.name, v.fed_by) for v in trace(subject)]
    [('0', None), ('2', 'tanh')]
    """
    names = {id(m): name for name, m in subject.weighted(target)}
    visits: dict[int, Visit] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if id(module) in visits or id(module) not in names or not args:
            return
        x, shape = args[0], getattr(output, "shape", ())
        fed_by = function_behind(x)
        visits[id(module)] = Visit(names[id(module)], module, fed_by, tuple(x.shape), tuple(shape))

    # Hooks of ours have to be there inside, where those of the script are muted.
    with subject.trying() as again, torch.enable_grad():
        handles = [
            m.register_forward_hook(note)
            for root in subject.models
            for m in root.modules()
            if id(m) in names and kind_of(m).weighted
        ]
        try:
            again()
        except Exception as error:
            raise NotApplicable(f"the model refused to be called again ({error})") from error
        finally:
            for handle in handles:
                handle.remove()
    return list(visits.values())


def function_behind(x: Any) -> str | None:
    """The nearest elementwise function behind a tensor, through views, dropout and pooling."""
    node = getattr(x, "grad_fn", None)
    for _ in range(_NEAR):
        if node is None:
            return None
        name = node.name().rpartition("::")[2]
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        if name.startswith(_AFFINE):
            return None
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return None


def layers_with(subject: Subject, target: str | None) -> list[tuple[str, nn.Module, str | None]]:
    """(name, module, the function that feeds it): traced where there is a call, else by order.

    Without a call, an activation module that comes between two layers in `named_modules()` order is
    taken for what feeds the later one.
    """
    if subject.call is not None:
        return [(v.name, v.module, v.fed_by) for v in trace(subject, target)]
    found: list[tuple[str, nn.Module, str | None]] = []
    wanted = {id(m) for _, m in subject.weighted(target)}
    last: str | None = None
    for name, module in subject.modules():
        if id(module) in wanted:
            found.append((name, module, last))
        if kind_of(module).weighted:
            last = None
        last = NAMES.get(type(module).__name__, last)
    return found


NAMES = {
    "ReLU": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "GELU": "gelu",
    "SiLU": "silu",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "SELU": "elu",
    "Softplus": "softplus",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh",
    "Softsign": "softsign",
}
