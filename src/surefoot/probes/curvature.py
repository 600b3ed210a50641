"""How curved the loss is at the present weights, and the rate up to which a step is stable there.

The curvature is that which the optimizer meets: of D^1/2 H D^1/2, with H the Hessian and D what the
optimizer multiplies a gradient by apart from the rate (one for gradient descent, 1 / (sqrt(v) +
eps) for Adam). Its largest eigenvalue comes from a few Hessian-vector products (Lanczos). Those are
made by differentiating twice, or, where an operation cannot be, from differences of gradients.

A rate beyond the bound is no sign of divergence: at initialization networks that go on to train
well are often beyond it, and move to where the loss is flatter ("catapult", arXiv 2003.02218).

Source: Cohen et al. 2021 (arXiv 2103.00065), 2 / lambda for gradient descent, (2 + 2 beta) / lambda
with momentum, and (2 + 2 beta) / ((1 + 2 beta) lambda) with Nesterov's; Cohen et al. 2022 (arXiv
2207.14484), (2 + 2 beta1) / ((1 - beta1) lambda) for Adam, 38 / lambda at beta1 = 0.9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from surefoot.probes.precondition import Rule, rule_of
from surefoot.probes.stand_ins import drawn_alike, gradients, working_copies

_ENOUGH = 1e-4  # of the eigenvalue: the residual at which more products would change nothing


@dataclass(frozen=True, slots=True)
class Curvature:
    """What the loss is like around the present weights.

    value: the largest eigenvalue found, in the optimizer's own geometry; it is at most the true
    one, and off by at most about `residual` if it is the largest. along: the curvature in the
    direction of the gradient as the optimizer scales it. rule: the optimizer's; bound: the highest
    rate at which an update is stable there, None where the rule is not known, infinite where the
    loss bends nowhere upwards. rate: the optimizer's. products: Hessian-vector products made;
    exact: whether by differentiating twice. NaN where the loss or its gradient is not finite.
    """

    value: float
    along: float
    residual: float
    bound: float | None
    rate: float
    rule: str
    products: int
    exact: bool

    @property
    def sentence(self) -> str:
        """The measurement in plain words."""
        if not math.isfinite(self.value):
            return "The curvature has no value: the loss, its gradient or its bend is not finite."
        along = (
            f"The largest curvature found is {self.value:.4g}, {self.along:.4g} along the update"
        )
        if self.bound is None:
            return f"{along}; for {self.rule} no bound on the rate is known."
        if math.isinf(self.bound):
            return f"{along}: nowhere does the loss bend upwards, and no rate is bounded by it."
        words = f"{along}: {self.rule} is stable around these weights up to {self.bound:.3g}"
        if self.rate <= self.bound:
            return f"{words}; the rate is {self.rate:.3g}."
        return (
            f"{words}, and the rate is {self.rate:.3g}. By itself that is no divergence: many "
            "networks that train well begin beyond the bound."
        )


def curvature(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], torch.Tensor],
    *,
    products: int = 20,
    seed: int = 0,
) -> Curvature:
    """Measure the curvature of `loss()` [] around the present weights, on copies.

    products: Hessian-vector products at most; each costs about two forward-backward passes.
    Parameter groups keep the ratios of their rates. Model, optimizer and random numbers stay as
    they are. Raises Refused where the model cannot be set aside.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    >>> x = torch.eye(2) * torch.tensor([1.0, 2.0])  # the Hessian of the loss is diag(1, 4)
    >>> seen = curvature(model, sgd, lambda: model(x).square().sum() / 2)
    >>> round(seen.value, 3), round(seen.bound, 3)  # (2 + 2 * 0.5) / 4
    (4.0, 0.75)
    """
    evaluate = drawn_alike(lambda _: loss())
    with working_copies(model) as stand_ins:
        held = [(p, g) for g in optimizer.param_groups for p in g["params"] if id(p) in stand_ins]
        surface = _Surface(lambda: evaluate(0), [stand_ins[id(p)] for p, _ in held])
        slope = surface.gradient()
        rule = rule_of(optimizer, [p for p, _ in held], slope)
        rate = max(float(g["lr"]) for g in optimizer.param_groups)
        finite = all(bool(torch.isfinite(g).all()) for g in slope)
        if not finite or not held:
            nan = math.nan
            return Curvature(nan, nan, nan, None, rate, rule.name, 0, True)
        return _measured(surface, rule, slope, rate, max(products, 2), seed)


def _measured(
    surface: _Surface,
    rule: Rule,
    slope: list[torch.Tensor],
    rate: float,
    products: int,
    seed: int,
) -> Curvature:
    roots = [s.sqrt() for s in rule.scale]

    def multiply(x: list[torch.Tensor]) -> list[torch.Tensor]:
        """D^1/2 (+-H + decay) D^1/2 x, and what decays on its own."""
        bent = surface.multiply([r * v for r, v in zip(roots, x, strict=True)])
        made = zip(roots, bent, rule.coupled, rule.decoupled, x, strict=True)
        return [r * (rule.sign * b + c * r * v) + d * v for r, b, c, d, v in made]

    update = [r * g for r, g in zip(roots, slope, strict=True)]
    length = _norm(update)
    along, made = math.nan, 0
    if length > 0:
        direction = [u / length for u in update]
        along, made = _dot(direction, multiply(direction)), 1
    value, residual, more = _lanczos(multiply, update, products - made, seed)
    value = max(value, along) if math.isfinite(along) else value
    bound = None if rule.factor is None else (rule.factor / value if value > 0 else math.inf)
    if not math.isfinite(value):
        bound = None
    return Curvature(value, along, residual, bound, rate, rule.name, made + more, surface.exact)


class _Surface:
    """The loss as a function of some parameters: its gradient and its Hessian's products."""

    def __init__(self, loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor]) -> None:
        self._loss, self._parameters = loss, parameters
        self._graph: list[torch.Tensor | None] | None = None
        self.exact = True

    def gradient(self) -> list[torch.Tensor]:
        """The gradient, zero where none arrives."""
        return self._dense(gradients(self._loss(), self._parameters))

    def multiply(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        """H x."""
        if self.exact:
            try:
                return self._twice(x)
            # An operation without a second derivative; it is one or the other by version and kind.
            except (RuntimeError, NotImplementedError):
                self.exact, self._graph = False, None
        return self._differences(x)

    def _twice(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._graph is None:
            self._graph = gradients(self._loss(), self._parameters, graph=True)
            if _severed(self._graph):
                raise NotImplementedError
        pairs = [
            (g, v) for g, v in zip(self._graph, x, strict=True) if g is not None and g.requires_grad
        ]
        if not pairs:  # linear in every parameter
            return [torch.zeros_like(p) for p in self._parameters]
        bent = torch.autograd.grad(
            [g for g, _ in pairs],
            self._parameters,
            [v for _, v in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        return self._dense(list(bent))

    def _differences(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        """(g(w + h x) - g(w - h x)) / 2h, with the h that balances rounding and truncation."""
        parameters = self._parameters
        precision = max(torch.finfo(p.dtype).eps for p in parameters)
        length, size = _norm(x), _norm([p.detach() for p in parameters])
        if length == 0:
            return [torch.zeros_like(v) for v in x]
        h = precision ** (1 / 3) * (size or 1.0) / length
        kept = [p.detach().clone() for p in parameters]
        ends = []
        try:
            for sign in (1, -1):
                with torch.no_grad():
                    for p, w, v in zip(parameters, kept, x, strict=True):
                        p.copy_(w + sign * h * v)
                ends.append(self.gradient())
        finally:
            with torch.no_grad():
                for p, w in zip(parameters, kept, strict=True):
                    p.copy_(w)
        return [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)]

    def _dense(self, found: list[torch.Tensor | None]) -> list[torch.Tensor]:
        return [
            torch.zeros_like(p) if g is None else (g.to_dense() if g.is_sparse else g).detach()
            for p, g in zip(self._parameters, found, strict=True)
        ]


def _severed(graph: list[torch.Tensor | None]) -> bool:
    """Whether an operation that is differentiated once only is in the graph of a gradient.

    torch raises nothing where such an operation leads to no parameter: it leaves its share out.
    """
    stack = [g.grad_fn for g in graph if g is not None]
    seen: set[object] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in ("torch::autograd::Error", "torch::autograd::DelayedError"):
            return True
        stack += [before for before, _ in node.next_functions]
    return False


def _lanczos(
    multiply: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    slope: list[torch.Tensor],
    products: int,
    seed: int,
) -> tuple[float, float, int]:
    """(the largest eigenvalue, its residual, products made) of a symmetric operator.

    Without orthogonalizing anew, which would keep every vector: the extreme eigenvalues come out
    right all the same, only more than once. It starts beside the gradient, which lies mostly in
    the sharpest directions.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(s.shape, generator=generator).to(s) for s in slope]
    length, loud = _norm(slope), _norm(noise)
    v = [n / loud + (s / length if length > 0 else 0) for n, s in zip(noise, slope, strict=True)]
    size = _norm(v)
    v, last = [a / size for a in v], [torch.zeros_like(a) for a in v]
    diagonal: list[float] = []
    beside: list[float] = []
    value, residual = math.nan, math.inf
    for _ in range(max(products, 1)):
        w = multiply(v)
        diagonal.append(_dot(v, w))
        before = beside[-1] if beside else 0.0
        w = [a - diagonal[-1] * b - before * c for a, b, c in zip(w, v, last, strict=True)]
        following = _norm(w)
        if not math.isfinite(following):
            return math.nan, math.nan, len(diagonal)
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            small = small + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(small)
        value, residual = float(values[-1]), following * abs(float(vectors[-1, -1]))
        if residual <= _ENOUGH * abs(value) or following == 0:
            break
        beside.append(following)
        last, v = v, [a / following for a in w]
    return value, residual, len(diagonal)


def _dot(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def _norm(x: list[torch.Tensor]) -> float:
    return math.sqrt(_dot(x, x))
