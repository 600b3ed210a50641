"""Successive halving: many remedies over few steps, the better half over twice as many, the last
ones over full runs of several seeds, each paired with a run without a remedy.

Source: Karnin, Koren & Somekh 2013 (sequential halving), Jamieson & Talwalkar 2016.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from surefoot.findings import Remedy, Report
from surefoot.trial.arm import Arm, Spec
from surefoot.trial.judgement import judged, sound
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
    _total: float = 0.0
    _pace: float = 1.0  # seconds that a second of work takes

    def run(self) -> None:
        """Try them all, within the time there is."""
        self.steps = self.steps or self.baseline.steps
        self._before[0] = self.baseline
        alive = list(range(self._fit(len(self.remedies))))
        self._total = self._work(len(alive))
        self.tell(0.0, self._total)
        began = time.monotonic()
        for length in self._rungs(len(alive)):
            alive = self._rung(alive, length)
        if self._done:  # the pace is known by now, other work on the machine included
            self._pace = max(1.0, (time.monotonic() - began) / self._done)
            alive = alive[: self._fit(len(alive))]
        self._last(alive)

    def _fit(self, count: int) -> int:
        """Take fewer seeds, then shorter runs, then fewer remedies, where the time does not
        suffice; how many remedies."""
        left = max(self.deadline - time.monotonic(), 0.0)
        while self.seeds > _PAIRS and self._work(count) > left:
            self.seeds -= 1
        wanted = self.steps
        while (work := self._work(count)) > left:
            shorter = math.floor(self.steps * left / work)
            if shorter >= _FEWEST and shorter < self.steps:
                self.steps = shorter
            elif self.steps > _FEWEST:
                self.steps = _FEWEST
            elif count > 1:
                count, self.steps = count - 1, wanted
            else:
                break
        return count

    def _rungs(self, count: int) -> list[int]:
        """The lengths of the runs by which so many remedies are halved."""
        lengths, length = [], max(_FEWEST, self.steps // _FIRST)
        while count > _LAST and length < self.steps:
            lengths.append(length)
            count, length = max(_LAST, math.ceil(count / 2)), 2 * length
        return lengths

    def _work(self, count: int) -> float:
        """Seconds that the whole plan takes."""
        seconds = 0.0
        for length in self._rungs(count):
            seconds += count * self._costs(length)
            count = max(_LAST, math.ceil(count / 2))
        seconds += (self.seeds * count + self.seeds - 1) * self._costs(self.steps)
        return self._pace * seconds / self.runner.workers

    def _costs(self, steps: int) -> float:
        """Seconds that a run of so many steps takes, after the run without a remedy."""
        spent = max(self.baseline.seconds - self.baseline.lead, 0.0)
        return self.baseline.lead + steps * spent / max(self.baseline.steps, 1)

    def _rung(self, alive: list[int], length: int) -> list[int]:
        """The better half over `length` steps of the first seed."""
        specs = [self._spec(k, 0, length) for k in alive]
        for place, arm in self._runs(specs):
            self._short[alive[place]] = (length, arm)
        tried = [k for k in alive if k in self._short and self._short[k][1].ran]
        tried.sort(key=lambda k: self._rank(self._short[k][1], length))
        return tried[: max(_LAST, math.ceil(len(alive) / 2))]

    def _rank(self, arm: Arm, length: int) -> tuple[bool, float]:
        return not sound(Report.from_json(arm.report)), arm.loss(length)

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
        left = [self._costs(s.steps or 0) / self.runner.workers for s in specs]
        for place, arm in self.runner.run(specs, self.deadline):
            self._done += left[place]
            left[place] = 0.0
            self.tell(self._done, max(self._total - self._done, sum(left)))
            yield place, arm

    def _spec(self, k: int | None, seed: int, steps: int) -> Spec:
        chosen = () if k is None else (asdict(self.remedies[k]),)
        return replace(self.spec, remedies=chosen, seed=seed, steps=steps, seconds=None)

    def trials(self) -> tuple[Trial, ...]:
        """What is known of each remedy, in the order in which they were given."""
        return tuple(self._trial(k, remedy) for k, remedy in enumerate(self.remedies))

    def _trial(self, k: int, remedy: Remedy) -> Trial:
        arms = [*self._after.get(k, {}).values(), *self._tried(k)]
        after = {seed: arm for seed, arm in self._after.get(k, {}).items() if arm.ran}
        refusing = next((a for a in arms if a.refused), None)
        if refusing is not None:
            return Trial(remedy, Outcome.REFUSED, "; ".join(refusing.refused.values()))
        pairs = [s for s in sorted(after) if s in self._before and self._before[s].steps]
        if pairs:
            before = [self._before[s] for s in pairs]
            trial = judged(remedy, before, [after[s] for s in pairs], self.steps)
            return self._open(trial) if len(pairs) < self.seeds else trial
        if k in self._short and self._short[k][1].ran:
            return self._dropped(remedy, *self._short[k])
        if arms:
            words = (arms[0].words.splitlines() or ["it made no step"])[-1]
            return Trial(remedy, Outcome.UNTRIED, f"its run failed: {words}")
        return Trial(remedy, Outcome.UNTRIED, "its turn did not come")

    def _open(self, trial: Trial) -> Trial:
        """Of fewer pairs than were planned: what seems to help is not yet known not to."""
        if trial.outcome is not Outcome.DID_NOT_HELP or not trial.cured or trial.effect is None:
            return trial
        if trial.effect.value >= trial.effect.none:
            return trial
        return replace(trial, outcome=Outcome.UNTRIED, words=f"{trial.words}; too few to tell")

    def _dropped(self, remedy: Remedy, length: int, arm: Arm) -> Trial:
        words = f"loss {arm.loss(length):.3g} after {length} steps"
        words += f" ({self.baseline.loss(length):.3g} without)"
        if self._after:
            return Trial(remedy, Outcome.DROPPED, f"{words}; others did better", length)
        return Trial(
            remedy, Outcome.UNTRIED, f"{words}; its turn at full length did not come", length
        )

    def _tried(self, k: int) -> list[Arm]:
        return [self._short[k][1]] if k in self._short else []
