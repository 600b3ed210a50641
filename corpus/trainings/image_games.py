"""Small worlds of one's own, many at once: a field seen from above, a cue kept in mind, a chain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Surgery, adam, sgd, untouched
from corpus.trainings.image_blocks import Part, conv
from corpus.trainings.loops import descend

MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])
Change = Callable[[int, torch.Tensor], torch.Tensor]


def unchanged(_: int, x: torch.Tensor) -> torch.Tensor:
    """Nothing befalls what is seen or earned."""
    return x


class Field:
    """Walkers on a square field, each with a goal; a step costs, the goal pays one."""

    def __init__(self, count: int, side: int, dice: torch.Generator, cost: float = 0.05) -> None:
        self.side, self.dice, self.cost = side, dice, cost
        self.at = torch.randint(side, (count, 2), generator=dice)
        self.goal = torch.randint(side, (count, 2), generator=dice)

    def seen(self) -> torch.Tensor:
        """Two planes for each walker: itself and its goal."""
        planes = torch.zeros(len(self.at), 2, self.side, self.side)
        rows = torch.arange(len(self.at))
        planes[rows, 0, self.at[:, 0], self.at[:, 1]] = 1
        planes[rows, 1, self.goal[:, 0], self.goal[:, 1]] = 1
        return planes

    def step(self, move: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards and who has arrived; those that arrived begin elsewhere."""
        self.at = (self.at + MOVES[move]).clamp(0, self.side - 1)
        there = (self.at == self.goal).all(1)
        fresh = torch.randint(self.side, (2, len(there), 2), generator=self.dice)
        self.at = torch.where(there[:, None], fresh[0], self.at)
        self.goal = torch.where(there[:, None], fresh[1], self.goal)
        return there.float() - self.cost, there


class Player(nn.Module):
    """conv, fc, and out: scores of the moves; worth: the value of where one stands."""

    def __init__(self, side: int, width: int, act: Part = nn.ReLU) -> None:
        super().__init__()
        self.conv, self.fc = conv(2, width), nn.Linear(width * side * side, 48)
        self.head, self.worth, self.act = nn.Linear(48, 4), nn.Linear(48, 1), act()
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.act(self.fc(self.act(self.conv(x)).flatten(1)))
        return self.out(self.head(h)), self.worth(h)[:, 0]


def shortfall(net: nn.Module, side: int, greedy: bool = False) -> float:
    """Goals that chance and the player reach: one for as few as chance, zero for six times."""
    dice = torch.Generator().manual_seed(99)
    counts = []
    for chance in (True, False):
        field, total = Field(200, side, dice), 0
        for _ in range(15):
            with torch.no_grad():
                scores = net(field.seen())[0]
            p = torch.full_like(scores, 0.25) if chance else scores.softmax(1)
            if greedy and not chance:
                p = 0.8 * F.one_hot(scores.argmax(1), 4) + 0.05
            if not torch.isfinite(p).all():
                return float("nan")
            move = torch.multinomial(p, 1, generator=dice)[:, 0]
            total += int(field.step(move)[1].sum())
        counts.append(total)
    return max(0.0, 1 - (counts[1] - counts[0]) / (5 * counts[0]))


def roaming(
    seed: int,
    *,
    kind: str = "reinforce",
    side: int = 4,
    width: int = 8,
    act: Part = nn.ReLU,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    rounds: int = 80,
    walkers: int = 24,
    clip: float | None = None,
    scale: float = 1.0,
    reward: Change = unchanged,
    worth: Callable[[torch.Tensor], torch.Tensor] = lambda a: (a - a.mean()) / (a.std() + 1e-5),
) -> float:
    """Policy gradient on fields: reinforce, critic or clipped (three passes over each round).

    worth: what becomes of the advantages; scale: of what is seen; reward: what befalls rewards.
    """
    torch.manual_seed(seed)
    dice = torch.Generator().manual_seed(seed)
    net = Player(side, width, act)
    surgery(net)
    motor = optimizer(net.parameters())
    field = Field(walkers, side, dice)
    for now in range(rounds):
        seen, moves, earned, over = [], [], [], []
        for _ in range(10):
            seen.append(field.seen() * scale)
            with torch.no_grad():
                p = net(seen[-1])[0].softmax(1)
            if not torch.isfinite(p).all():
                return float("nan")
            moves.append(torch.multinomial(p, 1, generator=dice)[:, 0])
            gain, there = field.step(moves[-1])
            earned.append(reward(now, gain))
            over.append(there)
        total, returns = torch.zeros(walkers), []
        for gain, there in zip(reversed(earned), reversed(over), strict=True):
            total = gain + 0.9 * total * (~there).float()
            returns.insert(0, total)
        x, move, goal = torch.cat(seen), torch.cat(moves), torch.cat(returns)
        with torch.no_grad():
            old = net(x)[0].log_softmax(1).gather(1, move[:, None])[:, 0]
        for _ in range(3 if kind == "clipped" else 1):
            scores, guess = net(x)
            logs = scores.log_softmax(1)
            chosen = logs.gather(1, move[:, None])[:, 0]
            merit = worth(goal if kind == "reinforce" else goal - guess.detach())
            gain = chosen * merit
            if kind == "clipped":
                ratio = (chosen - old).exp()
                gain = torch.minimum(ratio * merit, ratio.clamp(0.8, 1.2) * merit)
            loss = -gain.mean() + 0.02 * (logs.exp() * logs).sum(1).mean()
            if kind != "reinforce":
                loss = loss + 0.5 * F.mse_loss(guess, goal)
            motor.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            motor.step()
    return shortfall(_scaled(net, scale), side)


def _scaled(net: nn.Module, scale: float) -> nn.Module:
    """The player, who sees everything times `scale`."""
    net.register_forward_pre_hook(lambda _, args: (args[0] * scale,))
    return net


def remembering(
    seed: int,
    *,
    kind: str = "double",
    side: int = 4,
    act: Part = nn.ReLU,
    optimizer: Optimizer = adam(4e-3),
    surgery: Surgery = untouched,
    cost: float = 0.05,
    steps: int = 250,
    discount: float = 0.8,
    zero: bool = True,
    loss: Callable[..., torch.Tensor] = F.smooth_l1_loss,
    reward: Change = unchanged,
) -> float:
    """Q-learning from a memory of all moves, with a slow copy: plain or double."""
    torch.manual_seed(seed)
    dice = torch.Generator().manual_seed(seed)
    net = Player(side, 8, act)
    surgery(net)
    slow = copy.deepcopy(net).requires_grad_(False)
    motor = optimizer(net.parameters())
    field = Field(16, side, dice, cost)
    memory: list[tuple[torch.Tensor, ...]] = []
    for step in range(steps + 20):
        seen = field.seen()
        with torch.no_grad():
            best = net(seen)[0].argmax(1)
        chance = torch.rand(16, generator=dice) < max(0.1, 1 - step / 150)
        move = torch.where(chance, torch.randint(4, (16,), generator=dice), best)
        before = field.at.clone(), field.goal.clone()
        gain, there = field.step(move)
        memory.append((seen, move, reward(step, gain), field.seen(), there.float(), *before))
        if step < 20:
            continue
        pick = torch.randint(len(memory), (10,), generator=dice).tolist()
        s, m, r, s2, over = (torch.cat([memory[i][k] for i in pick]) for k in range(5))
        with torch.no_grad():
            later = slow(s2)[0]
            judge = net(s2)[0] if kind == "double" else later
            goal = r + discount * (1 - over) * later.gather(1, judge.argmax(1)[:, None])[:, 0]
        if zero:
            motor.zero_grad()
        loss(net(s)[0].gather(1, m[:, None])[:, 0], goal).backward()
        motor.step()
        with torch.no_grad():
            for a, b in zip(slow.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 0.1)
    if not all(torch.isfinite(p).all() for p in net.parameters()):
        return float("nan")
    return shortfall(net, side, greedy=True)


class Mind(nn.Module):
    """rnn and head: what is seen goes in, scores of the moves come out at the end."""

    def __init__(self, kind: type[nn.RNNBase], width: int, radius: float | None) -> None:
        super().__init__()
        self.rnn, self.head = kind(4, width, batch_first=True), nn.Linear(width, 3)
        if radius is not None:
            with torch.no_grad():
                nn.init.orthogonal_(self.rnn.weight_hh_l0)
                self.rnn.weight_hh_l0.mul_(radius)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def corridor(
    seed: int,
    *,
    kind: type[nn.RNNBase] = nn.GRU,
    width: int = 24,
    radius: float | None = None,
    length: int = 12,
    optimizer: Optimizer = adam(5e-3),
    clip: float | None = 1.0,
    rounds: int = 150,
) -> float:
    """A sign at the entrance says which of three doors at the far end is the right one."""
    torch.manual_seed(seed)
    net = Mind(kind, width, radius)
    motor = optimizer(net.parameters())
    right: list[float] = []
    for _ in range(rounds):
        sign = torch.randint(3, (64,))
        x = torch.zeros(64, length, 4)
        x[torch.arange(64), 0, sign] = 1
        x[:, 1:, 3] = torch.rand(64, length - 1)
        scores = net(x)
        if not torch.isfinite(scores).all():
            return float("nan")
        choice = torch.distributions.Categorical(logits=scores)
        door = choice.sample()
        gain = (door == sign).float()
        loss = -(choice.log_prob(door) * (gain - gain.mean())).mean()
        loss = loss - 0.01 * choice.entropy().mean()
        motor.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
        right.append(float(gain.mean()))
    return 1.5 * (1 - sum(right[-15:]) / 15)


def chain(
    seed: int,
    *,
    optimizer: Optimizer = sgd(0.1),
    steps: int = 300,
    surgery: Surgery = untouched,
    out: Callable[[], nn.Module] = nn.Identity,
    reward: Change = unchanged,
) -> float:
    """What each of nineteen places is worth to a drunkard (temporal differences)."""
    torch.manual_seed(seed)
    worth = torch.linspace(-0.9, 0.9, 19)
    near = torch.exp(-((torch.arange(19.0)[:, None] - torch.arange(0, 19, 2.0)) ** 2) / 4)
    net = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1), out())
    surgery(net)
    motor: Any = optimizer(net.parameters())
    at = torch.full((32,), 9)
    for step in range(steps):
        after = at + 2 * torch.randint(2, (32,)) - 1
        over = (after < 0) | (after > 18)
        gain = reward(step, torch.where(after > 18, 1.0, torch.where(after < 0, -1.0, 0.0)))
        inside = after.clamp(0, 18)
        with torch.no_grad():
            goal = gain + net(near[inside])[:, 0] * (~over).float()
        descend(motor, F.mse_loss(net(near[at])[:, 0], goal))
        at = torch.where(over, torch.randint(19, (32,)), inside)
    with torch.no_grad():
        wrong = (net(near)[:, 0] - worth).square().mean() / worth.square().mean()
    return float(wrong)
