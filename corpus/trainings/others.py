"""Other people's models, from configuration: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
)
# The same size in the words of GPT-2, T5, DistilBERT and BLOOM.
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
T5 = dict(d_model=32, num_layers=2, num_heads=4, d_ff=64, d_kv=8)
DISTIL = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64)
BLOOM = dict(hidden_size=32, n_layer=2, n_head=4)
SPECIAL = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)


def from_config(config: str, model: str, **sizes: Any) -> Build:
    """A model of transformers by the names of its configuration and class."""

    def build(task: Task) -> nn.Module:
        import transformers

        known = {"vocab_size": task.size} if task.size else {}
        if task.y.dim() == 1:
            known["num_labels"] = task.out
        return getattr(transformers, model)(
            getattr(transformers, config)(**{**SPECIAL, **known, **sizes})
        )

    return build


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a model of transformers answers."""
    return model(x).logits


def shifted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """An encoder and decoder that writes its own input, one character behind."""
    late = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return model(input_ids=x, decoder_input_ids=late).logits


def x_decoder(**options: Any) -> Build:
    """A language model of x-transformers."""

    def build(task: Task) -> nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        return TransformerWrapper(
            num_tokens=task.size,
            max_seq_len=64,
            attn_layers=Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options),
        )

    return build


def x_vision(**options: Any) -> Build:
    """A vision transformer of x-transformers on images [N, 1, 8, 8]."""

    def build(task: Task) -> nn.Module:
        from x_transformers import Encoder, ViTransformerWrapper

        return ViTransformerWrapper(
            image_size=8,
            patch_size=2,
            channels=1,
            num_classes=task.out,
            attn_layers=Encoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options),
        )

    return build


class Selective(nn.Module):
    """An embedding, mambapy's blocks, a head; over rows a linear stem and one answer."""

    def __init__(self, task: Task, depth: int) -> None:
        super().__init__()
        from mambapy.mamba import Mamba, MambaConfig

        inputs = task.x.shape[-1]
        self.stem = nn.Embedding(task.size, 24) if task.size else nn.Linear(inputs, 24)
        self.body = Mamba(MambaConfig(d_model=24, n_layers=depth, d_state=4))
        self.head = nn.Linear(24, task.out)
        self.each = task.y.dim() == 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(self.stem(x))
        return self.head(h if self.each else h.mean(1))


def mamba(depth: int = 2) -> Build:
    """A state space model of mambapy."""
    return lambda task: Selective(task, depth)


class Graph(nn.Module):
    """convs.i of torch-geometric with ReLU between, head; the edges are the model's own."""

    def __init__(self, task: Task, convs: list[nn.Module], width: int, act: nn.Module) -> None:
        super().__init__()
        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        self.stem = nn.Linear(task.x.shape[-1], width)
        self.convs = nn.ModuleList(convs)
        self.act = act
        self.extra: nn.Module = nn.Identity()
        self.head = nn.Linear(width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = h = self.act(self.stem(x))
        for i, conv in enumerate(self.convs):
            late = (first,) if type(conv).__name__ == "GCN2Conv" else ()
            h = self.act(conv(h, *late, self.edges))
            if i == 0:
                h = self.extra(h)
        return self.out(self.head(h))


def graph(
    conv: Callable[[Any, int], nn.Module],
    depth: int = 2,
    width: int = 32,
    act: Callable[[], nn.Module] = nn.ReLU,
) -> Build:
    """A graph network; conv(torch_geometric.nn, width) makes one layer of it."""

    def build(task: Task) -> nn.Module:
        import torch_geometric.nn as library

        return Graph(task, [conv(library, width) for _ in range(depth)], width, act())

    return build


class Pictures(nn.Module):
    """Digits as graphs of 64 pixels, each joined to its neighbours; GIN and a mean over nodes."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        import torch_geometric.nn as library

        def net(inputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))

        self.convs = nn.ModuleList([library.GINConv(net(3)), library.GINConv(net(width))])
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(4 * width, task.out)
        at = torch.arange(64).view(8, 8)
        pairs = [(at[1:], at[:-1]), (at[:, 1:], at[:, :-1])]
        one = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)
        self.grid: torch.Tensor
        self.register_buffer("grid", torch.cat([one, one.flip(0)], 1))
        place = torch.stack([at // 8, at % 8], -1).view(64, 2) / 4.0 - 1
        self.place: torch.Tensor
        self.register_buffer("place", place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = len(x)
        edges = (self.grid[:, None] + 64 * torch.arange(n)[None, :, None]).flatten(1)
        h = torch.cat([x.view(-1, 1), self.place.repeat(n, 1)], 1)
        h = F.relu(self.norm(self.convs[0](h, edges)))
        h = F.relu(self.convs[1](h, edges)).view(n, 8, 8, -1)
        quarters = h.unflatten(2, (2, 4)).unflatten(1, (2, 4)).mean((2, 4))
        return self.head(quarters.flatten(1))


def pictures(width: int = 16) -> Build:
    """A graph isomorphism network on pixels."""
    return lambda task: Pictures(task, width)
