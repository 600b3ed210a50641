"""Updates are rounded away: the weights are kept in half precision, and most do not move.

**What.** The optimizer computes a step, and of most weights it changes nothing: what is added is
less than half of the distance to the next number that the type can hold.

**Why.** bfloat16 has eight significant bits, float16 eleven. An update below 1/512 (1/4096) of a
weight is lost at every step, and a thousand such steps move it nowhere. Large updates still come
through, so the loss falls at first and stays where the gradients have become small.

**Evidence.** The share of the weights that a step leaves exactly where they were, set against the
share of exactly zero gradients, over the sampled steps; and a loss that stays behind.

**Remedies.** Weights in float32 and autocast to half precision for the computation; an optimizer
with stochastic rounding or compensated sums.

**Thresholds.** Half the distance between neighbours in bfloat16 is 2^-9 to 2^-8 of a number. Of
weights spread evenly, steps of r times their root mean square are thus lost on a share between
1 - 296 r and 1 - 148 r: `_LOST` (0.9) at r = 5e-4, below half of a sound pace of 1e-3. It counts
among the weights whose gradient is not exactly zero, in the median of matrices and samples, and the
run must not have gained `_LEARNS` (half) of the trivial predictor's loss. Measured: 0.95 in a
network that stood still at 0.98 of it, and 0.01 in one that learned.

**Source.** IEEE 754 (rounding to nearest); Zamirai et al. 2020, "Revisiting BFloat16 Training";
docs/thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.diagnosis.outcome import outcome
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Cause, Evidence, Finding, Pathology, Severity
from surefoot.kernels import STATISTICS, ZEROS
from surefoot.remedies import prescribed

_LOST, _LEARNS = 0.9, 0.5
_MASTER = prescribed(
    "amp.master_weights", None, "float32 weights take up updates of 1e-7 of their size"
)


def judge(case: Case) -> Iterator[Finding]:
    """Judge all sampled steps together."""
    shares, result = case.get("unmoved"), outcome(case)
    if not len(shares) or not result.poor(_LEARNS) or result.diverged:
        return
    matrices = case.weight_matrices()
    if shares.high.shape[1] != len(matrices):
        return
    idle = _without_gradient(case)[matrices]
    used = np.where(idle < 1, 1 - idle, np.nan)
    lost = (shares.high[:, matrices].astype(float) - idle) / used
    half = ~np.isnan(lost).all(0)
    if not half.any():
        return
    share = float(np.nanmedian(lost[:, half]))
    if share < _LOST:
        return
    dtype = next(p.dtype for p, m in zip(case.layers.parameters, matrices, strict=True) if m)
    yield Finding(
        rule=RULE.id,
        pathology=Pathology.STALLED,
        cause=Cause.DTYPE_UNDERFLOW,
        severity=Severity.HARMFUL,
        first_step=int(shares.steps[0]),
        last_step=case.facts.steps - 1,
        confidence=0.9,
        sentence=(
            f"A step leaves {share:.0%} of the weights exactly where they were: {dtype} rounds "
            f"their updates away; {result.words()}."
        ),
        evidence=(
            Evidence("share of the weights that a step does not move", share, "< 0.6"),
            Evidence("weight matrices in half precision", int(half.sum()), ""),
        ),
        remedies=(_MASTER,),
    )


def _without_gradient(case: Case) -> np.ndarray:
    """Share of each parameter's elements whose gradient is exactly zero, median over the run."""
    gradients, count = case.get("gradient"), len(case.layers.parameters)
    if not len(gradients) or gradients.high.shape[1] != count * len(STATISTICS):
        return np.zeros(count)
    zeros = gradients.high.reshape(len(gradients), count, -1)[:, :, ZEROS].astype(float)
    sizes = np.array([max(p.numel, 1) for p in case.layers.parameters])
    return np.nan_to_num(np.nanmedian(zeros, axis=0) / sizes)


RULE = Rule("SF205", "Updates lost to rounding", __doc__ or "", judge)
