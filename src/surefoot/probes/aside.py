"""A model set aside: its forward can be made again, and nothing of the run notices.

Parameters are replaced by aliases and buffers by copies, hooks of the script's are muted, and
afterwards all of it, what the modules keep in their attributes and every source of random numbers
are as they were.
"""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surefoot.compiler import eagerly
from surefoot.probes.attributes import Holdings, Refused
from surefoot.probes.random_state import accelerators, undisturbed

_HOOK_TABLES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_COPIED = 64 << 20  # bytes of parameters, up to which a forward that writes on them finds copies
_LARGEST = 256 << 20  # bytes of tensors that are neither parameters nor buffers


@contextlib.contextmanager
def set_aside(modules: list[nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Swap parameters for aliases and buffers for copies; restore those and all state after.

    Yields id(parameter) -> alias. An alias has none of the parameter's hooks. It shares the memory
    of a parameter that is too large to copy, unless its module is known to write on it.

    Raises Refused where the modules keep what cannot be put back.
    """
    everything, holdings = _with_hidden(modules)
    _refuse_what_moves_on(everything)
    stand_ins = _StandIns(everything)
    with undisturbed(accelerators(stand_ins.owned)):
        try:
            holdings.swap(stand_ins.of)
            for module in everything:
                _mute_hooks(module)
            quiet = contextlib.redirect_stdout(io.StringIO())
            with quiet, eagerly(), torch.autograd.set_detect_anomaly(False):
                yield stand_ins.aliases
        finally:
            holdings.put_back()


def _with_hidden(modules: list[nn.Module]) -> tuple[list[nn.Module], Holdings]:
    """The modules, those that they keep without torch's knowledge (in a list), and the holdings
    of all of them."""
    found = {id(m): m for m in modules}
    while True:
        holdings = Holdings([vars(m) for m in found.values()])
        hidden = [part for m in holdings.modules for part in m.modules() if id(part) not in found]
        if not hidden:
            return list(found.values()), holdings
        found |= {id(m): m for m in hidden}


def _refuse_what_moves_on(modules: list[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            raise Refused("the model holds a scripted module")
        for name, value in vars(module).items():
            inside = value if isinstance(value, (list, tuple)) else (value,)
            if any(isinstance(x, Iterator) for x in inside):
                raise Refused(
                    f"the model keeps an iterator or a file ({name}), which would move on"
                )


class _StandIns:
    """What takes the place of each tensor that the modules hold.

    aliases: id(parameter) -> its stand-in; owned: all parameters and buffers.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.aliases: dict[int, torch.Tensor] = {}
        parameters = {id(p): p for m in modules for p in m.parameters(False)}
        buffers = {id(b): b for m in modules for b in m.buffers(False)}
        self.owned = [*parameters.values(), *buffers.values()]
        self._owned = parameters.keys() | buffers.keys()
        # An embedding with max_norm writes on its weight in forward.
        writers = [m for m in modules if getattr(m, "max_norm", None) is not None]
        self._written = {id(p) for m in writers for p in m.parameters(False)}
        self._copying = sum(map(_bytes, parameters.values())) <= _COPIED
        self._copies: dict[int, torch.Tensor] = {}
        self._size = 0

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a parameter, a buffer or any other tensor; the same one each time."""
        key = id(tensor)
        if key in self.aliases:
            return self.aliases[key]
        if key in self._copies:
            return self._copies[key]
        if is_lazy(tensor):
            return tensor
        if isinstance(tensor, nn.Parameter):
            made = self._alias(tensor)
        else:
            made = tensor.detach().clone().requires_grad_(tensor.requires_grad)
            self._count(tensor)
        trained = made.requires_grad and isinstance(tensor, nn.Parameter)
        (self.aliases if trained else self._copies)[key] = made
        return made

    def _alias(self, parameter: nn.Parameter) -> nn.Parameter:
        copied = self._copying or id(parameter) in self._written
        # Not detach(), which shares the version: a write would spoil a graph the script has kept.
        value = parameter.data.clone() if copied else parameter.data
        alias = nn.Parameter(value, parameter.requires_grad)
        vars(alias).update(vars(parameter))
        return alias

    def _count(self, tensor: torch.Tensor) -> None:
        if id(tensor) in self._owned:
            return
        self._size += _bytes(tensor)
        if self._size > _LARGEST:
            raise Refused(
                "the model keeps too many tensors that are neither parameters nor buffers"
            )


def _bytes(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_meta else tensor.numel() * tensor.element_size()


def _mute_hooks(module: nn.Module) -> None:
    """Leave only the hooks that torch itself needs: a user's hook counts how often it is called."""
    for name in _HOOK_TABLES:
        table = module.__dict__[name]
        needed = {k: h for k, h in table.items() if _of_torch(h)}
        module.__dict__[name] = OrderedDict(needed)


def _of_torch(hook: Any) -> bool:
    maker = getattr(hook, "__module__", None) or type(hook).__module__
    return maker.partition(".")[0] == "torch" or type(hook).__module__.startswith("torch.")
