"""One training under watch: what happens at each of its steps, and what is kept of it.

The hot path is `before_step` and `after_step`. In steady state it makes one native pass over the
gradients, asks the gate, appends a row and goes; everything dearer (update ratios, block outputs,
full flows, replays) is bought from a budget of measured time.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.attach.discovery import owners
from surefoot.attach.driver import Driver
from surefoot.attach.readings import held
from surefoot.diagnosis.case import Case, Facts
from surefoot.diagnosis.gate import Gate
from surefoot.layers import build_table
from surefoot.probes.restoring import thoroughly
from surefoot.probes.safely import failed
from surefoot.signals import Axis
from surefoot.watching.alarms import described
from surefoot.watching.budget import Budget
from surefoot.watching.carried import Carried
from surefoot.watching.coherence import Coherence
from surefoot.watching.forensics import Forensics
from surefoot.watching.ledger import Ledger, Sink
from surefoot.watching.measuring import Measuring
from surefoot.watching.places import Places
from surefoot.watching.ranks import Ranks
from surefoot.watching.reruns import Again
from surefoot.watching.scaling import Scaling
from surefoot.watching.schedule import milestone
from surefoot.watching.shards import Shards
from surefoot.watching.taps import Taps
from surefoot.watching.turns import Turns
from surefoot.watching.updates import Updates

_EVERY = 8  # steps, once the run has begun, between two at which a gradient is followed


class Training:
    """A model (or several trained together) and the optimizers that train it.

    Holds no strong reference to a module, parameter or optimizer between two steps.
    """

    def __init__(
        self,
        index: int,
        models: list[nn.Module],
        trained: list[torch.Tensor],
        sink: Sink | None,
        groups: int = 1,
        forensics: bool = True,
        forms: Collection[nn.Module] = (),
    ) -> None:
        self.index = index
        self.layers, modules, tensors = build_table(models, trained)
        count = len(tensors)
        self.taps = Taps(self.layers, modules, forms)
        self._places = Places(tensors)
        counts = {Axis.GROUP: groups, Axis.PARAMETER: count, Axis.BLOCK: len(self.taps.blocks)}
        self.ledger = Ledger(index, self.layers, counts, sink)
        self._gate = Gate(count)
        self.shards = Shards.among(tensors, modules)  # None for the usual training
        self._measuring = Measuring(self._places, self.shards)
        # What is known so far; `case` hands it out as Facts.
        self.step, self.driver, self.ended = 0, Driver(), "running"
        self.carried, self.scaling, self.ranks = Carried(), Scaling(), Ranks()
        self._complete = 0  # steps in which every parameter had a gradient
        self._present = np.zeros(count, np.int64)  # and of the other steps, those of each
        self._nonfinite_loss: int | None = None
        # The step under way.
        self._turns = Turns()
        self._acted: weakref.ref[Any] | None = None
        self.piecewise = 0  # the backward in the middle of which optimizers act, 0 for none
        self._updates = Updates(count)
        self.budget = Budget()
        self.loss: float | None = None
        self.anatomy: dict[str, Any] = {}
        self.forensics = Forensics(forensics)
        self._again = Again(self.taps, self.forensics, self.ledger)
        self._coherence = Coherence(
            self.ledger, self.taps.blocks, self.budget.affordable, forensics
        )
        self.indices: Callable[[list[torch.Tensor], int], tuple[int, ...]] = lambda tensors, n: ()
        if self.taps.entry is not None:
            self.forensics.listen(self.taps.entry, 0)

    @property
    def title(self) -> str:
        """What tells it from the others of its process."""
        return f"{self.layers.model} (training {self.index + 1})"

    def known_as(self, key: str) -> None:
        """What tells it from others, to the ranks that take part in it."""
        self.ranks.key = key
        if self.shards is not None:
            self.shards.key = key

    @property
    def blind(self) -> str:
        """Why nothing is known of what goes on inside the model; empty if something is."""
        return "" if any(flow.calls for flow in self.ledger.flows) else self.taps.blind

    def owns(self, tensors: list[torch.Tensor]) -> bool:
        """Whether any of the tensors is a live parameter of this training."""
        return any(self._places.place(t) >= 0 for t in tensors)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether an optimizer of this training has taken a step with the tensor."""
        return self._places.place(tensor) in self._places.held

    def owners(self, tensors: list[torch.Tensor]) -> list[str]:
        """The modules that own the tensors now, by name: they may have been put in since."""
        return owners(self.taps.roots(), tensors)

    def lacks(self, tensors: list[torch.Tensor]) -> bool:
        """Whether any of the tensors is not in the table."""
        return any(self._places.place(t) < 0 for t in tensors)

    def live_parameters(self) -> list[torch.Tensor]:
        """The parameters that still exist, for trainings without an optimizer of torch's."""
        return self._places.live()

    def took(self, optimizer: torch.optim.Optimizer) -> None:
        """Another optimizer trains it from now on: its first steps are sampled, as the very
        first."""
        trained = [p for g in optimizer.param_groups for p in g["params"]]
        self.driver.took(optimizer, again=self._places.handed(trained))
        self.budget.optimizer_took_over(self.step)

    # -- events of the run ----------------------------------------------------------------------

    @property
    def wants_anatomy(self) -> bool:
        """Whether the loss of the step under way is to be read in full."""
        return self.taps.instrumented or milestone(self.step)

    def read_loss(self, loss: torch.Tensor, scale: float) -> None:
        """Note how a loss is made; `scale`: the factor that GradScaler put on it."""
        self.forensics.read(self.step, loss, self.taps.entry, scale)

    def before_step(
        self, optimizer: Any, groups: list[dict[str, Any]], refused: bool = False
    ) -> None:
        """Measure the gradients that the optimizer uses, or would if they were not refused."""
        self.scaling.begin(refused)
        key = id(optimizer)
        parameters = [p for g in groups for p in g["params"]]
        gradients, order = [p.grad for p in parameters], self._places.order(key, parameters)
        if self._turns.again(key, order):  # the others that share this training did not step
            self._settle()
            self._commit(late=True)
        self.carried.at_step(self.step, order)
        failed(self.taps.entry)
        inputs = self.taps.entry.inputs if self.taps.entry is not None else []
        first = not self._turns.stepped
        self._measuring.about(self.loss, self.scaling)
        sampling = self.budget.sampling(self.step) and not self.scaling.now
        sampling = self._measuring.read(optimizer, order, gradients, inputs, first, sampling)
        self._turns.take(key, order)
        self._judge(optimizer, groups, first, partial(_by_id, parameters, gradients))
        if sampling and not self.scaling.now:  # only now is it known of a fused optimizer
            with self.budget.charged():
                self._updates.sample(parameters)
                self._updates.sample_moments(optimizer, parameters, order)

    def _judge(
        self,
        optimizer: Any,
        groups: list[dict[str, Any]],
        first: bool,
        own: Callable[[], dict[int, torch.Tensor]] | None,
    ) -> None:
        """Fill the step's rows and ask the gate; own: gives id(parameter) -> gradient where it is
        needed, None where the weights have moved already."""
        self._measuring.note(groups, self.ledger.rows)
        tripped = self._gate.check(self._measuring.norms, self._measuring.bad)
        if tripped is not None and self.scaling.held_back(optimizer):
            self.ledger.rows["loss_scaling"][1] = 1
        if self.taps.instrumented:
            self._finish_flow(own() if own is not None else None)
        if tripped is not None:
            self._alarm(tripped, own() if own is not None else None)
        elif first:  # once a step
            self._notice(own is not None)

    # -- optimizers that act in the middle of backward ------------------------------------------

    def piece(self, optimizer: Any) -> None:
        """Read the gradients that an optimizer is about to use while backward goes on."""
        key = id(optimizer)
        if key in self._turns.stepped and self.piecewise != self.carried.backwards:
            self._commit(late=True)
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        gradients, order = [p.grad for p in parameters], self._places.order(key, parameters)
        first = not self._turns.stepped
        sampling = self.budget.sampling(self.step)
        sampling = self._measuring.read(optimizer, order, gradients, [], first, sampling)
        self._turns.take(key, order)
        self.piecewise, self._acted = self.carried.backwards, weakref.ref(optimizer)
        if sampling:
            with self.budget.charged():
                self._updates.sample(parameters)
                self._updates.sample_moments(optimizer, parameters, order)

    def pieced(self, sharing: Collection[int]) -> None:
        """That backward is over."""
        failed(self.taps.entry)
        inputs = self.taps.entry.inputs if self.taps.entry is not None else []
        self._measuring.read_inputs(inputs)
        self._measuring.about(self.loss, self.scaling)
        optimizer = self._acted() if self._acted is not None else None
        self._judge(optimizer, getattr(optimizer, "param_groups", []), True, None)
        self._close(sharing)

    def after_step(self, optimizer: Any, sharing: Collection[int] = ()) -> None:
        """Note what the optimizer did; sharing: ids of those that train the same model."""
        if optimizer is not self:  # without one of torch's, the update is yet to come
            self.note_updates(optimizer)
        self._close(sharing)

    def _close(self, sharing: Collection[int]) -> None:
        if self._turns.complete(sharing):
            self._settle()
            self._commit()
        elif self.taps.entry is not None:
            self.taps.entry.mark()

    def note_updates(self, optimizer: Any) -> None:
        """Measure how far the weights moved since they were sampled, if they were."""
        if not self._updates.pending:
            return
        with self.budget.charged():
            order = partial(self._places.order, id(optimizer))
            if held(optimizer):  # a guard lets nothing move: it says nothing of the rate
                self._updates.clear()
            elif self._updates.measure(order):
                self.budget.sampled(self.step)

    def _notice(self, unmoved: bool) -> None:
        """Look at the loss: has it risen, and what could it have been?"""
        asked = bool(self.anatomy) and self.anatomy.get("trivial") is None
        risen = self.forensics.notice(self.step, self.loss, self.taps.entry, self._places, asked)
        if risen and unmoved:
            self._suspect("rise", np.empty(0, np.intp))
        if self.forensics.limits.constant is not None:
            self.anatomy = {**self.anatomy, **self.forensics.limits.to_json()}

    # -- detail, bought from the time budget ----------------------------------------------------

    def _finish_flow(self, own: dict[int, torch.Tensor] | None) -> None:
        """Collect the instrumented step that has just been measured."""
        if (flow := self.taps.collect(self.step)) is None:
            return
        if self.scaling.passing:  # refused by GradScaler: the next one serves
            self.taps.instrument()
            return
        if self.taps.unseen(flow, ~np.isnan(self._measuring.norms)):
            flow = self._again.flow(self.step, own) or flow
        elif not flow.calls and self.step == 0:  # first seen in mid-step, by its backward
            self.taps.instrument()
            return
        flow.loss = self.anatomy
        self.ledger.flow(flow)

    def _alarm(self, tripped: np.ndarray, own: dict[int, torch.Tensor] | None) -> None:
        nonfinite = self._measuring.bad[tripped] > 0
        kind = "nonfinite" if nonfinite.any() else "spike"
        kind = "refused" if self.scaling.now else kind
        detail = described(tripped, self._gate, self.loss, self.ledger.rows["input"])
        same = self.ledger.alarms_of(kind)
        # A lost step is worth any price, once; a spike only what the budget holds.
        lost = kind == "nonfinite" and same == 0
        lost = lost or (self.scaling.now and self.scaling.worth_a_look(self.loss))
        if lost or (
            kind != "refused" and same < 8 and self.budget.affordable(self.budget.typical * 4)
        ):
            with self.budget.charged():
                search = kind != "spike"
                detail["replay"] = self._again.replay(self.step, own, search, self.anatomy)
        self.ledger.alarm(self.step, kind, detail)
        self.ranks.alarmed(kind, same + 1)
        if not self.scaling.now and own is not None:
            self._suspect(kind, tripped)

    def _suspect(self, why: str, tripped: np.ndarray) -> None:
        """Have the step tried again when it has been taken."""
        levels = zip(tripped.tolist(), self._gate.usual(tripped).tolist(), strict=True)
        usual = {id(t): level for i, level in levels if (t := self._places.refs[i]()) is not None}
        self.forensics.suspect(why, self.step, self.loss, self.taps.entry, self._places, usual)

    def _settle(self) -> None:
        if self.taps.entry is None or not self.forensics.pending:
            return
        found = self.forensics.settle(
            self.taps.entry, self.taps.modules(), self._places, self.budget.typical, self.indices
        )
        if found is not None:
            self.ledger.inquiry(found)

    # -- the end of a step ----------------------------------------------------------------------

    def _commit(self, late: bool = False) -> None:
        """Close the step: one row into memory and one into the record, then get ready."""
        self._turns.end()
        loss = self._measuring.now.loss
        if loss is not None and not math.isfinite(loss) and self._nonfinite_loss is None:
            self._nonfinite_loss, self.ledger.lost = self.step, self.anatomy
        if self._gate.calm:
            self._complete += 1
        else:
            self._present += ~np.isnan(self._measuring.norms)
        if self.shards is not None:
            self.shards.close(self.step, self._updates, self._present, self.ledger)
        if (sampled := self.taps.sampled()) is not None:
            self.budget.spent += sampled[0]
            self.ledger.put(self.step, "block_scale", sampled[1])
        self._updates.put(self.ledger, self.step)
        self.ledger.commit(self.step)
        if self.ranks.busy:
            self.ranks.exchange(self.step, self.case, self.ledger)
        if self.taps.entry is not None:
            typical = self.budget.typical
            self.budget.spent += self._coherence.look(self.step, loss, self.taps.entry, typical)
            self.taps.entry.clear(marked=late)
            self.forensics.listen(self.taps.entry, self.step + 1)
        self._prepare_next(late)

    def _prepare_next(self, late: bool) -> None:
        # The backward of the next step is over if this one is late: it cannot be told any more. Nor
        # can it where gradients are zeroed in the middle of backward.
        late, self.piecewise = late or bool(self.piecewise), 0
        if not late and not self.carried.following and (self.step < 64 or self.step % _EVERY == 0):
            self.carried.follow_one(self._measuring.norms, self._places.refs)
        self.budget.step_ended()
        if self.anatomy and milestone(self.step):
            self.ledger.losses.append(self.anatomy)
        self.step += 1
        self.anatomy = {}
        power = self.step >= 4 and (self.step & (self.step - 1)) == 0
        typical = self.budget.typical
        if power and self.step.bit_length() % 2 and self.budget.affordable(typical):
            self.budget.spent += typical  # an instrumented step costs about one step more
            self.taps.instrument()
        elif self.budget.sampling(self.step):
            self.taps.sample()

    def stop(self, ended: str = "ended") -> None:
        """Close an open step and remove every hook; idempotent."""
        try:
            if self._turns.stepped:
                self._commit()
            if ended != "unwatched":
                self.ranks.finish(self.ledger)
            if self.shards is not None:
                self.shards.leave(aside=ended == "unwatched")
        finally:
            if self.ended == "running":
                self.ended = ended
            thoroughly([self.taps.remove, self.forensics.stop, self._updates.clear])

    def case(self) -> Case:
        """What the rules may look at, as of now."""
        facts = Facts(
            steps=self.step,
            backwards=self.carried.backwards,
            followed=self.carried.followed,
            carried=self.carried.steps,
            first_carried=self.carried.first,
            since=self.carried.since,
            present=tuple((self._present + self._complete).tolist()),
            trained=frozenset(self._places.held),
            unfed=self._places.unfed(self._present + self._complete),
            nonfinite_loss=self._nonfinite_loss,
            ended=self.ended,
            **self.driver.facts(),
        )
        return self.ledger.case(facts)


def _by_id(
    parameters: list[torch.Tensor], gradients: list[torch.Tensor | None]
) -> dict[int, torch.Tensor]:
    return {id(p): g for p, g in zip(parameters, gradients, strict=True) if g is not None}
