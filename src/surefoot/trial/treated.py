"""Remedies applied to a training that runs by itself, before its first forward pass.

The training is not asked for its model: as under a watch, the model is found when an optimizer is
made, and treated when it is first called, with what it is called with at hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from surefoot.attach.discovery import find_roots, leaf_parameters
from surefoot.attach.loaders import Drawn
from surefoot.attach.patches import Patches
from surefoot.findings import Remedy
from surefoot.remedies import FirstCall, NotApplicable, Subject, treatment
from surefoot.remedies.conflicts import conflicts
from surefoot.watching.session import Session


class Enough(SystemExit):
    """The training has made as many steps as it was given; a script ends by it without a word."""

    def __init__(self) -> None:
        super().__init__(0)


class Treated:
    """Remedies on whatever is trained between `start` and `stop`.

    steps, seconds: after which the training is ended by Enough, None for never. applied: names of
    what was applied; refused: name -> why it could not be; first: time.perf_counter() when the
    first step had been made. session: the watch around it, which is told of what has changed;
    enough: called before Enough, with how many times the training has been told.

    >>> net = nn.Linear(2, 1)
    >>> with Treated([Remedy("init.kaiming_normal", None, "")]) as treated:
    ...     optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ...     _ = net(torch.ones(1, 2))
    >>> treated.applied
    ['init.kaiming_normal']
    """

    def __init__(
        self,
        remedies: Sequence[Remedy],
        steps: int | None = None,
        seconds: float | None = None,
        session: Session | None = None,
        enough: Callable[[int], Any] = lambda times: None,
    ) -> None:
        self.applied: list[str] = []
        self.refused: dict[str, str] = {}
        self.taken = 0  # optimizer steps, those of an outer optimizer around an inner one once
        self.drawn = Drawn()
        self.loss: Callable[[int], torch.Tensor] | None = None  # of the k-th batch, where known
        self.first: float | None = None
        self._remedies, self._limit, self._session = list(remedies), steps, session
        self._trying = False
        self._enough, self._told = enough, 0
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._patches = Patches(self)
        self._subject: Subject | None = None
        self._optimizers: list[torch.optim.Optimizer] = []
        self._waiting: list[tuple[nn.Module, type]] = []  # for the first call, and their classes
        self._own: dict[int, int] = {}  # steps by optimizer
        self._heard = False  # the first loss

    def start(self) -> Treated:
        """Begin to listen."""
        self._patches.install()
        return self

    def stop(self) -> None:
        """Hear nothing more. What was applied stays: the training may still be measured."""
        self._patches.remove()
        self._give_up()

    @property
    def models(self) -> list[nn.Module]:
        """What was treated, or would have been; empty before the first call."""
        return self._subject.models if self._subject is not None else []

    def __enter__(self) -> Treated:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def undo(self) -> None:
        """Take back what was applied."""
        if self._subject is not None:
            self._subject.undo()

    # -- the treatment --------------------------------------------------------------------------

    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None:
        """Wait for the first call of the model that it trains, or of a part of it."""
        if self._trying:
            return
        self._optimizers.append(optimizer)
        if self._subject is not None:
            self._subject.take(optimizer)
            return
        self._give_up()
        for root in find_roots(p for g in optimizer.param_groups for p in g["params"]):
            for module in root.modules():
                self._await(module)

    def _await(self, module: nn.Module) -> None:
        """Hear of the first call from outside of it: every hook must find the treated model."""
        kind: Any = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            return

        def __call__(called: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # not to be traced: then the loss tells of it
                return kind.__call__(called, *args, **kwargs)
            if self._subject is None and torch.is_grad_enabled():
                self._treat(FirstCall(called, args, kwargs), [])
                return called(*args, **kwargs)
            return kind.__call__(called, *args, **kwargs)

        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        module.__class__ = type(kind.__name__, (kind,), {"__call__": __call__, **names})
        self._waiting.append((module, kind))

    def before_backward(self, losses: list[torch.Tensor]) -> None:
        """A model that no optimizer was made for has been called: it is found by its loss."""
        if self._heard or not self._optimizers:
            return
        self._heard = True
        leaves = [p for t in losses if t.grad_fn is not None for p in leaf_parameters(t)]
        if self._subject is None:
            self._treat(None, find_roots(leaves))
        assert self._subject is not None
        if self._subject.loss_seen([p for p in leaves if isinstance(p, nn.Parameter)]):
            self._retell(self._subject)

    def _treat(self, call: FirstCall | None, roots: list[nn.Module]) -> None:
        self._give_up()
        trained = [p for o in self._optimizers for g in o.param_groups for p in g["params"]]
        models = roots or find_roots(trained)
        subject = self._subject = Subject(models, self._optimizers[:], call, guarded)
        subject.live, subject.loss = True, self.loss
        clashes = {c.second: str(c) for c in conflicts(r.remedy for r in self._remedies)}
        with self._deaf():
            for remedy in self._remedies:
                if remedy.remedy in clashes:
                    self.refused[remedy.remedy] = clashes[remedy.remedy]
                else:
                    self._apply(remedy, subject)
        self._retell(subject)

    def _apply(self, remedy: Remedy, subject: Subject) -> None:
        try:
            treatment(remedy).apply(subject)
            self.applied.append(remedy.remedy)
        except NotApplicable as reason:
            self.refused[remedy.remedy] = str(reason)
        except Exception as error:  # a refusal like any other: the trial is lost, not the run
            self.refused[remedy.remedy] = f"{type(error).__name__}: {error}"

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """What a remedy tries out with optimizers of its own is not the training's."""
        self._trying = True
        if self._session is not None:
            self._session.adopting(False)
        try:
            yield
        finally:
            self._trying = False
            if self._session is not None:
                self._session.adopting(True)

    def _retell(self, subject: Subject) -> None:
        """A model that was changed is watched as it is now."""
        for optimizer in subject.optimizers:
            if self._session is not None:
                self._session.watch(None, optimizer)

    def _give_up(self) -> None:
        while self._waiting:
            module, kind = self._waiting.pop()
            module.__class__ = kind

    # -- what else a listener hears -------------------------------------------------------------

    def after_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Count the steps, and end the training when it has made enough."""
        if self._trying:
            return
        own = self._own[id(optimizer)] = self._own.get(id(optimizer), 0) + 1
        self.taken = max(self.taken, own)
        self.first = self.first or time.perf_counter()
        enough = self._limit is not None and self.taken >= self._limit
        if enough or time.monotonic() > self._until:
            self._told += 1
            self._enough(self._told)
            raise Enough

    def failed(self, error: BaseException) -> None:
        """A failure of surefoot's own: nothing was applied that can be judged."""
        self.refused |= {r.remedy: f"{type(error).__name__}: {error}" for r in self._remedies}
        self.applied.clear()

    def compiled(self, module: nn.Module, form: nn.Module) -> None:
        """The first call from outside will be that of the form."""
        if self._subject is None and form is not module and self._waiting:
            self._await(form)

    def after_backward(self) -> None: ...
    def before_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None: ...
    def closure_ran(self, optimizer: torch.optim.Optimizer) -> None: ...
    def closure_begun(self) -> None: ...
    def closure_raised(self) -> None: ...
    def loss_scaled(self, scaled: Any, scale: float) -> None: ...
    def step_refused(self, optimizer: torch.optim.Optimizer) -> None: ...


def guarded(
    optimizers: list[torch.optim.Optimizer], model: nn.Module | None, **options: Any
) -> Callable[[], Any]:
    """Guard optimizers as `surefoot.guard` does; how to take it off again."""
    from surefoot.watching.guarded import guard

    return guard(optimizers, model, **options).remove
