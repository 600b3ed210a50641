"""The lab: choose a network, see what becomes of its gradients, within a second.

`CHOICES` says what can be chosen, `experiment` checks and trains it, `PRESETS` are where to begin.
A form is made without PyTorch, which is loaded with the first experiment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surefoot.lab.choices import CHOICES, ChoiceError, Choices
from surefoot.lab.presets import PRESETS

if TYPE_CHECKING:
    from surefoot.lab.experiments import Experiment, experiment

__all__ = ["CHOICES", "PRESETS", "ChoiceError", "Choices", "Experiment", "experiment"]


def __getattr__(name: str) -> Any:
    if name in ("Experiment", "experiment"):
        from surefoot.lab import experiments

        return getattr(experiments, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
