"""Recurrent networks, state spaces and convolutions over time, written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Act = Callable[[torch.Tensor], torch.Tensor]
Body = Callable[[int], nn.Module]  # from a width to a module [N, T, W] -> [N, T, W]


class Shell(nn.Module):
    """embed, body, extra, head, out: one answer for each step, or one from the `pooled` steps."""

    def __init__(self, task: Task, width: int, body: nn.Module, pooled: str) -> None:
        super().__init__()
        inputs = task.x.shape[-1]
        self.embed = nn.Embedding(task.size, width) if task.size else nn.Linear(inputs, width)
        self.body = body
        self.extra: nn.Module = nn.Identity()
        self.head = nn.Linear(width, task.out)
        self.out: nn.Module = nn.Identity()
        each = task.y.dim() == 2 and not task.y.is_floating_point()
        self.pooled = "each" if each else pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.extra(self.body(self.embed(x)))
        if self.pooled == "last":
            h = h[:, -1]
        elif self.pooled == "mean":
            h = h.mean(1)
        elif self.pooled == "max":
            h = h.amax(1)
        return self.out(self.head(h))


def shell(body: Body, width: int = 32, pooled: str = "last") -> Build:
    """A body between an embedding (a linear map, for numbers) and a head."""
    return lambda task: Shell(task, width, body(width), pooled)


class Cells(nn.Module):
    """Layers of nn.GRUCell, LSTMCell or RNNCell, stepped by hand; `near`: skips and norms."""

    def __init__(self, kind: type[nn.RNNCellBase], width: int, depth: int, near: bool) -> None:
        super().__init__()
        self.cells = nn.ModuleList(kind(width, width) for _ in range(depth))  # type: ignore[call-arg]
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if near else nn.Identity() for _ in range(depth)
        )
        self.near = near

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for cell, norm in zip(self.cells, self.norms, strict=True):
            state, seen = None, []
            for part in norm(x).unbind(1):
                state = cell(part, state)
                seen.append(state[0] if isinstance(state, tuple) else state)
            h = torch.stack(seen, 1)
            x = x + h if self.near else h
        return x


def cells(kind: type[nn.RNNCellBase] = nn.GRUCell, depth: int = 2, near: bool = False) -> Body:
    """A stack of cells."""
    return lambda width: Cells(kind, width, depth, near)


class Elman(nn.Module):
    """One plain recurrence: w_in, w_rec (`radius` times orthogonal), an activation."""

    def __init__(self, width: int, radius: float, act: Act) -> None:
        super().__init__()
        self.w_in, self.w_rec = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.w_rec.weight, gain=radius)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, seen = torch.zeros_like(x[:, 0]), []
        for part in self.w_in(x).unbind(1):
            h = self.act(part + self.w_rec(h))
            seen.append(h)
        return torch.stack(seen, 1)


def elman(radius: float = 1.0, act: Act = torch.tanh) -> Body:
    """A recurrence by hand."""
    return lambda width: Elman(width, radius, act)


class Alone(nn.Module):
    """Each unit remembers itself only (IndRNN): a vector of recurrent weights near `radius`."""

    def __init__(self, width: int, depth: int, radius: float) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.recs = nn.ParameterList(radius * (1 - 0.2 * torch.rand(width)) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for into, rec, norm in zip(self.maps, self.recs, self.norms, strict=True):
            h, seen = torch.zeros_like(x[:, 0]), []
            for part in into(norm(x)).unbind(1):
                h = F.relu(part + rec * h)
                seen.append(h)
            x = x + torch.stack(seen, 1)
        return x


def alone(depth: int = 2, radius: float = 1.0) -> Body:
    """Independent recurrent units."""
    return lambda width: Alone(width, depth, radius)


class NormedLSTM(nn.Module):
    """An LSTM by hand whose gates stand behind a layer norm; the gate that keeps opens at first."""

    def __init__(self, width: int, keep: float) -> None:
        super().__init__()
        self.gates, self.norm = nn.Linear(2 * width, 4 * width), nn.LayerNorm(4 * width)
        with torch.no_grad():
            self.norm.bias[:width] = keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros_like(x[:, 0])
        seen = []
        for part in x.unbind(1):
            f, i, o, g = self.norm(self.gates(torch.cat([part, h], 1))).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            seen.append(h)
        return torch.stack(seen, 1)


def normed_lstm(keep: float = 1.0) -> Body:
    """A layer-normalised LSTM."""
    return lambda width: NormedLSTM(width, keep)


class Quasi(nn.Module):
    """QRNN: gates by a short convolution, then a running blend without any matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 3 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, f, o = self.conv(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2).chunk(3, 2)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, seen = torch.zeros_like(z[:, 0]), []
        for t in range(x.shape[1]):
            c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
            seen.append(c)
        return o * torch.stack(seen, 1)


class Turning(nn.Module):
    """h moves along the tanh of an antisymmetric map: a recurrence that neither grows nor fades."""

    def __init__(self, width: int, pace: float, damp: float) -> None:
        super().__init__()
        self.into, self.twist = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pace, self.damp = pace, damp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.twist.weight - self.twist.weight.T
        h, seen = torch.zeros_like(x[:, 0]), []
        for part in self.into(x).unbind(1):
            h = h + self.pace * (part + h @ w - self.damp * h).tanh()
            seen.append(h)
        return torch.stack(seen, 1)


def turning(pace: float = 0.3, damp: float = 0.05) -> Body:
    """An antisymmetric recurrence."""
    return lambda width: Turning(width, pace, damp)


class Reservoir(nn.Module):
    """A recurrent layer that is drawn once and never learns."""

    def __init__(self, width: int, radius: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(width, width, batch_first=True)
        with torch.no_grad():
            w = self.rnn.weight_hh_l0
            w.mul_(radius / torch.linalg.eigvals(w).abs().max())
        self.rnn.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def reservoir(radius: float = 0.9) -> Body:
    """An echo state network."""
    return lambda width: Reservoir(width, radius)


class Diagonal(nn.Module):
    """S4D: a diagonal state space as one long convolution through the Fourier transform."""

    def __init__(self, width: int, states: int = 8) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(width) * 3 - 4)  # the logarithm of the time step
        self.decay = nn.Parameter(torch.full((width, states), 0.5).log())
        self.turn = nn.Parameter(math.pi * torch.arange(states).repeat(width, 1).float())
        self.gain = nn.Parameter(torch.randn(width, states, 2) * states**-0.5)
        self.keep = nn.Parameter(torch.ones(width))
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.norm(x)
        count = x.shape[1]
        pole = torch.complex(-self.decay.exp(), self.turn) * self.rate.exp()[:, None]
        powers = (pole[..., None] * torch.arange(count)).exp()
        gain = torch.view_as_complex(self.gain) * (pole.exp() - 1) / pole
        kernel = 2 * (gain[..., None] * powers).sum(1).real
        size = 2 * count
        wave = torch.fft.rfft(u.transpose(1, 2), n=size) * torch.fft.rfft(kernel, n=size)
        y = torch.fft.irfft(wave, n=size)[..., :count].transpose(1, 2) + self.keep * u
        return x + F.glu(self.mix(F.gelu(y)), -1)


class Wave(nn.Module):
    """A gated, dilated, causal convolution with a skip and weight normalisation."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(width, 2 * width, 2, dilation=reach)
        )
        self.point = nn.Conv1d(width, width, 1)
        self.reach = reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.conv(F.pad(x.transpose(1, 2), (self.reach, 0))).chunk(2, 1)
        return x + self.point(a.tanh() * b.sigmoid()).transpose(1, 2)


class Temporal(nn.Module):
    """conv, norm, act over time [N, T, W], causal; `skip` adds the input."""

    def __init__(self, width: int, act: nn.Module, norm: nn.Module, skip: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(width, width, 3), norm, act
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.conv(F.pad(x.transpose(1, 2), (2, 0))))).transpose(1, 2)
        return x + h if self.skip else h


def layers(make: Callable[[int, int], nn.Module], depth: int) -> Body:
    """nn.Sequential of make(width, number of the layer)."""
    return lambda width: nn.Sequential(*(make(width, i) for i in range(depth)))


def temporal(
    depth: int = 4,
    act: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] = lambda width: nn.Identity(),
    skip: bool = False,
) -> Body:
    """Convolutions over time: body.i.{conv,norm,act}."""
    return layers(lambda w, i: Temporal(w, act(), norm(w), skip), depth)
