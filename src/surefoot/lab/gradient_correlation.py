"""How alike the gradients of different inputs are: Balduzzi's theorems, on gates and networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.wide import residual_coherence

_BALDUZZI = "Balduzzi et al. 2017"
_WIDTH, _BATCH, _NETWORKS, _DRAWS = 512, 128, 4, 40
_PLAIN, _SKIPS = (1, 2, 4, 6), (2, 8, 32)


def _measure(seed: int) -> Result:
    plain = {d: _networks(d, skips=False) for d in _PLAIN}
    skips = {d: _networks(d, skips=True) for d in _SKIPS}
    coins = _coins(4, normalized=False)
    normed = _coins(8, normalized=True)
    return Result(
        Standing.IN_PART,
        f"Plain layers with batch norm follow 1 / 2^L: {plain[4]:.3f} after four. Residual ones "
        f"without normalisation follow (3/4)^L with gates drawn by coin ({coins:.3f} after four). "
        f"The law for residual networks with batch norm holds for coins ({normed:.3f} after "
        f"eight), but real networks lose more: {skips[32]:.3f} after 32 blocks where it says "
        f"{_theorem(32):.3f}, because the variance that batch norm sees grows by 1 - 1 / pi a "
        "block and not by 1.",
        (
            *(Row(f"correlation, {d} layers with batch norm", f"{_BALDUZZI}, theorem 1: 2^-L",
                  2.0**-d, x, 0.02)
              for d, x in plain.items()),
            Row("correlation, 4 residual layers, gates by coin", f"{_BALDUZZI}, theorem 2: (3/4)^L",
                0.75**4, coins, 0.03),
            Row("correlation, 8 residual layers with batch norm, gates by coin",
                f"{_BALDUZZI}, theorem 3: prod (1 + 1/2l) / (1 + 1/l)", _theorem(8), normed, 0.03),
            *(Row(f"correlation, {d} residual layers with batch norm, real gates",
                  f"{_BALDUZZI}, theorem 3 with variance 1 + (1 - 1/pi) l",
                  residual_coherence(d, 0.0), x, 0.02)
              for d, x in skips.items() if d > 2),
            Row("correlation, 32 residual layers with batch norm, real gates",
                f"{_BALDUZZI}, theorem 3 as it stands: less", _theorem(32), skips[32], bound="<"),
        ),
        drawn(_lines(plain, skips), "layers", "correlation of gradients", log_x=True, log_y=True),
    )  # fmt: skip


def _networks(depth: int, skips: bool) -> float:
    """Mean cosine of input gradients of different samples, batch statistics held constant."""
    whole = 0.0
    for _ in range(_NETWORKS):
        start = torch.randn(_BATCH, _WIDTH).requires_grad_()
        x = start
        for _ in range(depth):
            weight = torch.randn(_WIDTH, _WIDTH) * (2 / _WIDTH) ** 0.5
            z = x if skips else x @ weight
            on = F.relu((z - z.detach().mean(0)) / z.detach().std(0))
            x = x + on @ weight if skips else on
        (g,) = torch.autograd.grad((x @ torch.randn(_WIDTH)).sum(), start)
        g = F.normalize(g)
        whole += float(((g @ g.T).sum() - _BATCH) / (_BATCH * (_BATCH - 1))) / _NETWORKS
    return whole


def _coins(depth: int, normalized: bool) -> float:
    """The same of residual layers whose gates are independent coins."""
    dots = squares = 0.0
    for _ in range(_DRAWS):
        one = torch.randn(_WIDTH)
        two = one.clone()
        for layer in range(depth):
            weight = torch.randn(_WIDTH, _WIDTH) * (2 / _WIDTH) ** 0.5
            scale = (layer + 1) ** -0.5 if normalized else 1.0
            gates = (torch.rand(2, _WIDTH) < 0.5).float()
            one = one + scale * gates[0] * (weight @ one)
            two = two + scale * gates[1] * (weight @ two)
        dots += float(one @ two)
        squares += float(one @ one + two @ two) / 2
    return dots / squares


def _theorem(depth: int) -> float:
    return math.prod((1 + 0.5 / k) / (1 + 1 / k) for k in range(1, depth + 1))


def _lines(plain: dict[int, float], skips: dict[int, float]) -> list[Line]:
    along = range(1, 33)
    return [
        Line("batch norm, no skips", list(plain), list(plain.values()), BAD),
        Line("2^-L", along[:8], [2.0**-d for d in along[:8]], expected=True),
        Line("batch norm and skips", list(skips), list(skips.values()), GOOD),
        Line("theorem 3, variance refined", along, [residual_coherence(d, 0.0) for d in along],
             expected=True),
    ]  # fmt: skip


ENTRY = Entry(
    "gradient_correlation",
    "The correlation of gradients falls as 1 / 2^L in plain networks and as 1 / sqrt(L) in "
    "residual ones.",
    f"{_BALDUZZI}, theorems 1 to 3",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
