"""DistributedDataParallel: the numbers, that nothing changes, and whose data went bad."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import surefoot
from distributed_fixture import on_ranks
from surefoot.findings import Cause
from surefoot.probes.replay import replay
from surefoot.watching.budget import Budget

STEPS, ODD = 40, 30
Data = tuple[torch.Tensor, torch.Tensor]
Ranks = Callable[[str], list[Any]]
Spoil = Callable[[int, int, torch.Tensor, torch.Tensor], None]


class Network(nn.Module):
    """Dropout for the random numbers, a part that is not always used, and, where it talks, a mean
    over all ranks in its forward."""

    def __init__(self, branch: bool = False, talks: bool = False) -> None:
        super().__init__()
        self.talks = talks
        self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 12))
        self.extra = nn.Linear(12, 12) if branch else None
        self.head = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor, use: bool = False) -> torch.Tensor:
        y = torch.relu(self.body(x))
        if self.talks:
            mean = y.detach().mean(0)
            torch.distributed.all_reduce(mean)
            y = y - 0.1 * mean
        if self.extra is not None and use:
            y = y + self.extra(y)
        return self.head(y)


def batch(rank: int, step: int) -> Data:
    made = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(8, 6, generator=made)
    return x, x.sum(1, keepdim=True).sin() + 0.1 * torch.randn(8, 1, generator=made)


def nothing(rank: int, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
    """A batch as it is."""


def large(rank: int, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
    if (rank, step) == (1, ODD):
        x[5] *= 300


def mislabelled(rank: int, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
    if (rank, step) == (1, ODD):
        y += 1000


def missing(rank: int, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
    if (rank, step) == (1, ODD):
        x[5, 2] = torch.nan


def large_everywhere(rank: int, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
    if step == ODD:
        x[5] *= 300


def network(**given: Any) -> DistributedDataParallel:
    options = dict(given)
    own = {name: options.pop(name) for name in ("branch", "talks") if name in options}
    torch.manual_seed(0)
    return DistributedDataParallel(Network(**own), **options)


def train(
    model: nn.Module,
    rank: int,
    spoil: Spoil = nothing,
    *,
    watched: bool = True,
    every: int = 1,
    lr: float = 0.05,
    before: Callable[[int, Any], None] = lambda step, watch: None,
) -> tuple[list[float], Any]:
    """(losses, the watch) of a training that accumulates `every` batches for a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
    watch = surefoot.watch(model, optimizer)
    torch.manual_seed(100 + rank)
    losses = []
    if watched:
        watch.start()
    for step in range(STEPS):
        before(step, watch)
        optimizer.zero_grad()
        for part in range(every):
            x, y = batch(rank, step * every + part)
            spoil(rank, step, x, y)
            model.require_backward_grad_sync = part == every - 1  # as `no_sync` sets it
            branch = (step % 3 == 0,) if model.module.extra is not None else ()
            loss = (model(x, *branch) - y).square().mean() / every
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
    if watched:
        watch.stop()
    return losses, watch


# -- what the ranks run ----------------------------------------------------------------------------


def numbers(rank: int, size: int) -> dict[str, Any]:
    """The norms that were recorded, and those of gradients made by hand in float64."""
    model = network()
    model.module.body[2].p = 0.0
    start = copy.deepcopy(model.module).double()
    _, watch = train(model, rank)
    recorded = watch._session.data().series["gradient"].last
    made = []
    for other in range(size):  # the first step, of all ranks' batches
        x, y = (t.double() for t in batch(other, 0))
        loss = (start(x) - y).square().mean()
        made.append(torch.autograd.grad(loss, list(start.parameters())))
    mean = [sum(parts) / size for parts in zip(*made, strict=True)]
    return {
        "recorded": torch.from_numpy(recorded[0].reshape(-1, 5)).double(),
        "norms": torch.stack([g.norm() for g in mean]),
        "largest": torch.stack([g.abs().max() for g in mean]),
        "all": torch.from_numpy(recorded),
    }


# What is asked of DistributedDataParallel and of the model, batches for a step, what is wrong with
# a batch, and the learning rate: of one that does not learn the gradients' coherence is measured.
KINDS: dict[str, tuple[dict[str, Any], int, Spoil, float]] = {
    "plain": ({}, 1, nothing, 0.05),
    "plain, a large batch": ({}, 1, large, 0.05),
    "accumulated": ({}, 2, large, 0.05),
    "unused": ({"find_unused_parameters": True, "branch": True}, 1, large, 0.05),
    "static": ({"static_graph": True}, 1, large, 0.05),
    "view": ({"gradient_as_bucket_view": True}, 2, large, 0.05),
    "does not learn": ({}, 1, nothing, 0.0),
    "talks": ({"talks": True}, 1, large, 0.0),
}


def unchanged(rank: int, size: int) -> dict[str, Any]:
    """For each kind of training all that it ends with, unwatched and watched, and its replays."""
    found: dict[str, Any] = {}
    for name, (options, every, spoil, lr) in KINDS.items():
        # What a quicker machine would look at, too; where one must not wait for the other, one.
        may = name != "talks" or rank == 0
        Budget.affordable = lambda self, cost, may=may: may
        ends = []
        for watched in (False, True):
            model = network(**options)
            losses, watch = train(model, rank, spoil, watched=watched, every=every, lr=lr)
            ends.append((losses, model.state_dict(), torch.get_rng_state()))
        case = watch._session.trainings[0].case()
        words = [a.detail["replay"] for a in case.alarms if "replay" in a.detail]
        found[name] = (*ends, words, watch._session.problem, watch.report().missing)
    return found


def blame(rank: int, size: int) -> dict[str, Any]:
    """The report of each training whose data went bad."""
    found = {}
    for spoil in (nothing, large, mislabelled, missing, large_everywhere):
        _, watch = train(network(), rank, spoil)
        found[spoil.__name__] = watch.report()
    found["operation"] = _lost_in_an_operation(rank)
    found["aside"] = _aside(rank)
    return found


def _lost_in_an_operation(rank: int) -> Any:
    """On rank 1 alone the root of something negative is taken, inside of a module."""
    model = network()
    layer = model.module.body[3]
    lift = [0.0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(nn.functional.linear(x, layer.weight, layer.bias).square() + lift[0])

    def before(step: int, watch: Any) -> None:
        lift[0] = -100.0 if (rank, step) == (1, ODD) else 0.1

    layer.forward = forward
    return train(model, rank, before=before)[1].report()


def _aside(rank: int) -> Any:
    """The watch of rank 1 fails before its data goes bad."""

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("injected")

    def before(step: int, watch: Any) -> None:
        if (rank, step) == (1, 20):
            watch._session.trainings[0].before_step = broken

    return train(network(), rank, large, before=before)[1].report()


def replayed(rank: int, size: int) -> list[tuple[bool, bool]]:
    """At some steps, for each parameter: does the mean of the replays equal its gradient?"""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    same: list[tuple[bool, bool]] = []
    with surefoot.watch(model, optimizer) as watch:
        training = watch._session.trainings[0]
        for step in range(6):
            optimizer.zero_grad()
            x, y = batch(rank, step)
            (model(x) - y).square().mean().backward()
            entries, modules = training.taps.entry.entries, training.taps.modules()
            made = replay(step, entries, training.layers, modules, None, search=False)
            for p in model.parameters():
                own = made.gradients[id(p)] / size
                local = torch.equal(made.gradients[id(p)], p.grad)
                torch.distributed.all_reduce(own)
                same.append((torch.equal(own, p.grad), local))
            optimizer.step()
    return same


# -- what is to be seen of it ----------------------------------------------------------------------


def everything(rank: int, size: int) -> dict[str, Any]:
    """All of the above in one world: to found one takes seconds."""
    parts = (numbers, unchanged, blame, replayed)
    return {part.__name__: part(rank, size) for part in parts}


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    """What each rank found, by part."""
    world = on_ranks(2, "test_distributed_ddp", "everything")
    return lambda part: [found[part] for found in world]


def test_the_recorded_gradients_are_the_mean_over_the_ranks(ranks: Ranks) -> None:
    for found in ranks("numbers"):
        recorded = found["recorded"]
        assert torch.allclose(recorded[:, 0], found["norms"], rtol=1e-5)
        assert torch.allclose(recorded[:, 1], found["largest"], rtol=1e-5)


def test_all_ranks_measure_the_same_gradients(ranks: Ranks) -> None:
    one, two = (found["all"] for found in ranks("numbers"))
    assert torch.equal(one, two)
    assert bool(one[:, 0].min() < one[:, 0].max())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_watched_training_is_the_same_to_the_bit(rank: int, ranks: Ranks) -> None:
    for case, (without, watched, *_) in ranks("unchanged")[rank].items():
        assert without[0] == watched[0], case
        assert without[1].keys() == watched[1].keys()
        for name, value in without[1].items():
            # A run that was lost is the same too: NaN in the same places.
            exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
            torch.testing.assert_close(watched[1][name], value, msg=f"{case}: {name}", **exactly)
        assert torch.equal(without[2], watched[2]), f"{case}: random numbers"


def test_some_of_those_steps_were_run_again_on_each_rank(ranks: Ranks) -> None:
    for rank, found in enumerate(ranks("unchanged")):
        for case, (_, _, words, *aside) in found.items():
            assert aside == [None, ()], case  # surefoot has not stepped aside
            if case == "talks":
                assert all("communicates with other processes" in word for word in words)
                assert bool(words) == (rank == 0)
            else:
                assert set(words) <= {"exact"}
                assert bool(words) == (KINDS[case][2] is large), case


def test_the_mean_of_the_replays_is_the_reduced_gradient_to_the_bit(ranks: Ranks) -> None:
    for same in ranks("replayed"):
        assert all(mean for mean, _ in same)
        assert not any(local for _, local in same)  # and no rank's own is


@pytest.mark.parametrize("case", ["large", "mislabelled"])
def test_the_rank_whose_batch_is_bad_is_named(case: str, ranks: Ranks) -> None:
    report, other = (found[case] for found in ranks("blame"))
    finding = next(f for f in report.findings if f.cause is Cause.BAD_BATCH)
    assert finding.first_step == ODD
    assert "on rank 1" in finding.sentence
    row = next(e for e in finding.evidence if e.quantity.endswith("on each rank"))
    assert "rank 0: 1" in str(row.value) or "rank 0: 0." in str(row.value)
    assert all("on rank" not in f.sentence for f in other.findings)  # rank 0 alone gathers


def test_the_sample_is_named_on_its_rank(ranks: Ranks) -> None:
    finding = next(f for f in ranks("blame")[0]["large"].findings if f.cause is Cause.BAD_BATCH)
    assert "sample 5 of 8" in finding.sentence


def test_the_rank_whose_input_is_not_finite_is_named(ranks: Ranks) -> None:
    finding = ranks("blame")[0]["missing"].root
    assert finding.cause is Cause.NONFINITE_INPUT
    assert finding.first_step == ODD
    assert "only on rank 1 of 2" in finding.sentence
    assert "the batch itself holds 1 of them" in finding.sentence


def test_the_operation_is_found_on_the_rank_where_it_happened(ranks: Ranks) -> None:
    finding = ranks("blame")[0]["operation"].root
    assert finding.cause is Cause.UNDEFINED_OPERATION
    assert finding.layer == "body.3"
    assert "only on rank 1 of 2" in finding.sentence
    assert "sqrt" in finding.sentence


def test_no_rank_is_named_where_all_batches_are_bad(ranks: Ranks) -> None:
    finding = next(
        f for f in ranks("blame")[0]["large_everywhere"].findings if f.cause is Cause.BAD_BATCH
    )
    assert "rank" not in finding.sentence


def test_a_healthy_run_is_silent_on_all_ranks(ranks: Ranks) -> None:
    assert [found["nothing"].findings for found in ranks("blame")] == [(), ()]


def test_a_rank_that_stepped_aside_is_not_waited_for(ranks: Ranks) -> None:
    report, other = (found["aside"] for found in ranks("blame"))
    assert "injected" in " ".join(other.missing)
    assert report.steps == STEPS
    assert not report.missing
