"""Networks with one pathology and no other: exploding, shattered, both or neither.

Usually one comes with the other, because the same expansion of a layer drives both. Three families
take them apart, each with its healthy twins:

ripples: ten leaky ReLU layers, to whose activation a ripple a / w sin(w x) is added. It changes
    the outputs by about a per cent and the slope from point to point: with it the gradient is
    white noise, although the function is as smooth as before on any scale that matters.
batch norm: 24 ReLU layers, with batch norm's shift at 0 (shattered: Balduzzi et al. 2017) or at 2,
    where nearly all units are on and a layer is nearly linear. Same parameters, same architecture.
skips: twelve residual layers without norm, whose gradient grows by 2^L with branches of scale 1 and
    hardly with 1 / sqrt(12). Nothing is shattered; the growth is the network's own.

In the first two families modules that are the identity forward and scale the gradient backward
set its growth over depth to 0 or 2 decades, network by network, and change nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tests.papers import Row, Seen
from tests.papers.depth import see
from tests.papers.networks import GradientScale, Residual, digits
from torch import nn

from surefoot.probes.shattering import shattering
from surefoot.probes.statistics import mean_cosine

WIDTH, SLOPE, AMPLITUDE, FREQUENCY = 64, 0.3, 1.2, 300.0
EXPLODES = 2.0  # decades: nine depth scales, where hardly any network trains (docs/thresholds.md)
BLOCKS = 12


class Ripples(nn.Module):
    """A leaky ReLU with a / w sin(w x) on it: slope a cos(w x) more."""

    def __init__(self, amplitude: float, frequency: float) -> None:
        super().__init__()
        self.amplitude, self.frequency = amplitude, frequency

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ripples = self.amplitude / self.frequency * torch.sin(self.frequency * x)
        return F.leaky_relu(x, SLOPE) + ripples


def stack(layer: Callable[[int], list[nn.Module]], depth: int) -> nn.Sequential:
    """Layers from the digits on with a gradient scale between any two, and a head."""
    modules: list[nn.Module] = []
    for k in range(depth):
        modules += [*layer(WIDTH), *([GradientScale(1.0)] if k < depth - 1 else [])]
    return nn.Sequential(*modules, nn.Linear(WIDTH, 10))


def rippled(amplitude: float, frequency: float = FREQUENCY) -> nn.Sequential:
    """Ten layers with ripples of that slope, 0 for none; the weights do not know of them."""

    def layer(width: int) -> list[nn.Module]:
        linear = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, SLOPE)
        nn.init.zeros_(linear.bias)
        return [linear, Ripples(amplitude, frequency)]

    return stack(layer, 10)


def normalised(shattered: bool) -> nn.Sequential:
    """24 layers with batch norm, its shift at 0 or at 2."""

    def layer(width: int) -> list[nn.Module]:
        linear, norm = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.constant_(norm.bias, 0.0 if shattered else 2.0)
        return [linear, norm, nn.ReLU()]

    return stack(layer, 24)


def with_skips(explodes: bool) -> nn.Sequential:
    """Twelve residual layers, branches of scale 1 or 1 / sqrt(12)."""
    scale = 1.0 if explodes else BLOCKS**-0.5
    blocks = [Residual(WIDTH, scale) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.Linear(WIDTH, 10))


def balanced(make: Callable[[], nn.Sequential], decades: float) -> nn.Sequential:
    """A network whose gradient scales are set for a growth of so many decades."""
    model = make()
    scales = [m for m in model if isinstance(m, GradientScale)]
    with torch.random.fork_rng():
        found = see(model, digits()[0][:256]).growth
    model.zero_grad()
    for scale in scales:
        scale.factor = 10 ** ((decades - found) / len(scales))
    return model


@dataclass(frozen=True, slots=True)
class Arm:
    """A kind of network, what is meant to be wrong with it, and how to make one."""

    family: str
    shattered: bool
    explodes: bool
    make: Callable[[], nn.Sequential]

    @property
    def title(self) -> str:
        """Family, and what is wrong with it."""
        states = {"shattered": self.shattered, "exploding": self.explodes}
        wrong = " and ".join(word for word, is_so in states.items() if is_so)
        return f"{self.family}: {wrong or 'sound'}"


def arms() -> Iterator[Arm]:
    """All that can be had of shattered or not and exploding or not."""
    plain_or_not = (
        ("ripples", partial(rippled, 0.0), partial(rippled, AMPLITUDE)),
        ("batch norm", partial(normalised, False), partial(normalised, True)),
    )
    for family, *makers in plain_or_not:
        for shattered, make in enumerate(makers):
            for explodes in (False, True):
                decades = EXPLODES if explodes else 0.0
                yield Arm(family, bool(shattered), explodes, partial(balanced, make, decades))
    for explodes in (False, True):
        yield Arm("skips", False, explodes, partial(with_skips, explodes))


ARMS = tuple(arms())
# Ripples of slope a and frequency w, from no shattering to all of it, without any growth; and wider
# ones, to which a step of one per cent is nearly as smooth as to smaller ones.
DOSES = {
    (slope, frequency): partial(balanced, partial(rippled, slope, frequency), 0.0)
    for slope, frequency in (
        *((a, FREQUENCY) for a in (0.0, 0.15, 0.25, 0.4, 0.7, 1.2)),
        (1.2, 10.0),
    )
}


def gauges(make: Callable[[], nn.Sequential], seed: int) -> tuple[float, float, float]:
    """(growth in decades, coherence at 1 %, mean cosine of samples before the head)."""
    torch.manual_seed(seed)
    model, x = make(), digits()[0][:256]
    coherence = shattering(model, [x]).coherence
    growth = see(model, x).growth
    with torch.no_grad():
        cosine = mean_cosine(model[:-1](x))
    assert cosine is not None
    return growth, coherence, cosine


def unclean(arm: Arm) -> float:
    """Of three networks, those that are not what their arm says, or collapse."""
    wrong = 0
    for seed in range(3):
        growth, coherence, cosine = gauges(arm.make, seed)
        clean = growth > 1.3 if arm.explodes else abs(growth) < 0.3
        clean &= coherence < 0.3 if arm.shattered else coherence > 0.9
        wrong += not (clean and cosine < 0.9)
    return float(wrong)


def mean_gauge(make: Callable[[], nn.Sequential], which: int) -> float:
    """Mean of one gauge over three networks."""
    return float(np.mean([gauges(make, seed)[which] for seed in range(3)]))


def share(amplitude: float) -> float:
    """E[slope^2] without ripples over that with them, ten times."""
    gate = (1 + SLOPE**2) / 2
    return (gate / (gate + amplitude**2 / 2)) ** 10


ROWS = [
    *(
        Row(
            name=f"networks of 3 that are not cleanly so, {arm.title}",
            source="G > 1.3 or |G| < 0.3, R < 0.3 or R > 0.9, cosine < 0.9",
            seen=Seen.DERIVED,
            theory=0.0,
            why="a count",
            measure=partial(unclean, arm),
            quick=arm.family != "batch norm",
        )
        for arm in ARMS
    ),
    *(
        Row(
            name=f"coherence at 1 %, 10 layers with ripples of slope {amplitude}",
            source="(E[slope^2] without ripples / with)^L",
            seen=Seen.DERIVED,
            theory=share(amplitude),
            tolerance=tolerance,
            why="3 s.e. of 3 networks, and the leaky ReLU's own kinks (0.01)",
            measure=partial(mean_gauge, DOSES[amplitude, FREQUENCY], 1),
            quick=amplitude == 0.4,
        )
        for amplitude, tolerance in ((0.15, 0.03), (0.25, 0.045), (0.4, 0.06), (1.2, 0.03))
    ),
    Row(
        name="growth over 12 residual layers without norm, decades",
        source="Balduzzi et al. 2017, theorem 2: variance 2^L",
        seen=Seen.MEMORY,
        theory=(BLOCKS - 1) * math.log10(2) / 2,
        tolerance=0.12,
        why="3 s.e. of 3 networks of width 64 (spread 0.07)",
        measure=partial(mean_gauge, ARMS[-1].make, 0),
    ),
]
