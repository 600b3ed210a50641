"""The newest step's numbers against torch and numpy by hand, in float64."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import surefoot
from outputs_fixture import build, norms, step
from surefoot.findings import Cause, Finding, Guarded, Pathology, Report, Severity
from surefoot.record import read_run
from surefoot.record.metrics import MEANINGS, Metrics, run_metrics, verdict_metrics
from surefoot.watching.watch import Watch
from views_fixture import advised, all_nan, healthy, nonfinite, vanishing


def test_every_step_is_what_torch_says() -> None:
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch:
        assert watch.metrics() == {}
        assert watch.steps == 0
        for k in range(5):
            loss = step(model, optimizer)
            got, by_layer = watch.metrics(), norms(model)
            assert watch.steps == k + 1
            assert got["surefoot/loss"] == loss
            assert got["surefoot/learning_rate"] == 0.01
            assert got["surefoot/nonfinite"] == 0
            whole = math.sqrt(math.fsum(x * x for x in by_layer.values()))
            assert got["surefoot/gradient_norm"] == pytest.approx(whole, rel=1e-6)
            layers = watch.metrics(layers=True)
            assert got.items() <= layers.items()
            for name, norm in by_layer.items():
                assert layers[f"surefoot/gradient_norm/{name}"] == pytest.approx(norm, rel=1e-6)


def test_update_ratios_are_those_of_the_weights() -> None:
    """The first steps are sampled: SGD moves each weight by lr times its gradient."""
    model, _ = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with surefoot.watch(model, optimizer) as watch:
        before = [p.detach().clone().double() for p in model.parameters()]
        step(model, optimizer)
        ratios = {
            name: ((p.double() - old).norm() / old.norm()).item()
            for (name, p), old in zip(model.named_parameters(), before, strict=True)
        }
        got = watch.metrics(layers=True)
    median = float(np.median(list(ratios.values())))
    assert got["surefoot/update_ratio"] == pytest.approx(median, rel=1e-4)
    for layer in ("0", "2", "3"):
        largest = max(ratios[f"{layer}.weight"], ratios[f"{layer}.bias"])
        assert got[f"surefoot/update_ratio/{layer}"] == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_said(value: float) -> None:
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch:
        step(model, optimizer)
        loss = step(model, optimizer, value)
        got = watch.metrics(layers=True)
    assert got["surefoot/loss"] == pytest.approx(loss, nan_ok=True)
    assert math.isnan(got["surefoot/gradient_norm"])
    assert math.isnan(got["surefoot/gradient_norm/0"])
    bad = sum(int((~p.grad.isfinite()).sum()) for p in model.parameters())
    assert got["surefoot/nonfinite"] == bad > 0


def test_one_bad_layer_spoils_no_other() -> None:
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch:
        step(model, optimizer)
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        model[0].weight.grad[0, 0] = math.nan
        healthy_norm = norms(model)["2"]
        optimizer.step()
        got = watch.metrics(layers=True)
    assert got["surefoot/nonfinite"] == 1
    assert math.isnan(got["surefoot/gradient_norm/0"])
    assert got["surefoot/gradient_norm/2"] == pytest.approx(healthy_norm, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e30, 1e160])
def test_norms_of_any_size(scale: float) -> None:
    """Their squares would be zero or infinite in float64."""
    data = healthy()
    count = len(data.layers.parameters)
    rows = np.zeros((count, 5))
    rows[:, 0] = scale * np.arange(1, count + 1)
    got = Metrics(data.layers).numbers({"gradient": rows.reshape(-1)}, layers=True)
    exact = scale * math.sqrt(sum(k * k for k in range(1, count + 1)))
    assert got["surefoot/gradient_norm"] == pytest.approx(exact, rel=1e-12)
    by_layer = [v for k, v in got.items() if k.startswith("surefoot/gradient_norm/")]
    assert math.hypot(*by_layer) == pytest.approx(exact, rel=1e-12)


def test_frozen_layers_and_further_groups() -> None:
    model, _ = build()
    model[0].requires_grad_(False)
    groups = [{"params": model[2].parameters()}, {"params": model[3].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    with surefoot.watch(model, optimizer) as watch:
        step(model, optimizer)
        got = watch.metrics(layers=True)
    assert "surefoot/gradient_norm/0" not in got
    assert "surefoot/gradient_norm/2" in got
    assert got["surefoot/learning_rate"] == 0.01
    assert got["surefoot/learning_rate/1"] == 0.5


def test_two_optimizers_make_one_step() -> None:
    """As a GAN is trained: its step is over when both have acted, and has the gradients of both."""
    model, _ = build()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD([*model[2].parameters(), *model[3].parameters()], lr=0.2)
    with surefoot.watch(model, [first, second]) as watch:
        for k in range(3):
            expected = {}
            for optimizer, layers in ((first, {"0"}), (second, {"2", "3"})):
                model.zero_grad()
                model(torch.randn(8, 4)).square().mean().backward()
                expected |= {name: x for name, x in norms(model).items() if name in layers}
                optimizer.step()
            got = watch.metrics(layers=True)
            assert watch.steps == k + 1
            assert {f"surefoot/gradient_norm/{n}": x for n, x in expected.items()} == pytest.approx(
                {n: x for n, x in got.items() if n.startswith("surefoot/gradient_norm/")}, rel=1e-6
            )
            whole = math.hypot(*expected.values())
            assert got["surefoot/gradient_norm"] == pytest.approx(whole, rel=1e-6)


def test_the_loss_scale_of_a_scaler() -> None:
    model, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    with surefoot.watch(model, optimizer) as watch:
        scaler.scale(model(torch.ones(2, 4)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert watch.metrics()["surefoot/loss_scale"] == 256.0


def test_what_a_guard_has_done_is_counted() -> None:
    model, optimizer = build()
    with surefoot.watch(model, optimizer) as watch:
        guard = surefoot.guard(optimizer, model)
        step(model, optimizer)
        assert watch.metrics()["surefoot/skipped"] == 0
        step(model, optimizer, math.nan)
        got = watch.metrics()
        guard.remove()
    assert (got["surefoot/skipped"], got["surefoot/clipped"]) == (1, 0)
    assert "surefoot/rolled_back" in got


class TestFindings:
    """They are looked for seldom while it trains, and told in the end."""

    def test_the_last_word(self) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch:
            for _ in range(40):
                step(model, optimizer)
            assert "surefoot/healthy" not in watch.metrics()
        assert watch.report().verdict == "healthy"
        got = watch.metrics()
        assert (got["surefoot/findings"], got["surefoot/healthy"]) == (0, 1)

    def test_while_it_trains(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two looks that agree, of which the first is at once: hours pass between two steps."""
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        monkeypatch.setattr("surefoot.watching.interim.time", clock)
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch:
            watch.metrics()
            step(model, optimizer, math.nan)
            assert "surefoot/healthy" not in watch.metrics()
            clock.now = 3600.0
            step(model, optimizer, math.nan)
            got = watch.metrics()
        assert got["surefoot/healthy"] == 0
        assert got["surefoot/findings"] >= 1

    def test_before_training(self) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch:
            pass
        assert watch.metrics() == {}

    def test_of_a_report(self) -> None:
        def finding(severity: Severity) -> Finding:
            return Finding("SF101", Pathology.VANISHING, Cause.UNKNOWN, severity, "It fades.")

        ill = Report(tuple(map(finding, Severity)), 5, guard=Guarded({"clip": 3}, 0, "why"))
        assert verdict_metrics(ill) == {
            "surefoot/findings": 2,
            "surefoot/healthy": 0,
            "surefoot/clipped": 3,
            "surefoot/skipped": 0,
            "surefoot/rolled_back": 0,
        }
        assert verdict_metrics(Report((finding(Severity.ADVICE),)))["surefoot/healthy"] == 1
        assert verdict_metrics(Report(missing=("no loss",))) == {}


class TestOfARecord:
    def test_the_same_as_the_watch(self, tmp_path: Path) -> None:
        model, optimizer = build()
        with surefoot.watch(model, optimizer, runs=tmp_path) as watch:
            for _ in range(20):
                step(model, optimizer)
        assert watch.folder is not None
        got = run_metrics(read_run(watch.folder), layers=True)
        live = watch.metrics(layers=True)
        assert got.keys() == live.keys()
        assert got == pytest.approx(live, rel=1e-6)  # the record is in float32

    @pytest.mark.parametrize("make", [vanishing, healthy, advised, nonfinite, all_nan])
    def test_of_any_run(self, make: object) -> None:
        data = make()  # type: ignore[operator]
        got = run_metrics(data, layers=True)
        assert all(isinstance(value, float) for value in got.values())
        assert all(name.startswith("surefoot/") for name in got)
        known = {name for name in got if name.count("/") == 1}
        assert known <= MEANINGS.keys()


def test_it_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """No series is copied, and nothing is asked of the tensors; a few hundred parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(150)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with surefoot.watch(model, optimizer) as watch:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        watch.metrics(layers=True)
        with monkeypatch.context() as patch:
            patch.setattr("surefoot.record.series.Thinned.series", None)
            patch.setattr(torch.Tensor, "item", None)
            patch.setattr(torch.Tensor, "__float__", None)
            took = min(_seconds(watch) for _ in range(50))
    assert took < 0.002  # about 20 us on a quiet machine


def _seconds(watch: Watch) -> float:
    begun = time.perf_counter()
    watch.metrics()
    return time.perf_counter() - begun
