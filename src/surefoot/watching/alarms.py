"""What is kept of a step at which gradients were out of line."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.diagnosis.gate import Gate

_MOST = 256  # parameters that are named


def described(
    tripped: np.ndarray, gate: Gate, loss: float | None, inputs: np.ndarray
) -> dict[str, Any]:
    """The parameters that tripped the gate, by how much at most, and what else the step was."""
    z, factor = gate.scores(tripped)
    return {
        "count": len(tripped),
        "parameters": tripped[:_MOST].tolist(),
        "z": float(np.nanmax(z, initial=0.0)),
        "factor": float(np.nanmax(factor, initial=1.0)),
        "loss": loss,
        "input": inputs.tolist(),
    }
