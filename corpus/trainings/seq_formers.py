"""Attention written by hand: blocks of many kinds, sets, encoders with decoders, pointers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.fit import Build
from corpus.trainings.seq_tasks import Task

Part = Callable[[], nn.Module]


class Heads(nn.Module):
    """Attention [N, T, W] over another sequence or itself; `place` says how distance counts.

    place: "none", "alibi" (a slope for each head), "learned" (a table of distances), "near" (only
    the last four). single: all heads share one key. sharp: queries and keys are of unit length.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        causal: bool = False,
        place: str = "none",
        single: bool = False,
        sharp: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.each = width // heads
        inner = self.each if single else width
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, inner)
        self.value, self.back = nn.Linear(width, inner), nn.Linear(width, width)
        self.heads, self.causal, self.place, self.sharp = heads, causal, place, sharp
        self.far = nn.Parameter(torch.zeros(heads, 128)) if place == "learned" else None
        self.heat = nn.Parameter(torch.full((heads, 1, 1), 5.0)) if sharp else None
        self.drop = nn.Dropout(drop)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """How well each query [N, H, T, D] meets each key, before what is hidden."""
        if self.heat is not None:
            return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * self.heat
        return q @ k.transpose(-1, -2) / self.each**0.5

    def forward(self, x: torch.Tensor, over: torch.Tensor | None = None) -> torch.Tensor:
        over = x if over is None else over
        q, k, v = (
            m.unflatten(-1, (-1, self.each)).transpose(1, 2)
            for m in (self.query(x), self.key(over), self.value(over))
        )
        score = self.scores(q, k)
        apart = torch.arange(x.shape[1])[:, None] - torch.arange(over.shape[1])
        if self.place == "alibi":
            slope = 0.5 ** torch.arange(1, self.heads + 1)
            score = score - slope[:, None, None] * apart.abs()
        if self.far is not None:
            score = score + self.far[:, apart.clamp(-63, 63) + 63]
        hidden = torch.zeros_like(apart, dtype=torch.bool)
        if self.causal:
            hidden |= apart < 0
        if self.place == "near":
            hidden |= apart > 3
        share = self.drop(score.masked_fill(hidden, float("-inf")).softmax(-1))
        return self.back((share @ v).transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """up, act, down; or with `gate` the product of two."""

    def __init__(self, width: int, act: nn.Module, gate: bool = False) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, 2 * width), act, nn.Linear(2 * width, width)
        self.gate = nn.Linear(width, 2 * width) if gate else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.up(x))
        return self.down(h if self.gate is None else h * self.gate(x))


class Experts(nn.Module):
    """Two of `count` feed-forward nets for each token, weighted by a router."""

    def __init__(self, width: int, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(Feed(width, nn.GELU()) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.router(x).topk(2, -1)
        share = torch.zeros_like(self.router(x)).scatter(-1, top.indices, top.values.softmax(-1))
        return sum(share[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))  # type: ignore[return-value]


class Spectrum(nn.Module):
    """The Fourier transform in place of attention (FNet)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x).real / (x.shape[1] * x.shape[2]) ** 0.5


class Retain(nn.Module):
    """Retention: attention without a softmax, fading with distance, behind a group norm."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.gate = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.back = nn.GroupNorm(heads, width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        apart = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).float()
        fade = (1 - 0.5 ** (2.0 + torch.arange(self.heads)))[:, None, None] ** apart.clamp_min(0)
        score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 * fade * (apart >= 0)
        y = (score @ v).transpose(1, 2).flatten(2)
        y = self.norm(y.flatten(0, 1)).view_as(x)
        return self.back(F.silu(self.gate(x)) * y)


class Block(nn.Module):
    """mix and feed, each on its own branch; `how`: pre, post, both (sandwich), rezero or bare."""

    def __init__(self, width: int, mix: nn.Module, feed: nn.Module, how: str) -> None:
        super().__init__()
        self.mix, self.feed, self.how = mix, feed, how
        normed = how in ("pre", "post", "both")
        self.norm_mix = nn.LayerNorm(width) if normed else nn.Identity()
        self.norm_feed = nn.LayerNorm(width) if normed else nn.Identity()
        self.late = nn.ModuleList(
            [nn.LayerNorm(width), nn.LayerNorm(width)] if how == "both" else []
        )
        self.open = nn.Parameter(torch.zeros(2)) if how == "rezero" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "post":
            x = self.norm_mix(x + self.mix(x))
            return self.norm_feed(x + self.feed(x))
        a = self.mix(self.norm_mix(x))
        x = x + (self.late[0](a) if self.late else a if self.open is None else self.open[0] * a)
        b = self.feed(self.norm_feed(x))
        return x + (self.late[1](b) if self.late else b if self.open is None else self.open[1] * b)


class Reader(nn.Module):
    """token, place, tower.i, close, answer: a transformer whose `tower` may repeat one block."""

    def __init__(
        self, task: Task, width: int, tower: list[nn.Module], tied: bool, close: bool, times: int
    ) -> None:
        super().__init__()
        inputs = task.x.shape[-1]
        self.token = nn.Embedding(task.size, width) if task.size else nn.Linear(inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(task.x.shape[1], width))
        self.tower = nn.ModuleList(tower)
        self.extra: nn.Module = nn.Identity()
        self.close = nn.LayerNorm(width) if close else nn.Identity()
        self.answer = nn.Linear(width, task.out, bias=not tied)
        if tied:
            nn.init.normal_(self.token.weight, std=0.02)  # type: ignore[arg-type]
            self.answer.weight = self.token.weight  # type: ignore[assignment]
        self.each = task.y.dim() == 2 and not task.y.is_floating_point()
        self.times = times
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.token(x) + self.place
        for i, block in enumerate([*self.tower] * self.times):
            h = block(h)
            if i == 0:
                h = self.extra(h)
        h = self.close(h)
        return self.out(self.answer(h if self.each else h.mean(1)))


def reader(
    depth: int = 2,
    width: int = 32,
    mix: Callable[[int], nn.Module] = Heads,
    feed: Callable[[int], nn.Module] = lambda w: Feed(w, nn.GELU()),
    how: str = "pre",
    tied: bool = False,
    close: bool = True,
    times: int = 1,
) -> Build:
    """A tower of blocks; times: how often the whole tower is run through."""

    def build(task: Task) -> nn.Module:
        tower = [Block(width, mix(width), feed(width), how) for _ in range(depth)]
        return Reader(task, width, [*tower], tied, close, times)

    return build


class Perceive(nn.Module):
    """A few learned latents look at the input again and again (perceiver)."""

    def __init__(self, task: Task, width: int, latents: int, depth: int) -> None:
        super().__init__()
        inputs = task.x.shape[-1]
        self.lift = nn.Embedding(task.size, width) if task.size else nn.Linear(inputs, width)
        self.place = nn.Parameter(0.1 * torch.randn(task.x.shape[1], width))
        self.latents = nn.Parameter(0.1 * torch.randn(latents, width))
        self.looks = nn.ModuleList(Heads(width) for _ in range(depth))
        self.thinks = nn.ModuleList(
            Block(width, Heads(width), Feed(width, nn.GELU()), "pre") for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.answer = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen, z = self.lift(x) + self.place, self.latents.expand(len(x), -1, -1)
        for look, think, norm in zip(self.looks, self.thinks, self.norms, strict=True):
            z = think(z + look(norm(z), seen))
        return self.answer(z.mean(1))


class Sets(nn.Module):
    """Set transformer: through inducing points and back, then pooled by one learned question."""

    def __init__(self, task: Task, width: int, points: int = 6) -> None:
        super().__init__()
        self.lift = nn.Linear(task.x.shape[-1], width)
        self.points = nn.Parameter(torch.randn(2, points, width) * width**-0.5)
        self.inward = nn.ModuleList(Heads(width) for _ in range(2))
        self.outward = nn.ModuleList(Heads(width) for _ in range(2))
        self.feeds = nn.ModuleList(Feed(width, nn.ReLU()) for _ in range(2))
        self.ask, self.pool = nn.Parameter(torch.randn(1, width) * width**-0.5), Heads(width)
        self.answer = nn.Linear(width, task.out)
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lift(x)
        for p, inward, outward, feed in zip(
            self.points, self.inward, self.outward, self.feeds, strict=True
        ):
            h = h + outward(h, inward(p.expand(len(x), -1, -1), h))
            h = h + feed(h)
        return self.out(self.answer(self.pool(self.ask.expand(len(x), -1, -1), h)[:, 0]))
