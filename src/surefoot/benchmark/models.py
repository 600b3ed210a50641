"""Small trainings to measure on where the user names none of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from surefoot.build import Build


class Block(nn.Module):
    """A pre-norm transformer block of width `d` with `h` heads."""

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.h, self.n1, self.n2 = h, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, t, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    """A transformer of `depth` blocks of width `d` over 256 characters, at most 128 in a row."""

    def __init__(self, depth: int, d: int, h: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, d)
        self.position = nn.Parameter(0.02 * torch.randn(128, d))
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, V]."""
        x = self.embed(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mlp() -> Build:
    """Fifty layers of width 128: many small tensors in a step of some milliseconds."""
    layers: list[nn.Module] = []
    for _ in range(50):
        linear = nn.Linear(128, 128)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    batch = torch.randn(128, 128), torch.randint(0, 10, (128,))
    return Build(model, batch, nn.CrossEntropyLoss())


def gpt(depth: int = 4, d: int = 128, h: int = 4, length: int = 64) -> Build:
    """A small transformer on eight rows of random characters."""
    batch = torch.randint(0, 256, (8, length)), torch.randint(0, 256, (8, length))
    return Build(GPT(depth, d, h), batch, _of_characters)


def _of_characters(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [] of [B, T, V] against [B, T]."""
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


BUILT_IN = {"MLP, 50 x 128": mlp, "GPT, 4 x 128": gpt}
