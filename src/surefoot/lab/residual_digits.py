"""Residual networks on images: convolutional networks of 8 and 56 layers on digits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.trials import paired, trained, typical, watched

_DEPTHS, _RATE, _STEPS, _BATCH, _TRAINED = (8, 56), 0.01, 90, 64, 1400
_WATCHED, _SEEDS = 40, 3
_HE = "He et al. 2016, section 4.2 (an analogue: they trained on CIFAR-10)"


class Pair(nn.Module):
    """Two convolutions with batch norm, and past them the identity or nothing."""

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> the same."""
        branch = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(branch + x if self.skip else branch)


def _network(depth: int, skip: bool) -> nn.Sequential:
    """`depth` layers of 8 channels on the 8 x 8 digits."""
    pairs = [Pair(8, skip) for _ in range((depth - 2) // 2)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *pairs, nn.Flatten(), nn.Linear(512, 10))


def _measure(seed: int) -> Result:
    accuracy: dict[tuple[int, bool], float] = {}
    courses: dict[bool, list[list[float]]] = {False: [], True: []}
    for skip in (False, True):
        for depth, k in ((8, 0), *((56, k) for k in range(_SEEDS))):
            course, share = _train(depth, skip, 100 * k + seed)
            accuracy.setdefault((depth, skip), share)
            if depth == _DEPTHS[-1]:
                courses[skip].append(course)
    seen = watched(partial(_parts, _DEPTHS[-1], False, seed), _WATCHED)
    plain, residual = ({d: accuracy[d, skip] for d in _DEPTHS} for skip in (False, True))
    last = typical(losses(seen))
    return Result(
        Standing.BORNE_OUT,
        f"After {_STEPS} steps the accuracy on digits is {plain[56]:.1%} with 56 plain "
        f"layers against {plain[8]:.1%} with 8; with skips it is {residual[56]:.1%} against "
        f"{residual[8]:.1%}. That is training accuracy: the deep plain network does not overfit, "
        "it does not train.",
        (
            Row("training accuracy that 56 plain layers have less than 8",
                f"{_HE}: plain networks degrade; above 0.3", 0.3, plain[8] - plain[56], bound=">"),
            Row("training accuracy that 56 residual layers have less than 8",
                f"{_HE}: residual ones do not; below 0.05", 0.05, residual[8] - residual[56],
                bound="<"),
            Row("training accuracy of 56 residual layers", f"{_HE}; above 0.9", 0.9, residual[56],
                bound=">"),
        ),
        drawn(
            [Line("plain", _DEPTHS, [plain[d] for d in _DEPTHS], BAD),
             Line("residual", _DEPTHS, [residual[d] for d in _DEPTHS], GOOD)],
            "layers", "training accuracy",
        ),
        f"56 plain convolutions with batch norm are at a loss of {last:.3g} after {_WATCHED} "
        f"steps; a constant answer has {math.log(10):.3g}.",
        seen,
        f"A skip past each pair of convolutions: {paired(courses[False], courses[True])}.",
    )  # fmt: skip


def _digits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """1400 of scikit-learn's digits [1400, 1, 8, 8], standardised over all pixels, and labels."""
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:_TRAINED]
    x = torch.tensor(pixels, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    return x[order].reshape(-1, 1, 8, 8), torch.tensor(labels)[order]


def _parts(depth: int, skip: bool, seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    model = _network(depth, skip)
    data = torch.utils.data.TensorDataset(*_digits(seed))
    batches = torch.utils.data.DataLoader(data, batch_size=_BATCH, drop_last=True)
    return model, batches, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=_RATE)


def _train(depth: int, skip: bool, seed: int) -> tuple[list[float], float]:
    """The losses, and the accuracy on the training set, as batch norm's averages are young in
    training mode."""
    parts = _parts(depth, skip, seed)
    course = trained(*parts, steps=_STEPS)
    x, y = _digits(seed)
    with torch.no_grad():
        return course, float((parts[0](x).argmax(1) == y).float().mean())


ENTRY = Entry(
    "residual_digits",
    "Deeper plain networks train worse than shallow ones, and residual networks do not.",
    "He et al. 2016, Deep residual learning, section 4.2",
    _measure,
    (Cause.NORMALIZATION_WITHOUT_SKIP, Cause.DEPTH_WITHOUT_SKIP),
    ("sklearn",),
)

if __name__ == "__main__":
    program.main(ENTRY)
