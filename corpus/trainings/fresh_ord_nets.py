"""Bags of words, neighbouring words, convolutions over time and transformers, as in tutorials."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Maker = Callable[[], nn.Module]


class Bag(nn.Module):
    """torchtext's first model: an embedding bag (padding left out) and a linear layer."""

    def __init__(self, task: Task, width: int, hidden: tuple[int, ...], act: Maker, norm: bool):
        super().__init__()
        self.embedding = nn.EmbeddingBag(task.size, width, mode="mean", padding_idx=0)
        parts: list[nn.Module] = []
        for a, b in zip((width, *hidden), hidden, strict=False):
            parts += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), act()]
        self.hidden = nn.Sequential(*parts)
        self.between: nn.Module = nn.Identity()
        self.fc = nn.Linear((width, *hidden)[-1], task.out)
        self.final: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final(self.fc(self.between(self.hidden(self.embedding(x)))))


def bag(
    width: int = 64, hidden: tuple[int, ...] = (), act: Maker = nn.ReLU, norm: bool = False
) -> Build:
    """fastText without, a deep averaging network with hidden layers."""
    return lambda task: Bag(task, width, hidden, act, norm)


def neighbours(
    embed: int = 12, hidden: tuple[int, ...] = (100,), act: Maker = nn.Tanh, norm: bool = False
) -> Build:
    """Bengio's model (norm: makemore's): embeddings side by side, hidden layers, scores."""

    def build(task: Task) -> nn.Module:
        size = task.x.shape[1] * embed
        parts: list[nn.Module] = [nn.Embedding(task.size, embed), nn.Flatten()]
        for a, b in zip((size, *hidden), hidden, strict=False):
            parts += [nn.Linear(a, b, bias=not norm)]
            parts += [nn.BatchNorm1d(b)] if norm else []
            parts.append(act())
        return nn.Sequential(*parts, nn.Linear(hidden[-1], task.out))

    return build


class TemporalBlock(nn.Module):
    """Two causal convolutions (weight_norm), each with an activation; around them a skip."""

    def __init__(self, inputs: int, width: int, dilation: int, act: Maker, weigh: bool, skip: bool):
        super().__init__()
        wrap = weight_norm if weigh else lambda m: m
        self.conv1 = wrap(nn.Conv1d(inputs, width, 2, dilation=dilation))
        self.conv2 = wrap(nn.Conv1d(width, width, 2, dilation=dilation))
        self.act1, self.act2 = act(), act()
        self.downsample = nn.Conv1d(inputs, width, 1) if skip and inputs != width else None
        self.pad, self.skip = dilation, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act1(self.conv1(F.pad(x, (self.pad, 0))))
        h = self.act2(self.conv2(F.pad(h, (self.pad, 0))))
        if not self.skip:
            return h
        return h + (x if self.downsample is None else self.downsample(x))


class Tcn(nn.Module):
    """Temporal blocks over numbers or embedded letters; an answer at the end or at each step."""

    def __init__(self, task: Task, width: int, depth: int, **block: object) -> None:
        super().__init__()
        inputs = 12 if task.size else task.x.shape[-1]
        self.embed = nn.Embedding(task.size, 12) if task.size else nn.Identity()
        self.network = nn.Sequential(
            *(
                TemporalBlock(inputs if i == 0 else width, width, 2 ** (i % 4), **block)  # type: ignore[arg-type]
                for i in range(depth)
            )
        )
        self.between: nn.Module = nn.Identity()
        self.linear = nn.Linear(width, task.out)
        self.final: nn.Module = nn.Identity()
        self.each = task.y.dim() == 2 and not task.y.is_floating_point()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.between(self.network(self.embed(x).transpose(1, 2)).transpose(1, 2))
        return self.final(self.linear(h if self.each else h[:, -1]))


def tcn(
    width: int = 24,
    depth: int = 3,
    act: Maker = nn.ReLU,
    weigh: bool = True,
    skip: bool = True,
) -> Build:
    """Bai et al.'s network."""
    return lambda task: Tcn(task, width, depth, act=act, weigh=weigh, skip=skip)


class Gated(nn.Module):
    """WaveNet in small: filter and gate, a residual and a skip connection for each layer."""

    def __init__(self, task: Task, width: int, depth: int) -> None:
        super().__init__()
        self.start = nn.Conv1d(task.x.shape[-1], width, 1)
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(width, width, 2, dilation=2**i) for i in range(depth))
            for _ in range(2)
        )
        self.residuals, self.skips = (
            nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth)) for _ in range(2)
        )
        self.end1, self.end2 = nn.Conv1d(width, width, 1), nn.Conv1d(width, task.out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.start(x.transpose(1, 2))
        told = torch.zeros_like(h)
        for i, (f, g) in enumerate(zip(self.filters, self.gates, strict=True)):
            late = F.pad(h, (2**i, 0))
            z = f(late).tanh() * g(late).sigmoid()
            told, h = told + self.skips[i](z), h + self.residuals[i](z)
        return self.end2(F.relu(self.end1(F.relu(told))))[..., -1]


class Sinusoids(nn.Module):
    """The tutorial's positions and dropout."""

    def __init__(self, width: int, length: int, drop: float) -> None:
        super().__init__()
        at = torch.arange(length)[:, None]
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe = torch.zeros(length, width)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(at * rate), torch.cos(at * rate)
        self.pe: torch.Tensor
        self.register_buffer("pe", pe)
        self.dropout = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x + self.pe[: x.shape[1]])


class TutorialEncoder(nn.Module):
    """nn.TransformerEncoder as in torch's tutorial: of padded words, series or (cls) of rows."""

    def __init__(self, task: Task, width: int, depth: int, cls: bool, **layer: object) -> None:
        super().__init__()
        self.src = (
            nn.Embedding(task.size, width) if task.size else nn.Linear(task.x.shape[-1], width)
        )
        drop = float(layer.get("dropout", 0.0))  # type: ignore[arg-type]
        self.pos_encoder = Sinusoids(width, task.x.shape[1] + 1, drop)
        encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, **layer)  # type: ignore[arg-type]
        self.transformer_encoder = nn.TransformerEncoder(encoder, depth, enable_nested_tensor=False)
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.between: nn.Module = nn.Identity()
        self.decoder = nn.Linear(width, task.out)
        self.final: nn.Module = nn.Identity()
        self.size, self.width = task.size, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.src(x) * math.sqrt(self.width) if self.size else self.src(x)
        if self.cls is not None:
            h = torch.cat([self.cls.expand(len(h), -1, -1), h], 1)
        mask = x == 0 if self.size else None
        h = self.transformer_encoder(self.pos_encoder(h), src_key_padding_mask=mask)
        if self.cls is not None:
            h = h[:, 0]
        elif mask is not None:
            keep = (~mask)[..., None].float()
            h = (h * keep).sum(1) / keep.sum(1)
        else:
            h = h.mean(1)
        return self.final(self.decoder(self.between(h)))


def tutorial_encoder(width: int = 32, depth: int = 2, cls: bool = False, **layer: object) -> Build:
    """Its maker; `layer` goes to nn.TransformerEncoderLayer."""
    layer = {"dropout": 0.0, **layer}
    return lambda task: TutorialEncoder(task, width, depth, cls, **layer)


class GptBlock(nn.Module):
    """nanoGPT's block: ln_1, c_attn, c_proj, ln_2, mlp; `skip` False forgets the two sums."""

    def __init__(self, width: int, heads: int, skip: bool, act: Maker) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), act(), nn.Linear(4 * width, width))
        self.heads, self.skip = heads, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        y = self.c_proj(y)
        x = x + y if self.skip else y
        z = self.mlp(self.ln_2(x))
        return x + z if self.skip else z


class NanoGpt(nn.Module):
    """wte, wpe, h.i, ln_f, lm_head (tied to wte), initialised as in nanoGPT with std `std`."""

    def __init__(
        self, task: Task, width: int, depth: int, std: float, skip: bool, act: Maker, tied: bool
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(task.size, width), nn.Embedding(task.x.shape[1], width)
        self.h = nn.ModuleList(GptBlock(width, 4, skip, act) for _ in range(depth))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, task.out, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                late = name.endswith(("c_proj.weight", "mlp.2.weight"))
                nn.init.normal_(p, std=std / math.sqrt(2 * depth) if late else std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.h:
            h = block(h)
        return self.lm_head(self.ln_f(h))


def nano_gpt(
    width: int = 40,
    depth: int = 3,
    std: float = 0.05,
    skip: bool = True,
    act: Maker = nn.GELU,
    tied: bool = True,
) -> Build:
    """Its maker."""
    return lambda task: NanoGpt(task, width, depth, std, skip, act, tied)


class TorchTransformer(nn.Module):
    """nn.Transformer with its masks, teacher-forced: the question ends at column `cut`."""

    def __init__(self, task: Task, cut: int, width: int) -> None:
        super().__init__()
        self.tokens, self.place = nn.Embedding(task.size, width), Sinusoids(width, 32, 0.1)
        self.transformer = nn.Transformer(
            width, 4, 1, 1, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.generator, self.cut = nn.Linear(width, task.out), cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        src, tgt = x[:, : self.cut], x[:, self.cut :]
        causal = torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool).triu(1)
        h = self.transformer(
            self.place(self.tokens(src)),
            self.place(self.tokens(tgt)),
            tgt_mask=causal,
            src_key_padding_mask=src == 0,
            memory_key_padding_mask=src == 0,
        )
        return self.generator(h)


def torch_transformer(cut: int, width: int = 40) -> Build:
    """Its maker."""
    return lambda task: TorchTransformer(task, cut, width)
