"""The guard on the optimizers of one model: what a step calls for is decided and done here."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from surefoot.attach.helpers import helpers_of
from surefoot.findings import Report
from surefoot.guarding.acts import Act, Acts, Rung
from surefoot.guarding.agreement import Agreement, Facts
from surefoot.guarding.checkpoint import check, load_clips
from surefoot.guarding.clipping import Clipping, Gradients
from surefoot.guarding.ladder import Ladder, Seen
from surefoot.guarding.loss_level import LossLevel
from surefoot.guarding.optimizer_guard import OptimizerGuard
from surefoot.guarding.outliers import Judgement
from surefoot.guarding.running_statistics import RunningStatistics
from surefoot.guarding.slowdown import Slowdown
from surefoot.guarding.snapshot import Snapshot, Subjects
from surefoot.guarding.snapshots import Snapshots
from surefoot.halted import TrainingHalted
from surefoot.kernels import NONFINITE

_GUARDS = itertools.count()  # of this process: each rank makes the same ones


class Guard:
    """Guards the steps of optimizers until `remove`; made by `surefoot.guard`.

    acts: what it has done, or in a dry run would have; norm: of the gradients that the latest step
    was given, NaN before the first; clipped, skipped, nonfinite: how many steps were clipped, held
    back, or given NaN or infinity, of `steps`.
    """

    def __init__(
        self,
        optimizers: Collection[torch.optim.Optimizer],
        modules: Collection[nn.Module] = (),
        *,
        clip: Callable[[], Clipping | None] = lambda: None,
        skip: bool = True,
        rollback: bool | int = True,
        dry_run: bool = False,
        helpers: Collection[Any] = (),
    ) -> None:
        self.acts = Acts()
        self.norm, self.dry_run = math.nan, dry_run
        self.steps = self.clipped = self.nonfinite = 0
        self.report: Callable[[], Report] = Report
        self._skip, self._rollback = skip, bool(rollback) and skip
        self._every = 0 if isinstance(rollback, bool) else rollback
        self._modules = [weakref.ref(m) for m in modules]
        self._names = {id(p): n for m in modules for n, p in m.named_parameters()}
        self._helpers = [weakref.ref(h) for h in helpers]
        self._ladder, self._level = Ladder(), LossLevel()
        self._slowdown = Slowdown()
        self._snapshots = Snapshots(self._every, self._slowdown)
        self._present: Snapshot | None = None  # what a rollback on trial has left
        self._agreement = Agreement(f"guard/{next(_GUARDS)}")
        self._statistics = RunningStatistics(modules) if skip else RunningStatistics([])
        self._halted = ""
        self._begun = False
        self._due = True  # another state may be kept, as all ranks agree
        self._stale: set[int] = set()  # optimizers that have yet to step in a round rolled back
        self.closing: list[Callable[[], Any]] = []  # called by `remove`
        self._clipping = clip
        self._guarded: list[OptimizerGuard] = []
        for optimizer in optimizers:
            self.add(optimizer)

    def add(self, optimizer: torch.optim.Optimizer) -> None:
        """Guard another optimizer of the same model; those that are gone are forgotten."""
        self._guarded = [one for one in self._guarded if one.optimizer is not None]
        modules = [m for ref in self._modules if (m := ref()) is not None]
        self._guarded.append(OptimizerGuard(optimizer, 0, self._clipping(), modules, self))
        for place, one in enumerate(self._guarded):
            one.place = place
        self._ladder.serve(len(self._guarded))
        # The kept states lack this one's part.
        self._snapshots, self._begun = Snapshots(self._every, self._slowdown), False
        self._slowdown.end()

    @property
    def clip(self) -> Clipping | None:
        """The clipping of the first optimizer; None where the guard finds its own."""
        return self._guarded[0].clip

    @property
    def chosen(self) -> str:
        """What `clip="auto"` has come to, and why; empty where the clipping is given."""
        one = self._guarded[0]
        return one.automatic.words if one.clip is None else ""

    @property
    def skipped(self) -> int:
        """How many steps were held back."""
        return sum(self.acts.count(rung) for rung in (Rung.SKIP, Rung.ROLL_BACK, Rung.UNDO))

    def remove(self) -> None:
        """Take the guard off; idempotent."""
        for one in self._guarded:
            one.remove()
        self._slowdown.undo()
        self._snapshots = Snapshots(self._every, self._slowdown)
        self._present = None
        self._agreement.close()
        while self.closing:
            self.closing.pop()()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    # -- a step ---------------------------------------------------------------------------------

    def act(self, which: OptimizerGuard, gradients: Gradients, again: bool) -> None:
        """The gradients of an optimizer's step are there."""
        if self._halted:
            raise TrainingHalted(self._halted, self.report())
        lost = bool((gradients.rows[:, NONFINITE] > 0).any())
        if again:
            return self._again(which, gradients, lost)
        self._begin()
        self.norm = gradients.norm
        if which.place in self._stale:
            self._stale.discard(which.place)
            words = "the state was rolled back in this step"
            self._tell(Rung.SKIP, words, Judgement(self.norm), gradients)
            return which.hold(gradients.parameters)
        if lost and which.refused_by_scaler():
            return self.refused(which)
        self.nonfinite += lost
        if not self._skip:
            judged = which.outliers.judge(gradients.rows, self.norm)
            if not lost:
                self._clip(which, gradients, judged)
            return
        agreed = self._agree(lost, self.norm, which.reading.loss)
        if lost == agreed.lost:
            judged = which.outliers.judge(gradients.rows, agreed.norm)
        else:  # on another rank: here nothing is learned of it either
            judged = Judgement(self.norm)
        rung, reason = self._decide(which, judged, agreed)
        leapt = not agreed.lost and which.automatic.leapt(agreed.norm, agreed.loss)
        if leapt and which.clip is None and rung is None and agreed.good == -1:
            rung, reason = Rung.ROLL_BACK, which.automatic.why
        self._do(which, gradients, judged, rung, reason)

    def _again(self, which: OptimizerGuard, gradients: Gradients, lost: bool) -> None:
        """A closure has run once more; what a line search tries it judges by itself."""
        if not lost:
            self._clip(which, gradients, Judgement(gradients.norm))
        elif self._skip and not which.searches:
            judged = which.outliers.judge(gradients.rows, gradients.norm)
            words = "the gradient is not finite any more when the closure runs again"
            self._do(which, gradients, judged, Rung.SKIP, words)

    def _agree(self, lost: bool, norm: float, loss: float | None) -> Facts:
        kept = self._snapshots
        agreed = self._agreement.on(Facts(lost, norm, loss, kept.good.step, kept.due(self.steps)))
        self._due = agreed.due
        return agreed

    def _decide(
        self, which: OptimizerGuard, judged: Judgement, agreed: Facts
    ) -> tuple[Rung | None, str]:
        limit = self._level.limit
        if not which.place and not agreed.lost:  # once a round
            self._level.hear(agreed.loss)
        high = 0 if which.place else self._level.in_a_row
        frequent = which.outliers.frequent
        seen = Seen(
            agreed.lost, judged.outlying, judged.mild, frequent, agreed.loss, limit, high
        )  # fmt: skip
        ready = agreed.good is not None
        return self._ladder.decide(which.place, seen, self.steps, ready)

    def _do(
        self,
        which: OptimizerGuard,
        gradients: Gradients,
        judged: Judgement,
        rung: Rung | None,
        reason: str,
    ) -> None:
        if rung is None or rung is Rung.CLIP:
            self._clip(which, gradients, judged, reason)
            self._slow(which)
            return
        self._tell(rung, reason, judged, gradients)
        if rung is Rung.HALT:
            if not self.dry_run:
                self._halt(reason)
            return
        if rung is Rung.ROLL_BACK:
            self._roll_back()
        elif rung is Rung.UNDO:
            self._undo()
        if not self.dry_run:
            if rung is not Rung.SKIP:  # what the others were given is of a state that is gone
                self._stale = set(range(which.place + 1, len(self._guarded)))
            which.hold(gradients.parameters)
            if rung is Rung.SKIP:
                self._statistics.put_back()

    def _clip(
        self, which: OptimizerGuard, gradients: Gradients, judged: Judgement, reason: str = ""
    ) -> None:
        if which.clip is not None:
            cut = which.clip.cut(gradients)
        else:
            words = reason or "the gradient is out of line"
            cut, why = which.automatic.cut(judged, words)
            if cut:
                self._tell(Rung.CLIP, why, judged, gradients)
        if cut and not self.dry_run:
            which.clip_step(gradients.parameters, cut)
        self.clipped += bool(cut)

    def _slow(self, which: OptimizerGuard) -> None:
        if not self.dry_run and (optimizer := which.optimizer) is not None:
            self._slowdown.apply(which.place, optimizer, self.steps)

    def _tell(self, rung: Rung, reason: str, judged: Judgement, gradients: Gradients) -> None:
        worst = judged.lost[0] if judged.lost else judged.culprit
        name, factor = None, judged.factor if judged.outlying else None
        if worst is not None:
            name = self._names.get(id(gradients.parameters[worst]), f"parameter {worst}")
            factor = judged.local.get(worst, factor)
        self.acts.add(Act(self.steps, rung, reason, name, factor))

    def passed(self, which: OptimizerGuard) -> None:
        """A step has been taken or held back."""
        self._slowdown.undo()
        if not which.held:
            self._statistics.note()
        if which.place != len(self._guarded) - 1:
            return
        self._stale.clear()
        if self._rollback and not which.held:
            calm = self._ladder.calm and not self._level.in_a_row
            self._snapshots.passed(self._subjects, self.steps, calm, self._due)
            if calm:
                self._present = None
        self.steps += 1

    def refused(self, which: OptimizerGuard) -> None:
        """GradScaler did not let the optimizer step. As a rule that is its way to find a scale."""
        self.nonfinite += 1
        if not self._skip:
            return
        loss, scale = which.reading.loss, which.reading.scale
        bare = scale is not None and scale <= 1.0
        lost = bare or (loss is not None and not math.isfinite(loss))
        agreed = self._agree(lost, 0.0, loss)
        if not agreed.lost:
            return
        seen, ready = Seen(lost=True, loss=loss), agreed.good is not None
        rung, reason = self._ladder.decide(which.place, seen, self.steps, ready)
        self._statistics.put_back()
        if rung in (Rung.ROLL_BACK, Rung.HALT):
            optimizer: Any = which.optimizer
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            none = Gradients(which.no_rows(len(parameters)), parameters)
            self._do(which, none, Judgement(math.nan), rung, reason)

    # -- the state of the run -------------------------------------------------------------------

    def _subjects(self) -> Subjects:
        modules = [m for ref in self._modules if (m := ref()) is not None]
        optimizers = [o for one in self._guarded if (o := one.optimizer) is not None]
        return Subjects(optimizers, modules, [h for ref in self._helpers if (h := ref())])

    def _begin(self) -> None:
        if self._begun or not self._rollback:
            return
        self._begun = True
        subjects = self._subjects()
        known = [*subjects.helpers, *helpers_of(subjects.optimizers)]
        self._helpers = [weakref.ref(h) for h in {id(h): h for h in known}.values()]
        if self._snapshots.good.step is None:  # else it was loaded
            self._snapshots.begin(self._subjects())

    def _roll_back(self) -> None:
        subjects = self._subjects()
        self._level.in_a_row = 0
        if self.dry_run:
            return
        self._present = self._snapshots.keep(subjects)
        self._snapshots.restore(subjects)
        self._statistics.note()
        if self._ladder.rollbacks:  # else it was not the ladder that asked for it
            self._slowdown.begin(self._snapshots.good.rates, self._ladder.rollbacks, self.steps)

    def _halt(self, reason: str) -> None:
        """End the training, with the last good state in place."""
        if (good := self._snapshots.good.step) is not None:
            self._snapshots.restore(self._subjects())
            when = f"after step {good:,}" if good >= 0 else "before the first step"
            reason = f"{reason}; the model is left as it was {when}"
        self._halted = reason
        raise TrainingHalted(reason, self.report())

    def _undo(self) -> None:
        self._level.accept()
        if self.dry_run or self._present is None:
            return
        self._present.restore(self._subjects())
        self._present = None
        self._statistics.note()
        self._slowdown.end()

    # -- checkpoints ----------------------------------------------------------------------------

    def state_dict(self, snapshots: bool = False) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had been interrupted.

        Plain numbers, lists and tensors, which `torch.load` takes with `weights_only`. snapshots:
        whether the state to roll back to is a part of it; without, it is the state of the run at
        the moment of loading. It is as large as the model and what its optimizers keep, and its
        tensors are the guard's own, as those of `model.state_dict()` are the model's.
        """
        state: dict[str, Any] = {
            "steps": self.steps,
            "clipped": self.clipped,
            "nonfinite": self.nonfinite,
            "halted": self._halted,
            "optimizers": [
                {
                    "outliers": one.outliers.state_dict(),
                    "clip": (one.clip or one.automatic).state_dict(),
                }
                for one in self._guarded
            ],
            "ladder": self._ladder.state_dict(),
            "level": self._level.state_dict(),
            "slowdown": self._slowdown.state_dict(),
            "acts": self.acts.state_dict(),
        }
        if snapshots:
            present = None if self._present is None else self._present.state_dict()
            state["snapshots"] = {**self._snapshots.state_dict(), "present": present}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, after the model and its optimizers have been loaded.

        Raises ValueError, and changes nothing, if it is not the state of a guard of the same
        optimizers and parameters, made with the same `clip`.
        """
        subjects = self._subjects() if self._rollback else None
        check(state, self._guarded, self._ladder, subjects)
        load_clips(self._guarded, [kept["clip"] for kept in state["optimizers"]])
        for one, kept in zip(self._guarded, state["optimizers"], strict=True):
            one.outliers.load_state_dict(kept["outliers"])
        self.steps, self.clipped = int(state["steps"]), int(state["clipped"])
        self.nonfinite, self._halted = int(state["nonfinite"]), str(state["halted"])
        self._ladder.load_state_dict(state["ladder"])
        self._level.load_state_dict(state["level"])
        self._slowdown.load_state_dict(state["slowdown"])
        self.acts.load_state_dict(state["acts"])
        self._statistics.note()  # those of the model that was loaded
        self._snapshots, self._present = Snapshots(self._every, self._slowdown), None
        self._begun = False  # schedulers and scalers are looked for anew
        if subjects is None or "snapshots" not in state:
            return self._ladder.settle()
        kept = state["snapshots"]
        self._snapshots.load_state_dict(kept)
        if kept["present"] is not None:
            self._present = Snapshot()
            self._present.load_state_dict(kept["present"])
