"""Clippings whose limit follows from the run or from the weights, by the guard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.remedies.clipping.guarded import CONFLICTS, LIMITS, Clipping


class Auto(Clipping):
    """What is out of line for this run, to its usual size."""

    name, clip = "clipping.auto", "auto"
    why = "keeps a gradient that is out of line for this run from throwing the weights away"
    guarantee = "a norm far above those of late is brought to their usual size, no other is touched"
    formula = "g <- g usual / ||g|| where ||g|| is an outlier among the logarithms of late norms"
    source = "docs/guard.md"

    def code(self) -> str:
        """Itself as code to paste."""
        return "guard = surefoot.guard(optimizer, model, skip=False)"


class AGC(Clipping):
    """Adaptive gradient clipping: each unit's gradient by the norm of its weights."""

    name, clip = "clipping.agc", "agc"
    why = "no step of unit length changes a unit by more than a hundredth of its weights"
    guarantee = "||g_i|| <= 0.01 max(||w_i||, 1e-3) for each unit but those of the last layer"
    formula = "g_i <- g_i min(1, 0.01 max(||w_i||, 1e-3) / ||g_i||)"
    source = "Brock, De, Smith & Simonyan 2021, section 4.1"
    limits = (*LIMITS, "at small batches, where its authors saw little of it")
    conflicts: ClassVar[Mapping[str, Any]] = CONFLICTS | dict.fromkeys(
        ("residual.rezero", "residual.skip_init", "init.fixup"),
        "a parameter that begins at zero may change by 1e-5 a step; surefoot's own leaves those "
        "alone, others do not",
    )


class AutoClip(Clipping):
    """By a percentile of all norms so far."""

    name, clip = "clipping.autoclip", "autoclip"
    why = "finds its limit in the run itself"
    guarantee = "the norm is at most the tenth percentile of all norms so far"
    formula = "g <- g min(1, P10(||g_1||, ..., ||g_t||) / ||g_t||)"
    source = "Seetharaman, Wichern, Pardo & Le Roux 2020"
    limits = (*LIMITS, "where norms fall by much during the run: old ones still count")


class ZClip(Clipping):
    """By the norm's running z-score."""

    name, clip = "clipping.zclip", "zclip"
    why = "clips spikes only, by how far they stand out"
    guarantee = "a norm z > 2.5 deviations above its running mean is brought to m + 2.5 s (2.5 / z)"
    formula = "m, s^2: exponential averages of the clipped norms, alpha = 0.97"
    source = "Kumar, Owen, Chowdhury & Guera 2025, arXiv 2504.02507"
    limits = (*LIMITS, "in its first 25 steps, from which it learns")


class AdaGC(Clipping):
    """Each parameter's gradient by an average of its own past norms."""

    name, clip = "clipping.adagc", "adagc"
    why = "finds a spike of one tensor that the norm of all does not show"
    guarantee = "||g_p|| <= 1.05 times the running average of its own clipped norms, from step 100"
    formula = "g_p <- g_p min(1, 1.05 a_p / ||g_p||), a_p <- 0.98 a_p + 0.02 ||g_p||"
    source = "Wang et al. 2025, arXiv 2502.11034"
    limits = (*LIMITS, "before step 100, where it clips all gradients together to 1.0")
