"""Parts of runs made up for the tests of the views: layers, series, instrumented steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from surefoot.findings import Report
from surefoot.layers import Kind, Layer, LayerTable, Parameter
from surefoot.record.data import RunData
from surefoot.record.series import Series, Thinned
from surefoot.signals.flow import Call, Flow, TensorStats

WIDTH, BATCH = 64, 32
ENVIRONMENT: dict[str, Any] = {
    "surefoot": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "device": "cpu",
    "kernel": "native (AVX-512)",
    "argv": ["train.py", "--epochs", "3"],
    "options": {"forensics": True, "ignore": []},
}


def table(depth: int, name: Callable[[int], str], activation: str = "Sigmoid") -> LayerTable:
    """A multilayer perceptron of `depth` linear layers; `name(2i)` linear, `name(2i+1)` not."""
    layers = [Layer("", "Mlp", Kind.CONTAINER, None, False)]
    parameters = []
    for i in range(depth):
        for suffix, shape in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
            parameters.append(
                Parameter(
                    f"{name(2 * i)}.{suffix}",
                    len(layers),
                    shape,
                    "float32",
                    int(np.prod(shape)),
                )
            )
        layers.append(Layer(name(2 * i), "Linear", Kind.LINEAR, 0, True))
        if i < depth - 1:
            layers.append(Layer(name(2 * i + 1), activation, Kind.ACTIVATION, 0, True))
    return LayerTable("Mlp", tuple(layers), tuple(parameters))


def whole(rows: np.ndarray, steps: np.ndarray | None = None) -> Series:
    """A series [T, C] of which nothing was thinned."""
    rows = np.asarray(rows, np.float32)
    steps = np.arange(len(rows)) if steps is None else steps
    return Series(np.asarray(steps, np.int64), rows, rows, rows)


def thinned(rows: np.ndarray, capacity: int = 512) -> Series:
    """The same after the record's own thinning."""
    series = Thinned(rows.shape[1], capacity)
    for step, row in enumerate(rows):
        series.append(step, row)
    return series.series()


def stats(norm: float, nonfinite: int = 0) -> TensorStats:
    """Of a [32, 64] tensor."""
    return TensorStats(norm, norm / 8, 0.0, nonfinite, 0, WIDTH * BATCH)


def flow(data_table: LayerTable, step: int, gain: float, replayed: bool = False) -> Flow:
    """A step in which each linear layer multiplies the gradient by `gain` on its way back."""
    calls, gradient = [], 0.05
    linear = [i for i, layer in enumerate(data_table.layers) if layer.kind is Kind.LINEAR]
    back = {layer: gradient * gain**i for i, layer in enumerate(reversed(linear))}
    for order, layer in enumerate(range(len(data_table.layers))):
        norm = back.get(layer, gradient)
        forward = 30.0 + 8 * np.sin(layer)
        calls.append(Call(layer, order, stats(forward), stats(forward), stats(norm), stats(norm)))
    return Flow(step, calls, replayed)


def gradients(depth: int, steps: int, gain: float, seed: int = 0) -> np.ndarray:
    """Gradient norms [T, 2 * depth] of a perceptron with that gain per layer."""
    noise = np.random.default_rng(seed).normal(0, 0.06, (steps, 2 * depth))
    depthwise = np.repeat(gain ** np.arange(depth)[::-1], 2) * np.tile([0.4, 0.1], depth)
    return depthwise * 10**noise


def statistics(norms: np.ndarray, nonfinite: float | np.ndarray = 0.0) -> np.ndarray:
    """Rows [T, 5 P] of the quantity "gradient" from norms [T, P] and counts of non-finite."""
    parts = [norms, norms / 8, 0 * norms, nonfinite + 0 * norms, 0 * norms]
    return np.stack(parts, axis=2).reshape(len(norms), -1)


def run(depth: int, steps: int, gain: float, losses: np.ndarray, report: Report) -> RunData:
    """A watched training of that depth; `gain` is what each layer does to the gradient."""
    layers = table(depth, lambda i: f"layers.{i}")
    norms = gradients(depth, steps, gain)
    sampled = np.arange(0, steps, 16)
    series = {
        "loss": whole(losses[:, None]),
        "learning_rate": whole(np.full((steps, 1), 0.05)),
        "gradient": whole(statistics(norms)),
        "update_ratio": whole(norms[sampled] * 4e-3, sampled),
    }
    flows = (flow(layers, 0, gain),)
    return RunData("digits-sigmoid", report, layers, series, flows, (), ENVIRONMENT)
