"""Networks of torch.nn's own sequence modules and of torch-geometric, as tutorials build them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Act = Callable[[], nn.Module]


class Positional(nn.Module):
    """Sines and cosines added to what comes in, then dropout."""

    def __init__(self, width: int, drop: float = 0.1, length: int = 64) -> None:
        super().__init__()
        at = torch.arange(length).unsqueeze(1)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        table = torch.zeros(length, width)
        table[:, 0::2], table[:, 1::2] = torch.sin(at * rate), torch.cos(at * rate)
        self.table: torch.Tensor
        self.register_buffer("table", table)
        self.dropout = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x + self.table[: x.shape[1]])


class LanguageModel(nn.Module):
    """PyTorch's tutorial: embedding, pos_encoder, transformer_encoder, decoder."""

    def __init__(self, task: Task, width: int, depth: int, drop: float, **layer: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.size, width)
        self.pos_encoder = Positional(width, drop)
        one = nn.TransformerEncoderLayer(
            width, 4, 2 * width, drop, batch_first=True, **{"activation": "relu", **layer}
        )
        self.transformer_encoder = nn.TransformerEncoder(one, depth, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, task.out)
        self.width, self.behind = width, 1
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.pos_encoder(self.embedding(x) * math.sqrt(self.width))
        hide = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(self.behind)
        return self.decoder(self.transformer_encoder(h, mask=hide))


def language(width: int = 40, depth: int = 2, drop: float = 0.1, **layer: Any) -> Build:
    """A causal encoder stack that writes."""
    return lambda task: LanguageModel(task, width, depth, drop, **layer)


class Translator(nn.Module):
    """nn.Transformer: the first `cut` tokens are read, the others written one behind."""

    def __init__(self, task: Task, cut: int, width: int, depth: int) -> None:
        super().__init__()
        self.cut, self.width = cut, width
        self.src_tok_emb = nn.Embedding(task.size, width)
        self.tgt_tok_emb = nn.Embedding(task.size, width)
        self.positional_encoding = Positional(width)
        self.transformer = nn.Transformer(
            width, 4, depth, depth, 2 * width, dropout=0.1, batch_first=True
        )
        self.generator = nn.Linear(width, task.out)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        src = self.positional_encoding(self.src_tok_emb(x[:, : self.cut]) * math.sqrt(self.width))
        tgt = self.positional_encoding(self.tgt_tok_emb(x[:, self.cut :]) * math.sqrt(self.width))
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
        return self.generator(self.transformer(src, tgt, tgt_mask=mask))


def translator(cut: int, width: int = 32, depth: int = 2) -> Build:
    """The translation tutorial's model."""
    return lambda task: Translator(task, cut, width, depth)


class Forecaster(nn.Module):
    """input_fc, encoder (a token in front), norm, head: numbers [N, T, D] to an answer."""

    def __init__(self, task: Task, width: int, depth: int, act: str, first: bool) -> None:
        super().__init__()
        self.input_fc = nn.Linear(task.x.shape[-1], width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = Positional(width, 0.0)
        one = nn.TransformerEncoderLayer(
            width, 2, 3 * width, 0.0, act, batch_first=True, norm_first=first
        )
        self.encoder = nn.TransformerEncoder(one, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.input_fc(x)
        h = self.pos(torch.cat([self.cls.expand(len(x), -1, -1), h], 1))
        return self.head(self.norm(self.encoder(h)[:, 0]))


def forecaster(width: int = 24, depth: int = 2, act: str = "gelu", first: bool = True) -> Build:
    """An encoder over numbers."""
    return lambda task: Forecaster(task, width, depth, act, first)


class Reader(nn.Module):
    """embedding, rnn (packed by length), dropout, fc: a recurrent classifier of padded letters."""

    def __init__(self, task: Task, kind: type[nn.RNNBase], width: int, **more: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.size, 20, padding_idx=0)
        self.rnn = kind(20, width, batch_first=True, **more)
        ways = 2 if more.get("bidirectional") else 1
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(ways * width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x != 0).sum(1).clamp_min(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(x), lengths, batch_first=True, enforce_sorted=False
        )
        state = self.rnn(packed)[1]
        state = state[0] if isinstance(state, tuple) else state
        ways = self.fc.in_features // state.shape[-1]
        return self.out(self.fc(self.dropout(torch.cat([*state[-ways:]], 1))))


def reader(kind: type[nn.RNNBase] = nn.LSTM, width: int = 40, **more: Any) -> Build:
    """A classifier over packed sequences."""
    return lambda task: Reader(task, kind, width, **more)


class Series(nn.Module):
    """rnn over numbers, the last state into fc1, act, fc2; weights of the rnn may be drawn anew."""

    def __init__(self, task: Task, kind: type[nn.RNNBase], width: int, **more: Any) -> None:
        super().__init__()
        self.rnn = kind(task.x.shape[-1], width, batch_first=True, **more)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc2(self.act(self.fc1(self.rnn(x)[0][:, -1]))))


def series(kind: type[nn.RNNBase] = nn.LSTM, width: int = 32, **more: Any) -> Build:
    """A recurrent forecaster."""
    return lambda task: Series(task, kind, width, **more)


class Nodes(nn.Module):
    """Graph layers with dropout, act and perhaps norms between them; the last one answers."""

    def __init__(
        self,
        task: Task,
        conv: Callable[[Any, int, int], nn.Module],
        sizes: list[int],
        act: Act,
        drop: float,
        norm: bool,
    ) -> None:
        super().__init__()
        import torch_geometric.nn as library

        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        ends = list(zip([task.x.shape[-1], *sizes], [*sizes, task.out], strict=True))
        self.convs = nn.ModuleList(conv(library, a, b) for a, b in ends)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(b) if norm else nn.Identity() for _, b in ends[:-1]
        )
        self.act, self.drop, self.out = act(), nn.Dropout(drop), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(self.drop(x), self.edges)
            if i + 1 < len(self.convs):
                x = self.act(self.norms[i](x))
        return self.out(x)


def nodes(
    conv: Callable[[Any, int, int], nn.Module],
    *sizes: int,
    act: Act = nn.ReLU,
    drop: float = 0.0,
    norm: bool = False,
) -> Build:
    """A node classifier; conv(torch_geometric.nn, inputs, outputs)."""
    return lambda task: Nodes(task, conv, list(sizes), act, drop, norm)


def gcn(library: Any, a: int, b: int) -> nn.Module:
    """Kipf and Welling's layer."""
    return library.GCNConv(a, b)


class Mean(nn.Module):
    """A linear layer and Kipf's norm by hand over edges that lead upwards only.

    safe: nodes without a way in count as having one.
    """

    def __init__(self, a: int, b: int, safe: bool) -> None:
        super().__init__()
        self.lin, self.safe = nn.Linear(a, b), safe

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        one, two = edges[:, edges[0] < edges[1]]
        degree = torch.zeros(len(x)).index_add_(0, two, torch.ones(len(two)))
        inverse = (degree.clamp_min(1) if self.safe else degree).pow(-0.5)
        weight = (inverse[one] * inverse[two])[:, None]
        h = self.lin(x)
        return h + torch.zeros_like(h).index_add_(0, two, weight * h[one])


def labelled_few(each: int = 10) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Cross-entropy on the first few nodes of each class only."""

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        keep = torch.cat([(y == c).nonzero()[:each, 0] for c in range(out.shape[1])])
        return F.cross_entropy(out[keep], y[keep])

    return loss
