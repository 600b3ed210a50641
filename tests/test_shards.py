"""Statistics of a whole from its parts, and how torch says whose parts they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import Partial, Replicate, Shard

from surefoot.attach.shards import layout
from surefoot.kernels import make_pass
from surefoot.watching.fold import fold, fold_samples


def statistics(tensors: list[torch.Tensor]) -> np.ndarray:
    """[T, 6]: the five statistics and the number of elements."""
    out = np.empty((len(tensors), 5))
    make_pass(len(tensors))(tensors, out)
    return np.column_stack([out, [t.numel() for t in tensors]])


def by_definition(t: torch.Tensor) -> list[float]:
    good = t[torch.isfinite(t)].double()
    if not good.numel():
        return [0.0, 0.0, 0.0, float(t.numel()), 0.0]
    largest = float(good.abs().max())
    norm = float((good / (largest or 1.0)).norm()) * largest
    return [
        norm,
        largest,
        float(good.mean()),
        float((~torch.isfinite(t)).sum()),
        float((t == 0).sum()),
    ]


def spoilt(t: torch.Tensor) -> torch.Tensor:
    t = t.clone()
    t[::7], t[3::11], t[5] = 0.0, torch.nan, torch.inf
    return t


WHOLES = {
    "usual": torch.randn(101, generator=torch.Generator().manual_seed(0)),
    "not finite": spoilt(torch.randn(101, generator=torch.Generator().manual_seed(1))),
    "zeros": torch.zeros(40),
    "lost": torch.full((9,), torch.nan),
    "tiny": torch.full((50,), 1e-200, dtype=torch.float64),
    "huge": torch.full((50,), 1e200, dtype=torch.float64),
    "of both": torch.tensor([1e200, -1e-200, 3.0], dtype=torch.float64),
    "one": torch.tensor([-2.5]),
}


@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_whole_from_its_parts(name: str, ranks: int) -> None:
    whole = WHOLES[name]
    parts = list(whole.tensor_split(ranks))  # uneven, and some are empty
    pieces = np.stack([statistics([part]) for part in parts])
    found = fold(pieces, np.ones((ranks, 1), bool))[0]
    assert np.allclose(found, by_definition(whole), rtol=1e-6, atol=1e-300)


def test_copies_on_other_ranks_are_not_counted() -> None:
    first, second = WHOLES["usual"], WHOLES["not finite"]
    pieces = np.stack([statistics([first, part]) for part in (*second.tensor_split(2), second)])
    mine = np.array([[True, True], [False, True], [False, False]])
    found = fold(pieces, mine)
    assert np.allclose(found, [by_definition(first), by_definition(second)], rtol=1e-6)


def test_a_rank_without_a_gradient_counts_for_nothing() -> None:
    nothing = np.full((1, 6), np.nan)
    pieces = np.stack([statistics([WHOLES["usual"]]), nothing])
    found = fold(pieces, np.ones((2, 1), bool))[0]
    assert np.allclose(found, by_definition(WHOLES["usual"]), rtol=1e-6)
    assert np.isnan(fold(np.stack([nothing, nothing]), np.ones((2, 1), bool))).all()


def test_samples_of_the_whole_from_those_of_its_parts() -> None:
    made = torch.Generator().manual_seed(2)
    before = torch.randn(12, 10, generator=made).double()
    after = before + 0.1 * torch.randn(12, 10, generator=made).double()
    squares = torch.rand(12, 10, generator=made).double()  # g^2 / v
    used = torch.rand(12, 10, generator=made) < 0.7
    below = used & (torch.rand(12, 10, generator=made) < 0.3)
    pieces = []
    for rows in (slice(0, 3), slice(3, 12), slice(12, 12)):
        b, moved = before[rows], (after - before)[rows]
        there = used[rows].double().sum()
        pieces.append(
            [
                float(moved.norm() / b.norm()),
                np.nan,
                float(b.square().mean().sqrt()),
                float(squares[rows].mean().sqrt()),
                float(below[rows].sum() / there),
                float(there / b.numel()) if b.numel() else np.nan,
                b.numel(),
            ]
        )
    ratio, unmoved, weight, moment = fold_samples(np.array(pieces)[:, None], np.ones((3, 1), bool))
    assert ratio[0] == pytest.approx(float((after - before).norm() / before.norm()))
    assert np.isnan(unmoved[0])  # where any part with elements was not measured
    assert weight[0] == pytest.approx(float(before.square().mean().sqrt()))
    assert moment[0, 0] == pytest.approx(float(squares.mean().sqrt()))
    assert moment[0, 1] == pytest.approx(float(below.sum() / used.sum()))


def test_a_part_that_was_not_measured_leaves_the_whole_unknown() -> None:
    one, two = [0.1, 0.5, 1.0, 1.0, 0.0, 1.0, 10], [np.nan, 0.5, 1.0, 1.0, 0.0, 1.0, 10]
    ratio, unmoved, *_ = fold_samples(np.array([[one], [two]]), np.ones((2, 1), bool))
    assert np.isnan(ratio[0]) and unmoved[0] == 0.5


# -- layouts ---------------------------------------------------------------------------------------


def tensor(rank: int, shape: tuple[int, ...], *placements: Any) -> Any:
    """What `layout` reads of a DTensor on a mesh of this shape, seen from a rank."""
    ranks = torch.arange(int(np.prod(shape))).reshape(shape)
    place = [int(i) for i in (ranks == rank).nonzero()[0]]
    mesh = SimpleNamespace(mesh=ranks, get_coordinate=lambda: place, size=lambda i: shape[i])
    return SimpleNamespace(device_mesh=mesh, placements=placements)


@pytest.mark.parametrize(
    ("rank", "shape", "placements", "ranks"),
    [
        (1, (4,), [Shard(0)], (0, 1, 2, 3)),
        (1, (4,), [Replicate()], (1,)),
        (2, (2, 2), [Replicate(), Shard(0)], (2, 3)),
        (2, (2, 2), [Shard(0), Replicate()], (0, 2)),
        (1, (2, 2), [Shard(0), Shard(1)], (0, 1, 2, 3)),
        (3, (1, 4), [Shard(0), Replicate()], (3,)),
        (1, (4, 1), [Replicate(), Shard(0)], (1,)),
        (5, (2, 2, 2), [Replicate(), Shard(0), Shard(0)], (4, 5, 6, 7)),
        (5, (2, 2, 2), [Shard(1), Replicate(), Shard(0)], (0, 1, 4, 5)),
    ],
)
def test_whose_parts_make_the_whole(
    rank: int, shape: tuple[int, ...], placements: list[Any], ranks: tuple[int, ...]
) -> None:
    found = layout(tensor(rank, shape, *placements))
    assert found.ranks == ranks
    assert found.known and not found.divisor
    assert found.whole == (len(ranks) == 1)


@pytest.mark.parametrize(
    ("placements", "ranks", "divisor", "known"),
    [
        ([Partial("sum"), Replicate()], (0, 2), 1, True),
        ([Partial("avg"), Replicate()], (0, 2), 2, True),
        ([Partial("sum"), Partial("sum")], (0, 1, 2, 3), 1, True),
        ([Partial("sum"), Partial("avg")], (0, 1, 2, 3), 1, False),
        ([Partial("sum"), Shard(0)], (0, 1, 2, 3), 1, False),
        ([Partial("max"), Replicate()], (0, 2), 1, False),
    ],
)
def test_sums_of_what_the_ranks_hold(
    placements: list[Any], ranks: tuple[int, ...], divisor: int, known: bool
) -> None:
    found = layout(tensor(0, (2, 2), *placements))
    assert (found.ranks, found.known) == (ranks, known)
    assert found.divisor == divisor or not known
    assert found.divisor


def test_a_rank_outside_of_the_mesh_knows_nothing() -> None:
    made = tensor(0, (2,), Shard(0))
    made.device_mesh.get_coordinate = lambda: None
    assert not layout(made).known
