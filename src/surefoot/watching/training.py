"""One training under watch: what happens at each of its steps, and what is kept of it.

The hot path is `before_step` and `after_step`. In steady state it makes one native pass over the
gradients, asks the gate, appends a row and goes; everything dearer (update ratios, block outputs,
full flows, replays) is bought from a budget of measured time.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.diagnosis.case import Case, Facts
from surefoot.diagnosis.gate import Gate
from surefoot.kernels import NONFINITE, NORM, make_pass
from surefoot.layers import build_table
from surefoot.probes.blocks import BlockTap, choose_blocks
from surefoot.probes.flow import FlowProbe
from surefoot.probes.replay import EntryTap, Replay, replay
from surefoot.probes.safely import raise_failure
from surefoot.signals import QUANTITIES, Axis, Step
from surefoot.signals.updates import Weights, sample_weights, update_ratios
from surefoot.watching.carried import Carried
from surefoot.watching.ledger import Ledger, Sink

_ALLOWANCE = 0.05  # seconds of detail that any run may have
_SHARE = 0.002  # and the share of the elapsed time on top of it
_INPUTS = 8  # tensors that enter the model whose scale is read at every step
_EVERY = 8  # steps between two samples once the run has begun
_MEASURES = [(q.name, q.measure) for q in QUANTITIES.values() if q.measure is not None]


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
    ) -> None:
        self.index = index
        self.layers, modules, tensors = build_table(models, trained)
        count = len(tensors)
        self._modules = [weakref.ref(m) for m in modules]
        self._tensors = [weakref.ref(t) for t in tensors]
        self._where = {id(t): i for i, t in enumerate(tensors)}
        # For each optimizer where its parameters stand, and what tells when they have changed.
        self._orders: dict[int, tuple[np.ndarray, tuple[int, ...]]] = {}
        self._trained: set[int] = set()
        self._blocks = choose_blocks(self.layers)
        counts = {Axis.GROUP: groups, Axis.PARAMETER: count, Axis.BLOCK: len(self._blocks)}
        self.ledger = Ledger(index, self.layers, counts, sink)
        self._gate = Gate(count)
        self._allocate(count)
        # What is known so far; `case` hands it out as Facts.
        self.step = 0
        self.optimizer = ""
        self.ended = "running"
        self.carried = Carried()
        self._complete = 0  # steps in which every parameter had a gradient
        self._present = np.zeros(count, np.int64)  # and of the other steps, those of each
        self._nonfinite_loss: int | None = None
        # The step under way.
        self._stepped: set[int] = set()
        self._probe: FlowProbe | None = None
        self._block_tap: BlockTap | None = None
        self._weights: Weights | None = None
        self._sampled: list[weakref.ref[torch.Tensor]] = []
        self._began = self._last = time.perf_counter()
        self._spent = 0.0
        self._typical = 0.0
        self._last_sample = -_EVERY
        self._followed = 0
        self.loss: float | None = None
        self.anatomy: dict[str, Any] = {}
        # Until the first step has shown which modules the script calls, they are the outermost.
        self._roots = [i for i, layer in enumerate(self.layers.layers) if layer.parent is None]
        self._tap: EntryTap | None = (
            EntryTap([modules[i] for i in self._roots[:8]]) if modules else None
        )
        self._arm_flow()

    @property
    def title(self) -> str:
        """What tells it from the others of its process."""
        return f"{self.layers.model} (training {self.index + 1})"

    # -- set-up ---------------------------------------------------------------------------------

    def _allocate(self, count: int) -> None:
        """The buffers of the hot path, made once."""
        self._pass = make_pass(count + _INPUTS)
        self._out = np.empty((count + _INPUTS, 5))
        # One row more than parameters: an optimizer's tensors that are not in the table end there.
        self._row = np.full((count + 1, 5), np.nan)
        self._norms, self._bad = self._row[:-1, NORM], self._row[:-1, NONFINITE]
        self._now = Step(self._row[:-1], self._out[:0])
        self._all = np.arange(count, dtype=np.intp)

    def owns(self, tensors: list[torch.Tensor]) -> bool:
        """Whether any of the tensors is a live parameter of this training."""
        return any(self._place(t) >= 0 for t in tensors)

    def lacks(self, tensors: list[torch.Tensor]) -> bool:
        """Whether any of the tensors is not in the table."""
        return any(self._place(t) < 0 for t in tensors)

    def _place(self, tensor: torch.Tensor) -> int:
        """Where a parameter stands in the table, -1 for a foreign one (ids are used again)."""
        i = self._where.get(id(tensor), -1)
        return i if i >= 0 and self._tensors[i]() is tensor else -1

    def live_parameters(self) -> list[torch.Tensor]:
        """The parameters that still exist, for trainings without an optimizer of torch's."""
        return [t for ref in self._tensors if (t := ref()) is not None]

    def _live_modules(self) -> list[nn.Module] | None:
        modules = [ref() for ref in self._modules]
        return None if any(m is None for m in modules) else modules  # type: ignore[return-value]

    def _arm_flow(self) -> None:
        modules = self._live_modules()
        if modules is not None and len(modules) <= 20_000:
            self._probe = FlowProbe(self.layers, modules)
            self._probe.install()

    # -- events of the run ----------------------------------------------------------------------

    @property
    def wants_anatomy(self) -> bool:
        """Whether the loss of the step under way is to be read in full."""
        return self._probe is not None or _milestone(self.step)

    def before_step(self, optimizer: Any, groups: list[dict[str, Any]]) -> None:
        """Measure the gradients that the optimizer is about to use."""
        key = id(optimizer)
        if key in self._stepped:  # the others that share this training did not step
            self._commit(late=True)
        self.carried.at_step(self.step)
        parameters = [p for g in groups for p in g["params"]]
        gradients = [p.grad for p in parameters]
        self._measure(self._order(key, parameters), gradients, optimizer, groups)
        self._stepped.add(key)
        tripped = self._gate.check(self._norms, self._bad)
        if self._probe is not None:
            self._finish_flow()
        if tripped is not None:
            self._alarm(tripped, parameters, gradients)
        if self._sampling():
            begin = time.perf_counter()
            self._sampled = [weakref.ref(p) for p in parameters]
            self._weights = sample_weights(parameters)
            self._spent += time.perf_counter() - begin

    def _measure(
        self, order: np.ndarray, gradients: list[Any], optimizer: Any, groups: list[dict[str, Any]]
    ) -> None:
        """One pass over the gradients and the inputs, then the row of every quantity."""
        raise_failure(self._tap)
        inputs = self._tap.inputs[:_INPUTS] if self._tap is not None else []
        count, size = len(gradients), len(gradients) + len(inputs)
        if size > len(self._out):  # a group was added: what it trains is not in the table
            self._out = np.empty((size, 5))
        out = self._out[:size]
        self._pass(gradients + inputs, out)
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer under GradScaler sees scaled gradients
            out[:count, :3] /= float(scale)
        if order is self._all:  # the usual optimizer holds the parameters in the table's order
            self._row[:-1] = out[:count]
        else:
            if not self._stepped:
                self._row.fill(np.nan)
            self._row[order] = out[:count]
        now = self._now
        now.inputs, now.elements = out[count:], sum(t.numel() for t in inputs)
        now.loss, now.groups = self.loss, groups
        for name, measure in _MEASURES:
            measure(now, self.ledger.rows[name])
        now.groups = []  # nothing of the run's is kept between two steps

    def after_step(self, optimizer: Any, sharing: int = 1) -> None:
        """Note what the optimizer did; `sharing`: how many optimizers share this training."""
        if optimizer is not self:  # without one of torch's, the update is yet to come
            self.note_updates(optimizer)
        if len(self._stepped) >= sharing:
            self._commit()
        elif self._tap is not None:
            self._tap.mark()

    def note_updates(self, optimizer: Any) -> None:
        """Measure how far the weights moved since they were sampled, if they were."""
        before, self._weights = self._weights, None
        parameters = [p for ref in self._sampled if (p := ref()) is not None]
        if before is None or len(parameters) != len(before.sizes):
            return
        begin = time.perf_counter()
        row = np.full(len(self._tensors) + 1, np.nan)
        ratios = np.empty(len(parameters))
        update_ratios(before, parameters, ratios)
        row[self._order(id(optimizer), parameters)] = ratios
        self.ledger.put(self.step, "update_ratio", row[:-1])
        self._last_sample = self.step
        self._spent += time.perf_counter() - begin

    def _order(self, key: int, parameters: list[torch.Tensor]) -> np.ndarray:
        """For each of an optimizer's parameters its place in the table, -1 for a foreign one."""
        places, known = self._orders.get(key, (self._all, None))
        ends = (id(parameters[0]), id(parameters[-1]), len(parameters)) if parameters else ()
        if known != ends:
            places = np.array([self._place(p) for p in parameters], np.intp)
            self._trained.update(i for i in places.tolist() if i >= 0)
            if np.array_equal(places, self._all):
                places = self._all
            self._orders[key] = places, ends
        return places

    # -- detail, bought from the time budget ----------------------------------------------------

    def _affordable(self, cost: float) -> bool:
        elapsed = time.perf_counter() - self._began
        return self._spent + cost <= _ALLOWANCE + _SHARE * elapsed

    def _sampling(self) -> bool:
        if self.step < 4 or _milestone(self.step):
            return True  # a dozen samples that every verdict can count on
        return self.step - self._last_sample >= _EVERY and self._affordable(0.0)

    def _finish_flow(self) -> None:
        """Collect the instrumented step that has just been measured."""
        if self._probe is None:
            return
        probe, self._probe = self._probe, None
        probe.remove()
        flow = probe.collect(self.step)
        raise_failure(probe)
        if not flow.calls and self.step == 0:  # first seen in mid-step, by its backward
            self._arm_flow()
            return
        flow.loss = self.anatomy
        self.ledger.flow(flow)
        if probe.entries and self._block_tap is None:
            self._tap_entries(probe.entries[:8])

    def _tap_entries(self, entries: list[int]) -> None:
        """Listen where the script really calls the model, now that a step has shown it."""
        modules = self._live_modules()
        if modules is None:
            return
        self._block_tap = BlockTap([modules[i] for i in self._blocks])
        if self._tap is None or entries != self._roots:
            if self._tap is not None:
                self._tap.remove()
            self._tap = EntryTap([modules[i] for i in entries])

    def _alarm(
        self, tripped: np.ndarray, parameters: list[torch.Tensor], gradients: list[Any]
    ) -> None:
        z, factor = self._gate.scores(tripped)
        nonfinite = self._row[tripped, NONFINITE] > 0
        kind = "nonfinite" if nonfinite.any() else "spike"
        detail: dict[str, Any] = {
            "count": len(tripped),
            "parameters": tripped[:256].tolist(),
            "z": float(np.nanmax(z, initial=0.0)),
            "factor": float(np.nanmax(factor, initial=1.0)),
            "loss": self.loss,
            "input": self.ledger.rows["input"].tolist(),
        }
        same = self.ledger.alarms_of(kind)
        # A lost step is worth any price, once; a spike only what the budget holds.
        lost = kind == "nonfinite" and same == 0
        if lost or (same < 8 and self._affordable(self._typical * 4)):
            begin = time.perf_counter()
            search = kind == "nonfinite"
            detail["replay"] = self._replay(parameters, gradients, search)
            self._spent += time.perf_counter() - begin
        self.ledger.alarm(self.step, kind, detail)

    def _replay(self, parameters: list[torch.Tensor], gradients: list[Any], search: bool) -> str:
        """Replay the step; returns what came of it in words."""
        modules = self._live_modules()
        if self._tap is None or modules is None:
            return "the step was instrumented as it ran" if self._probe else "no entry module seen"
        if self._tap.overflowed:
            return "more model calls in one step than are kept"
        own = {id(p): g for p, g in zip(parameters, gradients, strict=True) if g is not None}
        self._tap.paused = True
        try:
            result = replay(self.step, self._tap.entries, self.layers, modules, own, search)
        except Exception as error:  # the user's forward may refuse to run again
            words = (str(error).splitlines() or [""])[0]
            return f"refused: {type(error).__name__}: {words[:120]}"
        finally:
            self._tap.paused = False
        if isinstance(result, Replay):
            result.flow.loss = dict(self.anatomy)
            self.ledger.flow(result.flow)
            return "exact" if result.exact else "not bit-identical"
        return result

    # -- the end of a step ----------------------------------------------------------------------

    def _commit(self, late: bool = False) -> None:
        """Close the step: one row into memory and one into the record, then get ready."""
        self._stepped.clear()
        loss = self._now.loss
        lost = loss is not None and not math.isfinite(loss)
        if lost and self._nonfinite_loss is None:
            self._nonfinite_loss, self.ledger.lost = self.step, self.anatomy
        if self._gate.calm:
            self._complete += 1
        else:
            self._present += ~np.isnan(self._norms)
        if self._block_tap is not None and self._block_tap.installed:
            self._block_tap.remove()
            raise_failure(self._block_tap)
            self._spent += self._block_tap.seconds
            self.ledger.put(self.step, "block_scale", self._block_tap.out.reshape(-1))
        self.ledger.commit(self.step)
        if self._tap is not None:
            self._tap.clear(marked=late)
        self._prepare_next()

    def _prepare_next(self) -> None:
        if self.step < 64 or self.step % _EVERY == 0:
            self._follow_gradient()
        now = time.perf_counter()
        took = now - self._last
        self._typical = took if not self._typical else 0.9 * self._typical + 0.1 * took
        self._last = now
        if self.anatomy and _milestone(self.step):
            self.ledger.losses.append(self.anatomy)
        self.step += 1
        self.anatomy = {}
        power = self.step >= 4 and (self.step & (self.step - 1)) == 0
        if power and self.step.bit_length() % 2 and self._affordable(self._typical):
            self._spent += self._typical  # an instrumented step costs about one step more
            self._arm_flow()
        elif self._block_tap is not None and self._sampling():
            self._block_tap.install()

    def _follow_gradient(self) -> None:
        """Follow one gradient that is not zero, which backward finds again unless it is zeroed."""
        norms = self._norms
        if len(norms) and not norms[self._followed] > 0:
            self._followed = int(np.argmax(np.where(norms == norms, norms, -1.0)))
        if len(norms) and norms[self._followed] > 0:
            self.carried.follow(self._tensors[self._followed])

    def stop(self, ended: str = "ended") -> None:
        """Close an open step and remove every hook; idempotent."""
        try:
            if self._stepped:
                self._commit()
        finally:
            if self.ended == "running":
                self.ended = ended
            for part in (self._probe, self._tap, self._block_tap):
                if part is not None:
                    part.remove()
            self._probe = self._tap = self._block_tap = None
            self._weights, self._sampled = None, []

    def case(self) -> Case:
        """What the rules may look at, as of now."""
        facts = Facts(
            steps=self.step,
            backwards=self.carried.backwards,
            followed=self.carried.followed,
            carried=self.carried.steps,
            first_carried=self.carried.first,
            present=tuple((self._present + self._complete).tolist()),
            trained=frozenset(self._trained),
            optimizer=self.optimizer,
            nonfinite_loss=self._nonfinite_loss,
            ended=self.ended,
        )
        return self.ledger.case(facts)


def _milestone(step: int) -> bool:
    """0, 1, 2, 4 ... 1024: the steps at which every run is looked at, whatever its budget."""
    return step <= 1024 and step & (step - 1) == 0
