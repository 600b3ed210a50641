"""Where arms run: each in a process of its own, several side by side, or in this process.

Nothing here decides which arms run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surefoot.trial.arm import Arm, Spec, run_here

if TYPE_CHECKING:
    from surefoot.build import Build

_WORDS = 2000
# Not the working directory stands first among the places to import from: its modules are the
# program's, which gets it when it runs.
_ARM = """\
import sys
sys.path[0], own = sys.argv.pop(1), sys.argv.pop(1)
sys.path += [own] if own not in sys.path else []
from surefoot.trial.arm import main
main()
"""


class Runner(Protocol):
    """Runs arms; results come as they end, with their place in the list."""

    workers: int

    def run(self, specs: Sequence[Spec], deadline: float) -> Iterator[tuple[int, Arm]]: ...


class Here:
    """In this process, one after the other: for a build that has no name to import."""

    def __init__(self, make: Callable[[], Build]) -> None:
        self.workers, self._make = 1, make

    def run(self, specs: Sequence[Spec], deadline: float) -> Iterator[tuple[int, Arm]]:
        """One by one until `deadline` (time.monotonic); an arm under way is finished."""
        for k, spec in enumerate(specs):
            if time.monotonic() >= deadline:
                return
            yield k, run_here(self._make, spec)


class Processes:
    """In processes of this machine, `workers` at a time, each with its share of the cores."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = max(1, workers)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, specs: Sequence[Spec], deadline: float) -> Iterator[tuple[int, Arm]]:
        """As they end, until `deadline` (time.monotonic), when those under way are ended.

        However the caller leaves, by Ctrl-C too, no process is left behind.
        """
        self._closed = False
        pool = ThreadPoolExecutor(self.workers)
        try:
            places = {pool.submit(self._one, spec, deadline): k for k, spec in enumerate(specs)}
            waiting: set[Future[Arm | None]] = set(places)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    if (arm := future.result()) is not None:
                        yield places[future], arm
        finally:
            self._close()
            pool.shutdown(cancel_futures=True)

    def _one(self, spec: Spec, deadline: float) -> Arm | None:
        """None where time ran out."""
        left = deadline - time.monotonic()
        if left <= 0 or self._closed:
            return None
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="surefoot-trial-") as folder:
            asked, answer, log = (Path(folder, name) for name in ("spec", "result", "log"))
            asked.write_text(json.dumps(spec.to_json()), encoding="utf-8")
            with open(log, "wb") as said:
                if not self._wait(self._start(spec, asked, answer, said), left):
                    return None
            arm = _read(answer, log)
        taken = time.monotonic() - began  # with the start of the process
        arm.lead, arm.seconds = arm.lead + max(0.0, taken - arm.seconds), taken
        return arm

    def _start(self, spec: Spec, asked: Path, answer: Path, said: Any) -> subprocess.Popen[bytes]:
        """A process with a group of its own, so that its own children can be ended with it."""
        cores = str(max(1, (os.cpu_count() or 1) // self.workers))
        own = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-c", _ARM, str(Path(sys.executable).parent), own]
        with self._lock:
            process = subprocess.Popen(
                [*command, str(asked), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=spec.cwd or None,
                env={"OMP_NUM_THREADS": cores, **os.environ},
                start_new_session=True,
            )
            self._running.add(process)
            if self._closed:
                _end(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        try:
            process.wait(seconds)
            return not self._closed
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
            with self._lock:
                self._running.discard(process)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
        process.wait()


def _read(answer: Path, log: Path) -> Arm:
    said = log.read_text(encoding="utf-8", errors="replace")[-_WORDS:].strip()
    try:
        arm = Arm.from_json(json.loads(answer.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return Arm(words=said or "the process ended without a result")
    if arm.ended == "raised" or arm.steps == 0:
        arm.words = arm.words or said
    return arm
