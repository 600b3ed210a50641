"""The ill training of an entry under surefoot's eyes, and the paired trials of what cures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from surefoot.build import Build, from_parts
from surefoot.checking import examine
from surefoot.findings import Remedy
from surefoot.lab.stack import Make
from surefoot.probes.random_state import undisturbed
from surefoot.record.data import RunData
from surefoot.trial.effect import effect
from surefoot.trial.proof import Outcome, Proof
from surefoot.trial.prove import prove
from surefoot.watching.session import Session

_AGES = 1e4  # seconds: the number of steps decides when a trial ends, and never the clock


def watched(make: Make, steps: int) -> RunData:
    """Train what `make` builds, and return what surefoot has seen and said of it."""
    with undisturbed():
        build = from_parts(make())
        optimizer = build.optimizer
        assert optimizer is not None
        session = Session(folder=None, adopt=False, forensics=True)
        session.start()
        try:
            session.watch(build.model, optimizer)
            for batch, _ in zip(build.batches(), range(steps), strict=False):
                optimizer.zero_grad()
                build.on(batch).loss().backward()
                optimizer.step()
        finally:
            session.stop()
    data = session.data()
    assert data is not None
    return data


def checked(make: Make) -> RunData:
    """What `surefoot.check` says of what `make` builds, before it is trained."""
    with undisturbed():
        return examine(from_parts(make()))[1]


def typical(values: Sequence[float]) -> float:
    """The median of the last tenth of the losses, infinite where that is not finite."""
    tail = sorted(values[-max(5, len(values) // 10) :], key=lambda x: (math.isnan(x), x))
    middle = tail[len(tail) // 2]
    return middle if math.isfinite(middle) else math.inf


def tried(
    make: Make,
    remedies: str | Sequence[str | Remedy] = "prescribed",
    *,
    steps: int,
    seeds: int = 3,
) -> Proof:
    """`surefoot.prove` on it."""
    return prove(make, remedies, steps=steps, seeds=seeds, budget=_AGES)


def outcome(proof: Proof, remedy: str) -> Outcome | None:
    """What became of a remedy, None where it was not tried."""
    found = [t.outcome for t in proof.trials if t.remedy.remedy == remedy]
    return found[0] if found else None


def paired(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> str:
    """The effect of a change over pairs of trainings, from their losses, in a clause."""
    first = [course[0] for course in before]
    found = effect([typical(c) for c in before], [typical(c) for c in after], first)
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" (x{found.value:.2g}, 95 % {found.low:.2g} to {found.high:.2g})"
    return f"loss from {found.before:.3g} to {found.after:.3g}{interval}, {found.pairs} pairs"


def best(makes: Iterable[Make], steps: int) -> list[float]:
    """Of several trainings, unwatched, the losses of the one that ends lowest."""
    return min((trained(*make(), steps=steps) for make in makes), key=typical)


def trained(
    model: nn.Module,
    batches: Any,
    loss_fn: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    steps: int,
    clip: float | None = None,
) -> list[float]:
    """The losses of a plain training, unwatched; it ends where one is not finite."""
    build = Build(model, None, loss_fn, optimizer, batches)
    seen: list[float] = []
    for (x, y), _ in zip(build.batches(), range(steps), strict=False):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        seen.append(float(loss.detach()))
        if not math.isfinite(seen[-1]):
            break
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return seen
