"""Remedies that limit a step or hold it back: each against the same by hand."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from remedies_fixture import batches, distance, guard, perceptron, remedied, same, train, twins
from surefoot.remedies import TREATMENTS, NotApplicable, Subject

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.01)

BY_HAND = {
    "clipping.norm": lambda ps, c: torch.nn.utils.clip_grad_norm_(ps, c),
    "clipping.value": lambda ps, c: torch.nn.utils.clip_grad_value_(ps, c),
    "clipping.parameter_norm": lambda ps, c: [torch.nn.utils.clip_grad_norm_([p], c) for p in ps],
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_clipping_is_what_torch_does(name: str, limit: float) -> None:
    model, optimizer, twin, other = twins(SGD)
    key = next(iter(TREATMENTS[name].defaults))
    with remedied(name, model, optimizer, **{key: limit}):
        train(model, optimizer, batches())
    hand = functools.partial(BY_HAND[name], list(twin.parameters()), limit)
    train(twin, other, batches(), before=hand)
    assert same(model, twin)


def test_clipping_sees_each_gradient_that_a_closure_makes() -> None:
    model, optimizer, twin, other = twins(SGD)
    for x, y in batches():
        for net, chosen in ((model, optimizer), (twin, other)):

            def closure(
                net: Any = net, chosen: Any = chosen, x: Any = x, y: Any = y
            ) -> torch.Tensor:
                chosen.zero_grad()
                loss = nn.functional.mse_loss(net(x), y)
                loss.backward()
                if net is twin:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
                return loss

            if net is model:
                with remedied("clipping.norm", net, chosen, max_norm=0.05):
                    chosen.step(closure)
            else:
                chosen.step(closure=closure)
    assert same(model, twin)


def test_clipping_by_the_guard_is_the_same_up_to_rounding() -> None:
    model, optimizer, twin, other = twins(functools.partial(SGD, foreach=False), torch.float64)
    with remedied("clipping.norm", model, optimizer, guard=guard, max_norm=0.05):
        train(model, optimizer, batches(torch.float64))
    hand = functools.partial(BY_HAND["clipping.norm"], list(twin.parameters()), 0.05)
    train(twin, other, batches(torch.float64), before=hand)
    assert distance(model, twin) < 1e-9
    still = perceptron(torch.float64)
    train(still, SGD(still.parameters()), batches(torch.float64))
    assert distance(still, twin) > 1e-2  # the clipping did something


@pytest.mark.parametrize("clip", ["auto", "agc", "autoclip", "zclip", "adagc"])
def test_other_clippings_are_the_guards(clip: str) -> None:
    model, optimizer, twin, other = twins(SGD)
    x, y = batches()[0]
    data = [*batches(), *batches(), *batches(), (1e3 * x, 1e3 * y), *batches()]
    with remedied(f"clipping.{clip}", model, optimizer, guard=guard):
        train(model, optimizer, data)
    made = surefoot.guard(other, twin, clip=clip, skip=False)
    train(twin, other, data)
    made.remove()
    plain = perceptron()
    train(plain, SGD(plain.parameters()), data)
    assert same(model, twin) and not same(model, plain)
    with pytest.raises(NotApplicable, match=r"surefoot\.guard"):
        TREATMENTS[f"clipping.{clip}"]().apply(Subject([model], [optimizer]))


def test_skip_leaves_out_what_is_not_finite() -> None:
    model, optimizer, twin, other = twins(ADAMW)
    x, y = batches()[0]
    bad = (x.clone().fill_(math.nan), y)
    with remedied("guard.skip", model, optimizer, guard=guard):
        train(model, optimizer, [*batches(), bad, *batches()])
    train(twin, other, [*batches(), *batches()])
    assert same(model, twin)


def test_a_fused_optimizer_clips_what_grad_scaler_has_multiplied() -> None:
    model, optimizer, twin, other = twins(functools.partial(SGD, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with remedied("clipping.norm", model, optimizer, max_norm=0.05):
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    clip = functools.partial(torch.nn.utils.clip_grad_norm_, list(twin.parameters()), 0.05)
    train(twin, other, batches(), before=clip)
    assert distance(model, twin) < 1e-5
