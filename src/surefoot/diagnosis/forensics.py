"""What the trials of a suspect step say, by elimination: the data, the step's length, or the dtype.

A batch is to blame only if its gradient is many times that of another batch at the very same
weights. A step is too long if it raises the loss of its own batch, and parts of it lower that. A
dtype is to blame if the same step in float64 is sound. Whether the network's depth explains both
comes first, and is for the rules that stand earlier in the book.
"""

from __future__ import annotations

import math

from surefoot.diagnosis.case import Case
from surefoot.findings import Evidence
from surefoot.signals.forensics import Inquiry

# Times the gradient of another batch at the same weights (docs/thresholds.md). Where the weights
# are at fault it is near one: below the lower number the batch is cleared, in between it is open.
# The upper one alone convicts nobody: pairs of sound batches differ as much near convergence.
_GUILTY, _CLEARED = 5.0, 2.5
_WAKE = 32  # steps after one that was tried in which spikes are not tried again
_ROUNDING = 1e-4  # of a loss in float32: smaller differences are no evidence
_SMALLER = 0.2  # of the gradient's norm is left in float64: the rest was made by rounding


def tried(case: Case, step: int) -> Inquiry | None:
    """What came of trying a step again, None if it was not tried."""
    return next((i for i in case.inquiries if i.step == step), None)


def batch_to_blame(inquiry: Inquiry | None) -> bool | None:
    """Whether the step's batch is what is wrong with it; None where that is not settled."""
    if inquiry is None or inquiry.ratio is None or not math.isfinite(inquiry.ratio):
        return None
    if inquiry.ratio >= _GUILTY:
        return not dtype_to_blame(inquiry)
    return False if inquiry.ratio <= _CLEARED else None


def dtype_to_blame(inquiry: Inquiry | None) -> bool | None:
    """Whether the same step in float64 is sound where it was not; None if it was not tried."""
    if inquiry is None or inquiry.wide_finite is None or inquiry.loss is None:
        return None
    if not inquiry.wide_finite:
        return False
    if not math.isfinite(inquiry.loss):
        return True
    return inquiry.wide_ratio is not None and inquiry.wide_ratio < _SMALLER


def too_long(inquiry: Inquiry | None) -> bool | None:
    """Whether the step overshoots: at its full length its own loss rises, at parts of it it falls.

    False if it falls at full length; None if that was not tried, or if it rises at every length:
    then the step's direction is wrong and not its length.
    """
    if inquiry is None or not inquiry.lengths or inquiry.loss is None:
        return None
    noise = _ROUNDING * abs(inquiry.loss)
    whole = inquiry.lengths[0][1]
    if whole < inquiry.loss:
        return False
    overshot = not whole <= inquiry.loss + noise  # a NaN is no less an overshoot
    parts = [loss for _, loss in inquiry.lengths[1:] if loss < inquiry.loss - noise]
    return True if overshot and parts else None


def step_to_blame(case: Case) -> Inquiry | None:
    """The first step whose length is proved to be too long, and whose batch is not at fault."""
    for inquiry in case.inquiries:
        if batch_to_blame(inquiry):
            return None  # what comes after a bad batch is its doing
        if too_long(inquiry) and not dtype_to_blame(inquiry):
            return inquiry
    return None


def in_the_wake(case: Case, step: int) -> bool:
    """Whether a step shortly before this one, or this one, is proved to be too long."""
    return any(
        0 <= step - i.step < _WAKE and too_long(i) and not batch_to_blame(i) for i in case.inquiries
    )


def steps_cleared(case: Case) -> bool:
    """Whether the step before the loss rose lowered the loss, of its own batch and of the next."""
    found = [i for i in case.inquiries if i.why == "before the rise"]
    return bool(found) and all(
        too_long(i) is False
        and i.other_loss is not None
        and i.other_after is not None
        and i.other_after <= i.other_loss
        for i in found
    )


def right_length(inquiry: Inquiry) -> float | None:
    """The largest part of the step that was tried and lowers the loss of its batch."""
    loss = inquiry.loss
    sound = [s for s, after in inquiry.lengths if loss is not None and after < loss]
    return max(sound, default=None)


def batch_rows(inquiry: Inquiry) -> tuple[Evidence, ...]:
    """The evidence for or against the batch of the step."""
    rows, at = [], inquiry.step
    if inquiry.other_factor is not None:
        name = f"the same weights on another batch (step {inquiry.other_step}): gradient over usual"
        rows.append(Evidence(name, inquiry.other_factor, "0.2 to 5", at))
    if inquiry.ratio is not None:
        name = "gradient over that of another batch at the same weights"
        rows.append(Evidence(name, inquiry.ratio, f"< {_GUILTY:g}", at))
    if inquiry.samples and inquiry.share is not None:
        words = f"{inquiry.share:.1%}: {samples_in_words(inquiry)}"
        rows.append(Evidence("gradient's energy in single samples", words, "none stands out", at))
    elif inquiry.outliers:
        words = samples_in_words(inquiry)
        rows.append(Evidence("samples whose input stands out in scale", words, "none", at))
    rows += _other_rows(inquiry)
    if inquiry.wide_ratio is not None:
        name = "gradient of the same step in float64 over its own"
        rows.append(Evidence(name, inquiry.wide_ratio, "0.9 to 1.1", at))
    return tuple(rows)


def step_rows(inquiry: Inquiry) -> tuple[Evidence, ...]:
    """The evidence for or against the step's length."""
    rows, at, loss = [], inquiry.step, inquiry.loss
    if loss is None:
        return ()
    for length, after in inquiry.lengths:
        name = f"the same step at {length_in_words(length)}: loss of its batch"
        rows.append(Evidence(name, f"{loss:.4g} -> {after:.4g}", "falls", at))
    rows += _other_rows(inquiry)
    if inquiry.ratio is not None:
        name = "gradient over that of another batch at the same weights"
        rows.append(Evidence(name, inquiry.ratio, f"< {_GUILTY:g}", at))
    return tuple(rows)


def lost_rows(inquiry: Inquiry | None) -> tuple[Evidence, ...]:
    """What the trials add on a step that is not finite; empty where none was made."""
    if inquiry is None:
        return ()
    rows, at = [], inquiry.step
    if inquiry.outliers:
        words = samples_in_words(inquiry)
        rows.append(Evidence("samples not finite, or out of scale", words, "none", at))
    if inquiry.other_loss is not None:
        name = f"the same weights on another batch (step {inquiry.other_step}): loss"
        rows.append(Evidence(name, inquiry.other_loss, "finite", at))
    if inquiry.wide_finite is not None:
        words = "finite" if inquiry.wide_finite else "not finite"
        rows.append(Evidence("loss and gradient of the same step in float64", words, "finite", at))
    return tuple(rows)


def _other_rows(inquiry: Inquiry) -> list[Evidence]:
    if inquiry.other_loss is None or inquiry.other_after is None:
        return []
    name = f"loss of another batch (step {inquiry.other_step}) over the step"
    words = f"{inquiry.other_loss:.4g} -> {inquiry.other_after:.4g}"
    return [Evidence(name, words, "falls or stays", inquiry.step)]


def length_in_words(length: float) -> str:
    """A part of a step.

    >>> length_in_words(1.0), length_in_words(0.25), length_in_words(0.001)
    ('its full length', '1/4 of its length', '1/1000 of its length')
    """
    return "its full length" if length == 1 else f"1/{round(1 / length)} of its length"


def samples_in_words(inquiry: Inquiry) -> str:
    """The samples that stand out, by their place in the batch and in the data set.

    >>> samples_in_words(Inquiry(3, "spike", batch=64, samples=[17], indices=[4711]))
    'sample 17 of 64 (dataset index 4711)'
    """
    named = inquiry.samples or inquiry.outliers
    if not named:
        return "no sample stands out"
    many = "s" if len(named) > 1 else ""
    words = f"sample{many} {', '.join(map(str, named))} of {inquiry.batch}"
    if inquiry.indices:
        index = "indices" if len(inquiry.indices) > 1 else "index"
        words += f" (dataset {index} {', '.join(map(str, inquiry.indices))})"
    return words
