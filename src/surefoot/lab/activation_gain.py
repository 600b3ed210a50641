"""chi_1: what a layer does to the squared gradient, for any activation and scale of weights."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import Line, drawn
from surefoot.lab.measures import wide_growth
from surefoot.lab.wide import chi, critical, variance
from surefoot.theory.gain import gain

_SCHOENHOLZ = "Schoenholz et al. 2017: w^2 E[phi'^2]"
_TANH = ((1.0, 0.05), (1.3, 0.3), (1.76, 0.3), (2.5, 0.3), (4.0, 0.3))


def _measure(seed: int) -> Result:
    grown = {(w, b): wide_growth(nn.Tanh, w, b, variance=variance("tanh", w, b)) for w, b in _TANH}
    relu = {w2: wide_growth(nn.ReLU, w2**0.5) for w2 in (1.0, 2.0, 3.0)}
    along = [1.0 + 0.05 * k for k in range(61)]
    measured = [w for w, b in _TANH if b == 0.3]
    lines = [
        Line("tanh, biases 0.3", measured, [grown[w, 0.3] for w in measured]),
        Line("theory", along, [chi("tanh", w, 0.3) for w in along], expected=True),
        Line("ReLU", [w2**0.5 for w2 in relu], list(relu.values())),
        Line("theory", along, [w * w / 2 for w in along], expected=True),
    ]
    errors = [abs(x / chi("tanh", w, b) - 1) for (w, b), x in grown.items()]
    errors += [abs(x / (w2 / 2) - 1) for w2, x in relu.items()]
    return Result(
        Standing.BORNE_OUT,
        f"A layer of width 512 does to the gradient what the integral says, to {max(errors):.1%}: "
        f"tanh multiplies its square by {grown[1.3, 0.3]:.3g} at 1.3 and by {grown[2.5, 0.3]:.3g} "
        f"at 2.5; ReLU is at {relu[2.0]:.3g} with He's weights. Between lies the edge of chaos, "
        f"for tanh at {critical('tanh', 0.3):.4g}.",
        (
            *(Row(f"growth of tanh, weights {w:g}, biases {b:g}", _SCHOENHOLZ, chi("tanh", w, b), x,
                  0.02 * chi("tanh", w, b))
              for (w, b), x in grown.items()),
            *(Row(f"growth of ReLU, w^2 = {w2:g}", "He et al. 2015: w^2 / 2", w2 / 2, x,
                  0.03 * w2 / 2)
              for w2, x in relu.items()),
            *(Row(f"edge of chaos of tanh, biases {b:g}, by surefoot.gain",
                  "chi_1 = 1, by another quadrature", critical("tanh", b),
                  gain(torch.tanh, sigma_b=b).sigma_w, 1e-6)
              for b in (0.05, 0.3)),
        ),
        drawn(lines, "scale of the weights", "growth of the squared gradient a layer",
              log_y=True, reference=1.0),
    )  # fmt: skip


ENTRY = Entry(
    "activation_gain",
    "A layer multiplies the squared gradient by chi_1 = w^2 E[phi'^2], and depth costs nothing "
    "where that is 1.",
    "Schoenholz et al. 2017, equations 3 to 9; Poole et al. 2016; He et al. 2015",
    _measure,
)

if __name__ == "__main__":
    program.main(ENTRY)
