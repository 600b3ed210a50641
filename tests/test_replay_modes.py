"""A step run again is the step, bit for bit, in every way that a model can be trained.

The oracle is the step's own `.grad`, and a photograph of everything that the replay must not change
(`replay_fixture`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from replay_calls import (
    a_view_among_the_outputs,
    crossed_backwards,
    dataclass_output,
    dictionary_output,
    input_that_requires_grad,
    keywords,
    loss_after_loss,
    loss_and_logits_both_used,
    micro_batches,
    nested_input,
    no_gradient_for_some,
    object_input,
    object_input_with_gradient,
    one_after_the_other,
    only_keywords,
    overwritten_output,
    registered_output,
    siamese,
    the_same_output_twice,
    two_backwards_of_one_call,
)
from replay_fixture import Made, assert_exact, network, replayed, usual, x
from replay_layers import (
    Checkpointed,
    Narrow,
    Twice,
    attention,
    batch_norm,
    batch_norm_momentum_free,
    cast,
    checkpointed_cast,
    checkpointed_whole,
    dropout,
    frozen_and_complex,
    instance_norm,
    lazy,
    normed,
    packed,
    random_relu,
    recurrent_weight_norm,
    siamese_cast,
    siamese_spectral,
    tokens,
)
from surefoot.probes.replay import Replay

CASES: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        dropout,
        batch_norm,
        batch_norm_momentum_free,
        instance_norm,
        random_relu,
        attention,
        keywords,
        only_keywords,
        nested_input,
        object_input,
        object_input_with_gradient,
        no_gradient_for_some,
        dictionary_output,
        dataclass_output,
        registered_output,
        loss_and_logits_both_used,
        the_same_output_twice,
        a_view_among_the_outputs,
        overwritten_output,
        micro_batches,
        loss_after_loss,
        two_backwards_of_one_call,
        crossed_backwards,
        one_after_the_other,
        input_that_requires_grad,
        recurrent_weight_norm,
        siamese_spectral,
        lazy,
        frozen_and_complex,
    )
} | {
    "autocast": lambda: cast(True),
    "autocast without cache": lambda: cast(False),
    "autocast, a weight twice": lambda: cast(True, Twice()),
    "autocast, a weight twice without cache": lambda: cast(False, Twice()),
    "autocast inside the model": lambda: usual(Narrow()),
    "autocast inside autocast": lambda: cast(True, Narrow()),
    "autocast, calls in one context": lambda: siamese_cast(True),
    "autocast, calls in several": lambda: siamese_cast(False),
    "autocast, calls in one without cache": lambda: siamese_cast(True, cache=False),
    "checkpoint reentrant": lambda: usual(Checkpointed(use_reentrant=True)),
    "checkpoint": lambda: usual(Checkpointed(use_reentrant=False)),
    "checkpoint the whole reentrant": lambda: checkpointed_whole(True),
    "checkpoint the whole": lambda: checkpointed_whole(False),
    "checkpoint and autocast reentrant": lambda: checkpointed_cast(True),
    "checkpoint and autocast": lambda: checkpointed_cast(False),
    "siamese": lambda: siamese(2),
    "siamese of five": lambda: siamese(5),
    "packed LSTM": lambda: packed(nn.LSTM),
    "packed GRU": lambda: packed(nn.GRU),
    "packed RNN": lambda: packed(nn.RNN),
    "embedding": lambda: tokens(),
    "sparse embedding": lambda: tokens(sparse=True),
    "renormed embedding": lambda: tokens(max_norm=0.5),
    "tied weights": lambda: tokens(tied=True),
    "weight norm": lambda: normed(parametrizations.weight_norm),
    "spectral norm": lambda: normed(parametrizations.spectral_norm),
    "spectral norm by hooks": lambda: normed(nn.utils.spectral_norm),
    "orthogonal": lambda: normed(parametrizations.orthogonal),
}


@pytest.mark.parametrize("search", [False, True], ids=["", "searched"])
@pytest.mark.parametrize("name", CASES)
def test_a_replay_is_the_step(name: str, search: bool) -> None:
    torch.manual_seed(0)
    model, work = CASES[name]()
    result = replayed(model, work, search=search)
    assert_exact(result, *(model if isinstance(model, list) else [model]))


@pytest.mark.parametrize("name", CASES)
def test_the_very_first_step_too(name: str) -> None:
    torch.manual_seed(0)
    model, work = CASES[name]()
    result = replayed(model, work, steps=1, search=False)
    assert_exact(result, *(model if isinstance(model, list) else [model]))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_norm_by_hooks() -> None:
    model, work = normed(nn.utils.weight_norm)
    assert_exact(replayed(model, work), model)  # type: ignore[arg-type]


# -- GradScaler and clipping -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1024.0, 1000.0])
def test_a_scaled_loss(scale: float) -> None:
    """The optimizer sees gradients that were divided by the scale; the replay finds the factor."""
    torch.manual_seed(0)
    model = network(nn.Dropout(0.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaled: dict[int, torch.Tensor] = {}

    def work(step: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x()).square().mean()
        scaler.scale(loss).backward()
        scaled.update({id(p): p.grad.clone() for p in model.parameters()})  # type: ignore
        scaler.unscale_(optimizer)
        scaler.update()

    result = replayed(model, work)
    assert isinstance(result, Replay)
    for p in model.parameters():
        assert torch.equal(result.gradients[id(p)], scaled[id(p)])
        assert torch.equal(scaled[id(p)] * result.factor, p.grad)  # type: ignore[arg-type]
    assert result.exact
    assert result.factor == pytest.approx(1 / scale)


def test_gradients_clipped_by_their_norm() -> None:
    torch.manual_seed(0)
    model, work = dropout()
    assert isinstance(model, nn.Module)
    length: list[float] = []

    def clip() -> None:
        length.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e-3)))

    result = replayed(model, work, then=clip)
    assert isinstance(result, Replay)
    assert result.exact
    assert result.factor == pytest.approx(1e-3 / length[0], rel=1e-4)


def test_gradients_that_clipping_has_overwritten_are_not_compared() -> None:
    """By a norm that is NaN all of them are multiplied: nothing is left to compare with."""
    model = network()

    def work(step: int) -> None:
        y = model(x())
        given = torch.ones_like(y)
        given[:, 0] = float("nan")  # the last weights have rows that are sound
        y.backward(given)

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    result = replayed(model, work, steps=1, then=clip)
    assert isinstance(result, Replay)
    assert result.exact is None
    assert result.flow.origin is not None
    assert result.flow.origin["where"] == "loss"


def test_gradients_that_were_scaled_to_nothing() -> None:
    model, work = dropout()
    assert isinstance(model, nn.Module)

    def erase() -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(0.0)

    result = replayed(model, work, then=erase)
    assert isinstance(result, Replay)
    assert (result.exact, result.factor) == (True, 0.0)


def test_gradients_changed_in_any_other_way_are_others() -> None:
    model, work = dropout()
    assert isinstance(model, nn.Module)
    result = replayed(model, work, then=lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-3))
    assert isinstance(result, Replay)
    assert not result.exact
