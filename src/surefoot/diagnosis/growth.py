"""What the rules on growth over depth share: from a depth profile to a finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.profile import Profile, Stage, first_profile
from surefoot.diagnosis.rule import gauge_severity, times
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.signals.flow import Flow
from surefoot.theory.expectation import BATCH_NORM_RELU, slope_growth

_PARTS = ("weights", "activation", "normalization")

# Decades up to which, before training, an optimizer that rescales may make up for what vanishes:
# measured, a ten-layer network at 3.1 learned with Adam, and none did at 4.8 and more.
_MADE_UP = 4.0

# (decades, steps): what vanishes by less, over all layers together, is not held against a run of
# fewer steps. Of 35 healthy trainings of the corpus whose gradient shrank by 0.9 to 3.2 decades, 12
# had gained next to nothing at some time of their first 140 steps, and all learned.
_PATIENCE = ((2.0, 150), (_MADE_UP, 48))


@dataclass(frozen=True, slots=True)
class Growth:
    """A depth profile out of balance. sign: 1 where gradients grow towards the input, -1 where
    they shrink; gap: index of the stage where that starts, coming from the output; lone: whether
    that one layer is to blame alone.
    """

    case: Case
    seen: Profile
    sign: int
    decades: float
    severity: Severity
    gap: int
    lone: bool
    step: int

    @property
    def stage(self) -> Stage:
        """Where it starts."""
        return self.seen.stages[self.gap]

    def finding(
        self, rule: str, pathology: Pathology, cause: Cause, because: str, *, by_weights: bool
    ) -> Finding:
        """The finding; `by_weights` names the layer whose weights act, else the one acted upon."""
        seen, stage, title = self.seen, self.stage, self.case.layers.title
        layer = stage.weight_layer if by_weights else stage.layer
        layer = stage.layer if layer is None else layer
        name, names = title(layer), [title(s.layer) for s in seen.stages]
        verb = "grow" if self.sign > 0 else "shrink"
        where = f"at {name} alone" if self.lone else f"a layer from {name} down to {names[0]}"
        rate = stage.step if self.lone else seen.per_layer
        target = name if self.lone else prescriptions.pattern(names)
        return Finding(
            rule=rule,
            pathology=pathology,
            cause=cause,
            layer=name,
            victims=tuple(title(s.layer) for s in seen.stages[: self.gap + 1] if s.layer != layer),
            severity=self.severity,
            first_step=self.step,
            last_step=self.case.facts.steps - 1,
            confidence=float(np.clip(0.5 + 0.15 * self.decades, 0.6, 0.99)),
            sentence=(
                f"Gradients {verb} {times(rate)} {where}, {times(seen.growth)} in all: {because}; "
                f"{outcome(self.case).words()}."
            ),
            evidence=self._evidence(),
            remedies=prescriptions.for_depth(cause, target, seen.depth, stage.function),
        )

    def _evidence(self) -> tuple[Evidence, ...]:
        seen, inner = self.seen, self.seen.stages[:-1]
        whole = "gradient growth to the first layer, decades"
        rows = [
            Evidence(whole, seen.growth, "-0.87 to 0.87", self.step),
            Evidence("growth a layer, decades", seen.per_layer, "near 0", self.step),
        ]
        for part in _PARTS:
            median = float(np.median([getattr(s, part) for s in inner]))
            name = f"part of the {part} a layer, decades"
            rows.append(Evidence(name, median, _expected(part, inner), self.step))
        skill = outcome(self.case).skill
        if skill is not None:
            rows.append(Evidence("loss gained on the trivial predictor, share", skill, "> 0.5"))
        return tuple(rows)


def _expected(part: str, inner: Sequence[Stage]) -> str:
    """What theory says of a part, for the activations seen and the scale of what goes into them.

    Weights at the edge of chaos make up for what the activation takes.
    """
    if part == "normalization":
        return f"near 0; {BATCH_NORM_RELU:+.2f} of batch norm with ReLU"
    names = {s.function for s in inner}
    known = [g for s in inner if (g := slope_growth(s.function, 10**s.forward)) is not None]
    if not known or len(names) > 1 or names == {None}:
        return "0 to 0.15" if part == "weights" else "-0.15 (ReLU) to 0"
    slope = float(np.median(known))
    if part == "weights":
        return f"{-slope:+.2f} (makes up for the {names.pop()})"
    return f"{slope:+.2f} ({names.pop()} at this scale)"


def growth(case: Case, sign: int, least: float) -> Growth | None:
    """What the first instrumented step shows, None if it is in balance or does no harm.

    least: decades a layer from which on a layer counts as one that takes part.
    """
    flow, seen = case.first, first_profile(case)
    if flow is None or seen is None:
        return None
    decades, alone = seen.gauge(sign)
    severity = gauge_severity(case, decades, alone)
    if severity is None or (sign < 0 and not alone and _too_early(case, decades)):
        return None
    if outcome(case).untrained and seen.residual and severity is Severity.ADVICE:
        return None  # a trunk's points may differ in width: nothing is said of so little
    slight = sign < 0 and not alone and decades < _MADE_UP
    if slight and outcome(case).untrained and _first_moves(case, seen):
        severity = Severity.ADVICE
    culprit, weighty = seen.culprit(), outlier(flow, case) if sign > 0 else None
    own = [i for i, s in enumerate(seen.stages[:-1]) if s.weight_layer == weighty]
    if weighty is not None and own:
        gap, lone = own[0], True
    elif alone and culprit is not None:
        gap, lone = culprit[0], True
    else:
        part = [i for i, s in enumerate(seen.stages[:-1]) if sign * s.step > least]
        gap, lone = (max(part) if part else len(seen.stages) - 2), False
    return Growth(case, seen, sign, decades, severity, gap, lone, flow.step)


def _too_early(case: Case, decades: float) -> bool:
    """Whether a run whose gradient vanishes by so much may still be about to learn."""
    result = outcome(case)
    if result.untrained or result.inert or result.diverged:
        return False
    return any(decades < limit and case.facts.steps < least for limit, least in _PATIENCE)


def outlier(flow: Flow, case: Case) -> int | None:
    """The one layer whose weights are far larger than those of all others, None without one.

    Its gain must be 3 and more, and stand six robust deviations and 0.7 decades above the median.
    """
    kinds = case.layers.layers
    gains = {
        c.layer: float(np.log10(c.gain))
        for c in flow.calls
        if kinds[c.layer].kind.weighted and c.weight_norm and c.weight_rows
    }
    if len(gains) < 3:
        return None
    values = np.array(list(gains.values()))
    median = float(np.median(values))
    scale = max(1.4826 * float(np.median(np.abs(values - median))), 0.05)
    limit = max(median + max(0.7, 6 * scale), np.log10(3.0))
    large = [layer for layer, gain in gains.items() if gain >= limit]
    return large[0] if len(large) == 1 else None


def _first_moves(case: Case, seen: Profile) -> bool:
    """Whether the optimizer's own first update reaches the first layer all the same.

    Adam and its kin divide by the gradient's scale, so a gradient that is small but not lost in
    rounding moves the weights as far as any other: a tenth of the usual pace is enough.
    """
    updates, flow = case.get("update_ratio"), case.first
    if not len(updates) or flow is None:
        return False
    ratios = updates.high[0].astype(float)
    matrices = case.weight_matrices() & np.isfinite(ratios)
    own = [i for i in case.layers.parameters_of(seen.stages[0].layer) if matrices[i]]
    if not own or not ratios[matrices].any():
        return False
    return float(ratios[own].max()) >= 0.1 * float(np.median(ratios[matrices]))
