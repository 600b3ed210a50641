"""Operations kept inside their domain, and cuts of the graph joined again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from surefoot.findings import Remedy
from surefoot.remedies import TREATMENTS, FirstCall, NotApplicable, Subject, treatment
from surefoot.remedies.operation.undefined import put_below, take_out

HOSTILE = {
    "log": (lambda x: torch.log(x), [0.0, -1.0, 1.5]),
    "log2": (lambda x: x.log2(), [0.0, -1.0, 1.5]),
    "log1p": (lambda x: torch.log1p(x), [-1.0, -3.0, 1.5]),
    "sqrt": (lambda x: torch.sqrt(x), [0.0, -1.0, 1.5]),
    "rsqrt": (lambda x: x.rsqrt(), [0.0, -1.0, 1.5]),
    "division": (lambda x: 2.0 / x, [0.0, -0.0, 1.5]),
    "quotient": (lambda x: x / x, [0.0, -0.0, 1.5]),
    "reciprocal": (lambda x: x.reciprocal(), [0.0, -0.0, 1.5]),
    "root": (lambda x: x**0.5, [0.0, -1.0, 1.5]),
    "inverse": (lambda x: x**-1, [0.0, -0.0, 1.5]),
    "inverse root": (lambda x: torch.pow(x, -0.5), [0.0, -1.0, 1.5]),
    "power 3/2": (lambda x: x**1.5, [-2.0, -1.0, 1.5]),
    "tensor power": (lambda x: x ** torch.full_like(x, 0.5), [0.0, -1.0, 1.5]),
    "acos": (lambda x: torch.acos(x), [1.0, -2.0, 0.5]),
    "asin": (lambda x: x.asin(), [1.0, -2.0, 0.5]),
    "atanh": (lambda x: torch.atanh(x), [1.0, -2.0, 0.5]),
    "where": (lambda x: torch.where(x > 0, torch.log(x), 0.0), [0.0, -1.0, 1.5]),
    "in place": (lambda x: (x * 1).log_(), [0.0, -1.0, 1.5]),
}


class Calling(nn.Module):
    """A function in a forward."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def grad_of(function, values):
    x = torch.tensor(values, requires_grad=True)
    out = function(x)
    out.sum().backward()
    return out.detach(), x.grad


def masked(net, **parameters):
    subject = Subject([net])
    TREATMENTS["operation.mask"](**parameters).apply(subject)
    return subject


@pytest.mark.parametrize("name", HOSTILE)
def test_outside_is_finite_without_a_gradient_and_inside_is_as_it_was(name):
    function, values = HOSTILE[name]
    before, broken = grad_of(function, values)
    assert not (torch.isfinite(before).all() and torch.isfinite(broken).all())
    net = Calling(function)
    subject = masked(net)
    out, grad = grad_of(net, values)
    assert torch.isfinite(out).all() and torch.isfinite(grad).all()
    assert torch.equal(out[2], before[2]) and torch.equal(grad[2], broken[2])
    if name not in ("quotient",):  # whose dividend has a gradient
        assert grad[:2].tolist() == [0.0, 0.0]
    subject.undo()
    assert torch.equal(grad_of(net, values)[0].isfinite(), before.isfinite())


def test_values_inside_are_left_bit_for_bit():
    values = (torch.rand(1000, dtype=torch.float64) + 1e-6).tolist()
    for function, _ in HOSTILE.values():
        plain, slope = grad_of(function, values)
        net = Calling(function)
        masked(net)
        out, grad = grad_of(net, values)
        inside = torch.tensor(values) < 1 - 1e-6  # of asin and its like
        assert torch.equal(out[inside], plain[inside]) and torch.equal(grad[inside], slope[inside])


def test_the_edge_is_at_a_distance_of_eps_with_the_sign_of_the_divisor():
    net = Calling(lambda x: 1 / x)
    masked(net, eps=0.5)
    assert net(torch.tensor([0.1, -0.1, 0.0, 4.0])).tolist() == [2.0, -2.0, 2.0, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_narrow_dtypes_are_kept_inside_too(dtype):
    for function in (torch.log, torch.rsqrt, lambda x: 1 / x):
        net = Calling(function)
        masked(net)
        assert torch.isfinite(net(torch.zeros(3, dtype=dtype))).all()
    for function in (torch.atanh, torch.log1p):
        net = Calling(function)
        masked(net)
        assert torch.isfinite(net(-torch.ones(3, dtype=dtype))).all()


def test_counts_and_numbers_divide_too():
    net = Calling(lambda x: x.sum() / (x > 5).sum() + x.sum() / 2 + (x.long() // 2).sum())
    masked(net)
    assert torch.isfinite(net(torch.ones(3)))


def test_norms_at_zero_mind_their_own():
    """Why there is no rule for norms: torch gives the gradient zero there."""
    for p in (0.5, 1, 2, 3, float("inf")):
        _, grad = grad_of(lambda x, p=p: torch.linalg.vector_norm(x, p), [0.0, 0.0])
        assert grad.tolist() == [0.0, 0.0]


def test_everywhere_minds_losses_and_leaves_optimizers_alone():
    weight = nn.Parameter(torch.zeros(3))
    subject = masked(nn.Linear(1, 1), everywhere=True)
    try:
        weight.sqrt().sum().backward()
        assert weight.grad.tolist() == [0.0, 0.0, 0.0]
        with torch.no_grad():
            assert torch.sqrt(torch.zeros(1)).item() == 0.0
    finally:
        subject.undo()
    weight.grad = None
    weight.sqrt().sum().backward()
    assert torch.isinf(weight.grad).all()
    subject.undo()


def test_everywhere_is_taken_back_out_of_order():
    depth = torch._C._len_torch_function_stack()
    outer, inner = (torch.overrides.BaseTorchFunctionMode() for _ in range(2))
    outer.__enter__()
    first = masked(nn.Linear(1, 1), everywhere=True)
    second = masked(nn.Linear(1, 1), everywhere=True)
    inner.__enter__()
    with torch.device("meta"):
        assert torch.ones(1).is_meta
        first.undo()
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    assert torch.isfinite(torch.log(torch.zeros(1)))
    second.undo()
    assert torch.isinf(torch.log(torch.zeros(1)))
    assert torch._C._len_torch_function_stack() == depth


def test_a_mode_is_put_below_a_device_and_above_the_default_one():
    mode = torch.overrides.BaseTorchFunctionMode()
    with torch.device("meta"):
        put_below(mode)
    assert torch._C._len_torch_function_stack() == 1
    take_out(mode)
    torch.set_default_device("cpu")
    put_below(mode)
    torch.set_default_device("meta")
    assert torch.ones(1).is_meta
    torch.set_default_device(None)
    assert torch._C._len_torch_function_stack() == 1
    take_out(mode)
    assert torch._C._len_torch_function_stack() == 0


def test_mask_refuses():
    with pytest.raises(ValueError, match="eps"):
        masked(nn.Linear(1, 1), eps=0.0)
    with pytest.raises(NotApplicable, match="'nowhere'"):
        TREATMENTS["operation.mask"]("nowhere").apply(Subject([nn.Linear(1, 1)]))


# -- cuts of the graph ----------------------------------------------------------------------------


class Cutting(nn.Module):
    """Two layers with a cut between them."""

    def __init__(self, cut):
        super().__init__()
        self.body, self.head, self.cut = nn.Linear(4, 4), nn.Linear(4, 1), cut

    def forward(self, x):
        return self.head(self.cut(self.body, x))


def no_grad(body, x):
    with torch.no_grad():
        return body(x)


def set_off(body, x):
    with torch.set_grad_enabled(False):
        return body(x)


@torch.no_grad()
def decorated(body, x):
    return body(x)


CUTS = {
    "detach": lambda body, x: body(x).detach(),
    "detach_": lambda body, x: (body(x) * 1).detach_(),
    "data": lambda body, x: body(x).data,
    "no_grad": no_grad,
    "set_grad_enabled": set_off,
    "decorated": decorated,
}


def connected(net, x, optimizers=(), **kwargs):
    subject = Subject([net], optimizers, FirstCall(net, (x,)))
    TREATMENTS["graph.connect"](**kwargs).apply(subject)
    return subject


@pytest.mark.parametrize("cut", CUTS)
def test_each_cut_is_joined_in_training_and_comes_back(cut):
    net, x = Cutting(CUTS[cut]), torch.randn(5, 4)
    subject = connected(net, x)
    net(x).sum().backward()
    found = net.body.weight.grad.clone()
    net.body.weight.grad = None
    net.head(net.body(x)).sum().backward()
    assert torch.equal(found, net.body.weight.grad)
    net.body.weight.grad = None
    with torch.no_grad():
        assert not net(x).requires_grad
    net.eval()
    net(x).sum().backward()
    net.train()
    subject.undo()
    net(x).sum().backward()
    assert net.body.weight.grad is None


def test_frozen_parameters_that_the_optimizer_holds_are_thawed():
    net, x = Cutting(lambda body, x: body(x)), torch.randn(5, 4)
    net.body.requires_grad_(False)
    optimizer = torch.optim.SGD([net.body.weight, *net.head.parameters()], 0.1)
    subject = connected(net, x, [optimizer])
    assert net.body.weight.requires_grad and not net.body.bias.requires_grad
    subject.undo()
    assert not net.body.weight.requires_grad


def test_where_nothing_is_cut_there_is_nothing_to_join():
    net = Cutting(lambda body, x: body(x))
    with pytest.raises(NotApplicable, match="nothing in its forward"):
        connected(net, torch.randn(5, 4))
    with pytest.raises(NotApplicable, match="nothing in its forward"):
        connected(Cutting(CUTS["detach"]), torch.randn(5, 4), target="head")
    with pytest.raises(NotApplicable, match="nothing in its forward"):  # of the data alone
        connected(Cutting(lambda body, x: body(no_grad(torch.sin, x.detach()))), torch.ones(5, 4))


def test_a_forward_that_needs_its_cut_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            y = self.body(x)
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * y.mean(0))
            return y - self.mean

    net, x = Counting(), torch.randn(5, 4)
    subject = Subject([net], call=FirstCall(net, (x,)))
    with pytest.raises(NotApplicable, match="buffer"):
        TREATMENTS["graph.connect"]().apply(subject)
    subject.undo()
    net(x)
    assert not net.mean.requires_grad


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_everywhere_minds_evaluation_as_well_and_no_step_of_an_optimizer(kind):
    """A first gradient of zero has the root of zero in the step: bit for bit what it is."""

    def trained(mask):
        torch.manual_seed(0)
        net = nn.Linear(2, 1)
        optimizer = kind(net.parameters(), lr=0.1, foreach=False)
        subject = Subject([net], [optimizer])
        if mask:
            treatment(Remedy("operation.mask", None, "", "", {"everywhere": True})).apply(subject)
        try:
            for scale in (0.0, 1.0, 1e-9):
                optimizer.zero_grad()
                (scale * net(torch.ones(3, 2))).sum().backward()
                optimizer.step()
            with torch.no_grad():
                lowest = torch.log(torch.zeros(1)).item()
        finally:
            subject.undo()
        return [p.detach().clone() for p in net.parameters()], lowest

    (plain, infinite), (minded, finite) = trained(False), trained(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, minded, strict=True))
    assert infinite == float("-inf") and finite == pytest.approx(math.log(1e-6), rel=1e-5)
