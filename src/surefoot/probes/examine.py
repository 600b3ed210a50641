"""One suspect step tried again in every way that may tell data, step size and precision apart.

The stages are: the same batch at the weights before the step (does it give the loss that was
seen?); an earlier batch at the same weights; the step's real update at parts of its length; the
samples of the batch; float64. A stage that cannot be carried out says why and leaves the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from surefoot.probes.safely import in_words
from surefoot.probes.samples import blame, outliers
from surefoot.probes.trial import Batch, Bench, Refused, agrees, bench, norm
from surefoot.signals.criterion import Unreadable
from surefoot.signals.forensics import Inquiry

LENGTHS = (1.0, 0.25, 0.1, 0.01, 0.001)  # of the step's real update
# At most: forwards and backwards for the five stages are 2, 3, 5, 1 + 24 and 2.
MOST_PASSES = 37

_NEED_THE_LOSS = {"another batch", "shorter steps", "float64"}


@dataclass(slots=True)
class Suspect:
    """A step to examine. before, after: id(parameter) -> its value before and after the step;
    usual: id(parameter) -> its usual gradient norm, for those that were out of line; other: an
    earlier batch; affordable: whether so many passes more may be made."""

    batch: Batch
    before: Mapping[int, torch.Tensor]
    after: Mapping[int, torch.Tensor]
    usual: Mapping[int, float] = field(default_factory=dict)
    other: Batch | None = None
    affordable: Callable[[int], bool] = lambda passes: True
    size: float | None = None  # of the batch's own gradient, found by the first stage


def examine(suspect: Suspect, modules: list[nn.Module], inquiry: Inquiry) -> None:
    """Fill in the inquiry; never raises for what the model's own code refuses."""
    stages: list[tuple[str, int, Callable[[Bench], None]]] = [
        ("the same step", 2, partial(_same, suspect, inquiry)),
        ("another batch", 2, partial(_other, suspect, inquiry)),
        ("shorter steps", len(LENGTHS), partial(_lengths, suspect, inquiry)),
        ("single samples", 9, partial(_samples, suspect, inquiry)),
        ("float64", 2, partial(_wide, suspect, inquiry)),
    ]
    outliers(suspect.batch, inquiry)
    try:
        with bench(modules, suspect.before) as made:
            for name, passes, stage in stages:
                if inquiry.loss is None and name in _NEED_THE_LOSS:
                    continue  # that it could not be computed again was said
                if suspect.affordable(passes):
                    _tried(inquiry, name, partial(stage, made))
                else:
                    inquiry.refused.append(f"{name}: no time left for it")
            inquiry.passes = made.passes
    except Refused as reason:
        inquiry.refused.append(str(reason))


def _tried(inquiry: Inquiry, name: str, stage: Callable[[], None]) -> None:
    try:
        stage()
    except (Refused, Unreadable) as reason:
        inquiry.refused.append(f"{name}: {reason}")
    except Exception as error:  # the model may refuse to run like that
        inquiry.refused.append(f"{name}: {in_words(error)}")


def _same(suspect: Suspect, inquiry: Inquiry, made: Bench) -> None:
    suspect.batch.check()
    loss, gradients = made.gradient(suspect.batch)
    if not agrees(loss, suspect.batch.loss):
        raise Refused(f"the loss could not be computed again ({loss:.6g} came of it)")
    inquiry.loss = loss
    inquiry.own_factor = _factor(gradients, suspect.usual)
    suspect.size = norm(gradients, set(suspect.usual) or None)


def _factor(gradients: Mapping[int, torch.Tensor], usual: Mapping[int, float]) -> float | None:
    level = math.hypot(*usual.values())
    return norm(gradients, set(usual)) / level if level > 0 and math.isfinite(level) else None


def _other(suspect: Suspect, inquiry: Inquiry, made: Bench) -> None:
    if suspect.other is None:
        raise Refused("none was kept")
    suspect.other.check()
    inquiry.other_step = suspect.other.step
    loss, gradients = made.gradient(suspect.other)
    inquiry.other_loss = loss
    inquiry.other_factor = _factor(gradients, suspect.usual)
    usual = norm(gradients, set(suspect.usual) or None)
    if suspect.size is not None and usual > 0:
        inquiry.ratio = suspect.size / usual
    if _moved(suspect):
        made.place(suspect.after)
        inquiry.other_after = made.loss(suspect.other)
        made.place(suspect.before)


def _moved(suspect: Suspect) -> bool:
    """Whether the step changed a weight, and left all of them finite."""
    pairs = [(suspect.before[k], v) for k, v in suspect.after.items() if k in suspect.before]
    finite = all(bool(torch.isfinite(v).all()) for _, v in pairs)
    return finite and any(not torch.equal(a, b) for a, b in pairs)


def _lengths(suspect: Suspect, inquiry: Inquiry, made: Bench) -> None:
    if not _moved(suspect):
        raise Refused("the step moved no weight, or to where they are not finite")
    for length in LENGTHS:
        made.place({k: _between(b, suspect.after[k], length) for k, b in suspect.before.items()})
        inquiry.lengths.append((length, made.loss(suspect.batch)))
    made.place(suspect.before)


def _between(before: torch.Tensor, after: torch.Tensor, length: float) -> torch.Tensor:
    if length == 1.0 or not before.is_floating_point():
        return after.detach()
    return torch.lerp(before, after.detach(), length)


def _samples(suspect: Suspect, inquiry: Inquiry, made: Bench) -> None:
    for entry in suspect.batch.entries:
        if refusal := entry.refusal():
            raise Refused(refusal)
    if inquiry.why == "spike":
        blame(made, suspect.batch, inquiry)


def _wide(suspect: Suspect, inquiry: Inquiry, made: Bench) -> None:
    made.place(suspect.before)
    made.widen()
    loss, gradients = made.gradient(suspect.batch)
    size = norm(gradients, set(suspect.usual) or None)
    inquiry.wide_loss = loss
    inquiry.wide_finite = math.isfinite(loss) and math.isfinite(size)
    if suspect.size and math.isfinite(suspect.size):
        inquiry.wide_ratio = size / suspect.size
