"""Accelerate: what it has prepared is watched as what it was made from."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from frameworks_fixture import BATCH, MARKS, ROWS, list_tracker, load, loader, network, weights
from surefoot.findings import Verdict

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported before the tests look for traces."""
    load("accelerate", "accelerate.tracking")


@pytest.fixture(autouse=True)
def library() -> Iterator[Any]:
    """Accelerate, which keeps its settings in the process, and seeds as they were."""
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    accelerate = pytest.importorskip("accelerate")
    yield accelerate
    accelerate.state.AcceleratorState._reset_state(True)
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])


def train(accelerate: Any, watched: bool, kinds: int = 1, **given: Any) -> tuple[Any, Any, Any]:
    """(weights as text, what was logged, who watched)."""
    from surefoot.integrations.accelerate import watch

    tracker = given.pop("tracker", None) or list_tracker()
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, log_with=tracker, **given)
    accelerator.init_trackers("digits")
    net = network()
    halves = [net[:2], net[2:]] if kinds == 2 else [net]
    optimizers = [torch.optim.Adam(half.parameters(), lr=2e-3) for half in halves]
    model, batches, *prepared = accelerator.prepare(net, loader(), *optimizers)
    output = watch(accelerator, model, prepared if kinds == 2 else prepared[0], every=1)

    def epoch() -> None:
        for x, y in batches:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                for optimizer in prepared:
                    optimizer.step()
                    optimizer.zero_grad()
            if watched:
                output.log()

    if watched:
        with output:
            epoch()
    else:
        epoch()
    return repr(weights(net)), tracker.logged, output


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize(
    "given", [{}, {"gradient_accumulation_steps": 4}, {"mixed_precision": "bf16"}], ids=str
)
def test_nothing_is_changed_and_every_step_is_logged(
    library: Any, given: dict[str, Any], kinds: int
) -> None:
    alone, nothing, _ = train(library, False, kinds, **given)
    seen, logged, output = train(library, True, kinds, **given)
    assert seen == alone
    assert nothing == []
    steps = ROWS // BATCH // given.get("gradient_accumulation_steps", 1)
    assert output.report().steps == steps
    assert output.report().verdict is not Verdict.UNSTABLE
    assert output.problem is None
    assert [row["step"] for row in logged if "surefoot/loss" in row] == list(range(steps))
    assert logged[-1]["surefoot/findings"] == 0


def test_a_tracker_that_fails_ends_no_training(
    library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = list_tracker()
    tracker.log = lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    alone, _, _ = train(library, False)
    with caplog.at_level(logging.WARNING, "surefoot"):
        seen, _, output = train(library, True, tracker=tracker)
    assert seen == alone
    assert output.problem == "OSError: no network"
    assert len([r for r in caplog.records if r.name == "surefoot"]) == 1
    assert output.report().steps == ROWS // BATCH


def test_an_error_of_the_script_removes_the_hooks(library: Any) -> None:
    from surefoot.integrations.accelerate import bare, watch

    accelerator = library.Accelerator(cpu=True)
    net = network()
    given = torch.optim.SGD(net.parameters())
    model, optimizer = accelerator.prepare(net, given)
    assert bare(optimizer) is bare(given) is given
    clip = torch.nn.utils.clip_grad_norm_

    def broken() -> None:
        with watch(accelerator, model, optimizer):
            assert torch.nn.utils.clip_grad_norm_ is not clip
            raise ValueError("the script's own")

    with pytest.raises(ValueError, match="own"):
        broken()
    assert torch.nn.utils.clip_grad_norm_ is clip
    assert not net._forward_pre_hooks
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer, got str"):
        watch(accelerator, model, "adam")
