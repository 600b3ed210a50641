"""Healthy trainings of recurrent networks and transformers, on rows of digits and on text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus import fast_healthy_case, healthy_case
from corpus.data import batches, digits, share, text, text_share, windows
from corpus.tune.healthy import fit


class RowReader(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 48) -> None:
        super().__init__()
        self.rnn = kind(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.rnn(x.view(-1, 8, 8))
        return self.head(out[:, -1])


def _rows(seed: int, kind: type[nn.RNNBase], lr: float) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = RowReader(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    fit(model, optimizer, batches(x, y, 64, 200, seed))
    return share(model, x, y)


@fast_healthy_case
def lstm_rows(seed: int) -> float:
    return _rows(seed, nn.LSTM, 5e-3)


@healthy_case
def gru_rows(seed: int) -> float:
    return _rows(seed, nn.GRU, 5e-3)


@healthy_case
def rnn_rows(seed: int) -> float:
    return _rows(seed, nn.RNN, 3e-3)


class Cells(nn.Module):
    """A GRU cell in a Python loop over pixels, 64 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 32)
        for part in x.view(len(x), 16, 4).unbind(1):
            h = self.cell(part, h)
        return self.head(h)


@healthy_case
def gru_cell_loop(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = Cells()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    fit(model, optimizer, batches(x, y, 64, 150, seed))
    return share(model, x, y)


def language_steps(
    model: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    seed: int,
    length: int = 32,
    clip: float | None = None,
) -> float:
    """Train a next-character predictor; its share of the entropy of single characters."""
    losses = []
    for ids in windows(length, 16, steps, seed):
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            groups = optimizer.param_groups
            torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return text_share(losses)


class CharLstm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.out = nn.Linear(64, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(ids))[0])


@healthy_case
def char_lstm_clipped(seed: int) -> float:
    torch.manual_seed(seed)
    model = CharLstm(text()[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return language_steps(model, optimizer, 120, seed, clip=1.0)


class EncoderClassifier(nn.Module):
    """torch's own transformer encoder over the rows of a digit."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.encoder(self.embed(x.view(-1, 8, 8)) + self.position)
        return self.head(h.mean(1))


def _encoder(seed: int, norm_first: bool) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = EncoderClassifier(norm_first)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fit(model, optimizer, batches(x, y, 64, 100, seed))
    return share(model, x, y)


@healthy_case
def transformer_pre_norm(seed: int) -> float:
    return _encoder(seed, True)


@healthy_case
def transformer_post_norm(seed: int) -> float:
    return _encoder(seed, False)


class CausalBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class TinyGpt(nn.Module):
    """A causal language model with tied embeddings."""

    def __init__(self, size: int, width: int = 48, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, width)
        self.position = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@fast_healthy_case
def gpt_tied(seed: int) -> float:
    torch.manual_seed(seed)
    model = TinyGpt(text()[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    return language_steps(model, optimizer, 100, seed, clip=1.0)


@healthy_case
def gpt_warmup_cosine(seed: int) -> float:
    torch.manual_seed(seed)
    model = TinyGpt(text()[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-6, 1.0, 20)
    cool = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cool], [20])
    losses = []
    for ids in windows(32, 16, 120, seed):
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return text_share(losses)


class BagOfWords(nn.Module):
    """Guesses the character in the middle of its neighbours: some embeddings are rarely used."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, 24)
        self.mix = nn.Linear(6 * 24, 64)
        self.out = nn.Linear(64, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.mix(self.embed(ids).flatten(1))))


@healthy_case
def embedding_rare_words(seed: int) -> float:
    torch.manual_seed(seed)
    model = BagOfWords(text()[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for ids in windows(6, 64, 250, seed):
        logits = model(ids[:, [0, 1, 2, 4, 5, 6]])
        loss = F.cross_entropy(logits, ids[:, 3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return text_share(losses)


@healthy_case
def embedding_sparse(seed: int) -> float:
    """Sparse gradients and SparseAdam beside a dense optimizer."""
    torch.manual_seed(seed)
    size = text()[1]
    embed, out = nn.Embedding(size, 24, sparse=True), nn.Linear(24 * 4, size)
    first = torch.optim.SparseAdam(embed.parameters(), lr=1e-2)
    second = torch.optim.Adam(out.parameters(), lr=5e-3)
    losses = []
    for ids in windows(4, 64, 200, seed):
        loss = F.cross_entropy(out(embed(ids[:, :4]).flatten(1)), ids[:, 4])
        first.zero_grad()
        second.zero_grad()
        loss.backward()
        first.step()
        second.step()
        losses.append(float(loss.detach()))
    return text_share(losses)
