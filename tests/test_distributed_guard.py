"""Guards under DistributedDataParallel: all decide alike, none waits for one without a guard."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import surefoot
from sharded_fixture import Ranks, local, reader
from surefoot.attach import exchange
from surefoot.guarding import snapshots
from surefoot.guarding.acts import Rung

STEPS, RATE = 60, 0.05
SKIP, BACK = Rung.SKIP, Rung.ROLL_BACK
Fault = Callable[[int, int, torch.Tensor, nn.Module], torch.Tensor]
Late = Callable[[int, int, nn.Module], None]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=3e-3, fused=True),
}


def fine(rank: int, step: int, x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """A batch as it is."""
    return x


def nothing(rank: int, step: int, model: nn.Module) -> None:
    """Between backward and step."""


def lost_at(*steps: int) -> Fault:
    def fault(rank: int, step: int, x: torch.Tensor, model: nn.Module) -> torch.Tensor:
        return x * math.nan if rank == 1 and step in steps else x

    return fault


def weight_at(at: int, value: float) -> Fault:
    """A weight of rank 1 alone becomes something else."""

    def fault(rank: int, step: int, x: torch.Tensor, model: nn.Module) -> torch.Tensor:
        if (rank, step) == (1, at):
            with torch.no_grad():
                *_, head = (p for p in model.parameters() if p.dim() == 2 and len(p) > 1)
                getattr(head, "_local_tensor", head)[0, 0] = value
        return x

    return fault


def gradient_at(at: int, factor: float) -> Late:
    """A gradient of rank 1 alone, when all have agreed on it."""

    def late(rank: int, step: int, model: nn.Module) -> None:
        if (rank, step) == (1, at):
            next(model.parameters()).grad.mul_(factor)

    return late


def leap_at(*steps: int, factor: float = 1e4) -> Late:
    """All gradients of all ranks."""

    def late(rank: int, step: int, model: nn.Module) -> None:
        if step in steps:
            for p in model.parameters():
                p.grad.mul_(factor)

    return late


class Trained:
    """A training of some steps: what is left of it, and what its guard did."""

    def __init__(
        self,
        rank: int,
        *,
        guarded: bool = True,
        steps: int = STEPS,
        without: tuple[int, ...] = (),
        fault: Fault = fine,
        late: Late = nothing,
        optimizer: str = "sgd",
        scaler: torch.amp.GradScaler | None = None,
        removed: int | None = None,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        parts = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
        self.model = DistributedDataParallel(nn.Sequential(*parts))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        guard = surefoot.guard(self.optimizer, self.model, **options) if guarded else None
        self.losses: list[float] = []
        self.halted: int | None = None
        begin = time.monotonic()
        for step in range(steps):
            if step in without:
                continue
            if step == removed and guard is not None:
                guard.remove()
            self.optimizer.zero_grad()
            x, y = batch(rank, step)
            x = fault(rank, step, x, self.model)
            loss = nn.functional.cross_entropy(self.model(x), y)
            (loss if scaler is None else scaler.scale(loss)).backward()
            late(rank, step, self.model)
            self.losses.append(loss.item())
            try:
                self._step(scaler)
            except surefoot.TrainingHalted:
                self.halted = step
                break
        self.took = time.monotonic() - begin
        self.acts = [] if guard is None else [(a.step, a.rung) for a in guard.acts]
        self.level: Any = None if guard is None else guard.state_dict()["optimizers"][0]["outliers"]
        self.left = left(self.model, self.optimizer)
        if guard is not None:
            guard.remove()

    def _step(self, scaler: torch.amp.GradScaler | None) -> None:
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def __reduce__(self) -> Any:
        """What goes home is plain."""
        kept = {k: v for k, v in vars(self).items() if k not in ("model", "optimizer")}
        return object.__new__, (Trained,), kept


def batch(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.randn(6, 3, generator=torch.Generator().manual_seed(7))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1000 * rank + step))
    return x, (x @ truth).argmax(1)


def left(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters and moments, of this rank's pieces; running statistics are each rank's own."""
    kept = list(model.parameters())
    kept += [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    return [local(t).clone() for t in kept]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Bit for bit, and all of it finite."""
    finite = all(bool(t.isfinite().all()) for t in a)
    return finite and all(itertools.starmap(torch.equal, zip(a, b, strict=True)))


# -- what the ranks run ----------------------------------------------------------------------------


def data_parallel(rank: int, size: int) -> dict[str, Any]:
    lost = (20, 21, 40)
    found: dict[str, Any] = {}
    for name in OPTIMIZERS:
        found[f"unguarded {name}"] = Trained(rank, guarded=False, optimizer=name)
        found[f"healthy {name}"] = Trained(rank, optimizer=name)
        found[f"without {name}"] = Trained(rank, guarded=False, without=lost, optimizer=name)
        found[f"lost {name}"] = Trained(rank, fault=lost_at(*lost), optimizer=name)
    found["without one"] = Trained(rank, guarded=False, without=(30, 45))
    late = gradient_at(30, math.nan)

    def both(rank: int, step: int, model: nn.Module) -> None:
        late(rank, step, model)
        leap_at(45)(rank, step, model)

    found["one gradient"] = Trained(rank, late=both)
    found["for good"] = Trained(rank, steps=200, fault=lost_at(*range(30, 200)))
    found["nan weight"] = Trained(rank, steps=80, fault=weight_at(60, math.nan))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found["scaled"] = Trained(rank, fault=lost_at(*range(40, 45)), scaler=scaler)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    lost_for_good = lost_at(*range(30, 200))
    found["scaled for good"] = Trained(rank, steps=200, fault=lost_for_good, scaler=scaler)
    return found


def leaps(rank: int, size: int) -> dict[str, Any]:
    """Rank 1's weights are ruined, finite as they are; rank 1 keeps its state less often."""
    usual, snapshots._SHARE = snapshots._SHARE, 1e-12 if rank == 1 else 1e12
    found = {
        "one loss": Trained(rank, steps=220, fault=weight_at(200, 1e4)),
        "nan weight": Trained(rank, steps=220, fault=weight_at(200, math.nan)),
    }
    snapshots._SHARE = usual
    take = snapshots.Snapshot.take
    if rank == 1:
        snapshots.Snapshot.take = no_room
    found["no room"] = Trained(rank, fault=weight_at(50, math.nan))
    snapshots.Snapshot.take = take
    return found


def no_room(*args: Any) -> None:
    raise MemoryError("no room")


def one_alone(rank: int, size: int) -> dict[str, Any]:
    """Rank 1 has no guard, or loses it; the gradients of all leap at one step."""
    exchange._MEET, exchange._ANSWER = 1.0, exchange.timedelta(seconds=1)
    leap = leap_at(30, factor=200.0)
    return {
        "unguarded": Trained(rank, guarded=False, late=leap),
        "removed": Trained(rank, removed=20 if rank == 1 else None, late=leap),
        "absent": Trained(rank, guarded=rank == 0, late=leap),
    }


def everything(rank: int, size: int) -> dict[str, Any]:
    """All of the above in one world: to found one takes seconds."""
    parts = (data_parallel, leaps, one_alone)  # the last one takes patience away
    return {part.__name__: part(rank, size) for part in parts}


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return reader(2, "test_distributed_guard", "everything")


# -- DistributedDataParallel -----------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_healthy_run_is_left_alone_bit_for_bit(name: str, ranks: Ranks) -> None:
    for found in ranks("data_parallel"):
        assert found[f"healthy {name}"].acts == []
        assert found[f"healthy {name}"].losses == found[f"unguarded {name}"].losses
        assert same(found[f"healthy {name}"].left, found[f"unguarded {name}"].left)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_lost_on_one_rank_is_skipped_on_all(name: str, ranks: Ranks) -> None:
    first, second = (found[f"lost {name}"] for found in ranks("data_parallel"))
    assert first.acts == second.acts == [(20, SKIP), (21, SKIP), (40, SKIP)]
    assert same(first.left, second.left)
    assert same(first.left, ranks("data_parallel")[0][f"without {name}"].left)


def test_what_one_rank_alone_sees_is_skipped_on_all(ranks: Ranks) -> None:
    """And the other learns nothing of it: at a leap after that they decide alike."""
    first, second = (found["one gradient"] for found in ranks("data_parallel"))
    assert first.acts == second.acts == [(30, SKIP), (45, SKIP)]
    assert same(first.left, ranks("data_parallel")[0]["without one"].left)
    assert same(first.left, second.left)
    assert first.level["norms"] == second.level["norms"]


def test_data_lost_for_good_on_one_rank_halts_all_at_the_same_step(ranks: Ranks) -> None:
    first, second = (found["for good"] for found in ranks("data_parallel"))
    assert first.halted == second.halted == 30 + 64
    assert first.acts == second.acts
    assert same(first.left, second.left)


def test_under_a_scaler_they_roll_back_and_halt_alike_too(ranks: Ranks) -> None:
    """The scaler refuses the step on both; only one of them has a loss that is not finite."""
    first, second = (found["scaled"] for found in ranks("data_parallel"))
    assert [rung for _, rung in first.acts] == [BACK] and first.acts == second.acts
    assert same(first.left, second.left)
    first, second = (found["scaled for good"] for found in ranks("data_parallel"))
    assert first.halted == second.halted == 30 + 64


@pytest.mark.parametrize("what", ["one loss", "nan weight"])
def test_weights_ruined_on_one_rank_are_rolled_back_on_all(what: str, ranks: Ranks) -> None:
    """To the same state, though each would have kept it at steps of its own."""
    first, second = (found[what] for found in ranks("leaps"))
    assert first.acts == second.acts
    assert [rung for _, rung in first.acts].count(BACK) == 1
    assert 200 < next(step for step, rung in first.acts if rung is BACK) < 210
    assert same(first.left, second.left)
    if what == "one loss":  # of the other it is as usual, or this would prove nothing
        at = next(step for step, rung in first.acts if rung is BACK)
        assert min(second.losses[200 : at + 1]) > 2 * max(first.losses[100 : at + 1])


def test_where_one_rank_could_keep_no_state_none_is_rolled_back(ranks: Ranks) -> None:
    first, second = (found["no room"] for found in ranks("leaps"))
    assert first.acts == second.acts == [(step, SKIP) for step in range(50, STEPS)]


@pytest.mark.parametrize("how", ["absent", "removed"])
def test_a_rank_without_a_guard_holds_nobody_up(how: str, ranks: Ranks) -> None:
    """One guard alone would skip what the other rank takes: from then on they would differ."""
    first, second = (found[how] for found in ranks("one_alone"))
    assert first.took < 20 and second.took < 20
    assert first.acts == second.acts == []
    assert same(first.left, second.left)
    assert same(first.left, ranks("one_alone")[0]["unguarded"].left)
