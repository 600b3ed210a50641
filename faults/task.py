"""The trainings: handwritten digits, a plain loop, and a learning rate that falls to zero.

The rate falls so that the end tells what a fault has cost: at a constant one the same training,
less one batch, ends several tenths of a point away from itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from faults.faults import STEPS, Fault
from faults.guards import Guard

BATCH = 64  # of all ranks together
TRAINED = 1200  # digits of 1797; the others are the test
OPTIMIZERS = ("SGD", "AdamW")


class Rows(nn.Module):
    """A recurrent net that reads a digit half a row at a time, and at first keeps what it has read,
    times `gain` at each (Le, Jaitly and Hinton 2015).
    """

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.cell = nn.RNN(4, 64, nonlinearity="relu", batch_first=True)
        inputs, recurrent, *biases = self.cell.parameters()
        nn.init.normal_(inputs, std=0.15)
        with torch.no_grad():
            nn.init.eye_(recurrent).mul_(gain)
        for bias in biases:
            nn.init.zeros_(bias)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Digits [N, 64] to logits [N, 10]."""
        return self.head(self.cell(x.view(len(x), -1, 4))[0][:, -1])


def layers() -> nn.Module:
    """Six linear layers with ReLU between them, of width 64, initialised as He et al. 2015."""
    made: list[nn.Module] = []
    for width in (64, 64, 64, 64, 64, 10):
        linear = nn.Linear(64, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        made += [linear, nn.ReLU()]
    return nn.Sequential(*made[:-1])


@dataclass(frozen=True, slots=True)
class Task:
    """A model, the learning rate of each of OPTIMIZERS, and whether it is computed in float16.

    smoothing: of the labels. Without it gradients become small and uneven as the digits are learned
    by heart: single batches have thirty times the usual norm, and that is healthy. warm_up: steps
    over which the rate rises.
    """

    model: Callable[[], nn.Module]
    rates: tuple[float, float]
    half: bool = False
    smoothing: float = 0.1
    warm_up: int = 1

    def rate(self, step: int) -> float:
        """The factor of the learning rate."""
        return min(1.0, (step + 1) / self.warm_up) * (1 - step / STEPS)


TASKS = {
    "layers": Task(layers, (0.05, 3e-3)),
    "uneven": Task(layers, (0.05, 3e-3), smoothing=0.0),
    "half": Task(layers, (0.05, 3e-3), half=True),
    "recurrent": Task(Rows, (0.1, 3e-3)),
    "recurrent_late": Task(partial(Rows, 1.1), (0.1, 5e-3), warm_up=50),
}


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1797 digits [N, 64], standardised as a whole, in random order, and their labels [N]."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(pixels, dtype=torch.float32)[order]
    return (x - x.mean()) / x.std(), torch.tensor(labels)[order]


def optimizer(task: Task, name: str, model: nn.Module) -> torch.optim.Optimizer:
    """One of OPTIMIZERS, at the task's rate for it."""
    rate = task.rates[OPTIMIZERS.index(name)]
    if name == "SGD":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=rate)


def train(model: nn.Module, task: Task, guard: Guard, fault: Fault, seed: int) -> Iterator[int]:
    """The loop, with what is planted in it; each step is yielded once it is done."""
    x, y = (t[:TRAINED] for t in digits())
    generator = torch.Generator().manual_seed(seed)
    schedule = LambdaLR(guard.optimizer, lambda step: task.rate(step) * fault.rate(step))
    for step in range(STEPS):
        pick = torch.randint(TRAINED, (BATCH // fault.ranks,), generator=generator)
        inputs, labels = fault.batch(step, x[pick], y[pick])
        fault.weights(step, model)
        guard.optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16, enabled=task.half):
            loss = F.cross_entropy(model(inputs), labels, label_smoothing=task.smoothing)
        loss.backward()
        guard.before_step()
        guard.step(loss)
        schedule.step()
        yield step


@torch.no_grad()
def accuracy(model: nn.Module, half: bool) -> float:
    """On the digits that were not trained on, in percent."""
    x, y = (t[TRAINED:] for t in digits())
    model.eval()
    with torch.autocast("cpu", torch.float16, enabled=half):
        return 100 * float((model(x).argmax(1) == y).float().mean())
