"""What the rules prescribe: each remedy once, with its reason and its code.

The order within a list is the order in which to try.
"""

from __future__ import annotations

from surefoot.findings import Cause, Remedy
from surefoot.remedies import prescribed

_DEEP = 30  # weighted layers beyond which mending the variance alone was not enough

RESIDUAL = prescribed(
    "residual.rezero",
    None,
    "a skip connection lets the gradient pass every block unchanged, whatever its weights are",
)
RESCALE = prescribed("init.rescale")
KAIMING = prescribed("init.kaiming_normal", None, "keeps the variance through layers with ReLU")
XAVIER = prescribed("init.xavier_normal", None, "keeps the variance through layers with tanh")
RELU = prescribed(
    "activation.relu",
    None,
    "its slope is one on half of its inputs, with the weights that belong to it",
)
SKIP_STEP = prescribed(
    "guard.skip",
    None,
    "a step that is not taken cannot poison the weights; no clipping survives a NaN",
)
SKIP_OUTLIER = prescribed(
    "guard.skip", None, "a step that is not taken cannot throw the weights away"
)
CLIP = prescribed("clipping.norm", None, "keeps one large gradient from throwing the weights away")


def aimed(remedy: Remedy, target: str | None) -> Remedy:
    """The remedy with its target filled in."""
    return Remedy(remedy.remedy, target, remedy.why, remedy.code, remedy.parameters)


def pattern(names: list[str]) -> str:
    """One name for several layers: what they share, then a star.

    >>> pattern(["encoder.0.fc", "encoder.1.fc", "encoder.2.fc"])
    'encoder.*'
    """
    parts = [name.split(".") for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    # The first layer often stands outside of the stack: it does not spoil the name of the rest.
    if not shared and len(names) > 2:
        return pattern(names[1:])
    return ".".join([*shared, "*"])


def for_depth(
    cause: Cause, layer: str | None, depth: int, function: str | None
) -> tuple[Remedy, ...]:
    """Remedies for a gradient that vanishes or explodes over depth."""
    if cause is Cause.SATURATING_ACTIVATION:
        order = [RELU, RESIDUAL]
    elif cause in (Cause.NORMALIZATION_WITHOUT_SKIP, Cause.DEPTH_WITHOUT_SKIP):
        order = [RESIDUAL]
    elif cause is Cause.UNBOUNDED_ACTIVATION:
        return ()  # whatever the weights are, it has the last word
    else:
        order = [RESCALE, XAVIER if function in ("tanh", "sigmoid") else KAIMING, RESIDUAL]
    if depth > _DEEP:
        order = [RESIDUAL, *(r for r in order if r is not RESIDUAL)]
    return tuple(aimed(r, layer) for r in order)


def learning_rate(factor: float, why: str) -> Remedy:
    """Multiply the learning rate by `factor`."""
    return prescribed("learning_rate.scale", None, why, factor=factor)
