"""surefoot finds, explains, prevents and repairs unstable gradients in PyTorch trainings."""

from surefoot.environment import version as _version
from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Report, Severity, Verdict
from surefoot.watch import Watch, watch

__version__ = _version()

__all__ = [
    "Cause",
    "Evidence",
    "Finding",
    "Pathology",
    "Remedy",
    "Report",
    "Severity",
    "Verdict",
    "Watch",
    "__version__",
    "watch",
]
