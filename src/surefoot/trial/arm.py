"""One arm of a trial: a training run once, with or without remedies, in a process of its own.

`python -m surefoot.trial.arm SPEC RESULT` reads a Spec and writes what became of it, both as JSON.
torch is imported by the program that is tried, as it would be without surefoot.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
_GRACE = 10.0  # seconds that a program has to end after its last step

Finish = Callable[["Arm"], Any]  # hands in the result of a program that does not end


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
        known: dict[str, Any] = {**data, **lists}
        return Spec(**known)


@dataclass(slots=True)
class Arm:
    """What became of it. losses: (step, loss) of at most 400 steps, inf where it was not finite.

    report: the verdict on it, as in the contract; gauges: what was measured at its first step, by
    name; applied, refused: remedies by name, with the reason; seconds: it took, `lead` of them up
    to the end of its first step; ended: "ended", "raised", "failed" (`words` say how); places:
    where the program's source makes its parts.
    """

    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    lead: float = 0.0
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
        known: dict[str, Any] = {**data, "losses": losses}
        return Arm(**known)

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


def run_arm(spec: Spec, folder: Path, finish: Finish | None = None) -> Arm:
    """Run an arm in this process, which it changes for good: the working directory, the seeds.

    folder: takes what the program saves; finish: gets the result where the program goes on after
    its last step, and ends the process.
    """
    if spec.cwd:
        os.chdir(spec.cwd)
    arm = Arm()
    watch = _Watch(spec, arm, folder, finish)
    if spec.script:
        _run_script(spec, arm, watch)
    else:
        from surefoot.build import BuildError, maker

        watch.start()
        try:
            make = maker(spec.target)
        except BuildError as error:
            arm.words = str(error)
        except (Exception, SystemExit) as error:
            arm.words = _line(error.__cause__ or error)
        else:
            _run_target(make, spec, arm, watch)
    watch.fill()
    return arm


def _run_script(spec: Spec, arm: Arm, watch: _Watch) -> None:
    try:
        program = locate(spec.target, module=spec.module)
    except ScriptError as error:
        arm.words = str(error)
        return
    with when_imported("torch", watch.start):
        outcome = execute(program, spec.arguments)
    arm.ended = outcome.ended


def _run_target(make: Callable[[], Build], spec: Spec, arm: Arm, watch: _Watch) -> None:
    from surefoot.build import BuildError, BuildFailed

    try:
        train(make, spec.steps or 0, watch.offer)
        arm.ended = "ended"
    except SystemExit:  # enough
        arm.ended = "ended"
    except BuildError as error:
        arm.words = str(error)
    except BuildFailed as error:
        arm.words = _line(error.__cause__)
    except Exception as error:
        arm.ended, arm.words = "raised", _line(error)


def run_here(make: Callable[[], Build], spec: Spec) -> Arm:
    """Run an arm of a build that only this process knows; random numbers stay as they were."""
    from surefoot.probes.random_state import undisturbed

    arm = Arm()
    with tempfile.TemporaryDirectory(prefix="surefoot-trial-") as folder, undisturbed():
        watch = _Watch(spec, arm, Path(folder))
        try:
            watch.start()
            _run_target(make, spec, arm, watch)
            watch.fill()
        finally:  # by Ctrl-C too: the process goes on as it was
            watch.close()
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

    def __init__(self, spec: Spec, arm: Arm, folder: Path, finish: Finish | None = None) -> None:
        self._spec, self._arm, self._folder, self._finish = spec, arm, folder, finish
        self._session: Session | None = None
        self._treated: Any = None
        self._places: Any = None
        self._undo: list[Callable[[], Any]] = []
        self._began = time.perf_counter()
        self._filled = threading.Lock()  # taken once, for good

    def start(self) -> None:
        """Seed, and begin to listen."""
        from surefoot.trial.seeds import moved
        from surefoot.trial.source import Places
        from surefoot.trial.spared import Spared
        from surefoot.trial.treated import Treated
        from surefoot.watching.session import Session

        self._undo.append(moved(self._spec.seed))
        spared = Spared(self._folder)
        self._undo.append(spared.remove)
        spared.install()
        self._session = Session(folder=None)
        self._undo.append(self._session.stop)
        self._session.start()
        self._places = Places()
        self._undo.append(self._places.remove)
        self._places.install()
        limits = self._spec.steps, self._spec.seconds
        remedies = _remedies(self._spec.remedies)
        self._treated = Treated(remedies, *limits, self._session, self._enough)
        self._undo.append(self._treated.stop)  # what is put on last comes off first
        self._treated.start()

    def _enough(self, times: int) -> None:
        """The program was told to end; one that has not heard it or hangs is not waited for."""
        if self._finish is None:
            return
        if times == 1:
            timer = threading.Timer(_GRACE, self._insist)
            timer.daemon = True
            timer.start()
        else:
            self._insist()

    def _insist(self) -> None:
        assert self._finish is not None
        self._arm.ended = "ended"
        if self.fill():
            self._finish(self._arm)

    def offer(self, build: Build) -> None:
        """Here the loss is known as a function of the batch, for remedies that try things out."""
        from surefoot.probes.random_state import undisturbed

        @cache
        def batches() -> list[Any]:
            with undisturbed():  # a loader that shuffles draws for it
                return list(islice(build.batches(), _BATCHES))

        self._treated.loss = lambda k: build.on(batches()[k % _BATCHES]).loss()

    def close(self) -> None:
        """Take everything down; idempotent."""
        while self._undo:
            self._undo.pop()()
        if self._treated is not None:
            self._treated.undo()

    def fill(self) -> bool:
        """Take everything down, and write what was seen into the result; False if it has been."""
        if not self._filled.acquire(blocking=False):
            return False
        arm = self._arm
        if self._session is None or self._treated is None:
            arm.words = arm.words or "the program never imported torch"
            return True
        places, treated = self._places, self._treated
        while self._undo:
            self._undo.pop()()
        arm.applied, arm.refused = treated.applied, treated.refused
        for name in (r["remedy"] for r in self._spec.remedies):
            if name not in arm.applied:
                words = "the model was never called while it was watched"
                arm.refused.setdefault(name, words)
        arm.seconds = time.perf_counter() - self._began
        arm.lead = max(0.0, (treated.first or self._began) - self._began)
        arm.report = self._session.report().to_json()
        self._measure()
        with suppress(Exception):  # the patch is a help to read on, never the result
            arm.places = places.to_json(treated.models)
        treated.undo()
        return True

    def _measure(self) -> None:
        from surefoot.trial.measured import gauges_of, losses_of

        assert self._session is not None
        cases = [training.case() for training in self._session.trainings]
        if cases:  # of several the longest: a model may be made and thrown away
            case = max(cases, key=lambda case: case.facts.steps)
            self._arm.steps = case.facts.steps
            self._arm.losses, self._arm.gauges = losses_of(case), gauges_of(case)


def _remedies(data: Sequence[dict[str, Any]]) -> list[Remedy]:
    from surefoot.findings import Remedy

    return [Remedy(**one) for one in data]


def _line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_WORDS]


def main() -> None:
    """Read the spec, run, write the result, and end at once.

    What a program leaves behind (threads, atexit handlers) is not waited for: its trial is over.
    """
    _die_with_parent()
    asked, answer = (Path(name) for name in sys.argv[1:3])
    spec = Spec.from_json(json.loads(asked.read_text(encoding="utf-8")))
    sys.argv[1:] = []

    def finish(arm: Arm) -> None:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        replace_text(answer, json.dumps(arm.to_json(), allow_nan=False))
        os._exit(0)

    finish(run_arm(spec, answer.parent, finish))


def _die_with_parent() -> None:
    """Where whoever asked is killed, nobody waits for the result (Linux alone can say so)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
