"""What is a skip connection and what is not, seen from the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.test_probes import flow_of
from torch import nn

Forward = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Maps a to e of one width behind a stem, put together by a function."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        for name in ("stem", "a", "b", "c", "d", "e"):
            setattr(self, name, nn.Linear(8, 8))
        self.wide, self.norm = nn.Linear(16, 8), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)
        self.put_together = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 8] -> [B, 2]."""
        return self.head(self.put_together(self, self.stem(x)))


def passed(forward: Forward) -> set[str]:
    """The layers that a path leads past."""
    torch.manual_seed(0)
    flow, table = flow_of(Net(forward), torch.randn(16, 8))
    return {table.title(c.layer) for c in flow.calls if c.identity}


def padded(x: torch.Tensor) -> torch.Tensor:
    """Prepared anew by everyone who takes it in."""
    return F.pad(x, (0, 0)) * 1.0


SKIPS: dict[str, tuple[Forward, set[str]]] = {
    "added": (lambda n, x: x + n.b(n.a(x).relu()), {"a", "b"}),
    "behind a norm": (lambda n, x: x + n.norm(n.b(n.a(x).relu())), {"a", "b", "norm"}),
    "padded": (lambda n, x: n.b(padded(x + n.a(padded(x)).tanh())), {"a"}),
    "joined": (lambda n, x: n.wide(torch.cat([x, n.a(x).relu()], 1)), {"a"}),
    "gated": (lambda n, x: x * n.b(n.a(x).relu()).sigmoid(), {"a", "b"}),
    "projected": (lambda n, x: (n.c(n.b(n.a(x).relu())) + n.d(x)).relu(), {"a", "b", "c", "d"}),
    "projected first": (lambda n, x: n.d(x) + n.b(n.a(x).relu()), {"d", "a", "b"}),
}
NONE: dict[str, Forward] = {
    "a chain": lambda n, x: n.c(n.b(n.a(x).relu()).relu()),
    "a chain with a norm": lambda n, x: n.b(n.norm(n.a(x)).relu()),
    "side by side": lambda n, x: n.c((n.a(x) + n.b(x)).sigmoid()),
    "side by side, prepared": lambda n, x: n.c(n.a(padded(x)).tanh() * n.b(padded(x)).sigmoid()),
    "two of two": lambda n, x: n.c(
        n.a(torch.cat([x[:, :4], x[:, 4:].relu()], 1)) * n.b(torch.cat([x[:, :4], x[:, 4:]], 1))
    ),
    "three heads": lambda n, x: torch.stack([n.a(x), n.b(x), n.c(x)]).mean(0),
}


@pytest.mark.parametrize("name", SKIPS)
def test_a_path_past_layers_is_seen(name: str) -> None:
    forward, layers = SKIPS[name]
    assert passed(forward) == layers


@pytest.mark.parametrize("name", NONE)
def test_what_lies_beside_is_not_past(name: str) -> None:
    assert passed(NONE[name]) == set()
