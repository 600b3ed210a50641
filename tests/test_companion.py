"""What the callbacks of all frameworks have in common, in a loop without any framework."""

from __future__ import annotations

import gc
import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from outputs_fixture import build, step
from surefoot.findings import Verdict
from surefoot.integrations.clipping import NAME, Unclipped
from surefoot.integrations.companion import Companion
from surefoot.integrations.ignite import SurefootHandler


def quiet(**settings: Any) -> Companion:
    return Companion(verbose=False, **settings)


def test_it_watches_from_the_beginning_of_a_fit_to_its_end() -> None:
    model, optimizer = build()
    companion = quiet()
    assert companion._metrics() == {}
    assert companion.stop() is None
    companion._begin(model, [optimizer])
    losses = [step(model, optimizer) for _ in range(5)]
    assert companion._metrics()["surefoot/loss"] == pytest.approx(losses[-1])
    assert companion.report is None
    companion._finish()
    report = companion.report
    step(model, optimizer)
    companion._finish()
    assert companion.stop() is report is companion.report
    assert report is not None
    assert report.steps == 5
    assert report.verdict is not Verdict.UNSTABLE


def test_a_fit_that_begins_ends_the_one_before() -> None:
    model, optimizer = build()
    companion = quiet()
    clip = torch.nn.utils.clip_grad_norm_
    for steps in (3, 2):
        companion._begin(model, [optimizer])
        for _ in range(steps):
            step(model, optimizer)
    companion._finish()
    assert companion.report is not None
    assert companion.report.steps == 2
    assert torch.nn.utils.clip_grad_norm_ is clip


def test_one_that_is_forgotten_leaves_nothing_behind() -> None:
    """The fixture of all tests looks for traces; this one never says that the fit is over."""
    model, optimizer = build()
    companion = quiet()
    companion._begin(model, [optimizer])
    step(model, optimizer)
    assert model._forward_pre_hooks
    del companion
    gc.collect()
    assert not model._forward_pre_hooks


def test_its_failure_is_said_once_and_ends_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = build()
    companion = quiet()
    with caplog.at_level(logging.WARNING, "surefoot"):
        for words in ("one", "two"):
            companion._begin(model, [optimizer])
            step(model, optimizer)
            with companion._quietly():
                raise OSError(words)
            with companion._quietly():
                raise OSError("again")
            assert companion.problem == "OSError: again"
            assert companion.watch is None
            assert not model._forward_pre_hooks
            companion._finish()
            assert companion.report is None
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
        "OSError: one",
        "OSError: two",
    ]


def test_an_interrupt_is_no_failure_of_its_own() -> None:
    companion = quiet()

    def interrupted() -> None:
        with companion._quietly():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert companion.problem is None


@pytest.mark.parametrize("settings", [{"stop_on": "advice"}, {"stop_on": "FATAL"}])
def test_only_what_there_is_can_be_asked_for(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected stop_on to be 'fatal', 'harmful' or None"):
        SurefootHandler(**settings)


# -- the norm before clipping ---------------------------------------------------------------------


@pytest.fixture
def weights() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
    made[0].grad, made[1].grad = torch.tensor([2.0, 3.0, 6.0]), torch.tensor([24.0])
    return made


def test_the_norm_is_that_before_clipping(weights: list[nn.Parameter]) -> None:
    unclipped = Unclipped()
    unclipped.start()
    unclipped.start()
    given = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    assert unclipped.take() == 25.0 == given  # 4 + 9 + 36 + 576 = 625
    assert unclipped.take() is None
    torch.nn.utils.clip_grad_norm_(weights, max_norm=1.0, norm_type=2.0)
    assert unclipped.take() == pytest.approx(1.0)
    unclipped.stop()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    assert unclipped.take() is None
    unclipped.stop()


@pytest.mark.parametrize("order", [1.0, math.inf])
def test_other_norms_are_not_taken_for_it(weights: list[nn.Parameter], order: float) -> None:
    unclipped = Unclipped()
    unclipped.start()
    torch.nn.utils.clip_grad_norm_(weights, 1.0, order)
    torch.nn.utils.clip_grad_norm_(weights, 1.0, norm_type=order)
    unclipped.stop()
    assert unclipped.take() is None


def test_a_norm_that_is_refused_is_not_kept(weights: list[nn.Parameter]) -> None:
    weights[1].grad = torch.tensor([math.nan])
    unclipped = Unclipped()
    unclipped.start()
    with pytest.raises(RuntimeError, match="non-finite"):
        torch.nn.utils.clip_grad_norm_(weights, 1.0, error_if_nonfinite=True)
    assert unclipped.take() is None
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    unclipped.stop()
    assert math.isnan(unclipped.take() or 0.0)


def test_it_is_among_the_numbers_where_a_loop_clips() -> None:
    model, optimizer = build()
    companion = quiet()
    companion._begin(model, [optimizer])
    step(model, optimizer)
    assert NAME not in companion._metrics()
    x = torch.randn(16, 4)
    optimizer.zero_grad()
    (1e3 * model(x).square().mean()).backward()
    expected = torch.cat([p.grad.double().flatten() for p in model.parameters()]).norm().item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    found = companion._metrics()
    companion._finish()
    assert found[NAME] == pytest.approx(expected, rel=1e-5)
    assert found["surefoot/gradient_norm"] == pytest.approx(0.5, rel=1e-4)
