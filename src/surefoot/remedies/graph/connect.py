"""Cuts of the graph inside a model, joined again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from surefoot.probes.attributes import Refused
from surefoot.remedies.interception import modules_below, wrap_apart
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

_DATA = vars(torch._C.TensorBase)["data"].__get__  # what a function mode sees of x.data


class Connect(Treatment):
    """Detach, .data and no_grad have no effect in the forward, and no parameter is frozen."""

    name = "graph.connect"
    why = "what is detached in the forward, or frozen by mistake, has no gradient"
    guarantee = (
        "in the forward, in training, detach(), .data and no_grad() leave the graph whole, and "
        "every parameter that the optimizer holds asks for its gradient"
    )
    source = "PyTorch's documentation, autograd mechanics"
    limits = (
        "where the cut is meant: targets of Q-learning, momentum encoders, truncated sequences, "
        "straight-through estimators",
        "where the forward writes on parameters or buffers under no_grad",
        "for cuts by numpy(), item(), tolist(), torch.tensor() and inference_mode()",
        "for cuts outside of the forward of a module",
    )

    def apply(self, subject: Subject) -> None:
        """Join what is cut in the forward of what the target names, and thaw the parameters."""
        modules = modules_below(subject, self.target)
        thawed = _thaw(subject, modules)
        cuts = _cuts(subject, modules) if subject.call is not None else None
        if cuts == 0 and not thawed:
            raise NotApplicable("nothing in its forward cuts the graph")
        if cuts == 0:
            return
        for module in modules:
            wrap_apart(subject, module, _joined)
        if subject.call is not None:
            _check(subject)

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = layer(x)   # in place of layer(x.detach()), layer(x.data) or under no_grad()"


class Joining(TorchFunctionMode):
    """Cuts have no effect while it is entered."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_cut(func, args):
            return args[0] if isinstance(args[0], torch.Tensor) else None
        return func(*args, **(kwargs or {}))


class _Counting(TorchFunctionMode):
    """Counts the cuts in some modules that cut something, and lets them be."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts = self.inside = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cut = self.inside > 0 and _is_cut(func, args)
        out = func(*args, **(kwargs or {}))
        if self.inside and isinstance(out, torch.Tensor):
            given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
            unseen = not torch.is_grad_enabled() and any(x.requires_grad for x in given)
            self.cuts += cut or unseen
        return out


def _is_cut(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call takes a tensor that has a graph out of it, or ends the recording of one."""
    name = getattr(function, "__name__", "")
    if name == "_set_grad_enabled":
        return args[0] is False and torch.is_grad_enabled()
    if name not in ("detach", "detach_") and function != _DATA:
        return False
    return torch.is_grad_enabled() and isinstance(args[0], torch.Tensor) and args[0].requires_grad


def _joined(inner: Any, *args: Any, **kwargs: Any) -> Any:
    module = getattr(inner, "__self__", None)
    if not torch.is_grad_enabled() or not getattr(module, "training", True):
        return inner(*args, **kwargs)
    with Joining():
        return inner(*args, **kwargs)


def _thaw(subject: Subject, modules: list[nn.Module]) -> bool:
    """Have every parameter that an optimizer holds ask for its gradient."""
    held = {id(p) for o in subject.optimizers for g in o.param_groups for p in g["params"]}
    frozen = {id(p): p for m in modules for p in m.parameters() if not p.requires_grad}
    frozen = {key: p for key, p in frozen.items() if key in held and p.is_floating_point()}
    for parameter in frozen.values():
        parameter.requires_grad_(True)
        subject.on_undo(lambda p=parameter: p.requires_grad_(False))
    return bool(frozen)


def _cuts(subject: Subject, modules: list[nn.Module]) -> int:
    """How often the first call, made again, cuts the graph inside of the modules."""
    counting = _Counting()

    def enter(module: nn.Module, args: Any) -> None:
        counting.inside += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        counting.inside -= 1

    _again(subject, modules, counting, enter, leave)
    return counting.cuts


def _again(subject: Subject, modules: list[nn.Module], mode: Any, enter: Any, leave: Any) -> None:
    try:
        with subject.trying() as again, torch.enable_grad():
            handles = [m.register_forward_pre_hook(enter) for m in modules]
            handles += [m.register_forward_hook(leave) for m in modules]
            try:
                with mode:
                    again()
            finally:
                for handle in handles:
                    handle.remove()
    except (NotApplicable, Refused) as error:
        raise NotApplicable(str(error)) from error
    except Exception as error:
        raise NotApplicable(f"the model refused to be called again ({error})") from error


def _check(subject: Subject) -> None:
    """Raise NotApplicable where the forward cannot do without its cuts."""
    call = subject.call
    assert call is not None
    try:
        with subject.trying() as again, torch.enable_grad():
            again()
            buffers = [b for root in subject.models for b in root.buffers()]
            kept = any(b.requires_grad for b in buffers)
    except Exception as error:
        raise NotApplicable(f"its forward needs the cuts it makes ({error})") from error
    if kept:
        raise NotApplicable("its forward keeps what it has cut off, in a buffer")
