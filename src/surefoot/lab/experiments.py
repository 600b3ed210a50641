"""One experiment: the network that was chosen is checked, trained for a moment, and explained."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.build import Build
from surefoot.checking import examine
from surefoot.findings import Check, Evidence, Finding, Verdict
from surefoot.lab.choices import Choices
from surefoot.lab.course import batch_of, losses, optimizer_of, steps_of, train
from surefoot.lab.network import Network
from surefoot.lab.published import published
from surefoot.lab.suggestions import suggestions
from surefoot.lab.task import CLASSES, SAMPLES, draw
from surefoot.record.data import RunData
from surefoot.views.words import clean, number

# Of a constant answer, on balanced classes.
TRIVIAL = {"cross_entropy": math.log(CLASSES), "squared_error": (CLASSES - 1) / CLASSES**2}
_CLEARLY = 0.8
_KEPT = 32  # experiments, of some megabytes each
_GAUGES = ("gradient coherence", "mean cosine", "dead or saturated")
# The check forks the process's random numbers: two at once would mix them up.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, slots=True)
class Experiment:
    """What became of some choices.

    check: before training; training: the steps after it; both draw the usual figures. numbers: what
    was measured beside what theory or a sound network has. sentence: what happened and why, in
    plain words. suggestions: (label, choices) of up to three changes that the findings prescribe,
    to be tried in this order.
    """

    choices: Choices
    check: RunData
    training: RunData
    numbers: tuple[Evidence, ...]
    sentence: str
    suggestions: tuple[tuple[str, Choices], ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """That of the training: what a check fears and a training survives is no harm."""
        return _verdict(self.choices, self.check, self.training)

    @property
    def finding(self) -> Finding | None:
        """The root of the trouble, None on a sound network."""
        return self.training.report.root or self.check.report.root

    def to_json(self) -> dict[str, Any]:
        """What is said of it as a plain dict, without the data of the figures."""
        return {
            "choices": self.choices.to_query(),
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "numbers": [asdict(row) for row in self.numbers],
            "suggestions": [{"label": x, "choices": c.to_query()} for x, c in self.suggestions],
            "check": self.check.report.to_json(),
            "training": self.training.report.to_json(),
            "seconds": round(self.seconds, 3),
        }


def experiment(choices: Choices) -> Experiment:
    """Check, train and explain; the random numbers of the process are left alone.

    Takes a fifth of a second for ten layers, about one for 64 layers of 256 units, and one more the
    first time, when PyTorch's parts are loaded. The last results are kept. Threads may call it at
    the same time; they wait for each other.

    >>> experiment(Choices(activation="sigmoid", initialization="xavier_normal")).verdict.value
    'unstable'
    """
    with _ONE_AT_A_TIME:
        result = _experiment(choices)
        if result.training.report.steps < steps_of(choices):
            _experiment.cache_clear()  # of a moment in which the machine was busy
        return result


@lru_cache(maxsize=_KEPT)
def _experiment(choices: Choices) -> Experiment:
    began = time.perf_counter()
    with torch.enable_grad():
        build = _build(choices)
        check, before = examine(Build(build.model, build.batch, build.loss_fn))
        after = train(build, steps_of(choices))
    numbers = (*_flow(choices, before), *_gauges(check), *_course(choices, after))
    unstable = _verdict(choices, before, after) is Verdict.UNSTABLE
    findings = (*after.report.findings, *check.findings) if unstable else ()
    changes = suggestions(choices, findings)
    sentence = _sentence(choices, before, after, numbers, changes)
    seconds = time.perf_counter() - began
    return Experiment(choices, before, after, numbers, sentence, changes, seconds)


def _build(choices: Choices) -> Build:
    model = Network(choices)
    inputs, classes = draw(choices.seed)
    squared = choices.loss == "squared_error"
    targets = nn.functional.one_hot(classes, CLASSES).float() if squared else classes
    loss = nn.functional.mse_loss if squared else nn.functional.cross_entropy
    size = batch_of(choices)
    cuts = range(0, SAMPLES, size)
    batches = [(inputs[i : i + size], targets[i : i + size]) for i in cuts]
    return Build(model, batches[0], loss, optimizer_of(choices, model), batches)


# -- numbers ------------------------------------------------------------------------------------


def _row(quantity: str, value: float | None, expected: str) -> Evidence:
    """Evidence that strict JSON can hold."""
    finite = value is None or math.isfinite(value)
    return Evidence(quantity, value if finite else number(value), expected, 0)


def _flow(choices: Choices, data: RunData) -> list[Evidence]:
    """How the gradient fares on its way from the last hidden layer back to the first."""
    norms = _gradients(choices, data)
    theory = published(choices, batch_of(choices))
    words = "theory has no number for this combination; near 1 is sound"
    if theory is not None:
        words = f"theory: {number(theory.growth)} ({theory.source})"
    whole = growth = None
    if len(norms) > 1 and norms[-1] > 0:
        whole = norms[0] / norms[-1]
        growth = whole ** (1 / (len(norms) - 1))
    return [
        _row("gradient, factor a layer towards the input", growth, words),
        _row("gradient at the first layer over that at the last", whole, "0.14 to 7.4"),
    ]


def _gradients(choices: Choices, data: RunData) -> list[float]:
    """Norm of the gradient at the output of each hidden layer, in the order of the depth."""
    if not data.flows:
        return []
    names = data.layers.layers
    seen = {names[c.layer].name: c.grad_output for c in data.flows[0].calls}
    along = [seen.get(f"layers.{i}") for i in range(choices.depth)]
    return [math.nan if s is None or s.nonfinite else s.norm for s in along]


def _gauges(check: Check) -> list[Evidence]:
    """Those of the check that belong to the flow."""
    return [
        _row(e.quantity, e.value, e.expected)
        for e in check.gauges
        if e.quantity.startswith(_GAUGES) and not isinstance(e.value, str)
    ]


def _course(choices: Choices, data: RunData) -> list[Evidence]:
    """What the steps did."""
    trivial = number(TRIVIAL[choices.loss])
    along, ratio = losses(data), math.nan
    updates = data.series.get("update_ratio")
    matrices = [len(p.shape) > 1 for p in data.layers.parameters]
    if updates is not None and len(updates) and any(matrices):
        first = np.asarray(updates.last, np.float64)[0, matrices]
        ratio = float(np.median(first)) if np.isfinite(first).all() else math.nan
    return [
        _row("loss before training", along[0], f"a constant answer: {trivial}"),
        _row(f"loss after {len(along) - 1} steps", along[-1], f"clearly below {trivial}"),
        _row("first update over the weights, median", ratio, "1e-4 to 0.05"),
    ]


def _verdict(choices: Choices, before: RunData, after: RunData) -> Verdict:
    if before.report.verdict is Verdict.UNSTABLE and not _learned(choices, after):
        return Verdict.UNSTABLE
    return after.report.verdict


def _learned(choices: Choices, data: RunData) -> bool:
    """Whether its last losses are clearly below that of a constant answer."""
    along = losses(data)
    last = along[-max(len(along) // 4, 1) :]
    return float(np.median(last)) < _CLEARLY * TRIVIAL[choices.loss]


# -- words --------------------------------------------------------------------------------------


def _sentence(
    choices: Choices,
    before: RunData,
    after: RunData,
    numbers: tuple[Evidence, ...],
    changes: tuple[tuple[str, Choices], ...],
) -> str:
    along = losses(after)
    course = (
        f"In {len(along) - 1} steps the loss went from {number(along[0])} to "
        f"{number(along[-1])}; a constant answer has {number(TRIVIAL[choices.loss])}."
    )
    root, feared = after.report.root, before.report.root
    if root is not None:
        parts = [root.sentence, course]
    elif feared is not None:
        learned = "It learns all the same. " if _learned(choices, after) else ""
        parts = [f"Before training: {feared.sentence}", learned + course]
    else:
        parts = [_sound(numbers[0]), course]
    if len(along) < steps_of(choices):
        parts.append("The machine was busy: the rest of the steps was left out.")
    if changes:
        parts.append(f"To try first: {changes[0][0]}.")
    return clean(" ".join(parts))


def _sound(growth: Evidence) -> str:
    if growth.value is None:
        return "Healthy: nothing stands in the way of the gradient."
    return (
        "Healthy: on its way back to the input the gradient is multiplied by "
        f"{number(growth.value)} a layer."
    )
