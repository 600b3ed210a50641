"""A learning-rate range test that can answer "no learning rate will work".

The rate grows exponentially from update to update, on copies, under the optimizer's own rule. What
is followed is the loss on one and the same batch with the same random numbers, so that batches
do not drown what the rate does. A loss that falls is not enough: a net in which nothing of the
input arrives still learns the best constant answer. So the loss is also made with the output's mean
over the batch in place of the output, and must come out below that. And since a net may sit on a
plateau while the rates pass by, some rates are held for longer before the answer is no.

Source: Smith 2017 (arXiv 1506.01186) for the test; the suggestion is the rate of steepest descent
over log(rate), at most a tenth of the rate at the minimum (the two rules of fastai's finder).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from surefoot.probes.pytrees import tensors_in_call
from surefoot.probes.rate_verdict import RangeTest, Seen, judge, lost, margin
from surefoot.probes.rehearsal import copied
from surefoot.probes.stand_ins import drawn_alike, gradients, working_copies

_HELD = 8  # rates, half a decade apart
_PATIENCE = 4  # times the updates that a rate is held for, where it seems to be getting somewhere
_GROWING = 1.25  # times what it was half as many updates ago: the gap of a net that does
_HINT = 1e-5  # of the loss: a gap below is rounding


def find_rate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], torch.Tensor],
    *,
    steps: int = 60,
    low: float = 1e-7,
    high: float = 10.0,
    hold: int = 100,
) -> RangeTest:
    """Try `steps` rates from `low` to `high`, one update each, and judge what the loss did.

    loss(k) makes the loss [] of the k-th batch on `model` and should give the same batch each time
    that it is asked for the same k; where it cannot, the losses of different batches are compared.
    Parameter groups keep the ratios of their rates: a rate is that of the group with the highest.
    hold: updates for which each of eight rates is held before the answer is that none will work.
    Everything happens on copies: model, optimizer and random numbers stay as they are.

    Raises ValueError for a range that is none, a loss that is not made through `model`,
    and Refused where the model cannot be set aside.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> x = torch.ones(4, 1)
    >>> seen = find_rate(model, sgd, lambda k: 5 * model(x).square().mean())  # unstable from 0.2
    >>> str(seen.verdict), 0.1 < seen.limit < 0.2
    ('usable', True)
    """
    if not (0 < low < high < math.inf and steps >= 4):
        raise ValueError(f"expected 0 < low < high and 4 steps or more, got {low}, {high}, {steps}")

    @contextmanager
    def trials() -> Iterator[_Trial]:
        with working_copies(model) as stand_ins:
            again = drawn_alike(loss)
            twin = _twin(optimizer, stand_ins)
            _check_reached(again, optimizer, twin)
            yield _Trial(model, twin, again)

    with trials() as trial:
        test = _sweep(trial, np.geomspace(low, high, steps))
    if not (hold and trial.repeats and len(test.losses) > 1):
        return test
    if test.doubtful and test.suggestion is not None:
        with trials() as trial:
            if _held(trial, test.suggestion, hold, test.noise) is None:
                test = replace(test, verdict="flat", suggestion=None, limit=None, steepest=None)
    return _hold(trials, test, low, hold) if test.hopeless else test


def _sweep(trial: _Trial, rates: np.ndarray) -> RangeTest:
    """One update at each of the growing rates, until the loss is lost."""
    start = trial.begin()
    losses: list[float] = []
    for rate in rates if math.isfinite(start) and trial.gradient > 0 else ():
        losses.append(trial.step(float(rate)))
        if lost(losses[-1], start):
            break
    seen = Seen(
        rates[: len(losses)] if losses else rates,
        np.array(losses),
        start,
        trial.gradient,
        trial.noise,
        trial.gap,
        trial.skipped,
    )
    return judge(seen)


def _hold(
    trials: Callable[[], AbstractContextManager[_Trial]], test: RangeTest, low: float, updates: int
) -> RangeTest:
    """The test with what comes of rates that are held: the best of them, if one helps."""
    highest = float(test.rates[-1])
    rates = [r for i in range(1, _HELD + 1) if (r := highest * 10 ** (-i / 2)) >= low]
    reached: dict[float, tuple[float, int]] = {}
    for rate in rates:
        with trials() as trial:
            if (end := _held(trial, rate, updates, test.noise)) is not None:
                reached[rate] = end
    test = replace(test, held=tuple(rates), updates=updates)
    if not reached:
        return test
    best = min(reached, key=lambda r: reached[r][::-1])  # soonest, then lowest
    loss, made = reached[best]
    return replace(
        test, verdict="usable", suggestion=best, limit=max(reached), updates=made, reached=loss
    )


def _held(trial: _Trial, rate: float, updates: int, noise: float) -> tuple[float, int] | None:
    """(loss, updates made) where holding a rate lowers the loss, None where it does not.

    A net that leaves a plateau tells its inputs apart better and better long before its loss falls:
    as long as it does, it is given more time.
    """
    start, before = trial.begin(), -math.inf
    losses: list[float] = []
    trial.gapped = False
    for made in range(1, _PATIENCE * updates + 1):
        losses.append(trial.step(rate))
        if lost(losses[-1], start):
            return None
        if made % max(1, updates // 2):
            continue
        gap = trial.gap_now()
        if made >= updates:
            end = float(np.median(losses[-max(3, updates // 4) :]))
            tells = gap is None or gap > margin(losses[-1], noise)
            if tells and start - end > margin(start, noise):
                return end, made
            clear = max(noise, _HINT * abs(start))
            if gap is None or gap < max(clear, _GROWING * before):
                return None
        before = -math.inf if gap is None else gap
    return None


class _Trial:
    """Updates of a model on copies, and the loss after each."""

    def __init__(
        self,
        model: nn.Module,
        twin: torch.optim.Optimizer,
        loss: Callable[[int], torch.Tensor],
    ) -> None:
        self._twin, self._loss = twin, loss
        self._parameters = [p for g in twin.param_groups for p in g["params"] if p.requires_grad]
        self._shares = _shares(twin)
        self._output = _Output(model)
        self._comparable = False
        self._k = 0
        self._lowest = math.inf
        self.repeats = True
        self.gradient = math.nan
        self.noise: float | None = None
        self.gap: float | None = None
        self.skipped = 0
        self.gapped = True  # whether the gap is kept up with the lowest loss

    def begin(self) -> float:
        """The loss before the first update."""
        start, again = self._at(0), self._at(0)
        noise = abs(start - again)
        self.repeats = not math.isfinite(start) or noise <= 1e-3 * abs(start)
        self.noise = noise if self.repeats else None
        squares = [
            float(
                g.coalesce().values().double().square().sum()
                if g.is_sparse
                else g.double().square().sum()
            )
            for g in gradients(self._loss(0), self._parameters)
            if g is not None
        ]
        self.gradient = math.sqrt(sum(squares))
        self._comparable = (
            self.repeats and math.isfinite(start) and self._output.matters(self._at, start)
        )
        self._lowest, self.gap = start, self._gap(start)
        return start

    def step(self, rate: float) -> float:
        """The loss after one update at `rate` on the next batch."""
        loss = self._loss(self._k)
        if math.isfinite(float(loss.detach())):
            self._update(loss, rate)
        else:
            self.skipped += 1
        self._k += 1
        after = self._at(0 if self.repeats else self._k)
        if after < self._lowest and self.gapped:
            self._lowest, self.gap = after, self._gap(after)
        return after

    def gap_now(self) -> float | None:
        """`gap` at the present parameters."""
        return self._gap(self._at(0))

    def _update(self, loss: torch.Tensor, rate: float) -> None:
        for group, share in zip(self._twin.param_groups, self._shares, strict=True):
            old = group["lr"]
            tensor = isinstance(old, torch.Tensor)
            group["lr"] = torch.full_like(old, rate * share) if tensor else rate * share
        self._receive(loss)
        if not _wants_closure(self._twin):
            self._twin.step()
            return

        def closure() -> Any:
            with torch.enable_grad():
                value = self._loss(self._k)
            self._receive(value)
            return value.detach()

        self._twin.step(closure)

    def _receive(self, loss: torch.Tensor) -> None:
        for p, g in zip(self._parameters, gradients(loss, self._parameters), strict=True):
            p.grad = g

    def _at(self, k: int) -> float:
        with torch.no_grad():
            return float(self._loss(k))

    def _gap(self, loss: float) -> float | None:
        """How far the loss lies below that of the mean answer."""
        if not self._comparable:
            return None
        with self._output.replaced(_mean):
            return self._at(0) - loss


class _Output:
    """The output of a model, which can be replaced on its way into the loss."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._inputs_differ = False

    @contextmanager
    def replaced(self, by: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Inside, each output of more than one sample is what `by` makes of it."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self._inputs_differ |= any(map(_differs, tensors_in_call(args, kwargs)))
            return tree_map(lambda x: by(x) if _is_batch(x) else x, output)

        handle = self._model.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def matters(self, evaluate: Callable[[int], float], loss: float) -> bool:
        """Whether the loss is made of it, and of inputs that are not all the same: it is not where
        the model makes its own loss, or is never called."""
        try:
            with self.replaced(_jolted):
                return evaluate(0) != loss and self._inputs_differ
        except Exception:  # an output that is no plain tree of tensors
            return False


def _is_batch(x: Any) -> bool:
    whole = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() > 0
    return whole and x.shape[0] > 1


def _differs(x: torch.Tensor) -> bool:
    return x.dim() > 0 and bool((x != x[:1]).any())


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(0, keepdim=True).expand_as(x).contiguous()


def _jolted(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x) * (1 + x.abs())


def _twin(
    optimizer: torch.optim.Optimizer, stand_ins: dict[int, torch.Tensor]
) -> torch.optim.Optimizer:
    """A copy that acts on the stand-ins, without the script's hooks."""
    twin = copied(optimizer, stand_ins)
    # torch copies the groups and the state only; LBFGS and others keep more in attributes.
    memo: dict[int, Any] = dict(stand_ins)
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and name != "step":
            vars(twin)[name] = copy.deepcopy(value, memo)
    for table in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        getattr(twin, table, {}).clear()  # the script's own would act on the script's own things
    return twin


def _check_reached(
    loss: Callable[[int], torch.Tensor],
    original: torch.optim.Optimizer,
    twin: torch.optim.Optimizer,
) -> None:
    """Raise ValueError if the loss is made of the originals, which no trial moves."""
    value = loss(0)
    for optimizer in (twin, original):
        trained = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
        if any(g is not None for g in gradients(value, trained, keep=True)):
            break
    else:
        return
    if optimizer is original:
        raise ValueError(
            "expected a loss made by the model, got one that uses the parameters themselves: take "
            "them from the model inside of loss(k), and give a model that holds all of them"
        )


def _shares(optimizer: torch.optim.Optimizer) -> list[float]:
    """The rate of each parameter group, as a share of the highest."""
    # A scheduler that warms up may have the present rates at zero.
    rates = [float(g.get("initial_lr", g["lr"])) for g in optimizer.param_groups]
    highest = max(rates)
    return [r / highest if highest > 0 else 1.0 for r in rates]


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
