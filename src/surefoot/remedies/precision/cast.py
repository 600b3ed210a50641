"""Parameters, buffers and what the optimizer keeps of them in another format, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.remedies.subject import Subject

HALF = (torch.float16, torch.bfloat16)


def recast(
    subject: Subject, modules: Iterable[nn.Module], of: Iterable[torch.dtype], to: torch.dtype
) -> int:
    """Bring what is in one of the formats `of` into another; how many parameters that were.

    Parameters stay the objects that the optimizer holds, as with `model.float()`.
    """
    formats, seen, count = tuple(of), set[int](), 0
    for module in (m for root in modules for m in root.modules()):
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in seen and parameter.dtype in formats:
                seen.add(id(parameter))
                _recast(subject, parameter, formats, to)
                count += 1
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype in formats:
                module._buffers[name] = buffer.to(to)
                subject.on_undo(_put_back(module._buffers, name, buffer))
    return count


def _recast(
    subject: Subject, parameter: nn.Parameter, formats: tuple[torch.dtype, ...], to: torch.dtype
) -> None:
    data, gradient = parameter.data, parameter.grad
    parameter.grad = None  # whose format must be the parameter's
    parameter.data = data.to(to)
    if gradient is not None:
        parameter.grad = gradient.to(to)

    def restore() -> None:
        parameter.grad = None
        parameter.data = data
        parameter.grad = gradient

    subject.on_undo(restore)
    for optimizer in subject.optimizers:
        if parameter not in optimizer.state:
            continue
        state = optimizer.state[parameter]
        for name, value in list(state.items()):
            if isinstance(value, torch.Tensor) and value.dtype in formats:
                state[name] = value.to(to)
                subject.on_undo(_put_back(state, name, value))


def _put_back(holder: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    return lambda: holder.__setitem__(name, value)


def converted(value: Any, of: Iterable[torch.dtype], to: torch.dtype) -> Any:
    """Arguments or results with their tensors of the formats `of` in another."""
    formats = tuple(of)

    def one(leaf: Any) -> Any:
        return leaf.to(to) if isinstance(leaf, torch.Tensor) and leaf.dtype in formats else leaf

    return tree_map(one, value)


def device_of(module: nn.Module) -> str:
    """The type of the device that a module's parameters, or else its buffers, are on."""
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            return tensor.device.type
    return "cpu"
