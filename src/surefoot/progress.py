"""How a run gets on, for whoever sits at its terminal, without a word between the script's own.

The state of the run stands in the terminal's title, where nothing of the script's is. What is wrong
is said in a line of its own, when two looks of the interim verdict agree on it, and seldom. A
thread of its own reads what the training leaves in plain attributes: a step pays nothing for it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Protocol

from surefoot.findings import Finding
from surefoot.forks import Fork
from surefoot.views.words import CAUSE, PATHOLOGY, clean, number, shorten
from surefoot.voice import Voice

_EVERY = 0.5  # seconds between two titles
_PATIENCE = 1.0  # seconds to wait for a terminal that takes no more (Ctrl-S)
_LINES = 5  # findings that are said during the run; the verdict has them all
_NAME = 48  # characters of a layer's name

_PUSH, _POP = "\x1b[22;0t", "\x1b[23;0t"  # keep the title that the terminal has, and give it back


class Training(Protocol):
    """What is read of a training: steps taken so far, and the loss of the latest if it is seen."""

    step: int
    loss: float | None


class Interim(Protocol):
    """What is read of the verdict so far; asked: set to have `standing` kept."""

    asked: bool
    standing: tuple[Finding, ...] | None


class Session(Protocol):
    """What is read of a session."""

    @property
    def interim(self) -> Interim: ...
    @property
    def trainings(self) -> Sequence[Training]: ...


class Progress:
    """Of one session, from `start` to `stop`; follow: the command that shows more, or empty.

    Neither raises an ordinary exception, and in a forked child nothing happens.
    """

    def __init__(self, voice: Voice, session: Session, follow: str = "") -> None:
        self._voice, self._session, self._follow = voice, session, follow
        self._process = Fork()
        self._said: set[str] = set()
        self._title = ""  # what stands there, empty while it is the terminal's own
        self._end = threading.Event()
        # The interpreter does not wait for a daemon, nor does a script that joins all others.
        self._thread = threading.Thread(target=self._work, name="surefoot-progress", daemon=True)

    def start(self) -> None:
        """Begin to look twice a second."""
        with suppress(Exception):
            self._session.interim.asked = True
            self._thread.start()

    def stop(self) -> None:
        """End the looks, and give the terminal its title back; idempotent."""
        if not self._process.here or self._thread.ident is None:
            return
        self._end.set()
        self._thread.join(_PATIENCE)
        if self._title and not self._thread.is_alive():
            self._title = ""
            self._voice.write(_POP)

    def _work(self) -> None:
        with suppress(Exception):  # whatever it is: the training has no use for it
            while not self._end.wait(_EVERY):
                self._look()

    def _look(self) -> None:
        trainings = list(self._session.trainings)
        if not trainings or not self._voice.in_front():
            return
        standing = self._session.interim.standing
        for finding in standing or ():
            # What follows from another is its symptom. Once a rule: a finding may come and go.
            fresh = finding.rule not in self._said and finding.follows is None
            if fresh and len(self._said) < _LINES:
                self._said.add(finding.rule)
                self._voice.interject(remark(finding, self._follow))
        if self._voice.titled:
            training = max(trainings, key=lambda training: training.step)
            self._entitle(title(training.step, training.loss, standing))

    def _entitle(self, words: str) -> None:
        if words != self._title:
            push = "" if self._title else _PUSH
            self._title = words
            self._voice.write(f"{push}\x1b]0;{words}\x07")


def title(step: int, loss: float | None, standing: Collection[Finding] | None) -> str:
    """The state of a run in a few words, without a character that a terminal could obey.

    >>> title(1240, 0.2312, ())
    'surefoot: step 1,240 - loss 0.231 - healthy so far'
    >>> title(1, None, None)
    'surefoot: step 1'
    """
    parts = [f"step {step:,}"]
    parts += [] if loss is None else [f"loss {number(loss)}"]
    if standing:
        worst = max(standing, key=lambda finding: (finding.severity.rank, finding.root))
        parts.append(PATHOLOGY[worst.pathology][0])
    elif standing is not None:
        parts.append("healthy so far")
    return clean(f"surefoot: {' - '.join(parts)}")


def remark(finding: Finding, follow: str = "") -> str:
    """A finding in a line: since when, what, where and why, and the command that shows more."""
    where = f", starting at {shorten(finding.layer, _NAME)}" if finding.layer else ""
    what, cause = PATHOLOGY[finding.pathology][0], CAUSE[finding.cause][0]
    more = f"; {follow}" if follow else ""
    return clean(f"step {finding.first_step:,}: {what}{where} ({cause}){more}")
