"""What a clipping sees of a step, and what it wants done to the gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from surefoot.kernels import NORM


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradients that an optimizer is about to use, all of them finite.

    rows: [P, 5] as `kernels.Pass` fills them, in float64, NaN where there is no gradient;
    parameters: P tensors, whose `.grad` they are.
    """

    rows: np.ndarray
    parameters: list[torch.Tensor]

    @property
    def norms(self) -> np.ndarray:
        """[P]: of each, NaN where there is none."""
        return self.rows[:, NORM]

    @property
    def norm(self) -> float:
        """Of all as one vector."""
        return total_norm(self.rows)


@dataclass(frozen=True, slots=True)
class Cut:
    """What is to be done: nothing, unless said otherwise.

    divisor: of all gradients; divisors: by index, of single ones or, as a tensor that broadcasts
    to the gradient, of their parts; bound: magnitudes above it become it, in those of `bounded`.
    """

    divisor: float = 1.0
    divisors: Mapping[int, float | torch.Tensor] = field(default_factory=dict)
    bound: float = math.inf
    bounded: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.divisor > 1.0 or bool(self.divisors) or bool(self.bounded)


class Clipping(Protocol):
    """A rule that says how far gradients may go. A state that it keeps survives a checkpoint."""

    name: ClassVar[str]

    def cut(self, gradients: Gradients) -> Cut:
        """What is to be done to the gradients of the next step; notes them for later ones."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, in plain numbers and lists."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; raises ValueError, and stays as it is, if it is none."""
        ...


class Stateless:
    """A clipping that keeps nothing from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take."""


class Never(Stateless):
    """Clips nothing."""

    name: ClassVar[str] = "never"

    def cut(self, gradients: Gradients) -> Cut:
        """Nothing."""
        return Cut()


def positive(name: str, value: Any, usual: str) -> float:
    """The value as a float; ValueError unless it is a positive finite number."""
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"expected {name} to be a positive number, got {value!r}: {usual}")
    return float(value)


def total_norm(rows: np.ndarray) -> float:
    """The norm of all gradients as one vector, in float64; of their finite elements.

    rows: [P, 5] as `kernels.Pass` fills them, NaN where there is no gradient.

    >>> total_norm(np.array([[3e200, 0, 0, 0, 0], [np.nan] * 5, [4e200, 0, 0, 0, 0]]))
    4.9999999999999995e+200
    """
    norms = rows[:, NORM]
    total = math.hypot(*norms.tolist())  # which neither overflows nor underflows on its way
    return total if total == total else math.hypot(*norms[~np.isnan(norms)].tolist())
