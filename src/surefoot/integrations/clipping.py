"""The norm of a gradient before it is clipped, as `torch.nn.utils.clip_grad_norm_` finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from surefoot.attach.wrapping import wrap

NAME = "surefoot/gradient_norm_before_clipping"


class Unclipped:
    """Listens to every call of `torch.nn.utils.clip_grad_norm_` from `start` to `stop`.

    What a watch records is the gradient that the optimizer uses, which is the clipped one. Its norm
    before that is what clipping has to find out anyway, so that nothing is computed twice.

    >>> unclipped, weight = Unclipped(), torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> unclipped.start()
    >>> _ = torch.nn.utils.clip_grad_norm_([weight], 1.0)
    >>> unclipped.stop()
    >>> unclipped.take(), unclipped.take()
    (5.0, None)
    """

    def __init__(self) -> None:
        self._norm: torch.Tensor | None = None
        self._restore: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        if self._restore is None:
            _, self._restore = wrap(torch.nn.utils, "clip_grad_norm_", self._listening)

    def stop(self) -> None:
        """Put the function back; idempotent."""
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    def take(self) -> float | None:
        """The norm at the newest call since the last time this was asked, None if there was none.

        This is where the host waits for the device, and not the call.
        """
        norm, self._norm = self._norm, None
        return None if norm is None else float(norm)

    def _listening(self, original: Any) -> Any:
        def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
            norm = original(*args, **kwargs)
            # Of a DTensor every rank would have to ask; a compiler must not see any of this.
            plain = type(norm) is torch.Tensor and not torch.compiler.is_compiling()
            if plain and self._restore is not None and _order(args, kwargs) == 2:
                self._norm = norm.detach()
            return norm

        return clip_grad_norm_


def _order(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    return float(kwargs.get("norm_type", args[2] if len(args) > 2 else 2))
