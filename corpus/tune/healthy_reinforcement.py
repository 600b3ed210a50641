"""Healthy reinforcement learning: noisy rewards, moving targets, losses that need not fall."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus import healthy_case
from corpus.data import batches, digits


@healthy_case
def reinforce_bandit(seed: int) -> float:
    """Policy gradient on a contextual bandit of digits: noisy rewards, no loss to speak of."""
    torch.manual_seed(seed)
    x, y = digits()
    policy = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    baseline = 0.0
    for xb, yb in batches(x, y, 64, 250, seed):
        choice = torch.distributions.Categorical(logits=policy(xb))
        action = choice.sample()
        reward = (action == yb).float()
        loss = (
            -(choice.log_prob(action) * (reward - baseline)).mean() - 0.01 * choice.entropy().mean()
        )
        baseline = 0.9 * baseline + 0.1 * float(reward.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return 1 - baseline


class Pole:
    """A cart with a pole, small enough to read: state [4], actions 0 and 1."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.state = np.zeros(4)

    def reset(self) -> np.ndarray:
        self.state = self.rng.uniform(-0.05, 0.05, 4)
        return self.state.copy()

    def step(self, action: int) -> tuple[np.ndarray, bool]:
        x, v, a, w = self.state
        force = 10.0 if action else -10.0
        push = (force + 0.05 * w * w * np.sin(a)) / 1.1
        turn = (9.8 * np.sin(a) - np.cos(a) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(a) ** 2 / 1.1))
        move = push - 0.05 * turn * np.cos(a) / 1.1
        self.state = np.array([x + 0.02 * v, v + 0.02 * move, a + 0.02 * w, w + 0.02 * turn])
        return self.state.copy(), bool(abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.21)


@healthy_case
def dqn_target_network(seed: int) -> float:
    """Q-learning: the targets move, and the loss rises as the values grow."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    env = Pole(rng)
    online = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters(), lr=2e-3)
    memory: list[tuple[np.ndarray, int, np.ndarray, bool]] = []
    state = env.reset()
    for step in range(700):
        with torch.no_grad():
            best = int(online(torch.tensor(state, dtype=torch.float32)).argmax())
        action = int(rng.integers(2)) if rng.random() < 0.3 else best
        following, done = env.step(action)
        memory.append((state, action, following, done))
        state = env.reset() if done else following
        if step < 64 or step % 2:
            continue
        picked = [memory[i] for i in rng.integers(len(memory), size=32)]
        s, s2 = (
            torch.tensor(np.array([m[k] for m in picked]), dtype=torch.float32) for k in (0, 2)
        )
        acts = torch.tensor([m[1] for m in picked])
        alive = 1 - torch.tensor([float(m[3]) for m in picked])
        with torch.no_grad():
            goal = 1 + 0.98 * alive * target(s2).max(1).values
        loss = F.smooth_l1_loss(online(s).gather(1, acts[:, None])[:, 0], goal)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(online.parameters(), 10)
        optimizer.step()
        if step % 50 == 0:
            target.load_state_dict(online.state_dict())
    return 0.5
