"""Residual networks that play: policies of 4 and 80 layers on CartPole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.stack import linear
from surefoot.lab.trials import checked
from surefoot.trial.effect import effect

_SHALLOW, _DEEP, _WIDTH, _SEEDS = 4, 80, 32, 3
_GAMES, _ROLL, _UPDATES, _DISCOUNT, _RATE = 32, 48, 20, 0.98, 3e-3
_LAST = 5  # updates over which the length of games is taken at the end
_SOURCE = "He et al. 2016 (an analogue); REINFORCE, Williams 1992"


class Block(nn.Module):
    """relu(linear(x)), or with a skip x + linear(relu(norm(x))) / sqrt(depth)."""

    def __init__(self, skip: bool, depth: int) -> None:
        super().__init__()
        self.skip, self.factor = skip, depth**-0.5
        self.norm = nn.LayerNorm(_WIDTH) if skip else nn.Identity()
        self.linear, self.relu = linear(_WIDTH, _WIDTH, 2**0.5), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[games, width] -> the same."""
        if self.skip:
            return x + self.factor * self.linear(self.relu(self.norm(x)))
        return self.relu(self.linear(x))


def _measure(seed: int) -> Result:
    seeds = [100 * k + seed for k in range(_SEEDS)]
    shallow = _play(_SHALLOW, False, seed)
    plain = [_play(_DEEP, False, s) for s in seeds]
    residual = [_play(_DEEP, True, s) for s in seeds]
    coin = _coin(seed)
    ends = [[_end(lengths) for lengths in played] for played in (plain, residual)]
    before, after = (sum(found) / _SEEDS for found in ends)
    gain = effect(ends[0], ends[1], [math.inf] * _SEEDS)
    assert gain.low is not None and gain.high is not None
    return Result(
        Standing.BORNE_OUT,
        f"After {_UPDATES} updates {_SHALLOW} plain layers hold the pole for {_end(shallow):.0f} "
        f"steps, {_DEEP} plain layers for {before:.0f} and {_DEEP} residual ones for "
        f"{after:.0f}; a coin holds it for {coin:.0f}.",
        (
            Row(f"steps of a game, {_SHALLOW} plain layers", "learns: above twice a coin's",
                2 * coin, _end(shallow), bound=">"),
            Row(f"steps of a game, {_DEEP} plain layers", f"{_SOURCE}: below twice a coin's",
                2 * coin, before, bound="<"),
            Row(f"steps of a game, {_DEEP} residual layers", f"{_SOURCE}: above twice a coin's",
                2 * coin, after, bound=">"),
            Row("games of residual over plain, lower end of 95 %", f"{_SOURCE}: above 1", 1.0,
                gain.low, bound=">"),
        ),
        drawn(_lines(shallow, plain, residual), "update", "length of a game", log_y=True),
        f"A policy of {_DEEP} plain layers holds the pole for {_end(plain[0]):.0f} steps after "
        f"{_UPDATES} updates, one of {_SHALLOW} for {_end(shallow):.0f}.",
        checked(partial(_parts, seed)),
        f"A skip past each layer, with layer norm before it: games {gain.value:.2g} times as long "
        f"(95 % {gain.low:.2g} to {gain.high:.2g}), {_SEEDS} pairs of trainings.",
    )  # fmt: skip


def _lines(
    shallow: list[float], plain: list[list[float]], residual: list[list[float]]
) -> list[Line]:
    updates = range(1, _UPDATES + 1)
    return [
        Line(f"{_SHALLOW} plain layers", updates, shallow),
        *(Line(f"{_DEEP} plain layers", updates, p, BAD) for p in plain[:1]),
        *(Line(f"{_DEEP} residual layers", updates, p, GOOD) for p in residual[:1]),
    ]


def _policy(depth: int, skip: bool) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("first", linear(4, _WIDTH, 2**0.5))
    for k in range(1, depth):
        model.add_module(f"layer{k}", Block(skip, depth))
    model.add_module("last", nn.LayerNorm(_WIDTH) if skip else nn.Identity())
    model.add_module("head", linear(_WIDTH, 2, 0.1))
    return model


def _end(lengths: list[float]) -> float:
    return sum(lengths[-_LAST:]) / _LAST


def _parts(seed: int) -> tuple[Any, ...]:
    """The deep plain policy, and states of games that a coin plays, for surefoot's check."""
    torch.manual_seed(seed)
    model = _policy(_DEEP, False)
    with _games() as games:
        roll = _Table(games, seed).roll(_flip)
    few = 8 * _GAMES  # of the first eight steps
    batch = roll.states[:few], roll.actions[:few]
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    return model, batch, nn.functional.cross_entropy, optimizer


@contextmanager
def _games() -> Iterator[Any]:
    import gymnasium  # pyrefly: ignore[missing-import]

    games = gymnasium.make_vec("CartPole-v1", num_envs=_GAMES, vectorization_mode="sync")
    try:
        yield games
    finally:
        games.close()


@dataclass(frozen=True, slots=True)
class _Roll:
    """states [roll games, 4] and actions [roll games]; ends: [games] of each step; finished:
    lengths of the games that ended in it."""

    states: torch.Tensor
    actions: torch.Tensor
    ends: list[torch.Tensor]
    finished: list[float]


class _Table:
    """Games side by side; one that has ended is begun anew."""

    def __init__(self, games: Any, seed: int) -> None:
        self._games = games
        self._state, _ = games.reset(seed=seed)
        self.age = torch.zeros(_GAMES)

    def roll(self, act: Callable[[torch.Tensor], torch.Tensor]) -> _Roll:
        """Play on for a while; act: from states [games, 4] to actions [games]."""
        states, actions, ends, finished = [], [], [], []
        for _ in range(_ROLL):
            x = torch.as_tensor(self._state, dtype=torch.float32)
            action = act(x)
            self._state, _, failed, over, _ = self._games.step(action.numpy())
            end = torch.as_tensor(failed | over)
            self.age += 1
            finished += self.age[end].tolist()
            self.age[end] = 0
            states.append(x)
            actions.append(action)
            ends.append(end)
        return _Roll(torch.cat(states), torch.cat(actions), ends, finished)


def _flip(states: torch.Tensor) -> torch.Tensor:
    return torch.randint(2, (len(states),))


def _coin(seed: int) -> float:
    """Mean length of a game in which a coin decides."""
    with _games() as games:
        table = _Table(games, seed)
        rolls = [table.roll(_flip) for _ in range(_UPDATES)]
    lengths = [length for roll in rolls for length in roll.finished]
    return sum(lengths) / len(lengths)


def _play(depth: int, skip: bool, seed: int) -> list[float]:
    """Mean length of the games that ended, for each update, of a policy that is trained by
    REINFORCE with the mean return as its baseline."""
    torch.manual_seed(seed)
    model = _policy(depth, skip)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    with _games() as games:
        return _train(model, optimizer, _Table(games, seed))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, table: _Table) -> list[float]:
    def act(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.distributions.Categorical(logits=model(x)).sample()

    lengths, latest = [], 0.0
    for _ in range(_UPDATES):
        roll = table.roll(act)
        done = roll.finished
        latest = sum(done) / len(done) if done else max(latest, float(table.age.mean()))
        lengths.append(latest)
        advantage = _returns(roll.ends).flatten()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        chances = model(roll.states).log_softmax(1)
        chosen = chances.gather(1, roll.actions[:, None])[:, 0]
        optimizer.zero_grad()
        (-(chosen * advantage).mean()).backward()
        optimizer.step()
    return lengths


def _returns(ends: list[torch.Tensor]) -> torch.Tensor:
    """Discounted steps [roll, games] until each game ends, or the roll does."""
    found, ahead = [], torch.zeros(_GAMES)
    for end in reversed(ends):
        ahead = 1 + _DISCOUNT * ahead * (~end)
        found.append(ahead)
    return torch.stack(found[::-1])


ENTRY = Entry(
    "residual_cartpole",
    "Residual networks stay trainable at depth in game playing too.",
    _SOURCE,
    _measure,
    (Cause.DEPTH_WITHOUT_SKIP,),
    ("gymnasium",),
)

if __name__ == "__main__":
    program.main(ENTRY)
