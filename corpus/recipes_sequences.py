"""Healthy recipes for sequences: a transformer and recurrent networks, on text and on pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches, digits, share, text, text_share, windows
from corpus.recipes import Optimizer, Surgery, adam, adamw, train, untouched


class Attention(nn.Module):
    """One-headed causal attention; `mask_row` hides every key from one query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mask_row: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        t = x.shape[1]
        hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
        if self.mask_row is not None:
            hidden[self.mask_row] = True
        scores = (q @ k.transpose(1, 2)) * k.shape[-1] ** -0.5
        return self.proj(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Transformer(nn.Module):
    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, width)
        self.position = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _language(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    length: int,
    steps: int,
    seed: int,
    **loop: Any,
) -> float:
    """Next characters; the share of their entropy, unit loss whatever the loop multiplies."""
    at_end = []

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        at_end.append(float(value.detach()))
        return value

    pairs = ((ids[:, :-1], ids[:, 1:]) for ids in windows(length, 16, steps, seed))
    train(model, optimizer, pairs, loss=loss, **loop)
    return text_share(at_end)


def transformer(
    seed: int,
    *,
    surgery: Surgery = untouched,
    optimizer: Optimizer = adamw(3e-3),
    steps: int = 120,
    depth: int = 2,
    **loop: Any,
) -> float:
    """A causal character model: embed, position, blocks.i.{ln1,attn,ln2,mlp}, norm, head."""
    torch.manual_seed(seed)
    model = Transformer(text()[1], 32, depth)
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02 if isinstance(m, nn.Embedding) else 0.1)
    surgery(model)
    return _language(model, optimizer(model.parameters()), 24, steps, seed, **loop)


class CharRnn(nn.Module):
    def __init__(self, size: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, 24)
        self.rnn = kind(24, 48, batch_first=True)
        self.out = nn.Linear(48, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.embed(ids))[0])


def char_rnn(
    seed: int,
    *,
    kind: type[nn.RNNBase] = nn.LSTM,
    surgery: Surgery = untouched,
    optimizer: Optimizer = adam(1e-2),
    steps: int = 120,
    **loop: Any,
) -> float:
    """A recurrent character model: embed, rnn, out."""
    torch.manual_seed(seed)
    model = CharRnn(text()[1], kind)
    surgery(model)
    return _language(model, optimizer(model.parameters()), 32, steps, seed, **loop)


class PixelReader(nn.Module):
    """Reads a digit two pixels at a time and answers after the last."""

    def __init__(self, kind: type[nn.RNNBase], width: int, relu: bool) -> None:
        super().__init__()
        more = {"nonlinearity": "relu"} if relu else {}
        self.rnn = kind(2, width, batch_first=True, **more)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x.view(len(x), 32, 2))[0][:, -1])


def pixels(
    seed: int,
    *,
    kind: type[nn.RNNBase] = nn.RNN,
    relu: bool = True,
    radius: float = 1.0,
    optimizer: Optimizer = adam(2e-3),
    steps: int = 200,
    **loop: Any,
) -> float:
    """A recurrent net on pixel sequences with recurrent weights `radius` times orthogonal."""
    torch.manual_seed(seed)
    x, y = digits()
    model = PixelReader(kind, 48, relu)
    with torch.no_grad():
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
        model.rnn.weight_hh_l0.mul_(radius)
        nn.init.zeros_(model.rnn.bias_hh_l0)
    train(model, optimizer(model.parameters()), batches(x, y, 64, steps, seed), **loop)
    return share(model, x, y)
