"""Loops of tutorials on text: carried states, covered words, tag chains, two optimizers, codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, sgd, untouched
from corpus.trainings import fresh_ord_tasks as own
from corpus.trainings.fit import Build, train
from corpus.trainings.tasks import Task

State = Any


class Streaming(nn.Module):
    """encoder, rnn, decoder (perhaps tied): the state goes in and comes out again."""

    def __init__(
        self, size: int, width: int, kind: type[nn.RNNBase], layers: int, drop: float, tied: bool
    ) -> None:
        super().__init__()
        self.drop, self.encoder = nn.Dropout(drop), nn.Embedding(size, width)
        self.rnn = kind(width, width, layers, dropout=drop if layers > 1 else 0.0)
        self.middle: nn.Module = nn.Identity()
        self.decoder = nn.Linear(width, size)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        h, state = self.rnn(self.drop(self.encoder(x)), state)
        return self.decoder(self.middle(self.drop(h))), state


def _detached(state: State) -> State:
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def streamed(
    seed: int,
    *,
    words: bool = True,
    kind: type[nn.RNNBase] = nn.LSTM,
    width: int = 48,
    layers: int = 1,
    drop: float = 0.0,
    tied: bool = False,
    lanes: int = 16,
    span: int = 12,
    optimizer: Optimizer = sgd(5.0),
    clip: Callable[[Any], object] | None = None,
    surgery: Surgery = untouched,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    keep: bool = True,
    zero: bool = True,
    steps: int = 200,
) -> float:
    """batchify, get_batch, repackage_hidden; keep False: each span starts from nothing."""
    torch.manual_seed(seed)
    ids = own.stream() if words else own.letters().x.flatten()
    size = int(ids.max()) + 1
    long = len(ids) // lanes
    rows = ids[: long * lanes].view(lanes, long).T
    net = Streaming(size, width, kind, layers, drop, tied)
    surgery(net)
    motor = optimizer(net.parameters())
    state, at, seen = None, 0, []
    for _ in range(steps):
        if at + span + 1 > long:
            state, at = None, 0
        x, y = rows[at : at + span], rows[at + 1 : at + span + 1]
        out, state = net(x, state if keep else None)
        out = out.flatten(0, 1)
        if zero:
            motor.zero_grad()
        loss(out, y.flatten()).backward()
        if clip is not None:
            clip(net.parameters())
        motor.step()
        state, at = _detached(state), at + span
        seen.append(float(F.cross_entropy(out.detach().float(), y.flatten())))
    p = torch.bincount(ids).double() / len(ids)
    return sum(seen[-15:]) / 15 / float(-(p[p > 0] * p[p > 0].log()).sum())


def covered(
    seed: int,
    *,
    task: Callable[[], Task] = own.blanks,
    model: Build,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    steps: int = 150,
    batch: int = 32,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    **loop: Any,
) -> float:
    """Masked language modelling: only what is covered counts."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    pairs = batches(data.x, data.y, batch, steps, seed)
    train(net, optimizer(net.parameters()), pairs, loss=loss or data.loss, **loop)
    with torch.no_grad():
        out, y = net.eval()(data.x[:600]).flatten(0, 1), data.y[:600].flatten()
        p = torch.bincount(y[y >= 0]).double() / (y >= 0).sum()
        return float(F.cross_entropy(out.double(), y) / -(p[p > 0] * p[p > 0].log()).sum())


class Chain(nn.Module):
    """BiLSTM-CRF: emissions from letters, and a table of how tags follow each other."""

    def __init__(self, task: Task, width: int, tags: int) -> None:
        super().__init__()
        self.word_embeds = nn.Embedding(task.size, width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.hidden2tag = nn.Linear(width, tags)
        self.transitions = nn.Parameter(0.1 * torch.randn(tags, tags))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden2tag(self.lstm(self.word_embeds(x))[0])


def _in_logarithms(alpha: torch.Tensor, table: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(alpha[:, :, None] + table, 1) + part


def crf(
    seed: int,
    *,
    task: Callable[[], Task] = own.brackets,
    width: int = 24,
    optimizer: Optimizer = adam(5e-3),
    forward: Callable[..., torch.Tensor] = _in_logarithms,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda a: torch.logsumexp(a, 1),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    reduce: Callable[[torch.Tensor], torch.Tensor] = torch.mean,
    zero: bool = True,
    steps: int = 100,
) -> float:
    """The negative likelihood of a chain of tags, as a share of that of independent ones."""
    torch.manual_seed(seed)
    data = task()
    net = Chain(data, width, data.out)
    surgery(net)
    motor = optimizer(net.parameters())

    def surprise(
        x: torch.Tensor, y: torch.Tensor, step: Callable[..., torch.Tensor], last: Any
    ) -> torch.Tensor:
        told = net(x)
        own_score = told.gather(2, y[..., None])[..., 0].sum(1)
        own_score = own_score + net.transitions[y[:, :-1], y[:, 1:]].sum(1)
        alpha = told[:, 0] if step is _in_logarithms else told[:, 0].exp()
        for part in told[:, 1:].unbind(1):
            alpha = step(alpha, net.transitions, part)
        return last(alpha) - own_score

    for step, pair in enumerate(batches(data.x, data.y, 24, steps, seed)):
        x, y = poison(step, *pair)
        if zero:
            motor.zero_grad()
        reduce(surprise(x, y, forward, total)).backward()
        motor.step()
    with torch.no_grad():
        x, y = data.x[:500], data.y[:500]
        p = torch.bincount(y.flatten()).double() / y.numel()
        entropy = float(-(p[p > 0] * p[p > 0].log()).sum()) * y.shape[1]
        right = surprise(x, y, _in_logarithms, lambda a: torch.logsumexp(a, 1))
        return float(right.mean()) / entropy


def translate(
    seed: int,
    *,
    width: int = 64,
    lr: float = 0.3,
    motors: Callable[[Any, float], torch.optim.Optimizer] = lambda p, r: torch.optim.SGD(p, r),
    forcing: float = 0.7,
    cut: bool = False,
    both: bool = True,
    factor: float = 1.0,
    steps: int = 200,
) -> float:
    """The tutorial's encoder and decoder with an optimizer each; sums of two numbers.

    forcing: how often the truth is fed back; cut: the encoder's state is detached; both: whether
    the decoder's optimizer takes its step too.
    """
    torch.manual_seed(seed)
    data, at = own.sums(50)
    size = data.size
    encoder, decoder = (
        nn.ModuleDict({"embedding": nn.Embedding(size, width), "gru": nn.GRU(width, width)})
        for _ in range(2)
    )
    decoder["out"] = nn.Linear(width, size)
    one, two = motors(encoder.parameters(), lr), motors(decoder.parameters(), lr)
    seen = []
    for x, y in batches(data.x, data.y, 64, steps, seed):
        _, state = encoder["gru"](encoder["embedding"](x[:, :at].T))
        state = state.detach() if cut else state
        token, loss, forced = x[:, at], torch.zeros(()), torch.rand(()) < forcing
        for truth in y.unbind(1):
            out, state = decoder["gru"](decoder["embedding"](token)[None], state)
            log = decoder["out"](out[0]).log_softmax(1)
            loss = loss + F.nll_loss(log, truth)
            token = truth if forced else log.detach().argmax(1)
        one.zero_grad()
        two.zero_grad()
        (factor * loss).backward()
        one.step()
        if both:
            two.step()
        seen.append(float(loss.detach()))
    p = torch.bincount(data.y.flatten()).double() / data.y.numel()
    return sum(seen[-15:]) / 15 / 3 / float(-(p[p > 0] * p[p > 0].log()).sum())


def codes(
    seed: int,
    *,
    optimizer: Optimizer = adam(5e-3),
    warm: float = 100.0,
    beta: float = 0.1,
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda s: (0.5 * s).exp(),
    surgery: Surgery = untouched,
    zero: bool = True,
    steps: int = 150,
) -> float:
    """A GRU-VAE over heartbeats; the weight of the divergence grows while it trains."""
    torch.manual_seed(seed)
    x = own.copies("heart", 20).x
    read, write = nn.GRU(1, 32, batch_first=True), nn.GRU(8, 32, batch_first=True)
    mean, log, value = nn.Linear(32, 8), nn.Linear(32, 8), nn.Linear(32, 1)
    net = nn.ModuleDict(dict(read=read, mean=mean, log=log, write=write, value=value))
    surgery(net)
    motor, seen = optimizer(net.parameters()), []
    for step, (xb, _) in enumerate(batches(x, x, 32, steps, seed)):
        h = read(xb)[1][0]
        m, s = mean(h), log(h)
        z = m + spread(s) * torch.randn_like(s)
        out = value(write(z[:, None].expand(-1, xb.shape[1], -1))[0])
        wrong = F.mse_loss(out, xb)
        far = -0.5 * (1 + s - m.square() - s.exp()).mean()
        if zero:
            motor.zero_grad()
        (wrong + beta * min(1.0, step / warm) * far).backward()
        motor.step()
        seen.append(float(wrong.detach()))
    return sum(seen[-10:]) / 10 / float(x.var())


def ranked(
    seed: int,
    *,
    width: int = 12,
    optimizer: Optimizer = adam(2e-2),
    surgery: Surgery = untouched,
    batch: int = 256,
    factor: float = 1.0,
    surprise: Callable[[torch.Tensor], torch.Tensor] = lambda d: -F.logsigmoid(d).mean(),
    zero: bool = True,
    steps: int = 200,
) -> float:
    """BPR: words that a topic uses more than usual shall stand before those that it does not."""
    torch.manual_seed(seed)
    table = own.topics()
    likes = table > table.mean(0)
    who, what = likes.nonzero().T
    users, items = nn.Embedding(len(table), width), nn.Embedding(table.shape[1], width)
    for part in (users, items):
        nn.init.normal_(part.weight, std=0.1)
    net = nn.ModuleDict(dict(user=users, item=items))
    surgery(net)
    motor, seen = optimizer(net.parameters()), []
    for _ in range(steps):
        pick = torch.randint(len(who), (batch,))
        other = torch.randint(table.shape[1], (batch,))
        keep = ~likes[who[pick], other]
        u, i, j = who[pick][keep], what[pick][keep], other[keep]
        ahead = (users(u) * (items(i) - items(j))).sum(1)
        if zero:
            motor.zero_grad()
        (factor * surprise(ahead)).backward()
        motor.step()
        seen.append(float(-F.logsigmoid(ahead.detach()).mean()) / math.log(2))
    return sum(seen[-15:]) / 15
