"""Planted causes, each with a twin that looks alike: what the trials must tell apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from surefoot.diagnosis.diagnose import diagnose
from surefoot.diagnosis.forensics import (
    batch_to_blame,
    dtype_to_blame,
    step_to_blame,
    steps_cleared,
    too_long,
)
from surefoot.findings import Cause, Finding, Severity
from surefoot.signals.forensics import Inquiry
from surefoot.watching.session import Session

POISONED = 413  # the sample of the data set that is wrong
KICK = 40  # the step at which the learning rate is set too high


class Digits(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples of four classes; one may be out of scale and wrongly labelled."""

    def __init__(self, poisoned: bool) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(640, 16, generator=generator)
        self.y = self.x[:, :4].argmax(1)
        if poisoned:
            self.x[POISONED] *= 3000
            self.y[POISONED] = self.x[POISONED, :4].argmin()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.y[i]


def mlp(depth: int = 3, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [16, *[64] * (depth - 1), 4]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=scale * (2 / a) ** 0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Trained:
    """A training of three epochs under watch, and its verdict."""

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.05,
        *,
        poisoned: bool = False,
        kick: float = 1.0,
        workers: int = 0,
        forensics: bool = True,
        data: Digits | None = None,
        spoil: Callable[[int, torch.Tensor], torch.Tensor] = lambda step, x: x,
    ) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        data = data or Digits(poisoned)
        loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=workers)
        session = Session(forensics=forensics)
        session.start()
        self.training = session.watch(model, optimizer)
        torch.manual_seed(1)
        step = 0
        self.order: list[list[int]] = []
        for _ in range(3):
            for x, y in loader:
                if step == KICK:
                    optimizer.param_groups[0]["lr"] *= kick
                optimizer.zero_grad()
                F.cross_entropy(model(spoil(step, x)), y).backward()
                optimizer.step()
                step += 1
        session.stop()
        self.case = self.training.case()
        self.report = diagnose(self.case)

    @property
    def root(self) -> Finding:
        assert self.report.root is not None, self.report
        return self.report.root

    def rules(self) -> set[str]:
        return {f.rule for f in self.report.findings if f.severity is not Severity.ADVICE}

    def first(self, why: str) -> Inquiry:
        return next(i for i in self.case.inquiries if i.why == why)


# -- the data or the step's length ---------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_convicted_and_named(workers: int) -> None:
    run = Trained(mlp(), poisoned=True, workers=workers)
    verdict = next(f for f in run.report.findings if f.cause is Cause.BAD_BATCH)
    assert verdict.root
    assert verdict.confidence > 0.95
    found = run.first("spike")
    assert batch_to_blame(found) is True
    assert found.indices == [POISONED]
    assert f"of 16 (dataset index {POISONED})" in verdict.sentence
    rows = {e.quantity: e.value for e in verdict.evidence}
    assert rows["gradient over that of another batch at the same weights"] > 5
    held = rows["gradient's energy in single samples"]
    assert isinstance(held, str)
    assert f"dataset index {POISONED}" in held


def test_a_step_that_is_too_long_is_convicted_and_its_batch_cleared() -> None:
    run = Trained(mlp(), kick=300)
    assert run.root.cause is Cause.LEARNING_RATE_TOO_HIGH
    assert "SF202" not in run.rules()
    proof = step_to_blame(run.case)
    assert proof is not None
    assert batch_to_blame(proof) is False
    spikes = [i for i in run.case.inquiries if i.why == "spike"]
    assert spikes
    assert all(not batch_to_blame(i) for i in spikes)
    rows = [e.quantity for e in run.root.evidence]
    assert "the same step at its full length: loss of its batch" in rows
    assert "the same step at 1/100 of its length: loss of its batch" in rows


def test_what_the_shape_of_the_loss_alone_would_have_said() -> None:
    """The same run without trials: a loss a hundred times the usual, out of a calm."""
    run = Trained(mlp(), kick=300, forensics=False)
    assert not run.case.inquiries
    assert "SF202" in run.rules()


def test_neither_is_said_of_a_sound_run() -> None:
    run = Trained(mlp())
    assert run.rules() == set()
    assert step_to_blame(run.case) is None


def test_the_first_step_is_convicted_though_the_loss_tells_only_at_the_second() -> None:
    run = Trained(mlp(), lr=20.0)
    assert run.root.cause is Cause.LEARNING_RATE_TOO_HIGH
    proof = step_to_blame(run.case)
    assert proof is not None
    assert (proof.step, proof.why) == (0, "before the rise")
    assert too_long(proof) is True
    assert proof.other_step == 1
    assert not steps_cleared(run.case)


# -- the depth comes before the step's length -----------------------------------------------------


def test_exploding_weights_come_before_the_steps_that_they_make_too_long() -> None:
    run = Trained(mlp(12, scale=2.0), lr=0.003)
    assert step_to_blame(run.case) is not None  # these steps are too long as well
    assert run.root.rule == "SF102"
    assert run.root.cause is Cause.WEIGHTS_TOO_LARGE
    sound = Trained(mlp(12), lr=0.003)
    assert sound.rules() == set()
    steep = Trained(mlp(12), lr=3.0)
    assert steep.root.cause is Cause.LEARNING_RATE_TOO_HIGH


# -- the dtype ------------------------------------------------------------------------------------


class Softmax(nn.Module):
    """A softmax by hand, followed by its logarithm: exp overflows in float32 above 88."""

    def __init__(self, floor: bool) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if self.floor:  # no overflow, but a logarithm of numbers below zero where all are small
            return (z - z.detach().amin() - 1e-3 * z.abs().amax()).log()
        return (z.exp() / z.exp().sum(-1, keepdim=True)).log()


def test_the_dtype_is_convicted_where_float64_is_sound_and_only_there() -> None:
    def louder(step: int, x: torch.Tensor) -> torch.Tensor:
        return x * 12 if step == 30 else x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Trained(nn.Sequential(mlp(), Softmax(False)), spoil=louder)
    found = run.first("nonfinite")
    assert found.step == 30
    rows = {e.quantity: e.value for e in run.root.evidence}
    assert rows["loss and gradient of the same step in float64"] == "finite"
    assert isinstance(rows["the same weights on another batch (step 16): loss"], float)
    assert dtype_to_blame(found) is True
    assert found.wide_loss is not None
    assert math.isfinite(found.wide_loss)
    assert run.root.cause is Cause.DTYPE_OVERFLOW
    twin = Trained(nn.Sequential(mlp(), Softmax(True)))
    lost = twin.first("nonfinite")
    assert dtype_to_blame(lost) is False
    assert twin.root.cause is Cause.UNDEFINED_OPERATION


def test_a_lost_sample_is_named_by_its_index() -> None:
    data = Digits(False)
    data.x[POISONED, 3] = math.nan
    run = Trained(mlp(), data=data)
    assert run.root.cause is Cause.NONFINITE_INPUT
    rows = {e.quantity: e.value for e in run.root.evidence}
    named = rows["samples not finite, or out of scale"]
    assert isinstance(named, str)
    assert named.endswith(f"of 16 (dataset index {POISONED})")
    assert rows["loss and gradient of the same step in float64"] == "not finite"


# -- the elimination itself, on plain numbers ------------------------------------------------------


def inquiries() -> Iterator[tuple[Inquiry, tuple[bool | None, bool | None, bool | None]]]:
    """An inquiry, and what must be said of (batch, dtype, length)."""
    yield Inquiry(0, "spike"), (None, None, None)
    yield Inquiry(0, "spike", loss=1.0, ratio=5.0), (True, None, None)
    yield Inquiry(0, "spike", loss=1.0, ratio=4.0), (None, None, None)
    yield Inquiry(0, "spike", loss=1.0, ratio=1.0), (False, None, None)
    wide = {"wide_finite": True, "wide_loss": 1.0}
    yield Inquiry(0, "spike", loss=1.0, ratio=9.0, wide_ratio=1.0, **wide), (True, False, None)
    yield Inquiry(0, "spike", loss=1.0, ratio=9.0, wide_ratio=0.1, **wide), (False, True, None)
    yield Inquiry(0, "nonfinite", loss=math.nan, **wide), (None, True, None)
    yield Inquiry(0, "nonfinite", loss=math.nan, wide_finite=False), (None, False, None)
    for lengths, verdict in (
        ([(1.0, 9.0), (0.1, 0.5)], True),
        ([(1.0, math.nan), (0.1, 0.5)], True),
        ([(1.0, 0.9), (0.1, 0.5)], False),
        ([(1.0, 9.0), (0.1, 1.5)], None),  # uphill from the first inch: not a matter of length
        ([(1.0, 9.0), (0.1, 0.99999)], None),  # within the rounding of float32
    ):
        yield Inquiry(0, "rise", loss=1.0, lengths=lengths), (None, None, verdict)


@pytest.mark.parametrize(("inquiry", "verdict"), list(inquiries()))
def test_the_elimination(
    inquiry: Inquiry, verdict: tuple[bool | None, bool | None, bool | None]
) -> None:
    assert (batch_to_blame(inquiry), dtype_to_blame(inquiry), too_long(inquiry)) == verdict


def test_what_follows_a_bad_batch_is_its_doing() -> None:
    from surefoot.diagnosis.case import Case
    from surefoot.layers import LayerTable

    bad = Inquiry(5, "spike", loss=1.0, ratio=100.0)
    long = Inquiry(6, "rise", loss=1.0, lengths=[(1.0, 9.0), (0.1, 0.5)])
    table = LayerTable("", (), ())
    assert step_to_blame(Case(table, {}, inquiries=(bad, long))) is None
    assert step_to_blame(Case(table, {}, inquiries=(long,))) is long
