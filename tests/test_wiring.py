"""Trainings that are wired wrongly, as scripts do it: left out, rounded away, frozen on purpose."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from surefoot.findings import Cause, Report, Severity
from surefoot.watching.session import Session

X, Y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X = (X.float() - 4.9) / 6


def train(
    model: nn.Module,
    parameters: Iterable[torch.Tensor] | None = None,
    *,
    steps: int = 120,
    lr: float = 0.05,
    between: Callable[[int, torch.optim.Optimizer], None] = lambda step, optimizer: None,
) -> tuple[Report, float]:
    """(the verdict, the last loss) of a plain classification of digits."""
    session = Session(folder=None)
    session.start()
    try:
        sgd = torch.optim.SGD(list(parameters or model.parameters()), lr=lr, momentum=0.9)
        for step in range(steps):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            sgd.zero_grad()
            loss = F.cross_entropy(model(X[rows]), Y[rows])
            loss.backward()
            sgd.step()
            between(step, sgd)
    finally:
        session.stop()
    return session.report(), float(loss.detach())


class Listed(nn.Module):
    """Keeps its layers in a plain list, which `parameters()` does not look into."""

    def __init__(self, kept: bool, scale: float) -> None:
        super().__init__()
        layers = [nn.Linear(64, 64) for _ in range(3)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=scale)
        self.layers = nn.ModuleList(layers) if kept else layers
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def test_layers_in_a_plain_list_are_missed_by_the_optimizer() -> None:
    torch.manual_seed(0)
    report, loss = train(Listed(kept=False, scale=2.0), lr=1e-3)
    assert loss > 1.2
    root = report.root
    assert root is not None and root.rule == "SF404", str(report)
    assert root.cause is Cause.DISCONNECTED_PARAMETERS
    assert root.severity is Severity.HARMFUL


@pytest.mark.parametrize(
    "probe", [lambda m: m.parameters(), lambda m: m.head.parameters()], ids=["all", "probe"]
)
def test_a_training_that_learns_may_leave_out_what_it_likes(
    probe: Callable[[Listed], Iterable[torch.Tensor]],
) -> None:
    torch.manual_seed(0)
    model = Listed(kept=True, scale=0.125)
    report, loss = train(model, probe(model))
    assert loss < 1.0
    assert report.findings == (), str(report)


class Rounded(nn.Module):
    """An operation in the middle; rounding has a slope, and it is zero."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 12), nn.Linear(12, 48), nn.Linear(48, 10)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.one(x))
        return self.three(torch.tanh(self.two(x)))


def through(x: torch.Tensor) -> torch.Tensor:
    """Rounded, with the gradient of the identity (straight through)."""
    return x + (x.round() - x).detach()


def test_rounding_cuts_the_graph_and_straight_through_does_not() -> None:
    torch.manual_seed(0)
    report, _ = train(Rounded(torch.round), lr=0.02, steps=60)
    root = report.root
    assert root is not None and root.rule == "SF402", str(report)
    assert root.layer == "one"
    torch.manual_seed(0)
    report, loss = train(Rounded(through))
    assert loss < 1.2 and report.findings == (), str(report)


class Reservoir(nn.Module):
    """A recurrent layer that is frozen on purpose, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 64, batch_first=True).requires_grad_(False)
        self.read = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.rnn(x.view(-1, 8, 8))[1][0])


def test_a_frozen_recurrent_layer_is_measured_like_any_other() -> None:
    torch.manual_seed(0)
    report, loss = train(Reservoir())
    assert loss < 1.0
    assert report.missing == () and report.findings == (), str(report)


class Nothing(torch.autograd.Function):
    """Gives its input on, and None for its gradient."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> None:
        return None


class Withheld(nn.Module):
    """A function of the user's that gives no gradient stands behind an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.Tanh())
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(Nothing.apply(self.encoder(x)))


def test_a_gradient_that_is_none_ends_nothing() -> None:
    torch.manual_seed(0)
    report, _ = train(Withheld(), steps=40)
    assert report.missing == ()
    root = report.root
    assert root is not None and root.rule == "SF402", str(report)
    assert (root.layer or "").startswith("encoder")


def test_an_optimizer_that_brings_its_state_along_is_told_from_a_low_rate() -> None:
    torch.manual_seed(0)
    session = Session(folder=None)
    session.start()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    try:
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        for p in model.parameters():  # as loaded from a run that had diverged
            huge = torch.full_like(p, 1e12)
            adam.state[p] = dict(step=torch.tensor(500.0), exp_avg=huge * 0, exp_avg_sq=huge)
        for step in range(80):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            adam.zero_grad()
            F.cross_entropy(model(X[rows]), Y[rows]).backward()
            adam.step()
    finally:
        session.stop()
    root = session.report().root
    assert root is not None and root.rule == "SF306", str(session.report())


def test_output_units_that_the_targets_drive_into_saturation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loss whose targets cannot be read, of an output that cannot reach them."""
    monkeypatch.setattr("surefoot.watching.budget._ALLOWANCE", 60.0)  # on any machine
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())
    session = Session(folder=None)
    session.start()
    try:
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(150):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            adam.zero_grad()
            wanted = 20 + Y[rows].float()[:, None]
            (model(X[rows]) - wanted).abs().pow(1.5).mean().backward()
            adam.step()
    finally:
        session.stop()
    root = session.report().root
    assert root is not None and root.cause is Cause.OUTPUT_ACTIVATION_MISMATCH, str(root)


def test_no_graph_is_walked_for_ever() -> None:
    """A graph with a hundred thousand nodes is left before its end, and the run is unharmed."""

    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(12_000):
                x = x + 0.0
            return self.head(x * self.head.weight.mean())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report, _ = train(Long(), steps=6)
    assert report.missing == ()
