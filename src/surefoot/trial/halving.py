"""Successive halving: many remedies over few steps, the better half over twice as many, the last
ones over full runs of several seeds, each paired with a run without a remedy.

Source: Karnin, Koren & Somekh 2013 (sequential halving), Jamieson & Talwalkar 2016.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from surefoot.findings import Remedy
from surefoot.trial.arm import Arm, Spec
from surefoot.trial.judgement import judged
from surefoot.trial.proof import Outcome, Trial
from surefoot.trial.runner import Runner

_LAST = 2  # remedies that are tried at full length
_FIRST = 4  # the first runs take a quarter of the steps
_FEWEST = 20  # steps of a full run
_PAIRS = 2  # without which nothing is proven

Tell = Callable[[float, float], None]  # (seconds of work done, seconds of work still to do)


@dataclass(slots=True)
class Halving:
    """The trials of some remedies. spec: the arm without any; deadline: in time.monotonic.

    `run` may be broken off by KeyboardInterrupt: `trials` then tells of what was done.
    """

    runner: Runner
    spec: Spec
    remedies: Sequence[Remedy]
    baseline: Arm
    seeds: int
    deadline: float
    tell: Tell = lambda done, left: None
    steps: int = 0
    _before: dict[int, Arm] = field(default_factory=dict)
    _after: dict[int, dict[int, Arm]] = field(default_factory=dict)
    _short: dict[int, tuple[int, Arm]] = field(default_factory=dict)  # (steps, arm) last tried
    _done: float = 0.0

    def run(self) -> None:
        """Try them all, within the time there is."""
        self.steps = self.steps or self.baseline.steps
        self._before[0] = self.baseline
        alive = list(range(len(self.remedies)))
        self._fit(len(alive))
        length = max(_FEWEST, self.steps // _FIRST)
        while len(alive) > _LAST and length < self.steps:
            alive = self._rung(alive, length)
            length *= 2
        self._last(alive)

    def _fit(self, count: int) -> None:
        """Take fewer seeds, and then shorter runs, where the time does not suffice."""
        left = max(self.deadline - time.monotonic(), 0.0)
        step = self.baseline.seconds / max(self.baseline.steps, 1)
        while self.seeds > _PAIRS and self._work(count, step) > left:
            self.seeds -= 1
        work = self._work(count, step)
        if work > left:
            self.steps = max(_FEWEST, math.floor(self.steps * left / work))

    def _work(self, count: int, step: float) -> float:
        """Seconds that the whole plan takes."""
        runs, length = 0.0, 1 / _FIRST
        while count > _LAST and length < 1:
            runs += count * length
            count, length = math.ceil(count / 2), 2 * length
        runs += self.seeds * count + self.seeds - 1
        return runs * self.steps * step / self.runner.workers

    def _rung(self, alive: list[int], length: int) -> list[int]:
        """The better half over `length` steps of the first seed."""
        specs = [self._spec(k, 0, length) for k in alive]
        for place, arm in self._runs(specs):
            self._short[alive[place]] = (length, arm)
        tried = [k for k in alive if k in self._short and self._short[k][1].ran]
        tried.sort(key=lambda k: self._rank(self._short[k][1], length))
        return tried[: max(_LAST, math.ceil(len(alive) / 2))]

    def _rank(self, arm: Arm, length: int) -> tuple[bool, float]:
        return arm.report.get("verdict") == "unstable", arm.loss(length)

    def _last(self, alive: list[int]) -> None:
        """Full runs, pair by pair, so that whatever is reached is paired."""
        plan: list[tuple[int | None, int]] = []
        for seed in range(self.seeds):
            plan += [(None, seed)] if seed else []
            plan += [(k, seed) for k in alive]
        specs = [self._spec(k, seed, self.steps) for k, seed in plan]
        for place, arm in self._runs(specs):
            k, seed = plan[place]
            if k is None:
                self._before[seed] = arm
            else:
                self._after.setdefault(k, {})[seed] = arm

    def _runs(self, specs: list[Spec]) -> Iterator[tuple[int, Arm]]:
        step = self.baseline.seconds / max(self.baseline.steps, 1)
        left = [(s.steps or 0) * step / self.runner.workers for s in specs]
        for place, arm in self.runner.run(specs, self.deadline):
            self._done += left[place]
            left[place] = 0.0
            self.tell(self._done, sum(left))
            yield place, arm

    def _spec(self, k: int | None, seed: int, steps: int) -> Spec:
        chosen = () if k is None else (asdict(self.remedies[k]),)
        return replace(self.spec, remedies=chosen, seed=seed, steps=steps, seconds=None)

    def trials(self) -> tuple[Trial, ...]:
        """What is known of each remedy, in the order in which they were given."""
        return tuple(self._trial(k, remedy) for k, remedy in enumerate(self.remedies))

    def _trial(self, k: int, remedy: Remedy) -> Trial:
        after = self._after.get(k, {})
        refused = next((a for a in (*after.values(), *self._tried(k)) if not a.ran), None)
        if refused is not None:
            words = "; ".join(refused.refused.values()) or refused.words or "it made no step"
            return Trial(remedy, Outcome.REFUSED, words)
        pairs = [s for s in sorted(after) if s in self._before and self._before[s].steps]
        if pairs:
            before = [self._before[s] for s in pairs]
            return judged(remedy, before, [after[s] for s in pairs], self.steps)
        if k in self._short:
            length, arm = self._short[k]
            loss, without = arm.loss(length), self.baseline.loss(length)
            words = f"loss {loss:.3g} after {length} steps ({without:.3g} without)"
            return Trial(remedy, Outcome.DROPPED, f"{words}; others did better", length)
        return Trial(remedy, Outcome.UNTRIED, "the time was used up before its turn")

    def _tried(self, k: int) -> list[Arm]:
        return [self._short[k][1]] if k in self._short else []
