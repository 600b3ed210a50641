"""The first updates are too long: tried on one batch before training, they raise its own loss.

**What.** Taken three times on one and the same batch, on copies, the optimizer's own updates leave
the loss of that batch far above where it began, or make it non-finite.

**Why.** The update is longer than the distance over which the gradient tells the truth. A tenth of
the same update lowers the loss, so it is its length and not its direction.

**Evidence.** The losses of the rehearsal; the loss at a tenth of the update; the curvature along
the update, which says how far the gradient turns over its length (for gradient descent on a
quadratic `lr lambda / 2`). Curvature above one alone is no finding: healthy networks begin there.

**Remedies.** A lower learning rate; warm-up, which shortens just these first updates; clipping.

**Thresholds.** All are multiples of the level, the larger of the first loss and the trivial
predictor's. In the first three updates of 74 healthy trainings the highest loss reached 1.65 of it,
and the lowest after an update 1.17; of the 15 with a learning rate or a summed loss that was too
high, 14 went beyond 4. Harmful: all losses after an update above `_STAYS` (1.5), or one above
`_WILD` (30), or lost. Worth knowing: one above `_RISES` (3) that came back, as large steps on a
smooth loss may (a catapult). `_NEAR` (0): where even a tenth of the update brings no decrease, the
direction is in doubt as well, and the confidence is lower.

**Source.** Cohen et al. 2021 (the edge of stability, and why curvature alone is no alarm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from surefoot.diagnosis import prescriptions
from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import trivial_loss
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity

_STAYS, _RISES, _WILD, _NEAR = 1.5, 3.0, 30.0, 0.0


def judge(case: Case) -> Iterator[Finding]:
    """Judge the rehearsal of `surefoot check`; a run is judged by what becomes of it (SF301)."""
    seen = case.rehearsal
    severity = overshot(case)
    if seen is None or severity is None:
        return
    last = seen.losses[-1]
    lost = not math.isfinite(last)
    worst = last if lost else max(seen.losses)
    losses = ", ".join(f"{x:.3g}" for x in seen.losses)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.EXPLODING if lost else Pathology.OSCILLATING,
        cause=Cause.LEARNING_RATE_TOO_HIGH,
        severity=severity,
        confidence=0.9 if seen.near > _NEAR else 0.7,
        sentence=(
            f"The first update moves the weights by {seen.update:.2g} of their size, and a few of "
            f"them on one batch take its own loss from {seen.losses[0]:.3g} to {worst:.3g}: the "
            "learning rate is too high."
        ),
        evidence=(
            Evidence("losses of one batch over three updates", losses, "falling", 0),
            Evidence("share of the promised decrease, a tenth of the update", seen.near, "> 0", 0),
            Evidence("share of the promised decrease, whole update", seen.whole, "> 0", 0),
            Evidence("curvature along the update", seen.curvature, "< 1, or a falling loss", 0),
            Evidence("update-to-weight ratio", seen.update, "1e-4 to 5e-2", 0),
        ),
        remedies=(
            prescriptions.learning_rate(0.1, "so that an update stays where the gradient holds"),
            prescriptions.CLIP,
        ),
    )


def overshot(case: Case) -> Severity | None:
    """How badly the rehearsed updates raise the loss of their own batch, None if they do not."""
    seen = case.rehearsal
    if seen is None or not math.isfinite(seen.losses[0]):
        return None
    after = [x if math.isfinite(x) else math.inf for x in seen.losses[1:]]
    level = max(seen.losses[0], trivial_loss(case) or 0.0)
    if math.isinf(max(after)):
        return Severity.HARMFUL
    if not level > 0:
        return None
    if min(after) > _STAYS * level or max(after) > _WILD * level:
        return Severity.HARMFUL
    return Severity.ADVICE if max(after) > _RISES * level else None


RULE = Rule("SF305", "First updates too long", __doc__ or "", judge)
