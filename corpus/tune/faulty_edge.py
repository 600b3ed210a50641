"""Beyond the edge of stability: the same full-batch descents with steps that are too long."""

from __future__ import annotations

from typing import Any

import torch

from corpus import faulty_case
from corpus.tune.healthy_edge import descent, score

HIGH = "exploding|oscillating|nonfinite"


def full_batch(seed: int, *, lr: float, steps: int = 200, **more: Any) -> float:
    """Full-batch gradient descent with squared error."""
    model, pair, *_ = descent(
        seed, optimizer=lambda p: torch.optim.SGD(p, lr=lr, **more), steps=steps, squared=True
    )
    return score(model, pair)


faulty_case(
    "beyond_the_edge", full_batch, HIGH, "learning_rate_too_high", None, dict(lr=12.0), lr=2.0,
)  # fmt: skip
faulty_case(
    "beyond_the_edge_momentum", full_batch, HIGH, "learning_rate_too_high", None,
    dict(lr=6.0), lr=1.0, momentum=0.5,
)  # fmt: skip
