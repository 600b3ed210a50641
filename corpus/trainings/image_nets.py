"""Whole networks that answer with labels: classics, capsules, transformers, unrolled ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.image_blocks import Part, conv
from corpus.trainings.tasks import Task


class Classic(nn.Module):
    """Two convolutions with average pools, three linear layers: the first of its kind."""

    def __init__(self, task: Task, act: Part) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(task.x.shape[1], 8, 5), conv(8, 24, 3)
        self.pool, self.act = nn.AvgPool2d(2), act()
        with torch.no_grad():
            features = self.see(task.x[:1]).shape[1]
        self.fc1, self.fc2, self.fc3 = (
            nn.Linear(features, 64),
            nn.Linear(64, 48),
            nn.Linear(48, task.out),
        )
        self.out: nn.Module = nn.Identity()

    def see(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.act(self.conv1(x)))
        return self.pool(self.act(self.conv2(x))).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.fc2(self.act(self.fc1(self.see(x)))))
        return self.out(self.fc3(x))


def classic(act: Part = nn.Tanh) -> Build:
    """conv1, conv2, fc1, fc2, fc3."""
    return lambda task: Classic(task, act)


def listed(widths: tuple[int, ...], act: Part = nn.ReLU, drop: float = 0.0) -> Build:
    """An nn.Sequential of strided convolutions, local norm, dropout and one linear layer."""

    def build(task: Task) -> nn.Module:
        parts: list[nn.Module] = []
        inputs = task.x.shape[1]
        for i, width in enumerate(widths):
            parts += [conv(inputs, width, 3, stride=1 + i % 2), act()]
            inputs = width
        parts += [nn.LocalResponseNorm(3), nn.Dropout(drop), nn.AdaptiveMaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(4 * inputs, task.out))

    return build


def squash(s: torch.Tensor, dim: int = -1, eps: float = 1e-8) -> torch.Tensor:
    """Lengths between zero and one; the directions stay."""
    squares = s.square().sum(dim, keepdim=True)
    return squares / (1 + squares) * s / (squares + eps).sqrt()


class Capsules(nn.Module):
    """Small groups of channels agree, in three rounds, on which class they are parts of."""

    def __init__(self, task: Task, eps: float) -> None:
        super().__init__()
        self.conv = conv(task.x.shape[1], 16, 3)
        self.primary = conv(16, 24, 3, stride=2)
        with torch.no_grad():
            count = self.primary(self.conv(task.x[:1])).numel() // 4
        self.views = nn.Parameter(0.1 * torch.randn(count, task.out, 8, 4))
        self.scale = nn.Parameter(torch.tensor(6.0))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = F.relu(self.primary(F.relu(self.conv(x)))).view(len(x), -1, 4)
        parts = squash(parts, eps=self.eps)
        votes = torch.einsum("ncdk,bnk->bncd", self.views, parts)
        share = votes.new_zeros(votes.shape[:3])
        for _ in range(3):
            whole = squash((share.softmax(2).unsqueeze(-1) * votes).sum(1), eps=self.eps)
            share = share + (votes.detach() * whole.detach().unsqueeze(1)).sum(-1)
        return self.scale * (whole.square().sum(-1) + self.eps).sqrt()


def capsules(eps: float = 1e-8) -> Build:
    """A capsule network; eps is what keeps its square roots away from zero."""
    return lambda task: Capsules(task, eps)


class Finder(nn.Module):
    """A small network says where to look; the sheet is sampled there and read."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        side = task.x.shape[-1]
        self.where = nn.Sequential(
            nn.Flatten(), nn.Linear(side * side, 48), nn.ReLU(), nn.Linear(48, 3)
        )
        nn.init.zeros_(self.where[3].weight)
        nn.init.zeros_(self.where[3].bias)
        self.read = nn.Sequential(conv(1, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 24), nn.ReLU())
        self.fc = nn.Linear(24 * 16, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zoom, shift_x, shift_y = self.where(x).unbind(1)
        zoom = 0.9 * (0.3 * zoom).exp()
        zero = torch.zeros_like(zoom)
        rows = [torch.stack([zoom, zero, shift_x], 1), torch.stack([zero, zoom, shift_y], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), [len(x), 1, 8, 8], align_corners=False)
        seen = F.grid_sample(x, grid, align_corners=False)
        return self.fc(self.read(seen).flatten(1))


def finder() -> Build:
    """A spatial transformer: where, read, fc."""
    return Finder


class Attention(nn.Module):
    """Attention behind a norm, then a wide step behind a norm."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )
        self.ls = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        x = x + self.ls * self.attn(h, h, h, need_weights=False)[0]
        return x + self.ls * self.mlp(self.norm2(x))


class Seer(nn.Module):
    """patch_embed (or a stem of convolutions), cls_token, pos_embed, blocks.i, norm, head."""

    def __init__(
        self, task: Task, depth: int, width: int, patch: int, hybrid: bool, scale: float
    ) -> None:
        super().__init__()
        channels = task.x.shape[1]
        cut = nn.Conv2d(width if hybrid else channels, width, patch, patch)
        self.patch_embed = (
            nn.Sequential(conv(channels, width), nn.BatchNorm2d(width), nn.ReLU(), cut)
            if hybrid
            else cut
        )
        with torch.no_grad():
            places = self.patch_embed(task.x[:2]).shape[2:].numel()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, places + 1, width))
        self.blocks = nn.ModuleList(Attention(width, 4, scale) for _ in range(depth))
        self.extra: nn.Module = nn.Identity()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = self.extra(block(x))
        return self.out(self.head(self.norm(x)[:, 0]))


def seer(
    depth: int = 2, width: int = 32, patch: int = 4, hybrid: bool = False, scale: float = 1.0
) -> Build:
    """A vision transformer with a class token; scale: that of each branch at first."""
    return lambda task: Seer(task, depth, width, patch, hybrid, scale)


class Again(nn.Module):
    """One convolution applied many times over to the same state, which sees the image each time."""

    def __init__(
        self, task: Task, width: int, times: int, radius: float, act: Callable[..., torch.Tensor]
    ) -> None:
        super().__init__()
        self.into, self.back = conv(task.x.shape[1], width), conv(width, width)
        with torch.no_grad():
            self.back.weight.zero_()
            nn.init.orthogonal_(self.back.weight[:, :, 1, 1])
            self.back.weight[:, :, 1, 1] *= radius
        self.times, self.act = times, act
        self.fc = nn.Linear(4 * width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.into(x)
        h = torch.zeros_like(seen)
        for _ in range(self.times):
            h = self.act(seen + self.back(h))
            seen = 0.5 * seen
        return self.fc(F.adaptive_avg_pool2d(h, 2).flatten(1))


def again(
    width: int = 24,
    times: int = 12,
    radius: float = 1.0,
    act: Callable[..., torch.Tensor] = torch.tanh,
) -> Build:
    """A recurrent convolution: into, back (orthogonal times `radius` in its middle), fc."""
    return lambda task: Again(task, width, times, radius, act)


class Strips(nn.Module):
    """Columns of an image read one after the other by a plain recurrent layer."""

    def __init__(self, task: Task, width: int, radius: float) -> None:
        super().__init__()
        self.see = conv(task.x.shape[1], 8)
        self.rnn = nn.RNN(8 * task.x.shape[2], width, batch_first=True)
        with torch.no_grad():
            nn.init.orthogonal_(self.rnn.weight_hh_l0)
            self.rnn.weight_hh_l0.mul_(radius)
        self.fc = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = F.relu(self.see(x)).permute(0, 3, 1, 2).flatten(2)
        return self.fc(self.rnn(columns)[0][:, -1])


def strips(width: int = 32, radius: float = 1.0) -> Build:
    """see, rnn, fc."""
    return lambda task: Strips(task, width, radius)


class Early(nn.Module):
    """Exits behind each of three stages; in training all of them answer, later the last."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        inputs = [task.x.shape[1], width, width]
        self.stages = nn.ModuleList(
            nn.Sequential(conv(i, width), nn.BatchNorm2d(width), nn.ELU()) for i in inputs
        )
        self.exits = nn.ModuleList(nn.Linear(width, task.out) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = []
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            answers.append(leave(x.mean((2, 3)) + x.amax((2, 3))))
        return torch.stack(answers) if self.training else answers[-1]


def early(width: int = 24) -> Build:
    """Deep supervision: stages.i, exits.i."""
    return lambda task: Early(task, width)


def every_exit(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of all exits together."""
    return F.cross_entropy(out.flatten(0, 1), y.repeat(len(out)))
