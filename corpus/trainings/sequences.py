"""Recurrent, convolutional and attention networks for sequences, written by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task


class Reader(nn.Module):
    """stem (an embedding or nothing), rnn, and a head that answers at each step or at the end."""

    def __init__(self, task: Task, rnn: nn.Module, width: int, inputs: int) -> None:
        super().__init__()
        self.stem = nn.Embedding(task.size, inputs) if task.size else nn.Identity()
        self.rnn = rnn
        self.head = nn.Linear(width, task.out)
        self.each = task.y.dim() == 2
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.rnn(self.stem(x))
        h = h[0] if isinstance(h, tuple) else h
        return self.out(self.head(h if self.each else h[:, -1]))


def recurrent(
    kind: type[nn.RNNBase] = nn.GRU,
    width: int = 32,
    layers: int = 1,
    both: bool = False,
    drop: float = 0.0,
    radius: float | None = None,
    **more: str,
) -> Build:
    """nn.RNN, nn.LSTM or nn.GRU; radius: recurrent weights that many times orthogonal."""

    def build(task: Task) -> nn.Module:
        inputs = 16 if task.size else task.x.shape[-1]
        rnn = kind(
            inputs, width, layers, batch_first=True, bidirectional=both, dropout=drop, **more
        )
        if radius is not None:
            with torch.no_grad():
                nn.init.orthogonal_(rnn.weight_hh_l0)
                rnn.weight_hh_l0.mul_(radius)
        return Reader(task, rnn, width * (1 + both), inputs)

    return build


class Cell(nn.Module):
    """A recurrent layer by hand: into, back, and an activation."""

    def __init__(self, inputs: int, width: int, radius: float, act: Callable[..., torch.Tensor]):
        super().__init__()
        self.into, self.back = nn.Linear(inputs, width), nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.back.weight)
        with torch.no_grad():
            self.back.weight.mul_(radius)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), self.back.in_features)
        seen = []
        for t in range(x.shape[1]):
            h = self.act(self.into(x[:, t]) + self.back(h))
            seen.append(h)
        return torch.stack(seen, 1)


def by_hand(
    width: int = 32, radius: float = 1.0, act: Callable[..., torch.Tensor] = torch.tanh
) -> Build:
    """A recurrent loop in Python: stem, rnn.into, rnn.back, head."""

    def build(task: Task) -> nn.Module:
        inputs = 16 if task.size else task.x.shape[-1]
        return Reader(task, Cell(inputs, width, radius, act), width, inputs)

    return build


class Averaging(nn.Module):
    """A minimal gated unit whose state is a running average."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, v = self.gate(x).sigmoid(), self.value(x)
        h, seen = torch.zeros_like(v[:, 0]), []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * v[:, t]
            seen.append(h)
        return torch.stack(seen, 1)


def averaging(width: int = 32) -> Build:
    """The minimal gated unit between a stem and a head."""
    return lambda task: Reader(task, Averaging(16, width), width, 16)


class Dilated(nn.Module):
    """Causal convolutions over time with skips, each reaching twice as far."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.into = nn.Conv1d(inputs, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 2, dilation=2**i) for i in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.into(x.transpose(1, 2))
        for i, layer in enumerate(self.layers):
            h = h + F.relu(layer(F.pad(h, (2**i, 0))))
        return h.transpose(1, 2)


def temporal(width: int = 24, depth: int = 3) -> Build:
    """A temporal convolutional network."""

    def build(task: Task) -> nn.Module:
        inputs = 16 if task.size else task.x.shape[-1]
        return Reader(task, Dilated(inputs, width, depth), width, inputs)

    return build


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on [B, H, T, D]."""
    half = x.shape[-1] // 2
    rate = 1.0 / (1000 ** (torch.arange(half, dtype=torch.float32) / half))
    angle = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * rate
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Attend(nn.Module):
    """Attention of several heads; `mode` is its arithmetic: dot, rotary or linear."""

    def __init__(self, width: int, heads: int, causal: bool, mode: str) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal, self.mode = heads, causal, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        if self.mode == "linear":
            q, k = F.elu(q) + 1, F.elu(k) + 1
            sums = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
            y = (q.unsqueeze(-2) @ sums).squeeze(-2) / (q * k.cumsum(2)).sum(-1, keepdim=True)
            return self.proj(y.transpose(1, 2).flatten(2))
        if self.mode == "rotary":
            q, k = _rotated(q), _rotated(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """ln1, attn, ln2, ffn; the norm stands before each part or (post) behind it."""

    def __init__(self, width: int, heads: int, causal: bool, mode: str, post: bool, rms: bool):
        super().__init__()
        norm = nn.RMSNorm if rms else nn.LayerNorm
        self.ln1, self.ln2 = norm(width), norm(width)
        self.attn = Attend(width, heads, causal, mode)
        self.ffn = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.SiLU() if rms else nn.GELU(),
            nn.Linear(2 * width, width),
        )
        self.post = post

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post:
            x = self.ln1(x + self.attn(x))
            return self.ln2(x + self.ffn(x))
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class Former(nn.Module):
    """stem, place, layers.i, norm, head; over tokens (each answered) or patches (one answer)."""

    def __init__(self, task: Task, width: int, layers: list[nn.Module]) -> None:
        super().__init__()
        inputs = task.x.shape[-1]
        self.stem = nn.Embedding(task.size, width) if task.size else nn.Linear(inputs, width)
        self.place = nn.Parameter(0.1 * torch.randn(task.x.shape[1], width))
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, task.out)
        self.each = task.y.dim() == 2
        self.extra: nn.Module = nn.Identity()
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x) + self.place[: x.shape[1]]
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i == 0:
                h = self.extra(h)
        h = self.norm(h)
        return self.out(self.head(h if self.each else h.mean(1)))


def former(
    depth: int = 2,
    width: int = 32,
    heads: int = 4,
    mode: str = "dot",
    post: bool = False,
    rms: bool = False,
) -> Build:
    """A transformer: causal where every token is answered, an encoder where the whole is."""

    def build(task: Task) -> nn.Module:
        causal = task.y.dim() == 2
        layers = [Layer(width, heads, causal, mode, post, rms) for _ in range(depth)]
        return Former(task, width, [*layers])

    return build


class Between(nn.Module):
    """nn.Transformer that reads a window and writes the next characters of the same window."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.stem = nn.Embedding(task.size, width)
        self.place = nn.Parameter(0.1 * torch.randn(task.x.shape[1], width))
        self.body = nn.Transformer(width, 4, 1, 1, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x) + self.place
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        causal = dict(src_mask=mask, tgt_mask=mask, memory_mask=mask)
        return self.head(self.body(h, h, **causal))


def between(width: int = 32) -> Build:
    """torch's own encoder and decoder, all causal."""
    return lambda task: Between(task, width)
