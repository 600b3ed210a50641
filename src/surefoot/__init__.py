"""surefoot finds, explains, prevents and repairs unstable gradients in PyTorch trainings.

The names below are loaded when they are first used: `import surefoot` alone does not import torch,
so that a script under `surefoot run` may still set what torch reads when it is imported.

PYTEST_DONT_REWRITE: under `surefoot run -m pytest` it is there before pytest, which would warn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surefoot.version import VERSION as __version__

if TYPE_CHECKING:
    from surefoot.build import BuildError as BuildError
    from surefoot.checking import check as check
    from surefoot.findings import Cause as Cause
    from surefoot.findings import Check as Check
    from surefoot.findings import Evidence as Evidence
    from surefoot.findings import Finding as Finding
    from surefoot.findings import Pathology as Pathology
    from surefoot.findings import Remedy as Remedy
    from surefoot.findings import Report as Report
    from surefoot.findings import Severity as Severity
    from surefoot.findings import Verdict as Verdict
    from surefoot.guarding.guard import Guard as Guard
    from surefoot.halted import TrainingHalted as TrainingHalted
    from surefoot.theory.gain import Gain as Gain
    from surefoot.theory.gain import gain as gain
    from surefoot.trial.applied import apply as apply
    from surefoot.trial.proof import Proof as Proof
    from surefoot.trial.prove import ProofError as ProofError
    from surefoot.trial.prove import prove as prove
    from surefoot.views.notebook import report as report
    from surefoot.watching.guarded import guard as guard
    from surefoot.watching.watch import Watch as Watch
    from surefoot.watching.watch import watch as watch

_FINDINGS = [
    "Cause",
    "Check",
    "Evidence",
    "Finding",
    "Pathology",
    "Remedy",
    "Report",
    "Severity",
    "Verdict",
]
_HOMES = (
    dict.fromkeys(_FINDINGS, "surefoot.findings")
    | {"BuildError": "surefoot.build", "check": "surefoot.checking"}
    | dict.fromkeys(["Gain", "gain"], "surefoot.theory.gain")
    | {"Guard": "surefoot.guarding.guard", "TrainingHalted": "surefoot.halted"}
    | {"guard": "surefoot.watching.guarded", "report": "surefoot.views.notebook"}
    | {"apply": "surefoot.trial.applied", "Proof": "surefoot.trial.proof"}
    | dict.fromkeys(["ProofError", "prove"], "surefoot.trial.prove")
    | dict.fromkeys(["Watch", "watch"], "surefoot.watching.watch")
)
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surefoot' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
