"""An optimizer that forgets what it remembers, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Reset(Treatment):
    """The optimizer's state is cleared before step number `step`."""

    name = "optimizer.reset"
    why = "a new optimizer knows nothing of the phase before"
    guarantee = "step `step`, counted from now, is the first step of a new optimizer"
    formula = "m = v = 0, t = 0"
    source = "Huang et al. 2025 (SPAM), arXiv 2501.06842: momentum reset"
    limits = (
        "where the optimizer remembers nothing, as plain SGD",
        "where its moments are right: it only makes them noisy anew",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"step": 0}

    def __init__(self, target: str | None = None, **parameters: Any) -> None:
        super().__init__(target, **parameters)
        step = self.parameters["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"expected step to be a whole number from zero, got {step!r}")

    def apply(self, subject: Subject) -> None:
        """Clear it when the time has come.

        Raises NotApplicable where there is nothing to forget at the next step.
        """
        at = self.parameters["step"]
        if at == 0 and subject.optimizers and not any(map(_remembers, subject.optimizers)):
            raise NotApplicable("the optimizer remembers nothing before its first step")

        def follow(optimizer: torch.optim.Optimizer) -> None:
            steps = 0

            def hook(*_: Any) -> None:
                nonlocal steps
                if steps == at:
                    _clear(subject, optimizer)
                steps += 1

            subject.on_undo(optimizer.register_step_pre_hook(hook).remove)

        subject.follow(follow)

    def code(self) -> str:
        """Itself as code to paste."""
        when = self.parameters["step"]
        when = f"at step {when}" if when else "when the loss changes"
        return f"optimizer = torch.optim.AdamW(model.parameters(), lr=lr)   # {when}"


def _remembers(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has made a step that it knows of; some have an empty state from the start on."""
    steps = [s["step"] for s in optimizer.state.values() if "step" in s]
    return any(bool(step) for step in steps) if steps else any(optimizer.state.values())


def _clear(subject: Subject, optimizer: torch.optim.Optimizer) -> None:
    before = dict(optimizer.state)
    optimizer.state.clear()
    if isinstance(optimizer, torch.optim.Adagrad):  # which makes its state when it is made itself
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p] = _accumulator(group, before.get(p, {}), p)

    def restore() -> None:
        optimizer.state.clear()
        optimizer.state.update(before)

    subject.on_undo(restore)


def _accumulator(group: dict[str, Any], before: dict[str, Any], p: torch.Tensor) -> dict[str, Any]:
    step = before.get("step", torch.tensor(0.0))
    begin = group["initial_accumulator_value"]
    total = torch.full_like(p, begin, memory_format=torch.preserve_format)
    return {"step": torch.zeros_like(step), "sum": total.detach()}
