"""The session: everything watched in one process, behind `surefoot run` and `surefoot.watch`.

It listens to PyTorch (attach.patches), tells each training of its steps, and at the end asks the
rules. Whatever goes wrong inside is logged once, and the session steps aside.
"""

from __future__ import annotations

import itertools
import logging
import time
import weakref
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surefoot.attach.discovery import compiled_forms, find_roots, leaf_parameters
from surefoot.attach.distributed import placement
from surefoot.attach.loaders import Drawn
from surefoot.attach.patches import Patches, in_backward
from surefoot.attach.readings import refuse
from surefoot.diagnosis.diagnose import diagnose, merge
from surefoot.environment import describe
from surefoot.findings import Report
from surefoot.forks import Fork
from surefoot.guarding.guard import Guard
from surefoot.probes.module_hooks import Curtain, all_or_none
from surefoot.probes.restoring import thoroughly
from surefoot.record import Writer
from surefoot.record.data import RunData
from surefoot.watching.guards import Guards
from surefoot.watching.interim import Interim
from surefoot.watching.losses import Losses
from surefoot.watching.missing import missing
from surefoot.watching.stepping import Stepping
from surefoot.watching.training import Training

_LOG = logging.getLogger("surefoot")
_RUNNING: weakref.WeakSet[Session] = weakref.WeakSet()
_MAX_TRAININGS = 8
_SESSIONS = itertools.count()  # of this process: each rank begins the same ones
_MAX_NAMES = 64
_MAX_NODES = 20_000  # of a graph that is walked to its ends


class Session:
    """Everything watched in this process between `start` and `stop`.

    folder: where the record goes, None for none; adopt: whether optimizers constructed meanwhile
    are watched too; ignore: rule ids to leave out of the report; guard: "act" to guard each
    training, "dry run" to only say what that would do.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        ignore: Collection[str] = (),
        environment: Mapping[str, Any] | None = None,
        adopt: bool = True,
        forensics: bool = True,
        guard: str | bool = False,
    ) -> None:
        self.folder = folder
        self.problem: str | None = None
        self.ended = "ended"
        self.trainings: list[Training] = []
        self._ignore = frozenset(ignore)
        size = placement()[1]
        world: dict[str, Any] = {"world": size} if size > 1 else {}
        self._environment = {**describe(), **world, **(environment or {})}
        self._adopt = adopt
        self._forensics = forensics
        self.drawn = Drawn()
        self._number = next(_SESSIONS)
        self._indices = itertools.count()
        self._patches = Patches(self)
        self._writer: Writer | None = None
        self._of: dict[int, tuple[weakref.ref[Any], Training]] = {}
        self._manual: Training | None = None
        self._losses = Losses()
        self._curtain = Curtain()
        self.guards = Guards(guard)
        self._forms: list[weakref.ref[nn.Module]] = []  # made by torch.compile
        self._stepping = Stepping()
        self._process = Fork()
        self._running = False
        self._paused = 0.0
        self.interim = Interim(self._ignore)
        self._error: str | None = None

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the record and begin to listen. Never raises for a folder that cannot be used."""
        if self.folder is not None:
            try:
                self._writer = Writer(self.folder, self._environment)
                self.interim.writer = self._writer
            except Exception as error:
                self.problem = f"no record is kept in {self.folder}: {error}"
        self._running = True
        try:
            self._forms = [weakref.ref(form) for form in compiled_forms()]
            self._patches.install()
            _RUNNING.add(self)
        except Exception as error:
            self._patches.remove()
            self.failed(error)

    def adopting(self, wanted: bool) -> None:
        """Whether optimizers that are constructed from now on are watched too."""
        self._adopt = wanted

    def pause(self) -> None:
        """Hear nothing until `resume`: something else than what is watched runs meanwhile."""
        self._patches.remove()
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Listen again; the time since `pause` is not that of the trainings."""
        for training in self.trainings:
            training.budget.set_aside(time.perf_counter() - self._paused)
        self._patches.install()

    def stop(self, ended: str | None = None) -> None:
        """Remove every hook and close the record; idempotent, never raises."""
        if not self._running:
            return
        self._running = False
        _RUNNING.discard(self)
        self.ended = ended or self.ended
        stops = (partial(training.stop, self.ended) for training in self.trainings)
        leave = (self.guards.remove, self._patches.remove, self._curtain.remove, *stops)
        try:
            thoroughly(leave)
        except Exception as error:
            self.failed(error)
        if (writer := self._writer) is not None:
            last = lambda: writer.close(self.report())  # noqa: E731
            try:  # should there be no report, it is closed without
                thoroughly([partial(self.interim.last, self.trainings), last, writer.close])
            except Exception as error:
                self.problem = self.problem or f"the record could not be closed: {error}"
            self.problem = self.problem or writer.problem

    def failed(self, error: BaseException) -> None:
        """surefoot's own failure: said once; the training goes on unwatched."""
        if self._error is None:
            self._error = f"{type(error).__name__}: {error}"
            _LOG.warning("surefoot stepped aside after a failure of its own: %s", self._error)
            _LOG.debug("where it failed", exc_info=error)
        for training in self.trainings:
            try:
                training.stop("unwatched")
            except Exception:
                _LOG.debug("while stepping aside", exc_info=True)

    # -- what is asked of it --------------------------------------------------------------------

    def report(self) -> Report:
        """The verdict on what was seen so far."""
        reports = {t.title: diagnose(t.case(), self._ignore) for t in self.trainings}
        unseen = missing(self.trainings, self._error)
        return merge(reports, unseen, self._environment.get("surefoot", ""), self.guards.summary())

    def data(self, training: int | None = None) -> RunData | None:
        """The training in most trouble (or the one asked for) as data for the views, or None.

        Of several in the same trouble it is the longest.
        """
        if not self.trainings:
            return None
        if training is None:
            chosen = max(self.trainings, key=self._trouble)
        else:
            chosen = self.trainings[training]
        case = chosen.case()
        name = self.folder.name if self.folder is not None else chosen.layers.model
        report = self.report()
        events = chosen.ledger.events()
        return RunData(
            name, report, case.layers, case.series, case.flows, events, self._environment
        )

    def _trouble(self, training: Training) -> tuple[int, int]:
        worst = diagnose(training.case(), self._ignore).worst()
        return (-1 if worst is None else worst.rank), training.step

    # -- the listener's side --------------------------------------------------------------------

    def watch(self, model: nn.Module | None, optimizer: torch.optim.Optimizer) -> Training:
        """Take a training under watch; the model is searched for if it is None."""
        self._curtain.hang()
        trained = [p for g in optimizer.param_groups for p in g["params"]]
        training = next((t for t in self.trainings if t.owns(trained)), None)
        # More of the same model is being trained than was known: begin anew.
        outgrown = training is not None and training.step == 0 and training.lacks(trained)
        if training is not None and (training is self._manual or outgrown):
            self._drop(training)
            training = None
        if training is None:  # only now is the model searched for: inner loops make many optimizers
            models = [model] if model is not None else find_roots(trained)
            groups = len(optimizer.param_groups)
            training = self._begin(models, trained, groups)
        training.took(optimizer)
        self._of = {key: known for key, known in self._of.items() if known[0]() is not None}
        self._of[id(optimizer)] = (weakref.ref(optimizer), training)
        self.guards.take(training, optimizer, self.report)
        return training

    def attend(self, guard: Guard, optimizers: Collection[torch.optim.Optimizer]) -> None:
        """Keep what a guard of the script's own does to trainings that are watched."""
        for optimizer in optimizers:
            if (training := self.training_of(optimizer)) is not None:
                self.guards.attend(training, guard, self.report)

    def _begin(self, models: list[nn.Module], trained: list[torch.Tensor], groups: int) -> Training:
        index = next(self._indices)
        forms = [f for ref in self._forms if (f := ref()) is not None]
        with all_or_none():
            training = Training(
                index, models, trained, self._writer, groups, self._forensics, forms
            )
            training.indices = self.drawn.indices
            training.known_as(f"{self._number}/{index}")
            self.trainings.append(training)
        return training

    def _drop(self, training: Training) -> None:
        training.stop("replaced")
        self.trainings.remove(training)
        if training is self._manual:
            self._manual = None

    def training_of(self, optimizer: Any) -> Training | None:
        """The training that this optimizer drives, None if it is not watched."""
        known = self._of.get(id(optimizer))
        return known[1] if known is not None and known[0]() is optimizer else None

    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None:
        """A new optimizer: find its model, unless enough is watched already."""
        if self._adopt and self._process.here and len(self.trainings) < _MAX_TRAININGS:
            self.watch(None, optimizer)

    def compiled(self, module: nn.Module, form: nn.Module) -> None:
        """`torch.compile(module)` gave a form, or the module itself was compiled."""
        self._curtain.hang()
        if form is not module:
            self._forms = [ref for ref in self._forms if ref() is not None]
            self._forms.append(weakref.ref(form))
        for training in self.trainings:
            training.taps.compiled(module, form)

    def loss_scaled(self, scaled: Any, scale: float) -> None:
        """Remember the factor that GradScaler put on a loss."""
        self._losses.scaled(scaled, scale)

    def step_refused(self, optimizer: torch.optim.Optimizer) -> None:
        """GradScaler did not let the optimizer step: measured like any other, and not taken."""
        training = self.training_of(optimizer)
        if training is None or not self._process.here:
            return
        training.loss, training.scaling.scale = self._losses.value, self._losses.scale
        training.before_step(optimizer, optimizer.param_groups, refused=True)
        self._finish(training, optimizer)
        refuse(optimizer)

    def before_backward(self, losses: list[torch.Tensor]) -> None:
        """Read the loss, before backward frees its graph."""
        if not self._process.here:
            return
        self._stepping.backward()
        if self._stepping.heard:
            return
        if self._losses.taken:
            self._losses.begin()
            self._curtain.hang()  # again, should the compiler have been reset
            if self._manual is not None:
                self._manual.note_updates(self._manual)
            for training in self.trainings:
                training.forensics.fresh()
        for training in self.trainings:
            training.carried.before_backward()
        for tensor in losses:
            if tensor.numel() == 1 and tensor.grad_fn is not None:
                left_out = self._left_out if self._knows_all else None
                self._losses.read(tensor, self.trainings, left_out)
        if not self.trainings and self._adopt:
            self._watch_by_hand(losses)

    @property
    def _knows_all(self) -> bool:
        """Whether every optimizer of the process is watched, from its first step on."""
        whole = all(t.shards is None for t in self.trainings)  # else a graph's leaves are others
        return self._adopt and whole and len(self.trainings) < _MAX_TRAININGS

    def _left_out(self, loss: torch.Tensor) -> tuple[float, list[str]]:
        """Share of the weight matrices under a loss that no optimizer holds, and whose they are."""
        leaves = leaf_parameters(loss, _MAX_NODES)
        weights = [p for p in leaves if isinstance(p, nn.Parameter) and p.dim() > 1]
        held = {id(p) for r, _ in self._of.values() for p in _parameters(r())}
        held |= {id(p) for p in weights if any(t.holds(p) for t in self.trainings)}
        lost: list[torch.Tensor] = [p for p in weights if id(p) not in held]
        share = sum(p.numel() for p in lost) / max(sum(p.numel() for p in weights), 1)
        owners = [name for t in self.trainings for name in t.owners(lost)] if lost else []
        return share, owners[:_MAX_NAMES]

    def after_backward(self) -> None:
        """Without an optimizer of torch's, the end of backward stands for the step."""
        if not self._process.here or self._stepping.heard:
            return
        for training in self.trainings:
            training.carried.after_backward()
            if training.piecewise:
                training.loss = self._losses.value
                training.pieced(self._sharing(training))
                self.interim.now_and_then(self.trainings)
        training = self._manual
        if training is not None:
            groups = [{"params": training.live_parameters()}]
            training.loss = self._losses.value
            training.before_step(training, groups)
            training.after_step(training)
            self._losses.taken = True
            self.interim.now_and_then(self.trainings)

    def _watch_by_hand(self, losses: list[torch.Tensor]) -> None:
        leaves = [p for t in losses for p in leaf_parameters(t)]
        if leaves:
            models = find_roots(leaves)
            self._manual = self._begin(models, leaves, 1)
            self._manual.driver.name = "none of torch.optim"

    def before_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """The outermost of nested steps is measured; with a closure, when that has run."""
        if self._stepping.begin(id(optimizer), closure) and self._process.here:
            self._measure(optimizer)

    def closure_begun(self) -> None:
        """A step has called its closure."""
        self._stepping.closure_begun()

    def closure_raised(self) -> None:
        """The step will not be heard to end."""
        self._stepping.broken_off()

    def closure_ran(self, optimizer: torch.optim.Optimizer) -> None:
        """The step's gradients are there. What a line search tries after that is not the step."""
        if self._stepping.closure_ran() and self._process.here:
            self._measure(optimizer)
            self._losses.taken = True

    def _measure(self, optimizer: torch.optim.Optimizer) -> None:
        training = self.training_of(optimizer)
        if training is None:
            return
        if in_backward():
            training.piece(optimizer)
            return
        training.loss, training.scaling.scale = self._losses.value, self._losses.scale
        training.before_step(optimizer, optimizer.param_groups)

    def after_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """The optimizer has acted."""
        if not self._stepping.end() or not self._process.here:
            return
        if closure and not self._stepping.heard:
            self._measure(optimizer)
        self._losses.taken, self._stepping.heard = True, False
        training = self.training_of(optimizer)
        if training is not None and in_backward():  # the step ends with it
            training.note_updates(optimizer)
        elif training is not None:
            self._finish(training, optimizer)

    def _finish(self, training: Training, optimizer: torch.optim.Optimizer) -> None:
        self._losses.taken = True
        training.after_step(optimizer, self._sharing(training))
        self.interim.now_and_then(self.trainings)

    def _sharing(self, training: Training) -> list[int]:
        """The ids of the optimizers that train the same model."""
        return [key for key, (r, t) in self._of.items() if t is training and r() is not None]


def session_of(optimizer: torch.optim.Optimizer) -> Session | None:
    """The running session that watches an optimizer, None if there is none."""
    return next((s for s in _RUNNING if s.training_of(optimizer) is not None), None)


def _parameters(optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
    return [p for g in optimizer.param_groups for p in g["params"]] if optimizer else []
