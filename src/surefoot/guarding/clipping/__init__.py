"""Clippings by their published definitions, one a file.

To add one, write its file and add its line to CLIPPINGS; the guard, the documentation page and the
shared tests pick it up from there. None of them ever sees a gradient that is not finite.
"""

from __future__ import annotations

from surefoot.guarding.clipping.adagc import AdaGC
from surefoot.guarding.clipping.agc import AGC
from surefoot.guarding.clipping.autoclip import AutoClip
from surefoot.guarding.clipping.cut import Clipping, Cut, Gradients, total_norm
from surefoot.guarding.clipping.norm import Norm
from surefoot.guarding.clipping.parameter_norm import ParameterNorm
from surefoot.guarding.clipping.value import Value
from surefoot.guarding.clipping.zclip import ZClip

CLIPPINGS: dict[str, type[Clipping]] = {
    c.name: c for c in (Norm, Value, ParameterNorm, AGC, AutoClip, ZClip, AdaGC)
}

__all__ = ["CLIPPINGS", "Clipping", "Cut", "Gradients", "total_norm"]
