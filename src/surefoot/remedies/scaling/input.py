"""Inputs of mean zero and deviation one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from surefoot.remedies.inputs import Arguments, entrances
from surefoot.remedies.scaling.statistics import statistics
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

_Known = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Input(Treatment):
    """(x - mean) / deviation for each column or channel, as of the first batch."""

    name = "input.standardise"
    why = "what tells samples apart then has the size of one, and their common mean is gone"
    guarantee = (
        "each column (channel) of the first batch has mean 0 and deviation 1, in training and "
        "evaluation alike"
    )
    formula = "x <- (x - m) / s for each column; a constant one is only shifted"
    source = "LeCun et al. 1998 (Efficient BackProp), section 4.3"
    limits = (
        "where the first batch does not show how much a column varies",
        "with inputs that are numbers of classes or tokens, which are left alone",
        "with batch normalisation right behind the input, which does it already",
    )
    cost = "one pass over the input a call"

    def apply(self, subject: Subject) -> None:
        """Have the input changed where the model is called.

        Raises NotApplicable where it is not called with floating numbers.
        """
        for module in entrances(subject):
            known, arguments = _Known(), Arguments(module)
            channels = frozenset(
                m.in_channels for m in module.modules() if isinstance(m, nn.Conv1d)
            )
            if (call := subject.call) is not None:
                measured = _looking(known, channels)
                arguments.changed(call.args, call.kwargs, measured)
                if not known:
                    raise NotApplicable("the model is not called with floating numbers")
            _standardise(subject, module, arguments, known, channels)

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = (x - train.mean(0)) / train.std(0).clamp(min=1e-6)"


def _standardise(
    subject: Subject,
    module: nn.Module,
    arguments: Arguments,
    known: _Known,
    channels: frozenset[int],
) -> None:
    measured = None if known else _looking(known, channels)

    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal measured
        if measured is not None and not known:  # the first call
            arguments.changed(args, kwargs, measured)
        measured = None
        args, kwargs = arguments.changed(args, kwargs, lambda name, x: _changed(known, name, x))
        return inner(*args, **kwargs)

    subject.wrap(module, around)


def _looking(known: _Known, channels: frozenset[int]) -> Any:
    """A look at each input, which notes its statistics and changes nothing."""

    def look(name: str, x: torch.Tensor) -> torch.Tensor:
        if x.numel():
            known[name] = statistics(x, channels)
        return x

    return look


def _changed(known: _Known, name: str, x: torch.Tensor) -> torch.Tensor:
    if name not in known:
        return x
    mean, deviation = known[name]
    fits = mean.dim() == x.dim() and all(
        n in (1, m) for n, m in zip(mean.shape, x.shape, strict=True)
    )
    if not fits:  # it came in another shape at first
        return x
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, deviation = (t.to(x.device, wide) for t in (mean, deviation))
    return ((x.to(wide) - mean) / deviation).to(x.dtype)
