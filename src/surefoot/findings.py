"""The vocabulary of a verdict: what surefoot may say, as frozen data.

Everything that leaves surefoot (terminal, HTML, `--json`, the run folder) is made of these few
classes. `Report.to_json` is the public contract, schema 1; `tests/test_contract.py` freezes it.
"""

from __future__ import annotations

import html
import json
import math
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

SCHEMA = 1


class Pathology(StrEnum):
    """What is seen: the way in which the flow of gradients, or the training, goes wrong."""

    EXPLODING = "exploding"
    VANISHING = "vanishing"
    SHATTERED = "shattered"
    COLLAPSED = "collapsed"
    SPIKE = "spike"
    NONFINITE = "nonfinite"
    OSCILLATING = "oscillating"
    STALLED = "stalled"
    SATURATED = "saturated"
    DEAD = "dead"


class Cause(StrEnum):
    """Why it is seen: the one thing which, changed, makes the pathology go away."""

    WEIGHTS_TOO_LARGE = "weights_too_large"
    WEIGHTS_TOO_SMALL = "weights_too_small"
    SATURATING_ACTIVATION = "saturating_activation"
    UNBOUNDED_ACTIVATION = "unbounded_activation"
    DEAD_RELU = "dead_relu"
    DEPTH_WITHOUT_SKIP = "depth_without_skip"
    NORMALIZATION_WITHOUT_SKIP = "normalization_without_skip"
    RECURRENT_WEIGHTS = "recurrent_weights"
    LEARNING_RATE_TOO_HIGH = "learning_rate_too_high"
    LEARNING_RATE_TOO_LOW = "learning_rate_too_low"
    LOSS_SCALE = "loss_scale"
    INPUT_SCALE = "input_scale"
    BAD_BATCH = "bad_batch"
    NONFINITE_INPUT = "nonfinite_input"
    DTYPE_OVERFLOW = "dtype_overflow"
    DTYPE_UNDERFLOW = "dtype_underflow"
    UNDEFINED_OPERATION = "undefined_operation"
    OUTPUT_ACTIVATION_MISMATCH = "output_activation_mismatch"
    GRADIENTS_NOT_ZEROED = "gradients_not_zeroed"
    DISCONNECTED_PARAMETERS = "disconnected_parameters"
    OPTIMIZER_STATE = "optimizer_state"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How much it matters, from worth knowing to lost."""

    ADVICE = "advice"
    HARMFUL = "harmful"
    FATAL = "fatal"

    @property
    def rank(self) -> int:
        """0 for advice, 1 for harmful, 2 for fatal."""
        return _RANK[self]


_RANK = {Severity.ADVICE: 0, Severity.HARMFUL: 1, Severity.FATAL: 2}


class Verdict(StrEnum):
    """The whole report in one word."""

    HEALTHY = "healthy"
    UNSTABLE = "unstable"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured number beside what a healthy run would show.

    `value` is in the unit that `quantity` names; `expected` is words or a range; `step` is the
    optimizer step at which it was measured, None for a figure over the whole run.
    """

    quantity: str
    value: float | int | str | None
    expected: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to do about a finding, with its reason and, where it is short, its code.

    `proof` stays None until a paired trial has run.
    """

    remedy: str
    target: str | None
    why: str
    code: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, where it starts, since when, why, and what to do.

    `layer` is the `named_modules()` name of the origin, None where the cause has no layer.
    `victims` carry the symptom only, in execution order. `follows` names the rule of the finding
    that explains this one; a finding with `root=True` follows from nothing. `unhelpful`: (remedy,
    reason) of what people reach for and what would not help here.
    """

    rule: str
    pathology: Pathology
    cause: Cause
    severity: Severity
    sentence: str
    layer: str | None = None
    root: bool = False
    victims: tuple[str, ...] = ()
    first_step: int = 0
    last_step: int = 0
    confidence: float = 0.5
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    follows: str | None = None
    unhelpful: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as the plain dict of the report contract."""
        data: dict[str, Any] = {
            "rule": self.rule,
            "pathology": str(self.pathology),
            "cause": str(self.cause),
            "layer": self.layer,
            "root": self.root,
            "follows": self.follows,
            "victims": list(self.victims),
            "severity": str(self.severity),
            "first_step": int(self.first_step),
            "last_step": int(self.last_step),
            "confidence": round(float(self.confidence), 3),
            "sentence": self.sentence,
            "evidence": [
                {
                    "quantity": e.quantity,
                    "value": _plain(e.value),
                    "expected": e.expected,
                    "step": e.step,
                }
                for e in self.evidence
            ],
            "remedies": [
                {
                    "remedy": r.remedy,
                    "target": r.target,
                    "parameters": {k: _plain(v) for k, v in r.parameters.items()},
                    "why": r.why,
                    "code": r.code,
                    "proof": r.proof,
                }
                for r in self.remedies
            ],
        }
        if self.unhelpful:
            data["unhelpful"] = [{"remedy": name, "why": why} for name, why in self.unhelpful]
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Finding:
        """The inverse of `to_json`; raises KeyError or ValueError on a malformed dict."""
        return Finding(
            rule=data["rule"],
            pathology=Pathology(data["pathology"]),
            cause=Cause(data["cause"]),
            severity=Severity(data["severity"]),
            sentence=data["sentence"],
            layer=data["layer"],
            root=data["root"],
            victims=tuple(data["victims"]),
            first_step=data["first_step"],
            last_step=data["last_step"],
            confidence=data["confidence"],
            evidence=tuple(Evidence(**e) for e in data["evidence"]),
            remedies=tuple(Remedy(**r) for r in data["remedies"]),
            follows=data.get("follows"),
            unhelpful=tuple((u["remedy"], u["why"]) for u in data.get("unhelpful", ())),
        )


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a guard has done to a run, or in a dry run would have done.

    acts: how often on each rung ("clip", "skip", "roll back", "undo", "halt"); step, reason: of the
    first act; parameter: the one that stood out most in it, None where it was none.
    """

    acts: dict[str, int]
    step: int
    reason: str
    parameter: str | None = None
    dry_run: bool = False


class Views(Protocol):
    """What draws a report: it knows the run behind it, see `surefoot.views.notebook`."""

    def figure(self, report: Report, name: str) -> Any: ...
    def save(self, report: Report, path: str | os.PathLike[str]) -> Path: ...
    def card(self, report: Report) -> str: ...


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one run and the findings behind it, root findings first.

    `missing` says, for an inconclusive verdict, what could not be seen and which command would
    settle it; it is empty otherwise. `guard`: what a guard has done, None if it has not acted.
    `views` draws it; it is no part of the verdict, and None where no run is at hand.
    """

    findings: tuple[Finding, ...] = ()
    steps: int = 0
    missing: tuple[str, ...] = ()
    surefoot: str = ""
    guard: Guarded | None = field(default=None, kw_only=True)
    views: Views | None = field(default=None, compare=False, repr=False, kw_only=True)

    @property
    def verdict(self) -> Verdict:
        """Unstable iff a fatal or harmful finding stands; inconclusive iff something is missing."""
        if any(f.severity is not Severity.ADVICE for f in self.findings):
            return Verdict.UNSTABLE
        return Verdict.INCONCLUSIVE if self.missing else Verdict.HEALTHY

    @property
    def root(self) -> Finding | None:
        """The root finding that matters most, or None on a healthy run."""
        roots = [f for f in self.findings if f.root]
        return max(roots, key=lambda f: f.severity.rank, default=None)

    def __str__(self) -> str:
        """The verdict in a line: what `print(report)` shows."""
        root = self.root
        words = root.sentence if root is not None else " ".join(self.missing)
        where = f" [{root.rule}]" if root is not None else ""
        return f"{self.verdict} after {self.steps} steps{where}{': ' if words else ''}{words}"

    def figure(self, name: str) -> Any:
        """One of the run's figures for a notebook (Plotly): "heatmap", "depth", "timeline", ...

        Raises ValueError, naming them all, for an unknown one; RuntimeError without the run.
        """
        return self._drawn("figure").figure(self, name)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the HTML report and return its path; raises RuntimeError without the run."""
        return self._drawn("page").save(self, path)

    def _repr_html_(self) -> str:
        """The verdict as a notebook shows it under the cell."""
        if self.views is not None:
            return self.views.card(self)
        return f"<pre>{html.escape(str(self))}</pre>"

    def _drawn(self, what: str) -> Views:
        if self.views is None:
            raise RuntimeError(
                f"expected a report with its run, to draw a {what} from, got the verdict alone, as "
                "JSON and pickle keep it. Next: surefoot.report(FOLDER) of the run, or report() "
                "of the watch"
            )
        return self.views

    def worst(self) -> Severity | None:
        """The highest severity among the findings, None if there are none."""
        return max((f.severity for f in self.findings), key=lambda s: s.rank, default=None)

    def to_json(self) -> dict[str, Any]:
        """The report contract, schema 1, as a plain dict that `json.dumps` takes as it is."""
        data: dict[str, Any] = {
            "surefoot": self.surefoot,
            "schema": SCHEMA,
            "verdict": str(self.verdict),
            "steps": self.steps,
            "findings": [f.to_json() for f in self.findings],
        }
        if self.missing:
            data["missing"] = list(self.missing)
        if self.guard is not None:
            data["guard"] = asdict(self.guard)
        return data

    def dumps(self) -> str:
        """`to_json` as strict JSON text: non-finite numbers are strings, never bare NaN."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Report:
        """The inverse of `to_json`; raises ValueError for another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"expected a report of schema {SCHEMA}, got {data.get('schema')!r}: it was "
                "written by another version; read it with that version of surefoot"
            )
        return Report(
            findings=tuple(Finding.from_json(f) for f in data["findings"]),
            steps=data["steps"],
            missing=tuple(data.get("missing", ())),
            surefoot=data["surefoot"],
            guard=Guarded(**data["guard"]) if data.get("guard") else None,
        )


@dataclass(frozen=True, slots=True)
class LayerScale:
    """One layer on the way through a network before training, from the input to the output.

    signal: root mean square of its output; signal_growth: decades from there to the next layer's;
    gradient: decades of the gradient's norm at its output, relative to the last row's;
    gradient_growth: decades it grows from the next layer's output to this one's, and the parts of
    that which the weights, the activation and normalisation have. `expected`: what theory says of
    a growth for these weights and this activation; None where it has nothing to say. coherence: how
    well the gradients at its output agree with those one per cent beside (1 smooth, 0 white noise).
    """

    layer: str
    signal: float
    gradient: float
    signal_growth: float | None = None
    signal_expected: float | None = None
    gradient_growth: float | None = None
    gradient_expected: float | None = None
    weights: float | None = None
    activation: float | None = None
    normalization: float | None = None
    coherence: float | None = None


@dataclass(frozen=True, slots=True)
class Check(Report):
    """The verdict before training, with what was measured for it.

    gauges: each number beside what a sound network shows; layers: the scales along the depth;
    passes: what it took, in forward-backward equivalents (a forward pass alone counts a third).
    In JSON these come on top of the report contract as `check`.
    """

    gauges: tuple[Evidence, ...] = ()
    layers: tuple[LayerScale, ...] = ()
    passes: float = 0.0

    def __str__(self) -> str:
        """The verdict in a line: what `print(check)` shows."""
        root = self.root
        words = root.sentence if root is not None else " ".join(self.missing)
        where = f" [{root.rule}]" if root is not None else ""
        return f"{self.verdict} before training{where}{': ' if words else ''}{words}"

    def to_json(self) -> dict[str, Any]:
        """The report contract, with `check` on top of it."""
        data = Report.to_json(self)  # `super()` does not know a class with slots
        data["check"] = {
            "passes": round(self.passes, 2),
            "gauges": [_all_plain(asdict(e)) for e in self.gauges],
            "layers": [_all_plain(asdict(row)) for row in self.layers],
        }
        return data


def _all_plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """A JSON-safe copy of a scalar: NaN and infinities become the words that people search for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value.item() if hasattr(value, "item") else value
