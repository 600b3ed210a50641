"""A training under guard, in code: `surefoot.guard(optimizer, model=model)`."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from surefoot.attach.discovery import find_roots
from surefoot.guarding.clipping import CLIPPINGS, Clipping
from surefoot.guarding.clipping.cut import Never
from surefoot.guarding.clipping.norm import Norm
from surefoot.guarding.guard import Guard
from surefoot.watching.session import Session, session_of

_GUARDS: weakref.WeakKeyDictionary[Any, weakref.ref[Guard]] = weakref.WeakKeyDictionary()


def guard(
    optimizer: torch.optim.Optimizer | Collection[torch.optim.Optimizer],
    model: nn.Module | None = None,
    *,
    clip: float | str | Clipping | None = "auto",
    skip: bool = True,
    rollback: bool | int | None = None,
    dry_run: bool = False,
    scheduler: Any = None,
    scaler: Any = None,
) -> Guard:
    """Guard the training of a model by one or several optimizers; nothing else is to be called.

    What is out of line for this run is clipped, a step that would do harm is held back, a spoilt
    state is rolled back to the last good one, and when nothing helps the training is halted by
    `surefoot.TrainingHalted`. Each rung is bounded; `acts` holds each act with its reason. Until
    the guard acts, the run is bit for bit what it would have been.

    model, scheduler, scaler: what is rolled back; searched for if None. Give all optimizers of one
    model. clip: "auto" clips what is out of line to its usual size; a number is the largest norm of
    all gradients together (Pascanu et al. 2013), as for `torch.nn.utils.clip_grad_norm_`; or the
    name of a clipping in `surefoot.guarding.clipping.CLIPPINGS`, or one made of it; None for none.
    skip: whether steps may be held back; without, there is the clipping alone, and what is not
    finite is left as it came. rollback: whether the state is kept, in twice the memory of model and
    optimizer on the host, or how often, in steps; as `skip` if None. dry_run: only note the acts.

    Raises TypeError for anything but optimizers, ValueError for a clip that is none. A second guard
    on an optimizer takes the place of the first.

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> guard = guard(optimizer, model)
    >>> model(torch.full((8, 3), float("nan"))).sum().backward()
    >>> optimizer.step()
    >>> [str(act.rung) for act in guard.acts], bool(model.weight.isfinite().all())
    (['skip'], True)
    >>> guard.remove()
    """
    optimizers, rollback = _checked(optimizer, model, clip, skip, rollback)
    trained = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    modules = [model] if model is not None else find_roots(trained) if skip else []
    made = Guard(
        optimizers, modules, clip=lambda: _clipping(clip), skip=skip, rollback=rollback,
        dry_run=dry_run, helpers=[h for h in (scheduler, scaler) if h is not None],
    )  # fmt: skip
    if skip:
        _watched(made, optimizers, model)
    for one in optimizers:
        _GUARDS[one] = weakref.ref(made)
    return made


def _checked(
    given: Any, model: Any, clip: Any, skip: bool, rollback: bool | int | None
) -> tuple[list[torch.optim.Optimizer], bool | int]:
    """The optimizers, on which no guard is any more, and whether to roll back."""
    optimizers = _optimizers(given)
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"expected model to be a torch.nn.Module, got {type(model).__name__}: "
            "call surefoot.guard(optimizer, model=model)"
        )
    trained = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    if not skip and any(_sharded(p) for p in trained):
        raise ValueError(
            "expected parameters that this process holds whole, got sharded ones (DTensor, FSDP), "
            "whose norm no process knows by itself: leave `skip` on, which watches them all"
        )
    if rollback and not skip:
        raise ValueError("expected skip=True with rollback=True: what is lost has to be held back")
    if len(optimizers) > 1 and not (clip is None or isinstance(clip, (int, float, str))):
        raise ValueError(
            f"expected the name of a clipping for {len(optimizers)} optimizers, got one object, "
            "which would mix what it learns of them: give its name, or guard each by itself"
        )
    _clipping(clip)
    for one in optimizers:
        if (before := _GUARDS.get(one)) is not None and (old := before()) is not None:
            old.remove()
    return optimizers, skip if rollback is None else rollback


def _watched(made: Guard, optimizers: list[torch.optim.Optimizer], model: nn.Module | None) -> None:
    """See to it that somebody reads the loss, and can say what is wrong if the guard must halt."""
    session = session_of(optimizers[0])
    if session is None:
        session = Session(adopt=False)
        session.start()
        for optimizer in optimizers:
            session.watch(model, optimizer)
        made.closing.append(session.stop)
        gone: Any = weakref.finalize(optimizers[0], session.stop)
        gone.atexit = False
    session.attend(made, optimizers)


def _optimizers(given: Any) -> list[torch.optim.Optimizer]:
    single = isinstance(given, torch.optim.Optimizer)
    optimizers = list(given) if isinstance(given, (list, tuple, set)) else [given]
    if not single and (not optimizers or not all(map(_optimizer, optimizers))):
        raise TypeError(
            f"expected a torch.optim.Optimizer, got {type(given).__name__}: "
            "call surefoot.guard(optimizer, model=model)"
        )
    return optimizers


def _optimizer(x: Any) -> bool:
    return isinstance(x, torch.optim.Optimizer)


def _sharded(parameter: Any) -> bool:
    """Whether a process holds a piece of it only, by FSDP in its newer or its older form."""
    return hasattr(parameter, "to_local") or getattr(parameter, "_fsdp_flattened", False)


def _clipping(clip: float | str | Clipping | None) -> Clipping | None:
    if clip is None:
        return Never()
    if clip == "auto":
        return None
    if isinstance(clip, str):
        if clip not in CLIPPINGS:
            raise ValueError(
                f"expected clip to be a number, auto or one of {', '.join(CLIPPINGS)}, got {clip!r}"
            )
        return CLIPPINGS[clip]()
    if isinstance(clip, (int, float)):
        return Norm(clip)  # which says what it expects
    return clip
