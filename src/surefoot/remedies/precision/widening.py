"""Casts to half formats inside a forward pass, taken for casts to float32."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surefoot.remedies.precision.cast import HALF

_CASTS = {torch.Tensor.half, torch.Tensor.bfloat16}
_TO = {torch.Tensor.to, torch.Tensor.type}


class Widening(TorchFunctionMode):
    """While it is entered, `x.half()`, `x.bfloat16()` and `x.to(torch.float16)` give float32.

    >>> with Widening():
    ...     torch.ones(1).half().dtype, torch.ones(1).to(torch.bfloat16).dtype
    (torch.float32, torch.float32)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Change what is asked for where it is a half format."""
        kwargs = kwargs or {}
        if func in _CASTS:
            return args[0].float()
        if func in _TO:
            args = (args[0], *(_wide(a) for a in args[1:]))
            kwargs = {name: _wide(a) for name, a in kwargs.items()}
        return func(*args, **kwargs)


def _wide(asked: Any) -> Any:
    return torch.float32 if isinstance(asked, torch.dtype) and asked in HALF else asked
