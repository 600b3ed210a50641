"""The guards, each used as its own documentation says, with its defaults.

Another one is a class here and a line in GUARDS.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

import surefoot


class Guard:
    """None at all, and what the others are made of: a guard on one optimizer, for one training."""

    needs = "torch"  # what has to be installed

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def before_step(self) -> None:
        """Between backward and the update, where gradients are clipped."""

    def step(self, loss: torch.Tensor) -> None:
        """The update."""
        self.optimizer.step()

    def acts(self) -> int:
        """At how many steps it has changed something."""
        return 0

    def told(self) -> tuple[str, ...]:
        """What it says of them."""
        return ()

    def halt(self, error: BaseException) -> str | None:
        """The cause that the guard gives, if it is the guard that ended the training."""
        return None

    def remove(self) -> None:
        """Take it off."""


class ClipGradNorm(Guard):
    """The clipping of nearly all trainings of today."""

    clipped = 0

    def before_step(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.clipped += not float(norm) <= 1.0

    def acts(self) -> int:
        return self.clipped


class ZClip(Guard):
    """Kumar et al. 2025, by its authors' own package."""

    needs = "zclip"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.clip = import_module("zclip").ZClip()
        self.clipped = 0

    def before_step(self) -> None:
        norm = self.clip.step(self.model)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        left = torch.nn.utils.get_total_norm(grads)
        self.clipped += not float(left) > 0.9999 * norm

    def acts(self) -> int:
        return self.clipped


class Stabilityguard(Guard):
    """It stands around the optimizer and skips the steps that it finds bad.

    The one for several processes, which the package also has, wants CUDA; each has its own here.
    """

    needs = "stabilityguard"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.folder = tempfile.TemporaryDirectory()
        self.guarded = import_module("stabilityguard").GuardedOptimizer(
            optimizer, model, verbose=False, log_dir=self.folder.name
        )

    def step(self, loss: torch.Tensor) -> None:
        self.guarded.step(loss=float(loss))

    def acts(self) -> int:
        return self.guarded.total_spikes

    def remove(self) -> None:
        self.folder.cleanup()


class Surefoot(Guard):
    """This library's, with nothing set."""

    needs = "surefoot"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.guard: Any = surefoot.guard(optimizer, model=model)
        self.guard.__enter__()

    def acts(self) -> int:
        return len(self.guard.acts)

    def told(self) -> tuple[str, ...]:
        return tuple(f"{act.step} {act.rung}: {act.reason}" for act in self.guard.acts)

    def halt(self, error: BaseException) -> str | None:
        if not isinstance(error, surefoot.TrainingHalted):
            return None
        root = error.report.root
        return "no cause" if root is None else str(root.cause)

    def remove(self) -> None:
        self.guard.__exit__(None, None, None)


GUARDS: dict[str, type[Guard]] = {
    "nothing": Guard,
    "clip_grad_norm_": ClipGradNorm,
    "ZClip": ZClip,
    "stabilityguard": Stabilityguard,
    "surefoot": Surefoot,
}


def installed() -> list[str]:
    """The names of those that are."""
    return [name for name, guard in GUARDS.items() if find_spec(guard.needs)]
