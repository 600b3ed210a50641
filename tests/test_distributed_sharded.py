"""Parameters in pieces on several ranks: the numbers are of the whole, and nothing changes."""

from __future__ import annotations

import collections
import itertools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils._python_dispatch import TorchDispatchMode

import surefoot
from distributed_fixture import on_ranks
from surefoot.attach import exchange
from surefoot.findings import Cause
from surefoot.watching import shards

STEPS, SICK, LOST = 12, 6, 10  # steps; the one in which rank 1 falls ill; the one that is lost
CPU = torch.device("cpu")
Ranks = Callable[[str], list[Any]]


class Network(nn.Module):
    """Sizes that two ranks cannot share evenly: the last layer's are on one of them alone."""

    def __init__(self, hidden: int = 5, classes: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.a, self.b = nn.Linear(8, hidden), nn.Linear(hidden, 8)
        self.out = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(torch.relu(self.a(self.norm(x)))))


def fsdp(size: int) -> nn.Module:
    model = Network()
    for part in (model.a, model.out):
        fully_shard(part)
    return fully_shard(model)


def mixed(size: int) -> nn.Module:
    """Some parameters are whole on every rank."""
    model = Network()
    fully_shard(model.b)
    return model


def tensor_parallel(size: int) -> nn.Module:
    model = Network(6, 3)
    plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def sequence_parallel(size: int) -> nn.Module:
    """Each rank has a part of the sequence, and so a summand of the gradients of `norm`."""
    model = Network(6, 3)
    plan = {
        "norm": SequenceParallel(),
        "a": ColwiseParallel(input_layouts=Shard(1)),
        "b": RowwiseParallel(output_layouts=Replicate()),
    }
    return parallelize_module(model, init_device_mesh("cpu", (size,)), plan)


def both(rows: int) -> Callable[[int], nn.Module]:
    """Data parallel over the rows of a mesh, tensor parallel over its columns."""

    def make(size: int) -> nn.Module:
        shape = (rows, size // rows)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
        model = Network(6, 3)
        plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
        return fully_shard(model, mesh=mesh["data"])

    return make


def hybrid(rows: int) -> Callable[[int], nn.Module]:
    """The same on each row of a mesh, cut along it."""

    def make(size: int) -> nn.Module:
        shape = (rows, size // rows)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts"))
        return fully_shard(Network(), mesh=mesh)

    return make


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "fsdp": fsdp,
    "mixed": mixed,
    "tensor": tensor_parallel,
    "sequence": sequence_parallel,
    "tensor 1x": both(1),
    "data 2x": both(2),
    "hybrid 1x": hybrid(1),
    "hybrid 2x": hybrid(2),
}
FOUR = {"both 2x2": both(2), "hybrid 2x2": hybrid(2), "fsdp on 4": fsdp}


def made(kind: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    return (KINDS | FOUR)[kind](size)


def batches(kind: str, rank: int) -> torch.Generator:
    """Ranks that share tensors have the same data, others their own."""
    alike = any(word in kind for word in ("tensor", "sequence", "both"))
    return torch.Generator().manual_seed(0 if alike else rank)


def whole(t: torch.Tensor) -> torch.Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().double()


def local(t: torch.Tensor) -> torch.Tensor:
    return (t.to_local() if isinstance(t, DTensor) else t).detach().double()


def five(t: torch.Tensor) -> list[float]:
    """The statistics of a tensor by definition."""
    good = t[torch.isfinite(t)]
    mean = float(good.mean()) if good.numel() else 0.0
    largest = float(good.abs().max()) if good.numel() else 0.0
    bad = float((~torch.isfinite(t)).sum())
    return [float(good.norm()), largest, mean, bad, float((t == 0).sum())]


class Run:
    """A watched training of some steps; `seen` is called with each step's model and optimizer."""

    def __init__(self, kind: str, rank: int, size: int, watched: bool = True) -> None:
        self.rank, self.model = rank, made(kind, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.watch = surefoot.watch(self.model, self.optimizer)
        self.data, self.losses = batches(kind, rank), list[float]()
        torch.manual_seed(7 + rank)
        if watched:
            self.watch.start()

    def step(self, target: float = 1.0) -> None:
        self.optimizer.zero_grad()
        x = torch.randn(4, 6, 8, generator=self.data)
        x[..., 2] = 0.0
        loss = (self.model(x) - target).square().mean()
        loss.backward()
        self.losses.append(loss.item())

    def gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.model.parameters()]

    def end(self) -> Any:
        """What every part of the training is at the end, as plain tensors."""
        self.watch.stop()
        state = [local(p) for p in self.model.parameters()]
        return self.losses, state, torch.get_rng_state()

    def series(self, name: str) -> Any:
        return self.watch._session.data().series[name]


class Heard(TorchDispatchMode):
    """Counts the collectives that go through torch's process groups."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        if "c10d" in func.namespace:
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


# -- what the ranks run ----------------------------------------------------------------------------


def numbers(kind: str, rank: int, size: int) -> dict[str, Any]:
    """What was recorded of the gradients and of the weights, and the same of the whole tensors."""
    run = Run(kind, rank, size)
    seen: dict[str, Any] = {"gradients": [], "updates": [], "weights": [], "moments": []}
    for step in range(STEPS):
        run.step()
        if step == LOST and (rank == size - 1 or "2x" in kind):
            for g in run.gradients():
                local_part = g.to_local() if isinstance(g, DTensor) else g
                local_part.view(-1)[:1] = torch.nan
        gradients = [whole(g) for g in run.gradients()]
        seen["gradients"].append([five(g) for g in gradients])
        before = [whole(p) for p in run.model.parameters()]
        run.optimizer.step()
        after = [whole(p) for p in run.model.parameters()]
        moves = [b - a for a, b in zip(before, after, strict=True)]
        seen["updates"].append(
            [float(m.norm() / a.norm()) for m, a in zip(moves, before, strict=True)]
        )
        seen["weights"].append([float(a.square().mean().sqrt()) for a in before])
        seen["moments"].append(
            [moment(run, p, g) for p, g in zip(run.model.parameters(), gradients, strict=True)]
        )
        if step == LOST:
            break
    run.end()
    found = {name: np.array(rows) for name, rows in seen.items()}
    for name in ("gradient", "update_ratio", "weight", "second_moment"):
        series = run.series(name)
        found[name] = series.last.reshape(len(series), found["gradients"].shape[1], -1)
        found[f"{name} steps"] = series.steps
    found["local"] = [float(local(g).norm()) for g in run.gradients()]
    case = run.watch._session.trainings[0].case()
    found["flows"], found["replay"] = len(case.flows), case.alarms[-1].detail["replay"]
    found["report"] = run.watch.report()
    return found


def moment(run: Run, p: torch.Tensor, g: torch.Tensor) -> float:
    """RMS of the gradient over the root of Adam's own second moment, that step's included."""
    state = run.optimizer.state[p]
    v = whole(state["exp_avg_sq"]) / (1 - 0.999 ** float(state["step"]))
    return float((g.square() / v.clamp(min=1e-16)).mean().sqrt()) if p.dim() > 1 else math.nan


def groups() -> tuple[int, int]:
    """How many process groups torch knows, and the number that the next one's name is made of."""
    world = distributed_c10d._world
    return len(world.pg_map), world.group_count


def unchanged(rank: int, size: int) -> dict[str, Any]:
    """The ends of trainings, unwatched and watched, and what went through the script's groups."""
    found = {}
    for kind in KINDS:
        ends, spoken = [], []
        for watched in (False, True):
            run = Run(kind, rank, size, watched)
            before = groups()
            with Heard() as heard:
                for _ in range(STEPS):
                    run.step()
                    run.optimizer.step()
            spoken.append((dict(heard.calls), groups() == before))
            ends.append(run.end())
        found[kind] = (*ends, *spoken)
    return found


def aside(rank: int, size: int) -> dict[str, Any]:
    """Rank 1's watch fails, never begins, or falls silent, each in a training of its own."""
    exchange._MEET, exchange._ANSWER = 1.0, exchange.timedelta(seconds=1)
    found = {}
    for how in ("fails", "is absent", "is mute"):
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record, said=said: said.append(record.getMessage())
        logging.getLogger("surefoot").addHandler(handler)
        run = Run("fsdp", rank, size, watched=rank == 0 or how != "is absent")
        norms, begin = [], time.monotonic()
        for step in range(STEPS):
            run.step()
            norms.append(
                [[float(whole(g).norm()), float(local(g).norm())] for g in run.gradients()]
            )
            if step == SICK and rank == 1 and how != "is absent":
                _fall_ill(run.watch._session.trainings[0], how)
            run.optimizer.step()
        took = time.monotonic() - begin
        ends = run.end()
        recorded = run.series("gradient").last if rank == 0 else None
        found[how] = (ends, took, np.array(norms), recorded, said)
        logging.getLogger("surefoot").removeHandler(handler)
    return found


def _fall_ill(training: Any, how: str) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("injected")

    if how == "fails":
        training.before_step = broken
    else:
        training.before_step = training.after_step = lambda *args, **kwargs: None


def blame(rank: int, size: int) -> surefoot.Report:
    """The targets of one batch of rank 1 are out of scale."""
    run = Run("fsdp", rank, size)
    for step in range(40):
        run.step(1e4 if (rank, step) == (1, 30) else 1.0)
        run.optimizer.step()
    run.end()
    return run.watch.report()


def unknown(rank: int, size: int) -> Any:
    """The gradients of `norm` are sums of pieces that are too large to be sent."""
    usual, shards._SUMMANDS = shards._SUMMANDS, 0
    run = Run("sequence", rank, size)
    for _ in range(35):
        run.step()
        run.optimizer.step()
    run.end()
    shards._SUMMANDS = usual
    present = run.watch._session.trainings[0].case().facts.present
    return run.series("gradient").last.reshape(35, -1, 5), present, run.watch.report()


def older(rank: int, size: int) -> dict[str, Any]:
    """FullyShardedDataParallel: each rank holds some elements of a parameter, or none."""
    ends, norms, moves = [], [], []
    for watched in (False, True):
        torch.manual_seed(0)
        model: nn.Module = Network()
        model.a = FullyShardedDataParallel(model.a, use_orig_params=True, device_id=CPU)
        model = FullyShardedDataParallel(model, use_orig_params=True, device_id=CPU)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = surefoot.watch(model, optimizer)
        if watched:
            watch.start()
        made = torch.Generator().manual_seed(rank)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (model(torch.randn(4, 8, generator=made)) - 1).square().mean()
            loss.backward()
            losses.append(loss.item())
            before = whole_parameters(model)
            norms.append([float(g.norm()) for _, g in before])
            optimizer.step()
            after = whole_parameters(model)
            pairs = [(a, b) for (a, _), (b, _) in zip(before, after, strict=True)]
            moves.append([float((b - a).norm() / a.norm()) for a, b in pairs])
        watch.stop()
        ends.append((losses, [p for p, _ in whole_parameters(model)], torch.get_rng_state()))
    gradients = watch._session.data().series["gradient"].last.reshape(STEPS, -1, 5)
    updates = watch._session.data().series["update_ratio"]
    truth = np.array(norms[STEPS:]), np.array(moves[STEPS:])[updates.steps]
    return {"ends": ends, "recorded": (gradients[:, :, 0], updates.last), "truth": truth}


def whole_parameters(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(value, gradient) of each parameter, put together by torch."""
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        return [(p.detach().clone().double(), p.grad.double()) for p in model.parameters()]


def everything(rank: int, size: int) -> dict[str, Any]:
    """All of the above in one world: to found one takes seconds."""
    parts: dict[str, Any] = {kind: numbers(kind, rank, size) for kind in KINDS}
    parts |= {"unchanged": unchanged(rank, size), "blame": blame(rank, size)}
    parts |= {"older": older(rank, size), "unknown": unknown(rank, size)}
    return parts | {"aside": aside(rank, size)}


def four(rank: int, size: int) -> dict[str, Any]:
    return {kind: numbers(kind, rank, size) for kind in FOUR}


# -- what is to be seen of it ----------------------------------------------------------------------


def reader(*worlds: tuple[int, str]) -> Ranks:
    parts: dict[str, list[Any]] = {}
    for size, function in worlds:
        found = on_ranks(size, "test_distributed_sharded", function)
        parts |= {name: [one[name] for one in found] for name in found[0]}
    return lambda part: parts[part]


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    """What each rank found, by part."""
    return reader((2, "everything"))


@pytest.fixture(scope="module")
def ranks_of_four() -> Ranks:
    return reader((4, "four"))


def check_numbers(found: dict[str, Any]) -> None:
    gradients = found["gradients"]
    finite = slice(0, LOST)
    assert np.allclose(found["gradient"][finite], gradients[finite], rtol=1e-5, atol=1e-8)
    lost = found["gradient"][LOST]
    assert np.allclose(lost, gradients[LOST], rtol=1e-5, atol=1e-8)
    assert lost[:, 3].max() >= 1
    for name, whole_ones, tolerance in (
        ("update_ratio", "updates", 1e-4),
        ("weight", "weights", 1e-5),
        ("second_moment", "moments", 1e-4),
    ):
        steps = found[f"{name} steps"]
        sampled, truth = found[name][:, :, 0], found[whole_ones][steps]
        assert len(steps) >= 3
        known = ~np.isnan(sampled)
        assert known[:, [2, 4, 6]].any(0).all(), name  # of every matrix it is known at some step
        assert np.allclose(sampled[known], truth[known], rtol=tolerance), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 1])
def test_the_numbers_are_those_of_the_whole(kind: str, rank: int, ranks: Ranks) -> None:
    check_numbers(ranks(kind)[rank])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOUR)
@pytest.mark.parametrize("rank", range(4))
def test_they_are_so_on_four_ranks(kind: str, rank: int, ranks_of_four: Ranks) -> None:
    check_numbers(ranks_of_four(kind)[rank])


def test_a_rank_alone_does_not_have_them(ranks: Ranks) -> None:
    """Else this file would prove nothing."""
    for kind in ("fsdp", "tensor", "hybrid 1x"):
        for found in ranks(kind):
            assert not np.allclose(found["local"], found["gradients"][LOST][:, 0], rtol=0.01)


def test_modules_that_compute_in_pieces_are_not_instrumented(ranks: Ranks) -> None:
    assert ranks("tensor")[0]["flows"] == 0
    assert ranks("fsdp")[0]["flows"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_watched_training_is_the_same_to_the_bit(kind: str, ranks: Ranks) -> None:
    for found in ranks("unchanged"):
        (losses, state, rng), (watched, state_too, rng_too), *_ = found[kind]
        assert losses == watched
        assert all(itertools.starmap(torch.equal, zip(state, state_too, strict=True)))
        assert torch.equal(rng, rng_too)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_ours_goes_through_the_groups_of_the_script(kind: str, ranks: Ranks) -> None:
    for found in ranks("unchanged"):
        *_, without, watched = found[kind]
        assert without == watched
        assert watched[1]
        if kind != "hybrid 2x":
            assert without[0]


def test_what_cannot_be_told_is_not_a_number_and_no_missing_gradient(ranks: Ranks) -> None:
    for rows, present, report in ranks("unknown"):
        assert np.isnan(rows[:, :2]).all()
        assert np.isfinite(rows[:, 2:]).all()
        assert set(present) == {35}
        assert report.findings == ()


def test_the_older_wrapper(ranks: Ranks) -> None:
    for found in ranks("older"):
        (losses, state, rng), (watched, state_too, rng_too) = found["ends"]
        assert losses == watched
        assert all(itertools.starmap(torch.equal, zip(state, state_too, strict=True)))
        assert torch.equal(rng, rng_too)
        for recorded, truth in zip(found["recorded"], found["truth"], strict=True):
            known = ~np.isnan(recorded)
            assert known[-1].all()
            assert np.allclose(recorded[known], truth[known], rtol=1e-4)


def test_the_rank_whose_batch_is_bad_is_named(ranks: Ranks) -> None:
    finding = next(f for f in ranks("blame")[0].findings if f.cause is Cause.BAD_BATCH)
    assert "on rank 1" in finding.sentence


@pytest.mark.parametrize("kind", ["fsdp", "tensor"])
def test_a_replay_is_refused_in_words(kind: str, ranks: Ranks) -> None:
    for found in ranks(kind):
        assert found["replay"] == "refused: the parameters are sharded over several processes"


HOW = {
    "fails": "stepped aside on rank 1",
    "is absent": "nothing is heard of surefoot on rank 1",
    "is mute": "did not answer",
}


@pytest.mark.parametrize("how", HOW)
def test_a_rank_that_does_not_answer_holds_nobody_up(how: str, ranks: Ranks) -> None:
    for rank, found in enumerate(ranks("aside")):
        ends, took, _, _, said = found[how]
        losses, state, rng = ranks("unchanged")[rank]["fsdp"][0]
        assert ends[0] == losses
        assert all(itertools.starmap(torch.equal, zip(ends[1], state, strict=True)))
        assert torch.equal(ends[2], rng)
        assert took < 20  # by far the most of which is the patience, of one second here
        if rank == 0:
            assert len(said) == 1
            assert HOW[how] in said[0]


@pytest.mark.parametrize("how", HOW)
def test_from_then_on_its_own_numbers_are_recorded(how: str, ranks: Ranks) -> None:
    _, _, norms, recorded, _ = ranks("aside")[0][how]
    until = 0 if how == "is absent" else SICK
    recorded = recorded.reshape(STEPS, -1, 5)[:, :, 0]
    assert np.allclose(recorded[:until], norms[:until, :, 0], rtol=1e-5)
    assert np.allclose(recorded[until:], norms[until:, :, 1], rtol=1e-5)
    assert not np.allclose(recorded[until:], norms[until:, :, 0], rtol=0.01)
