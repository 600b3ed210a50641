"""The depth profile of one instrumented step: how the gradient grows from the output to the input.

Along a plain chain, each gap between two affine layers is split into the part of the weights, of
the activation, of normalisation and of pooling, all in decades (log10) of the Frobenius norm. With
skip connections the trunk is followed instead, from block to block, because inside a branch only
that branch's share of the gradient flows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from surefoot.diagnosis.case import Case
from surefoot.layers import Kind, LayerTable
from surefoot.probes.blocks import choose_blocks
from surefoot.signals.flow import Call, Flow, TensorStats

_TINY = 1e-60  # a gradient that is exactly zero counts as this


@dataclass(frozen=True, slots=True)
class Stage:
    """One place on the way: a layer, the gradient's norm there, and what happened above it.

    gradient: log10 ||dL/dz||_F; forward: log10 rms of z. weights, activation, normalization,
    pooling: decades by which the gradient grew between the next stage's output and this one's (the
    weights are the next stage's); their sum is `step`. weight_layer is whose weights those are.
    """

    layer: int
    gradient: float
    forward: float
    weights: float = 0.0
    activation: float = 0.0
    normalization: float = 0.0
    pooling: float = 0.0
    weight_layer: int | None = None
    function: str | None = None

    @property
    def step(self) -> float:
        """Growth towards the input over this gap, pooling left out (it is meant)."""
        return self.weights + self.activation + self.normalization


@dataclass(frozen=True, slots=True)
class Profile:
    """Stages in execution order. growth: decades from the last interior stage to the first."""

    residual: bool
    stages: tuple[Stage, ...]
    depth: int

    @property
    def growth(self) -> float:
        """G: decades by which the gradient grew towards the input; negative when it shrank."""
        return float(sum(s.step for s in self.stages[:-1]))

    @property
    def per_layer(self) -> float:
        """Median growth over a gap, in decades."""
        steps = [s.step for s in self.stages[:-1]]
        return float(np.median(steps)) if steps else 0.0

    def gauge(self, sign: int) -> tuple[float, bool]:
        """(decades, lone) by which gradients grow (sign 1) or shrink (sign -1) at most.

        Over the whole depth, or at one layer that stands out: further on its neighbours may make
        up for it, in numbers but not in what is learned.
        """
        whole, culprit = sign * self.growth, self.culprit()
        alone = sign * culprit[1] if culprit is not None else 0.0
        return max(whole, alone), alone >= max(0.7, 0.5 * whole)

    def culprit(self) -> tuple[int, float] | None:
        """(index of the gap, deviation in decades) of a lone outlier among the gaps, or None.

        Robust: at least 0.7 decades and 6 deviations (median and MAD, floor 0.05) from the rest; of
        three gaps, whose MAD says little, the floor is 0.25.
        """
        steps = np.array([s.step for s in self.stages[:-1]])
        if len(steps) < 3:
            return None
        median = np.median(steps)
        floor = 0.05 if len(steps) > 3 else 0.25
        scale = max(1.4826 * float(np.median(np.abs(steps - median))), floor)
        worst = int(np.argmax(np.abs(steps - median)))
        deviation = float(steps[worst] - median)
        if abs(deviation) < max(0.7, 6 * scale):
            return None
        return worst, deviation


def first_profile(case: Case) -> Profile | None:
    """The profile of the run's first instrumented step (computed once a case)."""
    flow = case.first
    return case.once("profile", lambda: profile(flow, case.layers) if flow is not None else None)


def profile(flow: Flow, layers: LayerTable) -> Profile | None:
    """The profile of a flow, None where fewer than three stages could be measured."""
    calls = _first_calls(flow)
    weighted = [c for c in calls if layers.layers[c.layer].kind.weighted]
    if any(c.weight_norm == 0 for c in weighted):
        # A branch that ends in zeros is meant to begin without a gradient (LoRA, Fixup).
        weighted = [c for c in weighted if c.grad_output and c.grad_output.norm > 0]
    passed = sum(c.identity for c in weighted)
    if any(c.grad_output is not None and c.grad_output.nonfinite for c in weighted):
        return None  # norms over what is left of a non-finite gradient say nothing
    residual = passed >= 2 and passed >= 0.3 * len(weighted)
    stages = _trunk(calls, layers) if residual else _chain(calls, weighted, layers)
    if len(stages) < 3:
        return None
    return Profile(residual, tuple(stages), len(weighted))


def forward_explosion(flow: Flow, layers: LayerTable) -> tuple[int, float, float] | None:
    """(first layer, decades by weights, decades by activations) of a forward that overflows.

    For a step whose gradients are all lost: from the scale of what goes into and comes out of each
    affine layer, up to the last finite one. None for less than four decades of growth.
    """
    weighted = [
        c for c in flow.calls if layers.layers[c.layer].kind.weighted and c.input and c.output
    ]
    lost = next((i for i, c in enumerate(weighted) if c.output and c.output.nonfinite), 0)
    sound = [c for c in weighted[:lost] if c.output and c.output.rms > 0]
    if len(sound) < 2:
        return None
    weights = sum(_log(c.output.rms) - _log(c.input.rms) for c in sound if c.input and c.output)
    # What goes into the layer that overflows is still there to be measured, as far as it is finite.
    between = sum(
        _log(b.input.rms) - _log(a.output.rms)
        for a, b in pairwise([*sound, weighted[lost]])
        if a.output and b.input and b.input.rms > 0
    )
    return (sound[0].layer, weights, between) if weights + between >= 4 else None


def _first_calls(flow: Flow) -> list[Call]:
    """The first call of each layer that a gradient came back to, in execution order."""
    first: dict[int, Call] = {}
    for call in flow.calls:
        if call.grad_output is not None and call.layer not in first:
            first[call.layer] = call
    return sorted(first.values(), key=lambda c: c.order)


def _log(value: float) -> float:
    return math.log10(max(value, _TINY))


def _chain(calls: list[Call], weighted: list[Call], layers: LayerTable) -> list[Stage]:
    stages = []
    place = {c.order: i for i, c in enumerate(calls)}
    groups = list(_side_by_side(weighted))
    for i, ((last, here), (_, after)) in enumerate(pairwise(groups)):
        between = [
            c
            for c in calls[place[last.order] + 1 : place[after.order]]
            if layers.layers[c.layer].leaf
        ]
        kinds = {layers.layers[c.layer].kind: c for c in between}
        shape = kinds.get(Kind.ACTIVATION)
        function = here.activation or (shape.activation if shape is not None else None)
        weights = _through(after)
        # The head of one of several networks follows other rules, as the last one does.
        ends = i + 2 < len(groups) and _anew(*groups[i + 1], groups[i + 2][1])
        anew = ends or _anew(last, here, after)
        if weights is None or after.grad_input is None or here.grad_output is None or anew:
            # Nothing came back through it: the profile begins anew behind this point.
            stages.append(_stage(here, after, function))
            continue
        whole = _log(here.grad_output.norm) - _log(after.grad_input.norm)
        normalization = _sum_of(Kind.NORMALIZATION, between, layers)
        pooling = _sum_of(Kind.POOLING, between, layers)
        rest = whole - normalization - pooling
        stages.append(_stage(here, after, function, (weights, rest, normalization, pooling)))
    # The last gap ends at the head, whose width and scale follow other rules: it is left out.
    return stages


def _anew(last: Call, first: Call, after: Call) -> bool:
    """Whether a map is fed by others than the ones before it: by data, or on a path of its own."""
    before = range(first.order, last.order + 1)
    elsewhere = bool(after.sources) and not any(order in before for order in after.sources)
    return after.grad_input is None or elsewhere


def _side_by_side(weighted: list[Call]) -> Iterator[tuple[Call, Call]]:
    """(last call, one call that stands for all) of affine maps that are fed the same tensor.

    Gates, heads, queries and keys: together they are one map, whose outputs lie side by side. The
    layer that stands for them is the one that the gradient comes through.
    """
    for _, group in groupby(weighted, key=_fed):
        several = list(group)
        yield several[-1], several[0] if len(several) == 1 else _joined(several)


def _fed(call: Call) -> tuple[float, ...]:
    """What tells the tensor that went in from any other."""
    x = call.input
    return (call.order,) if x is None else (x.norm, x.maxabs, x.mean, x.numel)


def _joined(several: list[Call]) -> Call:
    main = max(several, key=_share)
    return replace(
        main,
        order=several[0].order,
        activation=next((c.activation for c in several if c.activation), None),
        output=_beside([c.output for c in several]),
        grad_output=_beside([c.grad_output for c in several]),
    )


def _share(call: Call) -> float:
    """How much of the gradient comes through a map, as far as its size tells."""
    return call.gain * (call.grad_output.norm if call.grad_output else 0.0)


def _beside(parts: list[TensorStats | None]) -> TensorStats | None:
    known = [p for p in parts if p is not None]
    if not known:
        return None
    return TensorStats(
        math.hypot(*(p.norm for p in known)),
        max(p.maxabs for p in known),
        sum(p.mean * p.numel for p in known) / max(sum(p.numel for p in known), 1),
        sum(p.nonfinite for p in known),
        sum(p.zeros for p in known),
        sum(p.numel for p in known),
    )


def _through(call: Call) -> float | None:
    """Decades by which the gradient grew through one call, from its output to its input."""
    if call.grad_input is None or call.grad_output is None or call.grad_input.norm <= 0:
        return None
    return _log(call.grad_input.norm) - _log(call.grad_output.norm)


def _sum_of(kind: Kind, calls: list[Call], layers: LayerTable) -> float:
    return sum(_through(c) or 0.0 for c in calls if layers.layers[c.layer].kind is kind)


def _stage(
    here: Call,
    after: Call,
    function: str | None,
    parts: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
) -> Stage:
    gradient = _log(here.grad_output.norm if here.grad_output else 0.0)
    forward = _log(here.output.rms if here.output else 0.0)
    return Stage(here.layer, gradient, forward, *parts, after.layer, function)


def _outer(forks: list[Call], layers: LayerTable) -> list[Call]:
    """The forks that lie on the trunk: a gate inside a branch forks the branch alone.

    The outermost of which there are several, and the entries of branches: norms and containers.
    """
    depths = sorted(c.depth for c in forks)
    several = [d for d in depths if depths.count(d) >= 3]
    top = next(iter(several or depths), 0)
    entries = Kind.NORMALIZATION, Kind.CONTAINER
    return [c for c in forks if c.depth == top or layers.layers[c.layer].kind in entries]


def _longest(points: list[Call], calls: list[Call], layers: LayerTable) -> list[Call]:
    """The longest run of points without an embedding in between: it begins another stream.

    A decoder reads its own tokens, and sees the encoder through attention only.
    """
    starts = [c.order for c in calls if layers.layers[c.layer].kind is Kind.EMBEDDING]
    runs: dict[int, list[Call]] = {}
    for point in points:
        runs.setdefault(sum(s < point.order for s in starts), []).append(point)
    return max(runs.values(), key=len, default=[])


def _trunk(calls: list[Call], layers: LayerTable) -> list[Stage]:
    blocks = set(choose_blocks(layers))
    trunk = [c for c in calls if c.layer in blocks and not layers.layers[c.layer].leaf]
    if len(trunk) >= 3:
        along = _longest(trunk, calls, layers)
        points = [(c.layer, c.grad_output, c.output) for c in along]
    else:
        forks = _outer([c for c in calls if c.fork and c.grad_input is not None], layers)
        points = [(c.layer, c.grad_input, c.input) for c in _longest(forks, calls, layers)]
    logs = [(i, _log(g.norm), _log(y.rms)) for i, g, y in points if g is not None and y is not None]
    # Behind normalisation the branches do not see the trunk's scale: where it grows, the gradient
    # shrinks by as much, and only the product of the two says how far a step reaches.
    normalised = 2 * sum(layers.layers[c.layer].kind is Kind.NORMALIZATION for c in calls)
    relative = normalised >= len(logs)
    stages = []
    for k, (layer, gradient, forward) in enumerate(logs):
        after, above = (logs[k + 1], logs[k + 1][0]) if k + 1 < len(logs) else (logs[k], None)
        grown = gradient - after[1] + (forward - after[2] if relative else 0.0)
        stages.append(Stage(layer, gradient, forward, weights=grown, weight_layer=above))
    return stages
