"""Shattered gradients: does the gradient of one input say anything about its neighbour's?

The gradient of a random combination of the outputs is taken at each sample of a batch and again at
a point beside it, one per cent of the data's spread away. Where the two are nearly parallel the
gradient is a smooth field; where they are as unrelated as white noise, it is shattered. Two forward
and two backward passes, set aside as a replay is: the model with its buffers, attributes and hooks,
its `.grad` and the random numbers stay as they are.

Source: Balduzzi et al. 2017, "The shattered gradients problem". The cotangent is drawn for every
sample on its own: a shared one is partly annihilated by batch norm's backward. Fixed cotangents
rather than the loss, whose gradient loses its direction near the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from surefoot.probes.aside import set_aside
from surefoot.probes.statistics import float_tensors

_LEAST_BATCH = 32  # below it the spread over batches is as large as the effect
_WHITE = 4.4  # null: standard deviation 1.45, largest of 30 white networks 3.45


@dataclass(frozen=True, slots=True)
class Shattering:
    """What the probe saw.

    coherence: mean cosine over the samples of the two gradients, 1 smooth, 0 white noise, NaN where
    more than half of the samples have no gradient or one that is not finite; limit:
    |coherence| below which it cannot be told from white noise; of: "input", or "parameters" for a
    model without floating-point input (then one cosine over all parameters, limit 0); curve:
    (module name, coherence of the gradient at its output), from the input to the output;
    samples: the batch size; passes: forward-backward pairs that it took.
    """

    coherence: float
    limit: float
    of: str
    curve: tuple[tuple[str, float], ...]
    samples: int
    passes: int = 2

    @property
    def white(self) -> bool:
        """Whether the gradient cannot be told from white noise."""
        return abs(self.coherence) < self.limit

    @property
    def reliable(self) -> bool:
        """Whether there was a gradient, and the batch was large enough: at 8 samples the spread is
        0.16 to 0.34, while parameters are compared over the whole batch at once."""
        large = self.samples >= _LEAST_BATCH or self.of == "parameters"
        return large and math.isfinite(self.coherence)


def shattering(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    along: Sequence[str] = (),
    epsilon: float = 0.01,
    seed: int = 0,
) -> Shattering:
    """Probe `model(*args, **kwargs)`; the first floating-point tensor of `args` is the batch.

    along: names of modules at whose outputs the curve is measured. epsilon: size of the step beside
    each sample relative to the batch's spread, or, for a model without floating-point input, of the
    change of each parameter relative to its norm.

    Raises ValueError where no gradient reaches the input, or the output has no floating-point
    tensor.

    >>> _ = torch.manual_seed(0)
    >>> smooth = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
    >>> seen = shattering(smooth, [torch.randn(64, 8)])
    >>> seen.coherence > 0.99, seen.white
    (True, False)
    """
    probe = _Probe(model, list(args), kwargs or {}, list(along), epsilon, seed)
    with probe.undisturbed():
        return probe.of_input() if probe.place is not None else probe.of_parameters()


class _Probe:
    def __init__(
        self,
        model: nn.Module,
        args: list[Any],
        kwargs: dict[str, Any],
        along: list[str],
        epsilon: float,
        seed: int,
    ) -> None:
        self._model, self._args, self._kwargs, self._along = model, args, kwargs, along
        self._epsilon = epsilon
        self._generator = torch.Generator().manual_seed(seed)
        self._cotangent: torch.Tensor | None = None
        self.place = next(
            (
                i
                for i, x in enumerate(args)
                if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim()
            ),
            None,
        )

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Model, random numbers and gradient mode are the caller's again afterwards."""
        devices = {p.device for p in self._model.parameters() if p.is_cuda}
        aside = set_aside(list(self._model.modules()))
        with torch.random.fork_rng(list(devices)), torch.enable_grad(), aside:
            yield

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._generator).to(like)

    def _run(
        self, args: list[Any], parameters: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(what to differentiate, outputs of the modules of the curve), both runs with the same
        random numbers; buffers are copies.
        """
        torch.manual_seed(0)
        buffers = {name: b.detach().clone() for name, b in self._model.named_buffers()}
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                y = next(float_tensors(output), None)
                if y is not None and y.requires_grad:
                    seen.setdefault(name, y)

            return hook

        modules = dict(self._model.named_modules())
        handles = [modules[name].register_forward_hook(keep(name)) for name in self._along]
        try:
            whole = functional_call(
                self._model, {**parameters, **buffers}, tuple(args), self._kwargs
            )
        finally:
            for handle in handles:
                handle.remove()
        output = next((y for y in float_tensors(whole) if y.requires_grad), None)
        if output is None:
            raise ValueError(
                "expected an output that depends on the input or the parameters, found none: is "
                "the model frozen, or does it run under no_grad?"
            )
        if self._cotangent is None:
            self._cotangent = self._noise(output)
        return (output * self._cotangent).sum(), seen

    def of_input(self) -> Shattering:
        """Cosines of the gradients at each sample and beside it."""
        assert self.place is not None
        x = self._args[self.place].detach()
        parameters = {name: p.detach() for name, p in self._model.named_parameters()}
        spread = (x - x.mean(0)).double().square().mean().sqrt()
        step = self._noise(x) * (self._epsilon * spread).to(x)
        pairs = []
        for point in (x, x + step):
            args = list(self._args)
            args[self.place] = point.clone().requires_grad_(True)
            value, seen = self._run(args, parameters)
            wanted = {"": args[self.place], **seen}
            found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
            pairs.append(dict(zip(wanted, found, strict=True)))
        here, beside = pairs
        if here[""] is None or beside[""] is None:
            raise ValueError(
                "no gradient reaches the input: does the model detach it or round it to integers?"
            )
        batch = x.shape[0]
        curve = [
            (name, _mean_cosine(g, beside[name]))
            for name, g in here.items()
            if name and g is not None and beside.get(name) is not None and g.shape[:1] == (batch,)
        ]
        rows = here[""].double().flatten(1)
        return Shattering(
            _mean_cosine(here[""], beside[""]), _null(rows), "input", tuple(curve), batch
        )

    def of_parameters(self) -> Shattering:
        """The cosine of the parameters' gradient before and after a small change of them all."""
        ends = []
        for near in (True, False):
            moved = {}
            for name, p in self._model.named_parameters():
                p = p.detach()
                if not near:
                    noise = self._noise(p)
                    sizes = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in (p, noise)]
                    scale = sizes[0] / sizes[1].clamp(min=1e-300)
                    p = p + noise * (self._epsilon * scale).to(p)
                moved[name] = p.clone().requires_grad_(p.is_floating_point())
            value, _ = self._run(self._args, moved)
            found = torch.autograd.grad(value, list(moved.values()), allow_unused=True)
            ends.append(dict(zip(moved, found, strict=True)))
        common = [n for n, g in ends[0].items() if g is not None and ends[1][n] is not None]
        here, beside = ([e[n] for n in common] for e in ends)
        batch = next((t.shape[0] for t in self._args if isinstance(t, torch.Tensor) and t.dim()), 1)
        return Shattering(_cosine_of_all(here, beside), 0.0, "parameters", (), batch)


def _mean_cosine(here: torch.Tensor, beside: torch.Tensor | None) -> float:
    assert beside is not None
    a, b = _directions(here), _directions(beside)
    known = a.any(1) & b.any(1)
    if known.sum() < max(1, len(a) / 2):
        return math.nan
    return float((a * b).sum(1)[known].mean())


def _cosine_of_all(here: list[torch.Tensor], beside: list[torch.Tensor]) -> float:
    """One cosine over all tensors together, NaN without a gradient; one of them in double at once.

    Each side is divided by its largest value first, so that squares of small ones are not lost.
    """
    sizes = [
        max((float(t.abs().amax()) for t in ts if t.numel()), default=0.0) for ts in (here, beside)
    ]
    if not all(size > 0 and math.isfinite(size) for size in sizes):
        return math.nan
    both = first = second = 0.0
    for a, b in zip(here, beside, strict=True):
        x, y = a.double().flatten() / sizes[0], b.double().flatten() / sizes[1]
        both, first, second = both + float(x @ y), first + float(x @ x), second + float(y @ y)
    return both / math.sqrt(first * second)


def _directions(rows: torch.Tensor) -> torch.Tensor:
    """Rows of unit length in double, however small they are; a row of zeros stays one."""
    x = rows.double().flatten(1)
    x = x / x.abs().amax(1, keepdim=True).clamp(min=1e-300)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _null(rows: torch.Tensor) -> float:
    """Below this a mean cosine over the rows [B, D] is what white noise gives.

    4.4 / sqrt(d B), where d = (tr S)^2 / tr S^2 is the number of directions that S = rows^T rows
    really has; from the Gram matrix [B, B], whose spectrum is the same.
    """
    rows = rows / rows.abs().max().clamp(min=1e-300)
    gram = rows @ rows.T
    directions = float(gram.trace().square() / gram.square().sum().clamp(min=1e-300))
    return _WHITE / max(directions * len(rows), 1.0) ** 0.5
