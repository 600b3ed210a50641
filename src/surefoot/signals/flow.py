"""One step seen in full: every module's input, output and gradients, in execution order."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class TensorStats:
    """A tensor in six numbers, over its finite elements.

    norm: Frobenius norm; maxabs: largest magnitude; mean; nonfinite and zeros: element counts;
    numel: all elements.
    """

    norm: float
    maxabs: float
    mean: float
    nonfinite: int
    zeros: int
    numel: int

    @property
    def rms(self) -> float:
        """Root mean square of the finite elements, 0 if there is none."""
        finite = self.numel - self.nonfinite
        return self.norm / finite**0.5 if finite > 0 else 0.0


@dataclass(slots=True)
class Call:
    """One call of one module: forward statistics, then what backward brought to it.

    layer: index into the LayerTable; order: place in execution order of calls (entry order);
    grad_input and grad_output: the loss gradient with respect to the call's first input tensor and
    first output tensor (total derivatives: a tensor used twice sums its uses).
    cosine: mean cosine between different samples' outputs (1 = all samples look alike).
    frozen: share of units whose slope is under 5 % of the largest on every sample.
    connected: the input carries a gradient, or is (a view of) what entered the model.
    depth: nesting, 0 for a module that the script itself calls.
    identity: a path without weights leads past this call (a skip connection); fork: such a path
    begins at this call's input, so that grad_input is the trunk's whole gradient.
    through_time: for a recurrent module, log10 ||d h_last / d h_t|| for up to 64 evenly spaced t.
    weight_norm: Frobenius norm of the module's own weight matrix; weight_rows: its fan-out.
    activation: name of the elementwise function seen between this output and the next module.
    dtype: of the output, and so of the gradient there.
    spread: of what enters the model, the rms of its deviation from its mean over the batch, as a
    share of its rms (0: all samples are the same).
    sources: orders of the affine calls whose results came into this one, as far as that was seen.
    """

    layer: int
    order: int
    input: TensorStats | None = None
    output: TensorStats | None = None
    grad_input: TensorStats | None = None
    grad_output: TensorStats | None = None
    batch: int = 0
    cosine: float | None = None
    frozen: float | None = None
    connected: bool = True
    depth: int = 0
    identity: bool = False
    fork: bool = False
    weight_norm: float | None = None
    weight_rows: int | None = None
    activation: str | None = None
    dtype: str | None = None
    spread: float | None = None
    through_time: list[float] | None = None
    sources: list[int] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """By which the weights scale a signal of independent parts, ||W||_F / sqrt(fan-out).

        0 without weights of its own.
        """
        return float(self.weight_norm or 0.0) / float(self.weight_rows or 1) ** 0.5


@dataclass(slots=True)
class Flow:
    """All calls of one instrumented step. `replayed`: re-executed on alarm, not the live step.

    loss: what `signals.loss.anatomy` could read of the loss, as a plain dict.
    origin: for a non-finite step, where the first non-finite value was made, as a plain dict.
    """

    step: int
    calls: list[Call] = field(default_factory=list)
    replayed: bool = False
    loss: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict for the run folder."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Flow:
        """The inverse of `to_json`; raises KeyError or TypeError when malformed."""
        calls = []
        for row in data["calls"]:
            row = dict(row)
            for name in ("input", "output", "grad_input", "grad_output"):
                row[name] = TensorStats(**row[name]) if row[name] is not None else None
            calls.append(Call(**row))
        return Flow(data["step"], calls, data["replayed"], data["loss"], data["origin"])
