"""The floating tensors a model is called with, by the name of the argument they come in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import keystr, tree_map_with_path

from surefoot.layers import unwrap
from surefoot.remedies.subject import NotApplicable, Subject

Change = Callable[[str, torch.Tensor], torch.Tensor]
# Arguments that carry no measured values: masks are added or multiplied, labels are compared.
_OTHER = re.compile(r"mask|label|target", re.IGNORECASE)


def entrances(subject: Subject, whole: bool = False) -> list[nn.Module]:
    """The module that the program calls; where that is not known, every model.

    whole: it has to be a model, whose output is what the loss is made of. Raises NotApplicable
    where it is a part of one, and where there is no model.
    """
    if subject.call is not None:
        called = unwrap(subject.call.module)
        if whole and not any(called is model for model in subject.models):
            raise NotApplicable("the program calls the parts of its model by themselves")
        return [called]
    if not subject.models:
        raise NotApplicable("no model is known")
    return subject.models


class Arguments:
    """The arguments of a module's forward, so that an input has one name however it is passed."""

    def __init__(self, module: nn.Module) -> None:
        try:
            signature = inspect.signature(module.forward).parameters.values()
        except (TypeError, ValueError):  # a callable without a signature
            signature = ()
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._names = [p.name for p in signature if p.kind in plain]

    def changed(self, args: Any, kwargs: Any, change: Change) -> tuple[Any, Any]:
        """The arguments with each floating input replaced by `change(name, tensor)`.

        Passed over are numbers without a dimension, and arguments called mask, label or target.
        """

        def of(name: str, value: Any) -> Any:
            def one(path: Any, leaf: Any) -> Any:
                key = name + keystr(path)
                return change(key, leaf) if _measured(leaf) and not _OTHER.search(key) else leaf

            return tree_map_with_path(one, value)

        names = [*self._names, *map(str, range(len(self._names), len(args)))]
        return (
            tuple(of(name, value) for name, value in zip(names, args, strict=False)),
            {name: of(name, value) for name, value in kwargs.items()},
        )


def _measured(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dim() > 0
