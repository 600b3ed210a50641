"""Arguments of logarithms, roots, quotients and powers kept where these have a derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch.overrides import TorchFunctionMode

from surefoot.remedies.interception import modules_below, wrap_apart
from surefoot.remedies.operation.domains import defined
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Mask(Treatment):
    """What lies outside of an operation's domain is moved to its edge, and has no gradient."""

    name = "operation.mask"
    why = "outside of its domain an operation gives NaN or infinity, and so does its derivative"
    guarantee = (
        "arguments that lie inside of the domain by eps are left bit for bit as they are; the "
        "others are moved there, and their gradient is zero, so that finite arguments give finite "
        "values and derivatives"
    )
    formula = (
        "log(max(x, eps)), a / (sign(b) max(|b|, eps)), asin(min(max(x, eps - 1), 1 - eps)), "
        "exp(min(x, ln(M) / 2)), M the largest number"
    )
    source = "the derivative of each operation; where() and NaN: PyTorch's autograd notes"
    limits = (
        "against NaN or infinity that comes in with the data, or by overflow",
        "where the model is wrong about what it takes a logarithm of: the values are then the "
        "edge's, and do not learn",
        "in functions that torch computes as one (softmax, norms, losses), which mind their own",
        "with everywhere=True: in threads other than the one that applied it",
    )
    cost = "one comparison for each operation of this kind"
    defaults: ClassVar = {"eps": 1e-6, "everywhere": False}

    def apply(self, subject: Subject) -> None:
        """Mind the operations in the forward of what the target names, or in all of the script."""
        eps = float(self.parameters["eps"])
        if not 0 < eps < 1:
            raise ValueError(f"expected 0 < eps < 1, got {eps!r}")
        if self.parameters["everywhere"]:
            mode = Masking(eps, _idle(subject))
            put_below(mode)
            subject.on_undo(partial(take_out, mode))
            return
        modules = modules_below(subject, self.target)
        if not modules:
            raise NotApplicable(f"no module is called {self.target!r}")
        for module in modules:
            wrap_apart(subject, module, partial(_masked, eps))

    def code(self) -> str:
        """Itself as code to paste."""
        eps = self.parameters["eps"]
        return (
            f"torch.log(x.clamp(min={eps:g}))   # torch.sqrt alike; "
            f"a / torch.where(b.abs() < {eps:g}, {eps:g}, b)"
        )


class Masking(TorchFunctionMode):
    """Minds the operations while it is entered.

    idle: says when nothing is touched.
    """

    def __init__(self, eps: float, idle: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._eps, self._idle = eps, idle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._idle():
            return func(*args, **(kwargs or {}))
        return defined(func, args, kwargs or {}, self._eps)


def _idle(subject: Subject) -> Callable[[], bool]:
    """Whether an optimizer is at work, whose own roots and quotients are its own affair.

    Its steps record no gradient, and a closure that they call does. Where no optimizer is known,
    nothing is touched that records none.
    """
    if not subject.optimizers:
        return lambda: not torch.is_grad_enabled()
    stepping = [False]
    subject.before_step(lambda _: stepping.__setitem__(0, True))
    subject.after_step(lambda _: stepping.__setitem__(0, False))
    return lambda: stepping[0] and not torch.is_grad_enabled()


def _masked(eps: float, inner: Any, *args: Any, **kwargs: Any) -> Any:
    with Masking(eps):
        return inner(*args, **kwargs)


def put_below(mode: TorchFunctionMode) -> None:
    """Put a mode below all those that are entered, so that each of them finds itself on top.

    The default device, which is a mode as well, is the exception: torch expects it at the bottom.
    """
    default = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    above = _all_out()
    if above and above[0] is default:
        _push(above.pop(0))
    for entered in (mode, *above):
        _push(entered)


def take_out(mode: TorchFunctionMode) -> None:
    """Take a mode from wherever it is among those that are entered."""
    for entered in _all_out():
        if entered is not mode:
            _push(entered)


def _all_out() -> list[Any]:
    """All modes that are entered, taken out, the lowest first."""
    found = [torch.overrides._pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    return found[::-1]


def _push(mode: Any) -> None:
    torch.overrides._push_mode(mode)
