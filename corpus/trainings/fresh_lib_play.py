"""Reinforcement learning as in the well-known tutorials: one loop on CartPole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

from corpus.recipes import Optimizer, Surgery, adam, adamw, untouched

RANDOM = 22.0  # steps that the pole stands under random moves, on average
Change = Callable[[int, torch.Tensor], torch.Tensor]


def alone(_: int, x: torch.Tensor) -> torch.Tensor:
    """Nothing befalls what is seen or earned."""
    return x


def poles(seed: int, count: int) -> list[Any]:
    """CartPoles that differ in their dice."""
    import gymnasium

    made = [gymnasium.make("CartPole-v1") for _ in range(count)]
    for i, env in enumerate(made):
        env.reset(seed=1000 * seed + i)
    return made


def stands(act: Callable[[torch.Tensor], torch.Tensor], games: int = 6) -> float:
    """Random's steps over those that the pole stands under `act`, from known starts."""
    (env,), total = poles(77, 1), 0
    for game in range(games):
        state, done, length = env.reset(seed=500 + game)[0], False, 0
        while not done and length < 150:
            scores = act(torch.tensor(state))
            if not torch.isfinite(scores).all():
                return float("nan")
            state, _, over, late, _ = env.step(int(scores.argmax()))
            done, length = over or late, length + 1
        total += length
    env.close()
    return RANDOM * games / total


class Agent(nn.Module):
    """shared, actor and critic, as in CleanRL: orthogonal weights, tanh between them."""

    def __init__(self, width: int, act: Callable[[], nn.Module], depth: int) -> None:
        super().__init__()

        def tower(out: int, gain: float) -> nn.Sequential:
            parts: list[nn.Module] = []
            for i in range(depth):
                layer = nn.Linear(4 if i == 0 else width, width)
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
                parts += [layer, act()]
            last = nn.Linear(width, out)
            nn.init.orthogonal_(last.weight, gain)
            return nn.Sequential(*parts, last)

        self.critic, self.actor = tower(1, 1.0), tower(2, 0.01)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.actor(x), self.critic(x)[:, 0]


Played = tuple[torch.Tensor, ...]


class Hall:
    """Several poles that go on from one rollout to the next."""

    def __init__(self, seed: int, count: int) -> None:
        self.envs = poles(seed, count)
        self.now = torch.tensor(np.stack([e.reset()[0] for e in self.envs]))

    def play(self, net: nn.Module, steps: int, scale: float) -> Played:
        """States [T, E, 4], moves, logarithms, values, rewards, ends, and the last value."""
        kept: list[list[torch.Tensor]] = [[] for _ in range(6)]
        for _ in range(steps):
            x = self.now * scale
            with torch.no_grad():
                scores, value = net(x)
            chance = Categorical(logits=scores)
            move = chance.sample()
            gain, over, after = [], [], []
            for env, m in zip(self.envs, move.tolist(), strict=True):
                state, reward, end, late, _ = env.step(m)
                after.append(env.reset()[0] if end or late else state)
                gain.append(float(reward))
                over.append(float(end or late))
            row = (x, move, chance.log_prob(move), value, torch.tensor(gain), torch.tensor(over))
            for place, value_ in zip(kept, row, strict=True):
                place.append(value_)
            self.now = torch.tensor(np.stack(after))
        with torch.no_grad():
            last = net(self.now * scale)[1]
        return (*(torch.stack(k) for k in kept), last)


def advantages(played: Played, gamma: float, lam: float) -> torch.Tensor:
    """Generalised advantage estimates [T, E]."""
    _, _, _, values, gains, over, last = played
    found, running, later = torch.zeros_like(gains), torch.zeros_like(last), last
    for t in reversed(range(len(gains))):
        alive = 1 - over[t]
        delta = gains[t] + gamma * later * alive - values[t]
        running = delta + gamma * lam * alive * running
        found[t], later = running, values[t]
    return found


def whiten(a: torch.Tensor) -> torch.Tensor:
    """Mean zero, spread one."""
    return (a - a.mean()) / (a.std() + 1e-8)


def ppo(
    seed: int,
    *,
    optimizer: Optimizer = adam(2.5e-3, eps=1e-5),
    width: int = 64,
    depth: int = 2,
    act: Callable[[], nn.Module] = nn.Tanh,
    surgery: Surgery = untouched,
    late: Surgery = untouched,
    rounds: int = 14,
    epochs: int = 4,
    clip: float | None = 0.5,
    value_share: float = 0.5,
    factor: float = 1.0,
    scale: float = 1.0,
    reward: Change = alone,
    zero: bool = True,
    own: Callable[[torch.Tensor], torch.Tensor] = whiten,
    follow: bool = True,
) -> float:
    """Proximal policy optimisation on four poles; follow: the rate falls linearly to zero."""
    torch.manual_seed(seed)
    net = Agent(width, act, depth)
    surgery(net)
    motor, hall = optimizer(net.parameters()), Hall(seed, 4)
    late(net)
    first = [g["lr"] for g in motor.param_groups]
    for now in range(rounds):
        for group, lr in zip(motor.param_groups, first, strict=True):
            group["lr"] = lr * (1 - now / rounds) if follow else lr
        played = hall.play(net, 48, scale)
        played = (*played[:4], reward(now, played[4]), *played[5:])
        gain = advantages(played, 0.98, 0.95)
        x, move, old = (t.flatten(0, 1) for t in played[:3])
        merit, goal = gain.flatten(), (gain + played[3]).flatten()
        for _ in range(epochs):
            for pick in torch.randperm(len(x)).chunk(4):
                scores, value = net(x[pick])
                if not torch.isfinite(scores).all():
                    return float("nan")
                chance = Categorical(logits=scores)
                ratio = (chance.log_prob(move[pick]) - old[pick]).exp()
                m = own(merit[pick])
                policy = -torch.minimum(ratio * m, ratio.clamp(0.8, 1.2) * m).mean()
                loss = policy + value_share * F.mse_loss(value, goal[pick])
                loss = loss - 0.01 * chance.entropy().mean()
                if zero:
                    motor.zero_grad()
                (factor * loss).backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                motor.step()
    if not all(torch.isfinite(p).all() for p in net.parameters()):
        return float("nan")
    return stands(lambda s: net((s * scale)[None])[0][0].detach())


def dqn(
    seed: int,
    *,
    optimizer: Optimizer = adamw(2e-3, amsgrad=True),
    widths: tuple[int, ...] = (64, 64),
    act: Callable[[], nn.Module] = nn.ReLU,
    surgery: Surgery = untouched,
    loss: Callable[..., torch.Tensor] = F.smooth_l1_loss,
    out: Callable[[], nn.Module] = nn.Identity,
    moves: int = 1300,
    clip: float | None = 100.0,
    scale: float = 1.0,
    earned: float = 1.0,
    fallen: float | None = None,
    reward: Change = alone,
    zero: bool = True,
) -> float:
    """PyTorch's DQN tutorial; fallen: what the end of a game earns; earned: a step."""
    torch.manual_seed(seed)
    rng, (env,) = np.random.default_rng(seed), poles(seed, 1)
    sizes = list(zip([4, *widths], [*widths, 2], strict=True))
    parts: list[nn.Module] = []
    for a, b in sizes:
        parts += [nn.Linear(a, b), act()]
    net = nn.Sequential(*parts[:-1], out())
    surgery(net)
    slow = copy.deepcopy(net).requires_grad_(False)
    motor = optimizer(net.parameters())
    rows = torch.zeros(moves, 11)
    state = env.reset()[0]
    for move in range(moves):
        x = torch.tensor(state) * scale
        if rng.random() < max(0.05, 0.9 * (1 - move / 500)):
            action = int(rng.integers(2))
        else:
            with torch.no_grad():
                action = int(net(x[None])[0].argmax())
        after, _, over, late, _ = env.step(action)
        gain = fallen if over and fallen is not None else earned
        told = torch.tensor([float(action), gain, float(over)])
        rows[move] = torch.cat([x, torch.tensor(after) * scale, told])
        state = env.reset()[0] if over or late else after
        if move < 128 or move % 2:
            continue
        pick = rows[torch.from_numpy(rng.integers(move, size=64))]
        with torch.no_grad():
            later = slow(pick[:, 4:8]).amax(1)
            goal = reward(move, pick[:, 9]) + 0.97 * (1 - pick[:, 10]) * later
        guess = net(pick[:, :4]).gather(1, pick[:, 8:9].long())[:, 0]
        if zero:
            motor.zero_grad()
        loss(guess, goal).backward()
        if clip is not None:
            nn.utils.clip_grad_value_(net.parameters(), clip)
        motor.step()
        with torch.no_grad():
            for a, b in zip(slow.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 0.03)
    if not all(torch.isfinite(p).all() for p in net.parameters()):
        return float("nan")
    return stands(lambda s: net((s * scale)[None])[0].detach())
