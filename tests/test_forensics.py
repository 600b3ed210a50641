"""A step tried again on copies, against the same trials made by hand on a copy of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.probes import examine as examine_module
from surefoot.probes.examine import LENGTHS, MOST_PASSES
from surefoot.signals.forensics import Inquiry
from surefoot.watching import forensics as forensics_module
from surefoot.watching.forensics import TIMES, Forensics, Rise
from surefoot.watching.session import Session

STEPS, ODD = 44, 36
Poison = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def wrong_sample(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample 5 of the odd step's batch is a thousand times too large and wrongly labelled."""
    if step == ODD:
        x, y = x.clone(), y.clone()
        x[5] *= 1000
        y[5] = (y[5] + 3) % 4
    return x, y


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(16, 8, generator=generator)
    return x, x[:, :4].argmax(1)


class Recorded:
    """A training under watch, with a copy of the model before and after every step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        poison: Poison,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
        steps: int = STEPS,
        **options: Any,
    ) -> None:
        self.models: list[nn.Module] = []
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.seeds: list[torch.Tensor] = []
        self.session = Session(adopt=False, **options)
        self.session.start()
        self.training = self.session.watch(model, optimizer)
        for step in range(steps):
            x, y = poison(step, *batch(step))
            self.batches.append((x.clone(), y.clone()))
            self.models.append(copy.deepcopy(model))
            self.seeds.append(torch.get_rng_state())
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        self.models.append(copy.deepcopy(model))
        self.session.stop()
        self.inquiries = self.training.case().inquiries

    def __iter__(self) -> Iterator[Inquiry]:
        return iter(self.inquiries)

    def loss(self, weights: int, data: int, length: float = 1.0) -> float:
        """The loss by hand: of one step's batch, part of the way from one step's weights on."""
        model, after = copy.deepcopy(self.models[weights]), self.models[weights + 1]
        if length:
            with torch.no_grad():
                for p, q in zip(model.parameters(), after.parameters(), strict=True):
                    p.add_(q - p, alpha=length)
        torch.set_rng_state(self.seeds[data])
        x, y = self.batches[data]
        return F.cross_entropy(model(x), y).item()

    def gradient(self, weights: int, data: int, chosen: int | None = None) -> list[torch.Tensor]:
        """The gradients by hand, of a batch or of one sample's part of it."""
        model = copy.deepcopy(self.models[weights])
        torch.set_rng_state(self.seeds[data])
        x, y = self.batches[data]
        losses = F.cross_entropy(model(x), y, reduction="none")
        (losses.mean() if chosen is None else losses[chosen] / len(losses)).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]


def norm(gradients: list[Any], chosen: list[int] | None = None) -> float:
    """Over some of the parameters, or all."""
    indices = range(len(gradients)) if chosen is None else chosen
    return float(torch.cat([gradients[i].flatten() for i in indices]).norm())


def lost_sample(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if step == ODD:
        x[5, 0] = math.nan
    return x, y


def network(dropout: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    between = [nn.Dropout(0.2)] if dropout else []
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *between, nn.Linear(32, 4))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-3)


@pytest.mark.parametrize("dropout", [False, True])
def test_every_trial_is_what_it_would_be_by_hand(dropout: bool) -> None:
    model = network(dropout)
    run = Recorded(model, adam(model), wrong_sample)
    found = next(i for i in run if i.why == "spike")
    assert (found.step, found.other_step, found.refused) == (ODD, 32, [])
    assert found.loss == pytest.approx(run.loss(ODD, ODD, 0), rel=1e-5)
    assert [length for length, _ in found.lengths] == list(LENGTHS)
    for length, after in found.lengths:
        assert after == pytest.approx(run.loss(ODD, ODD, length), rel=1e-4)
    assert found.other_loss == pytest.approx(run.loss(ODD, 32, 0), rel=1e-5)
    assert found.other_after == pytest.approx(run.loss(ODD, 32, 1), rel=1e-5)
    assert found.passes <= MOST_PASSES
    assert found.seconds > 0


def test_the_gradients_are_those_of_the_two_batches_and_of_the_sample() -> None:
    model = network()
    run = Recorded(model, adam(model), wrong_sample)
    found = next(i for i in run if i.why == "spike")
    alarm = next(a for a in run.training.case().alarms if a.step == ODD)
    own, other = (norm(run.gradient(ODD, i), alarm.detail["parameters"]) for i in (ODD, 32))
    assert found.ratio == pytest.approx(own / other, rel=1e-4)
    assert found.own_factor is not None
    assert found.other_factor is not None
    assert found.own_factor / found.other_factor == pytest.approx(found.ratio, rel=1e-4)
    parts = [run.gradient(ODD, ODD, i) for i in range(16)]
    assert found.batch == 16
    assert found.samples == [5] == [max(range(16), key=lambda i: norm(parts[i]))]
    rest = [sum(p[k] for i, p in enumerate(parts) if i != 5) for k in range(4)]
    share = norm(parts[5]) ** 2 / (norm(parts[5]) ** 2 + norm(rest) ** 2)
    assert found.share == pytest.approx(share, rel=1e-5)
    assert found.outliers == [5]
    x = run.batches[ODD][0].norm(dim=1)
    assert found.outlier_scale == pytest.approx(float(x[5] / x.median()), rel=0.05)


def test_float64_is_float64() -> None:
    model = network()
    run = Recorded(model, adam(model), wrong_sample)
    found = next(i for i in run if i.why == "spike")
    x, y = run.batches[ODD]
    wide = F.cross_entropy(run.models[ODD].double()(x.double()), y).item()
    assert found.wide_loss == pytest.approx(wide, rel=1e-12)
    assert found.wide_finite
    assert found.wide_ratio == pytest.approx(1.0, abs=1e-4)


def test_several_samples_are_found_and_a_batch_that_is_bad_as_a_whole_names_none() -> None:
    def three(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if step == ODD:
            x[[2, 3, 11]] *= 300
            y = y.clone()
            y[[2, 3, 11]] = (y[[2, 3, 11]] + 1) % 4
        return x, y

    model = network()
    found = next(i for i in Recorded(model, adam(model), three) if i.why == "spike")
    assert set(found.samples) <= {2, 3, 11}
    assert found.outliers == [2, 3, 11]

    def whole(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x * 100, (y + 1) % 4) if step == ODD else (x, y)

    model = network()
    found = next(i for i in Recorded(model, adam(model), whole) if i.why == "spike")
    assert found.outliers == []
    assert found.samples == [] or (found.share or 0) < 0.9
    assert (found.ratio or 0) > 5


def test_a_sample_that_is_lost_is_named() -> None:
    model = network()
    found = next(i for i in Recorded(model, adam(model), lost_sample) if i.why == "nonfinite")
    assert found.outliers == [5]
    assert found.wide_finite is False
    assert found.other_loss is not None
    assert math.isfinite(found.other_loss)  # the same weights are sound


def test_batch_normalisation_is_said_to_couple_the_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    inquiry = Inquiry(0, "spike")
    found = examine_again(model, inquiry)
    assert found.coupled
    assert not examine_again(network(), Inquiry(0, "spike")).coupled


def examine_again(model: nn.Module, inquiry: Inquiry) -> Inquiry:
    """The samples' stage alone, on a batch with one sample out of line."""
    from surefoot.probes.samples import blame
    from surefoot.probes.tap import EntryTap
    from surefoot.probes.trial import Batch, bench

    tap = EntryTap([model])
    x, y = wrong_sample(ODD, *batch(ODD))
    F.cross_entropy(model(x), y).backward()
    modules = list(model.modules())
    with bench(modules, {}) as made:
        blame(made, Batch(0, tap.entries, [], None), inquiry)
    tap.remove()
    return inquiry


# -- when, how often, and what is refused ----------------------------------------------------------


def rising(losses: list[float]) -> list[int]:
    rise = Rise()
    return [i for i, loss in enumerate(losses) if rise.see(loss)]


def test_a_rise_is_told_from_noise() -> None:
    torch.manual_seed(0)
    noise = (torch.randn(400) * 0.3).exp()
    falling = [float(2.3 * math.exp(-i / 80) * n) for i, n in enumerate(noise)]
    assert rising(falling) == []
    assert rising([2.3, 2.2, 2.1, 40.0]) == [3]
    assert rising([2.3, 900.0]) == [1]
    back = [2.3 - 0.02 * i for i in range(100)] + [0.32 + 0.02 * i for i in range(80)]
    assert 100 < rising(back)[0] < 180
    assert rising([-1.0, -5.0, 3.0, 9.0]) == []  # nothing to measure a rise against
    assert rising([2.0, math.nan, math.inf, 2.0]) == []


def test_off_by_option_nothing_is_run_again() -> None:
    model = network()
    run = Recorded(model, adam(model), lost_sample, forensics=False)
    assert run.inquiries == ()
    alarm = next(a for a in run.training.case().alarms if a.step == ODD)
    assert alarm.detail["replay"] == "forbidden by option"
    assert not [f for f in run.training.case().flows if f.replayed]


def test_a_loss_that_cannot_be_read_is_said_so() -> None:
    def odd(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(y, target) + 1e-3 * y.tanh().cosh().mean()

    model = network()
    found = next(i for i in Recorded(model, adam(model), wrong_sample, odd) if i.why == "spike")
    assert found.loss is None
    assert found.lengths == []
    assert any("loss" in reason for reason in found.refused)
    assert found.samples == [5]  # they need no loss


def test_an_input_that_was_overwritten_is_refused() -> None:
    model = network()
    optimizer = adam(model)
    session = Session(adopt=False)
    session.start()
    training = session.watch(model, optimizer)
    for step in range(STEPS):
        x, y = wrong_sample(step, *batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        x.zero_()
        optimizer.step()
    session.stop()
    found = next(i for i in training.case().inquiries if i.why == "spike")
    assert any("changed in place" in reason for reason in found.refused)
    assert found.samples == []


def test_weights_too_large_to_copy_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forensics_module, "_COPY_BYTES", 100)
    model = network()
    found = next(i for i in Recorded(model, adam(model), wrong_sample) if i.why == "spike")
    assert found.passes == 0
    assert any("too large to copy" in reason for reason in found.refused)


def test_without_time_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forensics, "affordable", lambda self, passes, seconds: False)
    model = network()
    found = next(i for i in Recorded(model, adam(model), wrong_sample) if i.why == "spike")
    assert found.passes == 0
    assert "the same step: no time left for it" in found.refused


def test_several_processes_only_replay_what_is_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay is judged by its outputs: the gradient is not made by this process alone."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    model = network()
    run = Recorded(model, adam(model), lost_sample)
    found = next(i for i in run if i.why == "nonfinite")
    assert found.passes == 0
    assert any("several processes" in reason for reason in found.refused)
    alarm = next(a for a in run.training.case().alarms if a.step == ODD)
    assert alarm.detail["replay"] == "exact"


def test_a_run_that_is_always_bad_is_tried_a_few_times_only() -> None:
    def often(step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x * 1000, (y + 1) % 4) if step > 32 and step % 2 else (x, y)

    model = network()
    run = Recorded(model, adam(model), often, steps=400)
    for why, most in TIMES.items():
        assert sum(i.why == why for i in run) <= most
    assert len(run.inquiries) >= 2
    assert run.training.forensics.spent < forensics_module.ALLOWANCE


def test_a_stage_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(examine_module, "_lengths", broken)
    model = network()
    found = next(i for i in Recorded(model, adam(model), wrong_sample) if i.why == "spike")
    assert "shorter steps: RuntimeError: injected" in found.refused
    assert found.ratio is not None
    assert found.wide_ratio is not None


def test_an_inquiry_survives_json() -> None:
    import json

    model = network()
    found = next(i for i in Recorded(model, adam(model), wrong_sample) if i.why == "spike")
    assert Inquiry.from_json(json.loads(json.dumps(found.to_json()))) == found
