"""A watch that goes along with the fit of a framework: begun with it, ended with it."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from surefoot.attach.distributed import placement
from surefoot.findings import Report, Severity
from surefoot.integrations.clipping import NAME, Unclipped
from surefoot.integrations.output import library
from surefoot.watching.watch import Watch, watch

_LOG = logging.getLogger("surefoot")
SETTINGS = ("runs", "name", "ignore", "forensics", "layers", "verbose", "stop_on")


class Companion:
    """What the callbacks of all frameworks have in common.

    runs, name, ignore, forensics: as `surefoot.watch` takes them. layers: whether the numbers of
    each layer are logged too. verbose: whether the verdict is printed to stderr at the end, by the
    first of several processes. stop_on: "fatal" or "harmful" to end the training, in the way of
    its framework, once such a finding stands.

    `watch` is the watch of the latest fit and `report` its verdict, None before its end. Should
    anything in here fail, that is said once (`problem`), and the training goes on unwatched.
    """

    def __init__(
        self,
        *,
        runs: str | os.PathLike[str] | None = None,
        name: str | None = None,
        ignore: Collection[str] = (),
        forensics: bool = True,
        layers: bool = False,
        verbose: bool = True,
        stop_on: str | None = None,
    ) -> None:
        super().__init__()
        if stop_on is not None and stop_on not in ("fatal", "harmful"):
            raise ValueError(f"expected stop_on to be 'fatal', 'harmful' or None, got {stop_on!r}")
        self.runs, self.name, self.ignore, self.forensics = runs, name, ignore, forensics
        self.layers, self.verbose, self.stop_on = layers, verbose, stop_on
        self.watch: Watch | None = None
        self.report: Report | None = None
        self.problem: str | None = None
        self._unclipped = Unclipped()
        self._abandoned: Any = None  # what ends a watch whose callback is gone

    # -- for who uses it ------------------------------------------------------------------------

    def stop(self) -> Report | None:
        """Remove every hook, and return the verdict; idempotent.

        The end of a fit does this by itself. An error that ends it does not, in frameworks which
        tell no callback of it: then the next fit does, or the end of the callback's life.
        """
        self._finish("raised")
        return self.report

    # -- for the frameworks ---------------------------------------------------------------------

    def _begin(self, model: nn.Module, optimizers: Collection[Any], by_hand: bool = False) -> None:
        """Watch a training that begins; by_hand: one without an optimizer of torch's."""
        self._finish("raised")
        self.watch = self.report = self.problem = None
        self._unclipped = Unclipped()
        with self._quietly():
            settings = {key: getattr(self, key) for key in SETTINGS[:4]}
            begun = watch(model, list(optimizers), **settings)
            begun._session.adopting(by_hand)
            begun._session.interim.asked = True
            self.watch = begun
            # Of an interpreter that ends, the record is left as one that was killed leaves it.
            abandoned: Any = weakref.finalize(self, _end, begun, self._unclipped, "raised")
            abandoned.atexit = False
            self._abandoned = abandoned
            begun.start()
            self._unclipped.start()

    def _finish(self, ended: str = "ended") -> None:
        """The training is over: remove every hook, form the verdict and say it."""
        abandoned, self._abandoned = self._abandoned, None
        if abandoned is None:
            return
        with self._quietly():
            abandoned.detach()
            assert self.watch is not None
            _end(self.watch, self._unclipped, ended)
            self.report = self.watch.report()
            if self.verbose and placement()[0] == 0:
                _tell(self.report, self.watch)

    def _metrics(self) -> dict[str, float]:
        """The newest step's numbers, empty where nothing is watched."""
        with self._quietly():
            if self.watch is not None:
                found = self.watch.metrics(self.layers)
                norm = self._unclipped.take()
                return found if norm is None else {**found, NAME: norm}
        return {}

    def _hopeless(self) -> bool:
        """Whether what was found so far is reason to end the training."""
        with self._quietly():
            if self.stop_on is not None and self.watch is not None:
                least = Severity(self.stop_on).rank
                standing = self.watch._session.interim.standing or ()
                return any(finding.severity.rank >= least for finding in standing)
        return False

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """surefoot's own failure ends in here, and the watch with it."""
        try:
            yield
        except Exception as error:
            first, self.problem = self.problem is None, f"{type(error).__name__}: {error}"
            if first:
                words = " ".join(self.problem.split())
                _LOG.warning("surefoot watches no more, the training goes on: %s", words)
                _LOG.debug("where it failed", exc_info=error)
            self._let_go()

    def _let_go(self) -> None:
        gone, self.watch = self.watch, None
        abandoned, self._abandoned = self._abandoned, None
        try:
            if abandoned is not None:
                abandoned.detach()
            if gone is not None:
                _end(gone, self._unclipped, "unwatched")
        except Exception:
            _LOG.debug("while stepping aside", exc_info=True)

    def __getstate__(self) -> dict[str, Any]:
        """Without the watch: a callback is copied to other processes and into checkpoints."""
        kept = {**self.__dict__, "watch": None, "_abandoned": None}
        return {**kept, "_unclipped": Unclipped()}


def extended(namespace: dict[str, Any], module: str, base: str, extra: str) -> type:
    """`SurefootCallback` of a file: its `Hooks` on the class of callbacks that a library has.

    It is made when it is first asked for, since only then may the library be imported.
    Raises ModuleNotFoundError, which names the command, without the library.
    """
    hooks = namespace["Hooks"]
    about = {"__module__": namespace["__name__"], "__doc__": hooks.__doc__}
    made = type("SurefootCallback", (hooks, getattr(library(module, extra), base)), about)
    namespace["SurefootCallback"] = made
    return made


def _end(watch: Watch, unclipped: Unclipped, ended: str) -> None:
    unclipped.stop()
    watch._session.stop(ended)


def _tell(report: Report, watch: Watch) -> None:
    from rich.console import Console

    from surefoot.views.terminal import print_verdict

    folder = str(watch.folder) if watch.folder is not None else None
    print_verdict(report, console=Console(stderr=True), folder=folder)
