"""Ranks that share parameters: one that does not answer, losses in pieces, what cannot be told."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import surefoot
from sharded_fixture import STEPS, Network, Ranks, Run, local, reader, whole
from surefoot.attach import exchange
from surefoot.findings import Cause
from surefoot.watching import shards

pytestmark = pytest.mark.zoo  # with the heavier suite: its processes take a minute

SICK = 6  # the step in which rank 1 falls ill
CPU = torch.device("cpu")


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


def losses(rank: int, size: int) -> dict[str, Any]:
    """Losses whose graph holds tensors that lie on several ranks: the value, and what was read."""
    mesh, found = init_device_mesh("cpu", (size,)), {}
    ones = distribute_tensor(torch.ones(10, 4), mesh, [Replicate()])
    y = distribute_tensor(torch.arange(10) % 4, mesh, [Replicate()])
    kinds: dict[str, Callable[[Any], torch.Tensor]] = {
        "mse": lambda out: nn.functional.mse_loss(out, ones).full_tensor(),
        "cross entropy": lambda out: nn.functional.cross_entropy(out, y).full_tensor(),
        "on all ranks": lambda out: nn.functional.mse_loss(out, ones),
        "in summands": lambda out: out.redistribute(placements=[Shard(0)]).square().mean(),
    }
    for name, criterion in kinds.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel(use_local_output=False)}
        parallelize_module(model, mesh, plan)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []
        with surefoot.watch(model, optimizer) as watch:
            for _ in range(6):
                optimizer.zero_grad()
                loss = criterion(model(torch.randn(10, 8)))
                loss.backward()
                seen.append(float(whole(loss)))
                optimizer.step()
        recorded = watch._session.data().series["loss"].last[:, 0]
        found[name] = (watch.report(), np.array(seen), recorded)
    return found


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
    series = watch._session.data().series
    gradients, updates = series["gradient"].last.reshape(STEPS, -1, 5), series["update_ratio"]
    truth = np.array(norms[STEPS:]), np.array(moves[STEPS:])[updates.steps]
    recorded = gradients[:, :, 0], updates.last
    octaves = series["gradient_magnitude"].last
    return {"ends": ends, "recorded": recorded, "truth": truth, "octaves": octaves}


def whole_parameters(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(value, gradient) of each parameter, put together by torch."""
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        return [(p.detach().clone().double(), p.grad.double()) for p in model.parameters()]


def unwatched(rank: int, size: int) -> Any:
    """The end of the training that nobody watches."""
    run = Run("fsdp", rank, size, watched=False)
    for _ in range(STEPS):
        run.step()
        run.optimizer.step()
    return run.end()


def everything(rank: int, size: int) -> dict[str, Any]:
    """All of the above in one world: to found one takes seconds."""
    parts = (unwatched, blame, older, unknown, losses, aside)  # the last one takes patience away
    return {part.__name__: part(rank, size) for part in parts}


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return reader(2, "test_distributed_peers", "everything")


HOW = {
    "fails": "stepped aside on rank 1",
    "is absent": "nothing is heard of surefoot on rank 1",
    "is mute": "did not answer",
}


@pytest.mark.parametrize("how", HOW)
def test_a_rank_that_does_not_answer_holds_nobody_up(how: str, ranks: Ranks) -> None:
    for rank, found in enumerate(ranks("aside")):
        ends, took, _, _, said = found[how]
        losses, state, rng = ranks("unwatched")[rank]
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


def test_the_rank_whose_batch_is_bad_is_named(ranks: Ranks) -> None:
    finding = next(f for f in ranks("blame")[0].findings if f.cause is Cause.BAD_BATCH)
    assert "on rank 1" in finding.sentence


def test_what_cannot_be_told_is_not_a_number_and_no_missing_gradient(ranks: Ranks) -> None:
    for rows, present, report in ranks("unknown"):
        assert np.isnan(rows[:, :2]).all()
        assert np.isfinite(rows[:, 2:]).all()
        assert set(present) == {35}
        assert report.findings == ()


@pytest.mark.parametrize("kind", ["mse", "cross entropy", "on all ranks", "in summands"])
def test_a_loss_of_distributed_tensors_is_read_without_asking(kind: str, ranks: Ranks) -> None:
    for found in ranks("losses"):
        report, seen, recorded = found[kind]
        assert report.missing == ()  # surefoot has not stepped aside
        if kind == "in summands":
            assert np.isnan(recorded).all()
        else:
            assert np.allclose(recorded, seen, rtol=1e-6)


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
        assert np.isnan(found["octaves"]).all()  # of pieces that are not put together
