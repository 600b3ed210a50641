"""One arm of a trial: a training run once, with or without remedies, in a process of its own.

`python -m surefoot.trial.arm SPEC RESULT` reads a Spec and writes what became of it, both as JSON.
torch is imported by the program that is tried, as it would be without surefoot.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.files import replace_text
from surefoot.imports import when_imported
from surefoot.script import ScriptError, execute, locate

if TYPE_CHECKING:
    from surefoot.build import Build
    from surefoot.findings import Remedy
    from surefoot.watching.session import Session

_BATCHES = 16  # on which a remedy may try things out
_WORDS = 2000  # characters kept of what a program printed last, to say why it failed


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. target: MODULE:FUNCTION of a build, or a script with its arguments.

    module: the script is a module, as in python -m; cwd: where it runs; remedies: as the report
    contract has them; seed: 0 leaves the program's own seeds, another moves all of them by it;
    steps, seconds: after which it is ended, None for its own end.
    """

    target: str
    script: bool = False
    module: bool = False
    arguments: tuple[str, ...] = ()
    cwd: str = ""
    remedies: tuple[dict[str, Any], ...] = ()
    seed: int = 0
    steps: int | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Spec:
        """The inverse of `to_json`."""
        lists = {name: tuple(data[name]) for name in ("arguments", "remedies")}
        return Spec(**{**data, **lists})


@dataclass(slots=True)
class Arm:
    """What became of it. losses: (step, loss) of at most 400 steps, inf where it was not finite.

    report: the verdict on it, as in the contract; gauges: what was measured at its first step, by
    name; applied, refused: remedies by name, with the reason; ended: "ended", "raised", "failed"
    (`words` say how); places: where the program's source makes its parts.
    """

    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = "failed"
    words: str = ""
    places: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; infinities as the contract writes them."""
        data = asdict(self)
        data["losses"] = [[step, x if math.isfinite(x) else "inf"] for step, x in self.losses]
        data["gauges"] = {k: x for k, x in self.gauges.items() if math.isfinite(x)}
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Arm:
        """The inverse of `to_json`; raises TypeError or KeyError when malformed."""
        losses = [(int(step), float(x)) for step, x in data["losses"]]
        return Arm(**{**data, "losses": losses})

    @property
    def ran(self) -> bool:
        """Whether it made a step, with everything applied that was asked for."""
        return self.steps > 0 and not self.refused

    def loss(self, at: int | None = None) -> float:
        """The median of the last tenth of the losses up to a step, infinite without a finite one.

        At least five of them, where there are five.
        """
        values = [x for step, x in self.losses if at is None or step < at]
        if not values:
            return math.inf
        tail = sorted(values[-max(5, len(values) // 10) :])
        return tail[len(tail) // 2]


def run_arm(spec: Spec) -> Arm:
    """Run an arm in this process, which it changes for good: the working directory, the seeds."""
    if spec.cwd:
        os.chdir(spec.cwd)
    return _run_script(spec) if spec.script else _run_target(spec)


def _run_script(spec: Spec) -> Arm:
    arm, watch = Arm(), _Watch(spec)
    try:
        program = locate(spec.target, module=spec.module)
    except ScriptError as error:
        arm.words = str(error)
        return arm
    with when_imported("torch", watch.start):
        outcome = execute(program, spec.arguments)
    arm.ended = outcome.ended
    watch.fill(arm)
    return arm


def _run_target(spec: Spec) -> Arm:
    from surefoot.build import BuildError, BuildFailed, maker

    arm, watch = Arm(), _Watch(spec)
    watch.start()
    try:
        train(maker(spec.target), spec.steps or 0, watch.offer)
        arm.ended = "ended"
    except SystemExit:  # enough
        arm.ended = "ended"
    except (BuildError, BuildFailed) as error:
        arm.words = str(error) if isinstance(error, BuildError) else _line(error.__cause__)
    except Exception as error:
        arm.ended, arm.words = "raised", _line(error)
    watch.fill(arm)
    return arm


def run_here(make: Callable[[], Build], spec: Spec) -> Arm:
    """Run an arm of a build that only this process knows; random numbers stay as they were."""
    from surefoot.build import BuildError
    from surefoot.probes.random_state import undisturbed

    arm = Arm()
    with undisturbed():
        watch = _Watch(spec)
        watch.start()
        try:
            train(make, spec.steps or 0, watch.offer)
            arm.ended = "ended"
        except SystemExit:
            arm.ended = "ended"
        except BuildError as error:
            arm.words = str(error)
        except Exception as error:
            arm.ended, arm.words = "raised", _line(error)
        watch.fill(arm)
    return arm


def train(
    make: Callable[[], Build],
    steps: int,
    offer: Callable[[Build], Any] = lambda build: None,
) -> None:
    """The plain loop for a build: its batches in their order, again and again.

    offer is told of the build before the first step. Raises BuildError where it gives no optimizer.
    """
    from surefoot.build import BuildError

    build = make()
    optimizer = build.optimizer
    if optimizer is None:
        raise BuildError(
            "expected an optimizer in fourth place, got none: a trial trains the model. Return "
            "model, batch, loss function and optimizer from build"
        )
    offer(build)
    batches = build.batches()
    for _ in range(steps):
        closure = partial(_closure, build.on(next(batches)), optimizer)
        if type(optimizer).__name__ == "LBFGS":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


def _closure(build: Build, optimizer: Any) -> Any:
    optimizer.zero_grad()
    loss = build.loss()
    loss.backward()
    return loss


class _Watch:
    """The session and the treatment of an arm, from the import of torch to the result."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._session: Session | None = None
        self._treated: Any = None
        self._places: Any = None
        self._undo: list[Callable[[], Any]] = []
        self._began = time.perf_counter()

    def start(self) -> None:
        """Seed, and begin to listen."""
        from surefoot.trial.seeds import moved, silenced
        from surefoot.trial.source import Places
        from surefoot.trial.treated import Treated
        from surefoot.watching.session import Session

        self._undo += [moved(self._spec.seed), silenced()]
        self._session = Session(folder=None)
        self._session.start()
        self._places = Places()
        self._places.install()
        remedies = _remedies(self._spec.remedies)
        self._treated = Treated(
            remedies, self._spec.steps, self._spec.seconds, self._retold
        ).start()

    def _retold(self, subject: Any) -> None:
        """A model that was changed is watched as it is now."""
        for optimizer in subject.optimizers:
            assert self._session is not None
            self._session.watch(None, optimizer)

    def offer(self, build: Build) -> None:
        """Here the loss is known as a function of the batch, for remedies that try things out."""
        from surefoot.probes.random_state import undisturbed

        @cache
        def batches() -> list[Any]:
            with undisturbed():  # a loader that shuffles draws for it
                return list(islice(build.batches(), _BATCHES))

        self._treated.loss = lambda k: build.on(batches()[k % _BATCHES]).loss()

    def fill(self, arm: Arm) -> None:
        """Take everything down, and write what was seen into the result."""
        from surefoot.trial.measured import gauges_of, losses_of

        if self._session is None:
            arm.words = arm.words or "the program never imported torch"
            return
        self._treated.stop()  # what was put on last comes off first
        self._places.remove()
        self._session.stop()
        while self._undo:
            self._undo.pop()()
        arm.applied, arm.refused = self._treated.applied, self._treated.refused
        missed = [r["remedy"] for r in self._spec.remedies if r["remedy"] not in arm.applied]
        for name in missed:
            arm.refused.setdefault(name, "the model was never called while it was watched")
        arm.seconds = time.perf_counter() - self._began
        arm.report = self._session.report().to_json()
        if self._session.trainings:
            training = self._session.trainings[0]
            case = training.case()
            arm.steps = case.facts.steps
            arm.losses, arm.gauges = losses_of(case), gauges_of(case)
            arm.places = self._places.to_json(self._treated.models)
        self._treated.undo()


def _remedies(data: Sequence[dict[str, Any]]) -> list[Remedy]:
    from surefoot.findings import Remedy

    return [Remedy(**one) for one in data]


def _line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_WORDS]


def main() -> None:
    """Read the spec, run, write the result."""
    spec = Spec.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    result = Path(sys.argv[2])
    sys.argv[1:] = []
    arm = run_arm(spec)
    replace_text(result, json.dumps(arm.to_json(), allow_nan=False))


if __name__ == "__main__":
    main()
