"""The guard on one optimizer: `surefoot.guard(optimizer, clip=1.0)`."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import numpy as np
import torch

from surefoot.attach.closures import closure_of, overheard
from surefoot.attach.readings import want
from surefoot.compiler import apart
from surefoot.guarding.clipping import CLIPPINGS, Clipping, Gradients
from surefoot.guarding.clipping.norm import Norm
from surefoot.guarding.intervention import Intervention
from surefoot.kernels import NONFINITE, make_pass

_LOG = logging.getLogger("surefoot")


class Guard:
    """Clips the gradients of an optimizer at each of its steps, until `remove`.

    norm: of the gradients that the latest step was given, NaN before the first. clipped, steps: how
    many steps were clipped, and of how many. nonfinite: steps whose gradients held NaN or infinity,
    which no factor mends: they are left as they came.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip: Clipping) -> None:
        self.clip = clip
        self.norm = float("nan")
        self.steps = self.clipped = self.nonfinite = 0
        self._optimizer = weakref.ref(optimizer)
        self._reading = want(optimizer)
        self._intervention = Intervention()
        self._pass = make_pass(sum(len(g["params"]) for g in optimizer.param_groups))
        self._rows = np.empty((0, 5))
        self._handles = [
            optimizer.register_step_pre_hook(apart(self._before)),
            optimizer.register_step_post_hook(apart(self._after)),
        ]

    def remove(self) -> None:
        """Take the guard off the optimizer; idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if (optimizer := self._optimizer()) is not None:
            self._intervention.end(optimizer)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        self._intervention.end(optimizer)  # a step that raised did not come to its end
        if closure_of(args, kwargs) is not None:
            return overheard(args, kwargs, lambda: self._act(optimizer))
        self._act(optimizer)
        return None

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._intervention.end(optimizer)

    def _act(self, optimizer: Any) -> None:
        try:
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            rows = self._measured(optimizer, parameters)
            gradients = Gradients(rows, parameters)
            self.steps += 1
            self.norm = gradients.norm
            if np.nansum(rows[:, NONFINITE]):
                self.nonfinite += 1
                return
            if cut := self.clip.cut(gradients):
                self.clipped += 1
                self._intervention.apply(optimizer, parameters, cut)
        except Exception as error:
            self.remove()
            _LOG.warning(
                "surefoot's guard stepped aside, the training goes on unguarded: %s: %s",
                type(error).__name__,
                error,
            )
            _LOG.debug("where it failed", exc_info=error)

    def _measured(self, optimizer: Any, parameters: list[torch.Tensor]) -> np.ndarray:
        """Statistics of the gradients: a watch's, if one has just measured them, or our own."""
        rows = self._reading.take()
        if rows is not None and len(rows) == len(parameters):
            return rows
        if len(self._rows) < len(parameters):
            self._rows = np.empty((len(parameters), 5))
        rows = self._rows[: len(parameters)]
        self._pass([p.grad for p in parameters], rows)
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer under GradScaler is given scaled gradients
            rows[:, :3] /= float(scale)
        return rows


def guard(optimizer: torch.optim.Optimizer, *, clip: float | str | Clipping) -> Guard:
    """Clip an optimizer's gradients at each step, in place of a call in the loop.

    Nothing else is to be called: it acts when the optimizer steps, on all gradients that this
    optimizer is about to use (with several optimizers, each by itself). A step that needs no
    clipping is not written on; where all gradients are scaled alike, a fused Adam, AdamW, SGD or
    Adagrad does it in its own kernel. Under `surefoot.watch` the gradients are read once for both.

    clip: the largest norm of all gradients together (Pascanu et al. 2013), as for
    `torch.nn.utils.clip_grad_norm_`, whose result it gives to rounding, also where a norm in
    float32 would be infinite; or the name of a clipping in `surefoot.guarding.clipping.CLIPPINGS`,
    or one that you have made of it. Raises TypeError for anything but an optimizer, ValueError for
    a clip that is none and for sharded parameters.

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> guard = guard(optimizer, clip=1.0)
    >>> model(torch.full((8, 3), 100.0)).sum().backward()
    >>> optimizer.step()
    >>> guard.clipped, guard.norm > 1000
    (1, True)
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}: "
            "call surefoot.guard(optimizer, clip=1.0)"
        )
    if any(_sharded(p) for g in optimizer.param_groups for p in g["params"]):
        raise ValueError(
            "expected parameters that this process holds whole, got sharded ones (DTensor, FSDP), "
            "whose norm no process knows by itself: clip in the loop, as their wrapper wants it"
        )
    return Guard(optimizer, _clipping(clip))


def _sharded(parameter: Any) -> bool:
    """Whether a process holds a piece of it only, by FSDP in its newer or its older form."""
    return hasattr(parameter, "to_local") or getattr(parameter, "_fsdp_flattened", False)


def _clipping(clip: float | str | Clipping) -> Clipping:
    if isinstance(clip, str):
        if clip not in CLIPPINGS:
            raise ValueError(
                f"expected clip to be a number or one of {', '.join(CLIPPINGS)}, got {clip!r}"
            )
        return CLIPPINGS[clip]()
    if clip is None or isinstance(clip, (int, float)):
        return Norm(clip)  # which says what it expects
    return clip
