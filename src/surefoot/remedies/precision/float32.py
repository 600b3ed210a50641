"""A layer, or all of the model, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from surefoot.remedies.precision.cast import HALF, converted, device_of, recast
from surefoot.remedies.precision.widening import Widening
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Float32(Treatment):
    """Parameters, inputs and operations of the target in float32; without one, of the model."""

    name = "dtype.float32"
    why = "float32 holds numbers up to 3e38, float16 only to 65504"
    guarantee = "no operation of the target computes in float16 or bfloat16, autocast or not"
    formula = "largest finite numbers: 65504 in float16, 3.4e38 in bfloat16 and float32"
    source = "Micikevicius et al. 2018, section 3.3; torch.amp, operations that autocast to float32"
    limits = (
        "where the numbers grow beyond float32 as well: that is an explosion",
        "where a layer behind it is in float16: its result has to go back into it",
    )
    cost = "twice the memory and the time of the target, or more"
    conflicts: ClassVar[Mapping[str, Any]] = {
        "dtype.bfloat16": "both say in what format the model computes",
        "amp.master_weights": "both say in what format the model computes",
    }

    def apply(self, subject: Subject) -> None:
        """Convert in place, and shut autocast out.

        Raises NotApplicable for an unknown target, and where all is in a wider format already.
        """
        modules = _highest(subject, self.target)
        if not modules:
            raise NotApplicable(
                f"no module is called {self.target!r}" if self.target else "no model is known"
            )
        if subject.call is not None and not _half_anywhere(subject):
            raise NotApplicable("nothing in the model computes in a half format")
        for module in modules:
            _shut_out(subject, module, back=self.target not in (None, "", "*"))
        recast(subject, modules, HALF, torch.float32)

    def code(self) -> str:
        """Itself as code to paste."""
        return "with torch.autocast(device_type, enabled=False): y = f(x.float())"


class _Halves(TorchFunctionMode):
    """Whether anything that torch's functions gave was in a half format."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen = self.seen or any(map(_half, tree_leaves(result)))
        return result


def _half_anywhere(subject: Subject) -> bool:
    if any(_half(t) for m in subject.models for t in (*m.parameters(), *m.buffers())):
        return True
    with subject.trying() as again, _Halves() as halves:
        again()
    return halves.seen


def _highest(subject: Subject, target: str | None) -> list[nn.Module]:
    """The modules that a target names, without those inside of another one."""
    if target in (None, "", "*"):
        return list(subject.models)
    highest: list[tuple[str, nn.Module]] = []
    for name, module in subject.modules(target):
        if not any(name.startswith(f"{above}.") for above, _ in highest):
            highest.append((name, module))
    return [module for _, module in highest]


def _shut_out(subject: Subject, module: nn.Module, back: bool) -> None:
    """back: what comes out has the format of what went in, unless autocast sees to that."""

    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        device = device_of(module)
        casts = torch.is_autocast_enabled(device)
        came = next((t.dtype for t in tree_leaves((args, kwargs)) if _half(t)), None)
        args, kwargs = converted((args, kwargs), HALF, torch.float32)
        with torch.autocast(device, enabled=False), Widening():
            output = inner(*args, **kwargs)
        if back and came is not None and not casts:
            output = converted(output, (torch.float32,), came)
        return output

    subject.wrap(module, around)


def _half(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype in HALF
