"""Reinforcement learning on gymnasium's pole; 1 is what a player gets who moves at random."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, adam
from corpus.trainings.loops import descend

RANDOM = 22.0  # steps that the pole stands under random moves, on average


def _net(out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, out))


def _pole(seed: int) -> Any:
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    env.reset(seed=seed)
    return env


def _episode(env: Any, policy: nn.Module, rng: np.random.Generator) -> tuple[Any, Any, list[float]]:
    """States [T, 4], actions [T] and discounted returns [T] of one game."""
    states, actions, rewards = [], [], []
    state, done = env.reset()[0], False
    while not done and len(states) < 200:
        with torch.no_grad():
            p = policy(torch.tensor(state)).softmax(0)[1]
        action = int(rng.random() < float(p))
        states.append(torch.tensor(state))
        actions.append(action)
        state, reward, over, late, _ = env.step(action)
        rewards.append(float(reward))
        done = over or late
    returns, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + 0.98 * total
        returns.append(total)
    return torch.stack(states), torch.tensor(actions), returns[::-1]


def policy_gradient(
    seed: int, *, kind: str = "reinforce", optimizer: Optimizer = adam(1e-2), rounds: int = 25
) -> float:
    """reinforce, critic (an advantage) or clipped (several passes over the same games)."""
    torch.manual_seed(seed)
    rng, env = np.random.default_rng(seed), _pole(seed)
    policy, value = _net(2), _net(1)
    own = [*policy.parameters(), *value.parameters()]
    motor = optimizer(policy.parameters() if kind == "reinforce" else own)
    lengths = []
    for _ in range(rounds):
        played = [_episode(env, policy, rng) for _ in range(4)]
        lengths.append(np.mean([len(p[0]) for p in played]))
        states, actions = (torch.cat([p[k] for p in played]) for k in (0, 1))
        goal = torch.tensor([r for p in played for r in p[2]])
        with torch.no_grad():
            old = policy(states).log_softmax(1).gather(1, actions[:, None])[:, 0]
        for _ in range(3 if kind == "clipped" else 1):
            logs = policy(states).log_softmax(1)
            chosen = logs.gather(1, actions[:, None])[:, 0]
            if kind == "reinforce":
                worth = (goal - goal.mean()) / (goal.std() + 1e-3)
                loss = -(chosen * worth).mean()
            else:
                guess = value(states)[:, 0]
                worth = (goal - guess).detach() / 10
                ratio = (chosen - old).exp()
                gain = torch.minimum(ratio * worth, ratio.clamp(0.8, 1.2) * worth)
                chaos = -(logs.exp() * logs).sum(1).mean()
                policy_loss = -(gain if kind == "clipped" else chosen * worth).mean()
                loss = policy_loss + 0.02 * F.smooth_l1_loss(guess, goal) - 0.01 * chaos
            descend(motor, loss)
    env.close()
    return RANDOM / float(np.mean(lengths[-5:]))


def double_q(seed: int, *, optimizer: Optimizer = adam(3e-3), moves: int = 1600) -> float:
    """Q-learning with a second network that judges what the first one chose."""
    torch.manual_seed(seed)
    rng, env = np.random.default_rng(seed), _pole(seed)
    online = _net(2)
    target = copy.deepcopy(online).requires_grad_(False)
    motor = optimizer(online.parameters())
    memory: list[tuple[Any, int, Any, bool]] = []
    state, length, lengths = env.reset()[0], 0, []
    for move in range(moves):
        with torch.no_grad():
            best = int(online(torch.tensor(state)).argmax())
        action = int(rng.integers(2)) if rng.random() < max(0.05, 1 - move / 600) else best
        after, _, over, late, _ = env.step(action)
        memory.append((state, action, after, over))
        length, state = length + 1, after
        if over or late:
            lengths.append(length)
            state, length = env.reset()[0], 0
        if move < 100 or move % 2:
            continue
        picked = [memory[i] for i in rng.integers(len(memory), size=48)]
        s, s2 = (torch.tensor(np.array([m[k] for m in picked])) for k in (0, 2))
        moves_made = torch.tensor([m[1] for m in picked])
        alive = 1 - torch.tensor([float(m[3]) for m in picked])
        with torch.no_grad():
            choice = online(s2).argmax(1, keepdim=True)
            goal = 1 + 0.97 * alive * target(s2).gather(1, choice)[:, 0]
        guess = online(s).gather(1, moves_made[:, None])[:, 0]
        descend(motor, F.smooth_l1_loss(guess, goal))
        for slow, p in zip(target.parameters(), online.parameters(), strict=True):
            slow.data.lerp_(p.data, 0.05)
    env.close()
    return RANDOM / float(np.mean([*lengths[-3:], length]))
