"""What came of trying one suspect step again on copies: plain numbers, for the rules to judge."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Inquiry:
    """One step, tried again in several ways. None stands for what was not or could not be tried.

    why: what made the step suspect: "spike", "nonfinite", "rise" (the loss had risen by then), or
    "before the rise": the loss rose right after it.
    refused: what could not be tried, each with its reason.
    loss: of the step's batch at the weights before the step; lengths: (share of the step's real
    update, loss of the same batch after it) pairs, the longest first.
    other_step: the earlier batch it is compared with; other_loss, other_after: that batch's loss at
    the weights before and after the step.
    own_factor, other_factor: gradient of the two batches at the weights before the step over what
    was usual, in the norm over the parameters that were out of line; ratio: own over other.
    wide_loss, wide_ratio: loss of the same step in float64, and its gradient norm over that of the
    step's own dtype; wide_finite: whether both are finite.
    batch: samples in the batch; samples: those that stand out, by their place in it; share: of the
    gradient's energy that is theirs; indices: the same samples by their index in the data set.
    outliers: samples whose own input stands out in scale; outlier_scale: the largest over the
    median of the batch. coupled: batch normalisation makes each sample's gradient depend on all.
    passes: forward and backward passes made; seconds: what all of it took.
    """

    step: int
    why: str
    refused: list[str] = field(default_factory=list)
    loss: float | None = None
    lengths: list[tuple[float, float]] = field(default_factory=list)
    other_step: int | None = None
    other_loss: float | None = None
    other_after: float | None = None
    own_factor: float | None = None
    other_factor: float | None = None
    ratio: float | None = None
    wide_loss: float | None = None
    wide_ratio: float | None = None
    wide_finite: bool | None = None
    batch: int | None = None
    samples: list[int] = field(default_factory=list)
    share: float | None = None
    indices: list[int] = field(default_factory=list)
    outliers: list[int] = field(default_factory=list)
    outlier_scale: float | None = None
    coupled: bool = False
    passes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dict for the run folder, without what was not tried."""
        return {k: v for k, v in asdict(self).items() if v is not None and v != []}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Inquiry:
        """The inverse of `to_json`; raises TypeError when malformed."""
        inquiry = Inquiry(**data)
        inquiry.lengths = [(a, b) for a, b in inquiry.lengths]  # JSON knows lists only
        return inquiry
