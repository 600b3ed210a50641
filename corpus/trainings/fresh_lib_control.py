"""Continuous control by hand: a cart on a line to be brought to rest; actor and critic apart."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings.fresh_lib_play import Change, alone
from corpus.trainings.loops import descend

Act = Callable[[], nn.Module]


def push(state: torch.Tensor, force: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next states [N, 2] (place, speed) and what they earn."""
    speed = (0.95 * state[:, 1] + 0.3 * force[:, 0].clamp(-1, 1)).clamp(-2, 2)
    place = (state[:, 0] + 0.3 * speed).clamp(-3, 3)
    after = torch.stack([place, speed], 1)
    cost = place.square() + 0.1 * speed.square() + 0.01 * force[:, 0].square()
    return after, -cost


def starts(count: int, dice: torch.Generator) -> torch.Tensor:
    """Places and speeds from which games begin."""
    return 4 * torch.rand(count, 2, generator=dice) - 2


def regret(policy: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """The cost of 25 steps as a share of doing nothing's, measured from good steering's."""
    dice, costs = torch.Generator().manual_seed(5), []
    first = starts(200, dice)
    steering = lambda s: -1.5 * s[:, :1] - 2.0 * s[:, 1:]  # noqa: E731
    for act in (lambda s: torch.zeros(len(s), 1), steering, policy):
        state, total = first, torch.zeros(200)
        for _ in range(25):
            with torch.no_grad():
                state, gain = push(state, act(state))
            total = total - gain
        costs.append(float(total.mean()))
    return (costs[2] - costs[1]) / (costs[0] - costs[1])


def net(inputs: int, out: int, width: int, act: Act, depth: int = 2) -> nn.Sequential:
    """Linear layers with an activation between them."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(inputs if i == 0 else width, width), act()]
    return nn.Sequential(*parts, nn.Linear(width, out))


class Both(nn.Module):
    """actor and critic of one agent."""

    def __init__(self, width: int, act: Act, depth: int, spread: bool) -> None:
        super().__init__()
        self.actor = net(2, 2 if spread else 1, width, act, depth)
        self.critic = net(3, 1, width, act, depth)
        self.final: nn.Module = nn.Tanh()

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.final(self.actor(state)[:, :1])

    def worth(self, state: torch.Tensor, force: torch.Tensor) -> torch.Tensor:
        """What the critic thinks of a move."""
        return self.critic(torch.cat([state, force], 1))[:, 0]


def ddpg(
    seed: int,
    *,
    width: int = 48,
    depth: int = 2,
    act: Act = nn.ReLU,
    maker: Optimizer = adam(2e-3),
    judge: Optimizer = adam(4e-3),
    surgery: Surgery = untouched,
    final: Act = nn.Tanh,
    steps: int = 220,
    noise: float = 0.3,
    tau: float = 0.05,
    scale: float = 1.0,
    unit: float = 0.2,
    reward: Change = alone,
    zero_critic: bool = True,
    cut: bool = False,
) -> float:
    """Deterministic policy gradient from a memory; cut: the actor's moves reach it detached."""
    torch.manual_seed(seed)
    dice = torch.Generator().manual_seed(seed)
    both = Both(width, act, depth, False)
    both.final = final()
    surgery(both)
    slow = copy.deepcopy(both).requires_grad_(False)
    one, two = maker(both.actor.parameters()), judge(both.critic.parameters())
    state, memory = starts(24, dice), []
    for step in range(steps):
        with torch.no_grad():
            force = (both(state * scale) + noise * torch.randn(24, 1, generator=dice)).clamp(-1, 1)
        after, gain = push(state, force)
        memory.append((state * scale, force, reward(step, unit * gain), after * scale))
        state = after if (step + 1) % 25 else starts(24, dice)
        pick = torch.randint(len(memory), (6,), generator=dice).tolist()
        s, a, r, s2 = (torch.cat([memory[i][k] for i in pick]) for k in range(4))
        with torch.no_grad():
            goal = r + 0.9 * slow.worth(s2, slow(s2))
        if zero_critic:
            two.zero_grad()
        F.mse_loss(both.worth(s, a), goal).backward()
        two.step()
        moves = both(s).detach().requires_grad_() if cut else both(s)
        one.zero_grad()
        kept = [p.grad.clone() if p.grad is not None else None for p in both.critic.parameters()]
        (-both.worth(s, moves).mean()).backward()
        for p, g in zip(both.critic.parameters(), kept, strict=True):
            p.grad = g
        one.step()
        with torch.no_grad():
            for p, q in zip(slow.parameters(), both.parameters(), strict=True):
                p.lerp_(q, tau)
    if not all(torch.isfinite(p).all() for p in both.parameters()):
        return float("nan")
    return regret(lambda x: both(x * scale))


def gaussian_critic(
    seed: int,
    *,
    width: int = 40,
    act: Act = nn.Tanh,
    optimizer: Optimizer = adam(4e-3),
    surgery: Surgery = untouched,
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda s: F.softplus(s) + 0.05,
    own: Callable[[torch.Tensor], torch.Tensor] = lambda a: (a - a.mean()) / (a.std() + 1e-6),
    unit: float = 0.2,
    scale: float = 1.0,
    reward: Change = alone,
    rounds: int = 120,
    clip: float | None = 1.0,
    share: float = 0.5,
    zero: bool = True,
) -> float:
    """Advantage actor-critic with a normal policy, 64 carts at once, five steps a round."""
    torch.manual_seed(seed)
    dice = torch.Generator().manual_seed(seed)
    actor, critic = net(2, 2, width, act), net(2, 1, width, act)
    both = nn.ModuleDict(dict(actor=actor, critic=critic))
    surgery(both)
    motor, state = optimizer(both.parameters()), starts(64, dice)
    for now in range(rounds):
        seen, logs, gains, chaos = [], [], [], []
        for _ in range(5):
            seen.append(state * scale)
            mean, raw = actor(state * scale).chunk(2, 1)
            if not torch.isfinite(mean).all() or not torch.isfinite(raw).all():
                return float("nan")
            policy = torch.distributions.Normal(mean, spread(raw), validate_args=False)
            move = policy.sample()
            logs.append(policy.log_prob(move)[:, 0])
            chaos.append(policy.entropy().mean())
            state, gain = push(state, move)
            gains.append(reward(now, unit * gain))
        values = critic(torch.cat([*seen, state * scale])).view(6, 64)
        goals, later = [], values[5].detach()
        for gain in reversed(gains):
            later = gain + 0.9 * later
            goals.insert(0, later)
        goal = torch.stack(goals)
        merit = own((goal - values[:5]).detach())
        loss = -(torch.stack(logs) * merit).mean() + share * F.mse_loss(values[:5], goal)
        loss = loss - 0.002 * torch.stack(chaos).mean()
        if zero:
            descend(motor, loss) if clip is None else clipped(motor, loss, both, clip)
        else:
            loss.backward()
            motor.step()
        state = starts(64, dice) if (now + 1) % 5 == 0 else state
    if not all(torch.isfinite(p).all() for p in both.parameters()):
        return float("nan")
    return regret(lambda x: actor(x * scale)[:, :1].clamp(-1, 1))


def clipped(
    motor: torch.optim.Optimizer, loss: torch.Tensor, model: nn.Module, bound: float
) -> None:
    """One update with all gradients' norm clipped."""
    motor.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), bound)
    motor.step()
