"""What is known of the optimizer that drives a training: its class and the numbers it was given."""

from __future__ import annotations

from typing import Any


class Driver:
    """The last optimizer of a training, and how many there were for the same parameters.

    >>> import torch
    >>> driver = Driver()
    >>> driver.took(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9))
    >>> driver.name, driver.count, dict(driver.settings)["momentum"]
    ('SGD', 1, 0.9)
    """

    def __init__(self) -> None:
        self.name, self.count = "", 0
        self.settings: tuple[tuple[str, float], ...] = ()

    def took(self, optimizer: Any, again: bool = True) -> None:
        """Note an optimizer that was made for the training; again: for parameters that had one."""
        self.name, self.count = type(optimizer).__name__, max(self.count + again, 1)
        self.settings = settings(optimizer)

    def facts(self) -> dict[str, Any]:
        """As `Facts` names them."""
        return {"optimizer": self.name, "optimizers": self.count, "settings": self.settings}


def settings(optimizer: Any) -> tuple[tuple[str, float], ...]:
    """(name, value) of its first group's numbers; betas as beta1 and beta2, truths as 0 and 1."""
    groups = getattr(optimizer, "param_groups", None) or [{}]
    found: dict[str, float] = {}
    for name, value in groups[0].items():
        if name == "betas" and isinstance(value, (tuple, list)):
            found |= {f"beta{i}": float(b) for i, b in enumerate(value, 1) if _number(b)}
        elif _number(value):
            found[name] = float(value)
    return tuple(found.items())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))
