"""Two labs: entries that put a claim to the test, and a network to choose and watch.

`surefoot lab` runs the entries: `entries` lists them, `entry` says what one is and what comes of
it, and each is a module that runs itself. The network is that of the page: `CHOICES` says what can
be chosen, `experiment` checks and trains it within a second, `PRESETS` are where to begin. A list
and a form are made without PyTorch, which is loaded with the first experiment.
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
