"""Parameters in pieces on several ranks: the numbers are of the whole, and nothing changes."""

from __future__ import annotations

import collections
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import distributed_c10d
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharded_fixture import FOUR, KINDS, STEPS, Ranks, Run, local, reader, whole

pytestmark = pytest.mark.zoo  # with the heavier suite

LOST = 10  # the step that is lost


def five(t: torch.Tensor) -> list[float]:
    """The statistics of a tensor by definition."""
    good = t[torch.isfinite(t)]
    mean = float(good.mean()) if good.numel() else 0.0
    largest = float(good.abs().max()) if good.numel() else 0.0
    bad = float((~torch.isfinite(t)).sum())
    return [float(good.norm()), largest, mean, bad, float((t == 0).sum())]


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
    octaves = run.series("gradient_magnitude").last
    found["octaves"] = octaves.reshape(len(octaves), found["gradients"].shape[1], -1)
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


def everything(rank: int, size: int) -> dict[str, Any]:
    """All of the above in one world: to found one takes seconds."""
    parts: dict[str, Any] = {kind: numbers(kind, rank, size) for kind in KINDS}
    return parts | {"unchanged": unchanged(rank, size)}


def four(rank: int, size: int) -> dict[str, Any]:
    return {kind: numbers(kind, rank, size) for kind in FOUR}


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return reader(2, "test_distributed_sharded", "everything")


@pytest.fixture(scope="module")
def ranks_of_four() -> Ranks:
    return reader(4, "test_distributed_sharded", "four")


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


def test_of_a_piece_alone_nothing_is_told(ranks: Ranks) -> None:
    """In which octaves gradients lie is not put together."""
    for kind, cut in (("fsdp", slice(None)), ("mixed", [4, 5])):  # of `mixed` those of `b`
        for found in ranks(kind):
            assert np.isnan(found["octaves"][:, cut]).all()
    whole_ones = ranks("mixed")[0]["octaves"][:, [0, 1, 2, 3, 6, 7], 0]
    assert np.isfinite(whole_ones).any(0).all()


def test_a_rank_alone_does_not_have_them(ranks: Ranks) -> None:
    """Else this file would prove nothing."""
    for kind in ("fsdp", "tensor", "hybrid 1x"):
        for found in ranks(kind):
            assert not np.allclose(found["local"], found["gradients"][LOST][:, 0], rtol=0.01)


def test_modules_that_compute_in_pieces_are_not_instrumented(ranks: Ranks) -> None:
    assert ranks("tensor")[0]["flows"] == 0
    assert ranks("fsdp")[0]["flows"] > 0


@pytest.mark.parametrize("kind", ["fsdp", "tensor"])
def test_a_replay_is_refused_in_words(kind: str, ranks: Ranks) -> None:
    for found in ranks(kind):
        assert found["replay"] == "refused: the parameters are sharded over several processes"


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
