"""Remedies that act on data, scales and number formats: each against the same by hand."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

from remedies_fixture import batches, distance, guard, perceptron, remedied, same, train, twins
from surefoot.remedies import TREATMENTS, FirstCall, NotApplicable, Subject
from surefoot.remedies.scaling.statistics import statistics

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.01)
DOUBLE = torch.float64


class Echo(nn.Module):
    """Returns what it is called with."""

    def forward(self, x: Any, mask: Any = None, **more: Any) -> Any:
        """Itself."""
        return x, mask, more


def seen(*args: Any, first: Any = None, **kwargs: Any) -> Any:
    """What a model under input.standardise sees of arguments, after a first call with others."""
    net = Echo()
    with remedied("input.standardise", net, call=FirstCall(net, (first,))):
        return net(*args, **kwargs)


# -- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "over"),
    [
        ((32, 5), (0,)),
        ((16, 3, 8, 8), (0, 2, 3)),
        ((8, 2, 4, 4, 4), (0, 2, 3, 4)),
        ((16, 9, 4), (0, 1)),
        ((64,), (0,)),
    ],
)
def test_each_column_or_channel_is_standardised(shape: tuple[int, ...], over: Any) -> None:
    g = torch.Generator().manual_seed(0)
    x = 1e3 + 50 * torch.randn(shape, generator=g, dtype=DOUBLE)
    std, mean = torch.std_mean(x, over, keepdim=True)
    other = torch.randn(shape, generator=g, dtype=DOUBLE)[:3]
    got, _, _ = seen(other, first=x)
    torch.testing.assert_close(got, (other - mean) / std, rtol=1e-12, atol=1e-12)


def test_training_is_that_on_standardised_inputs() -> None:
    model, optimizer, twin, other = twins(SGD, DOUBLE)
    scale, shift = torch.logspace(-3, 3, 6, dtype=DOUBLE), torch.arange(6, dtype=DOUBLE)
    raw = [(x * scale + shift, y) for x, y in batches(DOUBLE)]
    std, mean = torch.std_mean(raw[0][0], 0)
    with remedied("input.standardise", model, optimizer, call=FirstCall(model, (raw[0][0],))):
        train(model, optimizer, raw)
        model.eval()
        out = model(raw[3][0])
    hand = [((x - mean) / std, y) for x, y in raw]
    train(twin, other, hand)
    assert distance(model, twin) < 1e-12
    torch.testing.assert_close(out, twin(hand[3][0]))
    assert type(model) is nn.Sequential and not torch.equal(model(raw[3][0]), out)


def test_without_a_call_the_first_batch_counts() -> None:
    net = Echo()
    x, y = batches(DOUBLE)[0][0] * 7 + 3, batches(DOUBLE)[1][0]
    std, mean = torch.std_mean(x, 0)
    with remedied("input.standardise", net):
        net(x)
        got = net(x=y)[0]
    torch.testing.assert_close(got, (y - mean) / std)


def test_what_is_no_measurement_is_left_alone() -> None:
    x, words = torch.randn(16, 4) * 9, torch.arange(64).reshape(16, 4)
    mask = torch.zeros(16, 4).fill_(-math.inf)
    net = Echo()
    call = FirstCall(net, (x,), {"mask": mask, "words": words, "t": torch.tensor(3.0)})
    with remedied("input.standardise", net, call=call):
        _, got, more = net(x, mask=mask, words=words, t=torch.tensor(3.0))
        assert got is mask and more["words"] is words and more["t"] == 3.0
        assert net(x, mask)[1] is mask
    with pytest.raises(NotApplicable, match="floating"):
        TREATMENTS["input.standardise"]().apply(Subject([net], call=FirstCall(net, (words,))))


def test_constants_are_not_blown_up_and_extremes_do_not_count() -> None:
    x = torch.randn(64, 3, dtype=DOUBLE)
    x[:, 1] = 5.0
    clean = x.clone()
    x[0, 0], x[1, 0], x[2, 2] = 1e9, math.nan, math.inf
    mean, std = statistics(x)
    kept = [clean[2:, 0], clean[:, 1], clean[torch.arange(64) != 2, 2]]
    want = torch.tensor([[float(k.mean()) for k in kept]], dtype=DOUBLE)
    torch.testing.assert_close(mean, want)
    want = torch.tensor([[float(kept[0].std()), 1.0, float(kept[2].std())]], dtype=DOUBLE)
    torch.testing.assert_close(std, want)
    # A column that is rare, but whose few values are what it has to say.
    rare = torch.zeros(64, 1, dtype=DOUBLE)
    rare[5] = 1e6
    torch.testing.assert_close(statistics(rare)[1], rare.std(0, keepdim=True))


def test_few_samples_share_their_statistics() -> None:
    x = torch.randn(1, 40, dtype=DOUBLE) * 3 + 1
    mean, std = statistics(x)
    assert mean.shape == (1, 1)
    torch.testing.assert_close(std[0, 0], x.std())


def test_a_sequence_for_a_convolution_has_its_channels_second() -> None:
    net = nn.Sequential(nn.Conv1d(3, 2, 3))
    x = torch.randn(8, 3, 50) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    std, mean = torch.std_mean(x, (0, 2), keepdim=True)
    plain = copy.deepcopy(net)
    with remedied("input.standardise", net, call=FirstCall(net, (x,))):
        torch.testing.assert_close(net(x), plain((x - mean) / std), rtol=1e-4, atol=1e-5)


# -- targets and loss ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SGD, ADAMW])
def test_targets_are_as_if_standardised(make: Any) -> None:
    model, optimizer, twin, other = twins(make, DOUBLE)
    data = [(x, 1e3 + 250 * y) for x, y in batches(DOUBLE)]
    x = data[0][0]
    call = FirstCall(model, (x,))
    with remedied("target.standardise", model, optimizer, call=call, mean=1000.0, std=250.0):
        train(model, optimizer, data)
        out = model(x)
    train(twin, other, [(x, (y - 1000.0) / 250.0) for x, y in data])
    assert distance(model, twin) < 1e-10
    torch.testing.assert_close(out, twin(x) * 250 + 1000)


def test_each_output_has_a_deviation_of_its_own() -> None:
    models = perceptron(DOUBLE, out=3), perceptron(DOUBLE, out=3)
    mean, std = [5.0, -2.0, 0.0], [1e-2, 1.0, 1e3]
    hand = batches(DOUBLE, out=3)
    data = [(x, y * torch.tensor(std) + torch.tensor(mean)) for x, y in hand]
    with remedied("target.standardise", models[0], mean=mean, std=std):
        train(models[0], SGD(models[0].parameters()), data)
    # float32 shifts and scales above, float64 here
    train(models[1], SGD(models[1].parameters()), hand)
    assert distance(*models) < 1e-6


def test_the_mean_and_deviation_of_targets_are_needed() -> None:
    net = perceptron()
    for given in ({}, {"mean": 0.0}, {"std": 1.0}):
        with pytest.raises(NotApplicable, match="mean and the deviation"):
            TREATMENTS["target.standardise"](**given).apply(Subject([net]))
    with pytest.raises(ValueError, match="above zero"):
        TREATMENTS["target.standardise"](mean=0.0, std=0.0).apply(Subject([net]))
    call = FirstCall(net, (batches()[0][0],))
    with pytest.raises(NotApplicable, match="outputs"):
        TREATMENTS["target.standardise"](mean=[0.0] * 2, std=[1.0] * 2).apply(
            Subject([net], call=call)
        )
    part = Subject([net], [SGD(net.parameters())], FirstCall(net[0], call.args))
    for name, given in (("target.standardise", {"mean": 0.0, "std": 1.0}), ("amp.grad_scaler", {})):
        with pytest.raises(NotApplicable, match="parts"):
            TREATMENTS[name](**given).apply(part)
    echo = Echo()
    with pytest.raises(NotApplicable, match="tuple"):
        TREATMENTS["target.standardise"](mean=0.0, std=1.0).apply(
            Subject([echo], call=FirstCall(echo, (torch.ones(2),)))
        )


def test_loss_mean_divides_the_loss() -> None:
    total = functools.partial(nn.functional.mse_loss, reduction="sum")
    model, optimizer, twin, other = twins(SGD)
    with remedied("loss.mean", model, optimizer, factor=16):
        train(model, optimizer, batches(), loss=total)
    train(twin, other, batches(), loss=lambda z, y: total(z, y) / 16)  # a power of two: exactly
    assert same(model, twin)
    with pytest.raises(NotApplicable, match="number of terms"):
        TREATMENTS["loss.mean"]().apply(Subject([model], [optimizer]))


# -- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, guard])
def test_clean_puts_zero_and_leaves_out_steps_that_are_still_not_finite(by: Any) -> None:
    model, optimizer, twin, other = twins(ADAMW)
    x, y = batches()[0]
    holed, filled = x.clone(), x.clone()
    holed[0, 0], holed[1, 1], holed[2, 2] = math.nan, math.inf, -math.inf
    filled[0, 0] = filled[1, 1] = filled[2, 2] = 0.0
    lost = (x, y.clone().fill_(math.nan))
    with remedied("data.clean", model, optimizer, guard=by):
        train(model, optimizer, [*batches(), (holed, y), lost, *batches()])
    train(twin, other, [*batches(), (filled, y), *batches()])
    assert same(model, twin)


def test_a_mask_keeps_its_infinities() -> None:
    net = Echo()
    mask = torch.full((2, 2), -math.inf)
    with remedied("data.clean", net):
        x, got, _ = net(torch.full((2,), math.nan), mask)
        assert torch.equal(x, torch.zeros(2)) and torch.equal(got, mask)


def test_one_batch_is_a_test_and_no_cure() -> None:
    with pytest.raises(NotApplicable, match="test"):
        TREATMENTS["data.one_batch"]().apply(Subject([perceptron()]))


# -- number formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_is_a_model_in_float32(dtype: torch.dtype) -> None:
    model, optimizer, twin, _ = twins(ADAMW, dtype)
    half = [(x.to(dtype), y) for x, y in batches()]
    train(model, optimizer, half[:2], loss=lambda z, y: nn.functional.mse_loss(z.float(), y))
    before = copy.deepcopy(model)
    moments = {p: s["exp_avg"].clone() for p, s in optimizer.state.items()}
    twin.load_state_dict(model.state_dict())
    twin.float()
    other = ADAMW(twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # moments into float32
    held = list(model.parameters())
    with remedied("dtype.float32", model, optimizer):
        train(model, optimizer, half[2:], cast=dtype)
        trained = [p.detach().clone() for p in model.parameters()]
    train(twin, other, [(x.float(), y) for x, y in half[2:]])
    pairs = zip(trained, twin.parameters(), strict=True)
    assert all(torch.equal(p, q) and p.dtype == torch.float32 for p, q in pairs)
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert same(model, before)  # taken back
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in moments.items())


def test_float32_trains_as_float32_does() -> None:
    model, optimizer, twin, other = twins(SGD)
    with remedied("dtype.float32", model, optimizer):
        train(model, optimizer, [(x.half(), y) for x, y in batches()], cast=torch.float16)
    train(twin, other, [(x.half().float(), y) for x, y in batches()])
    assert same(model, twin)


class Overflows(nn.Module):
    """Its middle layer's sum is beyond float16."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.out = nn.Linear(64, 4), nn.Linear(4, 1)
        with torch.no_grad():
            self.big.weight.fill_(100.0)
            self.out.weight.fill_(1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """With a division that only helps who has got there."""
        return self.out(self.big(x) / 1e3)


def test_a_target_alone_is_computed_in_float32() -> None:
    net, x = Overflows(), torch.full((2, 64), 100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not torch.isfinite(net(x)).all()
        with remedied("dtype.float32", net, target="big"):
            assert torch.isfinite(net(x)).all() and net.big(x).dtype == torch.float32
            assert net.big(x.half()).dtype == torch.float32  # autocast sees to what is behind
    half = Overflows().half()
    with remedied("dtype.float32", half, target="out"):  # what comes out goes back into float16
        small = half(x.half() / 1e3)
        assert small.dtype == torch.float16 and half.out.weight.dtype == torch.float32
    assert half.out.weight.dtype == torch.float16
    with pytest.raises(NotApplicable, match="no module is called 'nobody'"):
        TREATMENTS["dtype.float32"]("nobody").apply(Subject([net]))


def test_bfloat16_takes_the_place_of_float16() -> None:
    model, optimizer, twin, other = twins(SGD)
    with remedied("dtype.bfloat16", model, optimizer):
        with torch.autocast("cpu", dtype=torch.float16):
            model[0](batches()[0][0])  # which leaves its weight in float16 in autocast's cache
            assert model(batches()[0][0]).dtype == torch.bfloat16
        train(model, optimizer, batches(), cast=torch.float16)
    train(twin, other, batches(), cast=torch.bfloat16)
    assert same(model, twin)
    with remedied("dtype.bfloat16", model):
        assert model(batches()[0][0]).dtype == torch.float32  # no float16 there to replace
    half = perceptron(torch.float16)
    with remedied("dtype.bfloat16", half):
        assert half(batches()[0][0].half()).dtype == torch.bfloat16
    assert half[0].weight.dtype == torch.float16


def test_master_weights_are_autocast_over_float32() -> None:
    model, optimizer, twin, _ = twins(SGD, torch.bfloat16)
    twin.float()
    with remedied("amp.master_weights", model, optimizer):
        # PyTorch 2.6 has no backward for a loss of two formats
        mse = nn.functional.mse_loss
        data = [(x.bfloat16(), y) for x, y in batches()]
        train(model, optimizer, data, loss=lambda z, y: mse(z.float(), y))
        trained = copy.deepcopy(list(model.parameters()))
    hand = [(x.bfloat16().float(), y) for x, y in batches()]
    train(twin, SGD(twin.parameters()), hand, cast=torch.bfloat16)
    pairs = zip(trained, twin.parameters(), strict=True)
    assert all(torch.equal(p, q) and p.dtype == torch.float32 for p, q in pairs)
    assert same(model, perceptron(torch.bfloat16))
    with pytest.raises(NotApplicable, match="float32 already"):
        TREATMENTS["amp.master_weights"]().apply(Subject([twin]))


# -- the loss scale -----------------------------------------------------------------------------


def tiny(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients float16 cannot hold."""
    return 1e-7 * nn.functional.mse_loss(z.float(), y)


def test_the_scale_brings_gradients_through_float16() -> None:
    make = functools.partial(torch.optim.SGD, lr=1e5)
    model, optimizer, exact, other = twins(make)
    exact.double()
    lost = perceptron()
    half = torch.float16
    train(lost, make(lost.parameters()), batches(), loss=tiny, cast=half)
    with remedied("amp.grad_scaler", model, optimizer):
        train(model, optimizer, batches(), loss=tiny, cast=half)
    data = [(x.double(), y.double()) for x, y in batches()]
    train(exact, other, data, loss=lambda z, y: 1e-7 * nn.functional.mse_loss(z, y))
    moved = distance(exact, perceptron(DOUBLE))
    assert moved > 0.01 and distance(model, exact) < 0.05 * moved
    assert distance(lost, exact) > 0.5 * moved


def test_without_float16_a_scale_changes_nothing() -> None:
    for make in (SGD, ADAMW):
        model, optimizer, twin, other = twins(make, DOUBLE)
        with remedied("amp.grad_scaler", model, optimizer, scale=4096.0):
            train(model, optimizer, batches(DOUBLE))
        train(twin, other, batches(DOUBLE))
        assert same(model, twin)  # powers of two: exactly


def test_the_program_sees_true_gradients() -> None:
    model, optimizer, twin, other = twins(SGD, DOUBLE)
    x, y = batches(DOUBLE)[0]
    with remedied("amp.grad_scaler", model, optimizer):
        for net in (model, twin):
            h = net(x.requires_grad_())
            x.grad = None
            # Called on what it has made itself, as a recurrent cell is; and a part beside.
            again = net(torch.cat([x[:, :5], h], dim=1))
            nn.functional.mse_loss(again, y).backward()
            (0.5 * net[0].weight.square().sum()).backward()
            net.into = x.grad.clone()
        pairs = zip(model.parameters(), twin.parameters(), strict=True)
        assert all(torch.equal(p.grad, q.grad) for p, q in pairs)
        assert torch.equal(model.into, twin.into)
        clip = functools.partial(torch.nn.utils.clip_grad_norm_, list(model.parameters()), 0.05)
        train(model, optimizer, batches(DOUBLE), before=clip)
    clip = functools.partial(torch.nn.utils.clip_grad_norm_, list(twin.parameters()), 0.05)
    train(twin, other, batches(DOUBLE), before=clip)
    assert same(model, twin)
    assert not any(p._backward_hooks for p in model.parameters())


def test_an_overflow_is_no_step_and_halves_the_scale() -> None:
    model, optimizer, twin, _ = twins(ADAMW)
    fit = functools.partial(train, cast=torch.float16)
    with remedied("amp.grad_scaler", model, optimizer, scale=2.0**40):
        for _ in range(12):  # from 2^40 down, a half each time
            fit(model, optimizer, batches()[:1])
            assert same(model, twin)
        fit(model, optimizer, batches() * 2)
        assert not same(model, twin)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        steps = {int(s["step"]) for s in optimizer.state.values()}
    assert len(steps) == 1 and 0 < steps.pop() < 24


def test_weights_in_half_are_refused_as_by_grad_scaler() -> None:
    net = perceptron(torch.float16)
    with pytest.raises(NotApplicable, match="master_weights"):
        TREATMENTS["amp.grad_scaler"]().apply(Subject([net], [SGD(net.parameters())]))
