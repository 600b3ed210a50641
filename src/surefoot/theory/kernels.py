"""How similar two inputs stay on their way through wide ReLU layers, forward and backward.

For two inputs of the same length and cosine c, the activations behind a ReLU layer with He's
weights have the cosine k1(c), and the units that are on for both the share k0(c) of those that are
on for one: the arc-cosine kernels of degree 1 and 0.

Source: Cho & Saul 2009 (equations 4 to 6); Balduzzi et al. 2017 for what it does to gradients.
"""

from __future__ import annotations

import math


def k0(c: float) -> float:
    """E[1(u > 0) 1(v > 0)] / E[1(u > 0)] for standard normal u, v of correlation c.

    >>> k0(1.0), k0(0.0), k0(-1.0)
    (1.0, 0.5, 0.0)
    """
    return 1 - math.acos(max(-1.0, min(1.0, c))) / math.pi


def k1(c: float) -> float:
    """E[relu(u) relu(v)] / E[relu(u)^2] for standard normal u, v of correlation c.

    >>> k1(1.0), round(k1(0.0), 4), k1(-1.0)
    (1.0, 0.3183, 0.0)
    """
    c = max(-1.0, min(1.0, c))
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def coherence(epsilon: float, depth: int, *, normalized: bool = False) -> float:
    """The cosine of a plain ReLU network's input gradients at x and at x + noise of relative size
    epsilon, after `depth` ReLU layers at He's scale; `normalized`: batch norm before each ReLU.

    prod_l k0(c_l) with c_{l+1} = k1(c_l), or its centred version under batch norm, where inputs
    move apart by pi / (pi - 1) a layer instead of together.

    >>> round(coherence(0.1, 10), 3), round(coherence(0.01, 10, normalized=True), 3)
    (0.735, 0.917)
    """
    c, product = 1 / math.sqrt(1 + epsilon * epsilon), 1.0
    for _ in range(depth):
        product *= k0(c)
        c = (k1(c) - 1 / math.pi) / (1 - 1 / math.pi) if normalized else k1(c)
    return product
