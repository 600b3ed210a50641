"""What a learning-rate range test says: a rate, or that none will work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

_FAR = 3.0  # times the loss at the start that it may rise by
_MATERIAL = 2e-3  # of the loss: what falls less does not move
_CLEAR = 4.0  # times the noise
_BELOW_MINIMUM = 10.0
_LITTLE = 0.1  # of the loss: a gain that may be chance
_SURE = 10.0  # times the noise: a gain that may not


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in a range test.

    rates, losses [T]: the loss after the update at each rate, up to where the test stopped; start,
    gradient: the loss and the norm of its gradient before. noise: between two evaluations of the
    same loss, None where each is of another batch. gap: by how much the lowest loss lies below that
    of one and the same answer to every input; None where that could not be made. skipped: batches
    whose loss was not finite while that of the first was.
    """

    rates: np.ndarray
    losses: np.ndarray
    start: float
    gradient: float = 1.0
    noise: float | None = 0.0
    gap: float | None = None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class RangeTest:
    """What a range test has found.

    verdict: "usable"; "flat" where the loss does not fall, or not below that of one answer to every
    input; "diverges" where it falls at no rate before it is lost; "nonfinite" where it or its
    gradient is so before any update. suggestion: the rate to train with; limit: the highest stable
    one, at which the loss was lowest (low where momentum swings, and some steps of the grid too
    high where the sharpest direction holds little of the loss); steepest: where it fell fastest
    over log(rate).

    rates, losses [T], start, gap, skipped: as in `Seen`; noise: what the loss moves by without
    getting anywhere. held: the rates that were held for `updates` updates each because the growing
    ones did not help; reached: the loss that the best of them came to.
    """

    rates: np.ndarray
    losses: np.ndarray
    start: float
    gradient: float
    noise: float
    gap: float | None
    skipped: int
    verdict: str
    suggestion: float | None = None
    limit: float | None = None
    steepest: float | None = None
    blown: bool = False
    held: tuple[float, ...] = ()
    updates: int = 0
    reached: float | None = None

    @property
    def hopeless(self) -> bool:
        """Whether the loss could be followed, and no rate helped."""
        return self.verdict in ("flat", "diverges")

    @property
    def doubtful(self) -> bool:
        """Whether a rate is suggested on the strength of little, which may be chance."""
        finite = self.losses[np.isfinite(self.losses)]
        if self.verdict != "usable" or not len(finite):
            return False
        lowest = float(finite.min())
        gain = self.start - lowest if self.gap is None else self.gap
        return gain < max(_LITTLE * abs(lowest), _SURE * self.noise)

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        words = _WORDS[self.verdict](self)
        if self.skipped:
            count = "one batch is" if self.skipped == 1 else f"{self.skipped} batches are"
            words += (
                f" The losses of {count} not finite at weights at which that of the first is: that "
                "lies in the data."
            )
        return words


def lost(loss: float, start: float) -> bool:
    """Whether a loss is not finite or far above the one at the start."""
    return not math.isfinite(loss) or loss - start > _FAR * abs(start) + 1e-12


def margin(loss: float, noise: float) -> float:
    """What a loss has to change by before it is said to have moved."""
    return max(_CLEAR * noise, _MATERIAL * abs(loss))


def judge(seen: Seen) -> RangeTest:
    """The verdict on what has been seen.

    >>> rates = np.geomspace(1e-7, 10, 60)
    >>> judge(Seen(rates, np.full(60, 2.3), 2.3)).sentence
    'No learning rate will work: the loss stays at 2.3 from a rate of 1e-07 to 10.'
    """
    rates, losses, start = seen.rates, seen.losses, seen.start
    whole = [not lost(x, start) for x in losses.tolist()]
    end = whole.index(False) if False in whole else len(whole)
    blown = end < len(whole)
    noise = _roughness(losses[:end], start)
    if seen.noise is not None:
        noise = min(noise, 0.1 * abs(start)) if end else 0.0
        noise = max(seen.noise, noise)
    test = RangeTest(
        rates, losses, start, seen.gradient, noise, seen.gap, seen.skipped, "flat", blown=blown
    )
    return _decided(test, end, follow=seen.noise is not None)


def _decided(test: RangeTest, end: int, follow: bool) -> RangeTest:
    """The test with its verdict. end: losses before it is lost; follow: they are of one batch."""
    if not (math.isfinite(test.start) and math.isfinite(test.gradient)):
        return replace(test, verdict="nonfinite")
    if not end:
        return replace(test, verdict="diverges" if test.blown else "flat")
    start, losses = test.start, test.losses[:end]
    smooth = _smooth(np.concatenate(([start], losses)))
    curve = losses if follow else smooth[1:]
    best = int(np.argmin(curve))
    least = margin(start, test.noise)
    fell = start - curve[best] > least
    if fell and (test.gap is None or test.gap > margin(float(curve[best]), test.noise)):
        fall = -np.diff(smooth[: best + 2])
        steepest = float(test.rates[int(np.argmax(fall))])
        limit = float(test.rates[best])
        rate = min(steepest, limit / _BELOW_MINIMUM)
        return replace(test, verdict="usable", suggestion=rate, limit=limit, steepest=steepest)
    constant = test.gap is not None and abs(test.gap) <= least
    rises = test.blown and not fell and not constant
    return replace(test, verdict="diverges" if rises else "flat")


def _roughness(losses: np.ndarray, start: float) -> float:
    """How far the losses scatter around a smooth curve, from their second differences."""
    bends = np.diff(np.concatenate(([start], losses)), n=2)
    return 1.4826 * float(np.median(np.abs(bends))) / math.sqrt(6) if len(bends) else 0.0


def _smooth(losses: np.ndarray) -> np.ndarray:
    """A running median over three, which drops spikes, then a triangular mean over five."""
    if len(losses) < 3:
        return losses
    padded = np.pad(losses, 1, mode="edge")
    middle = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    weights = np.array([1, 2, 3, 2, 1]) / 9
    return np.convolve(np.pad(middle, 2, mode="edge"), weights, mode="valid")


def _usable(test: RangeTest) -> str:
    if test.held:
        return (
            f"While the rate grows the loss gets nowhere, but held for {test.updates} updates at "
            f"{test.suggestion:.2g} it falls from {test.start:.4g} to {test.reached:.4g}: train at "
            f"{test.suggestion:.2g}, and expect a slow beginning."
        )
    end = f"above {test.limit:.2g} it rises" if test.limit != test.rates[-1] else "all were stable"
    finite = test.losses[np.isfinite(test.losses)]
    return (
        f"The loss falls from {test.start:.4g} to {finite.min():.4g} up to a rate of "
        f"{test.limit:.2g}, fastest at {test.steepest:.2g}; {end}: train at {test.suggestion:.2g}."
    )


def _flat(test: RangeTest) -> str:
    if test.gradient == 0:
        return (
            "No learning rate will work: not one parameter of the optimizer receives a gradient "
            "other than zero."
        )
    finite = test.losses[np.isfinite(test.losses)]
    lowest = float(finite.min()) if len(finite) else test.start
    span = f"from a rate of {test.rates[0]:.2g} to {test.rates[-1]:.2g}"
    least = margin(test.start, test.noise)
    if test.gap is not None and test.gap <= margin(lowest, test.noise):
        what = (
            f"{span} the loss goes from {test.start:.4g} to {lowest:.4g} at best, and one and the "
            "same answer to every input gets as far"
        )
    elif test.start - lowest > least:
        what = f"{span} the loss moves by no more than its noise ({test.noise:.2g})"
    else:
        what = f"the loss stays at {test.start:.4g} {span}"
    return f"No learning rate will work: {what}{_held(test)}."


def _diverges(test: RangeTest) -> str:
    if len(test.losses) == 1:
        return (
            f"No learning rate from {test.rates[0]:.2g} upwards will work: one update at it and "
            f"the loss goes from {test.start:.4g} to {test.losses[0]:.4g}."
        )
    return (
        f"No learning rate will work: the loss ({test.start:.4g}) falls at none from "
        f"{test.rates[0]:.2g} on, and at {test.rates[-1]:.2g} it is lost{_held(test)}."
    )


def _nonfinite(test: RangeTest) -> str:
    what = "loss is" if not math.isfinite(test.start) else "gradient of the loss is"
    return f"No learning rate will work: before any update the {what} not finite."


def _held(test: RangeTest) -> str:
    if not test.held:
        return ""
    return (
        f"; nor does it help to hold a rate for {test.updates} updates ({len(test.held)} tried, "
        f"{min(test.held):.2g} to {max(test.held):.2g})"
    )


_WORDS = {"usable": _usable, "flat": _flat, "diverges": _diverges, "nonfinite": _nonfinite}
