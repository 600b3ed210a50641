"""Samples named by the DataLoader's own indices, without a change to what it gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surefoot.watching.session import Session


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session()
    made.start()
    yield made
    made.stop()


def data(n: int = 37) -> TensorDataset:
    """Samples that carry their own index."""
    return TensorDataset(torch.arange(n).float()[:, None] * torch.ones(3), torch.arange(n))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(12).float())


class Faulty(Dataset[torch.Tensor]):
    """The 5th sample cannot be read."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            raise OSError("damaged")
        return torch.tensor([float(index)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_every_batch_is_known_by_its_samples(workers: int, kept: bool, session: Session) -> None:
    loader = DataLoader(
        data(),
        batch_size=5,
        shuffle=True,
        num_workers=workers,
        persistent_workers=kept and workers > 0,
    )
    for epoch in range(2):
        for i, (x, y) in enumerate(loader):
            named = session.drawn.indices([x.view(-1, 3), y], len(x))
            assert list(named) == y.tolist(), (epoch, i)
            if epoch == 0 and i == 4:
                break  # what the workers fetched ahead will not come


def test_the_order_and_the_random_numbers_are_the_same() -> None:
    def run(watched: bool) -> list[Any]:
        torch.manual_seed(0)
        random.seed(0)
        session = Session()
        if watched:
            session.start()
        loader = DataLoader(data(), batch_size=4, shuffle=True, drop_last=True)
        seen = [[y.tolist() for _, y in loader] for _ in range(2)]
        session.stop()
        return [seen, torch.get_rng_state().tolist(), random.getstate()]

    assert run(True) == run(False)


def test_a_batch_that_is_not_recognised_has_no_names(session: Session) -> None:
    x, _ = next(iter(DataLoader(data(), batch_size=5)))
    assert session.drawn.indices([x], 5) == (0, 1, 2, 3, 4)
    assert session.drawn.indices([x.clone()], 5) == ()  # made anew: it might be any batch
    assert session.drawn.indices([x], 4) == ()  # another number of samples


def test_fetching_ahead_does_not_mix_up_the_batches(session: Session) -> None:
    loader = iter(DataLoader(data(), batch_size=5))
    first, second = next(loader), next(loader)
    assert session.drawn.indices([first[0]], 5) == (0, 1, 2, 3, 4)
    assert session.drawn.indices([second[0]], 5) == (5, 6, 7, 8, 9)


def test_streams_and_single_samples_have_no_names(session: Session) -> None:
    batch = next(iter(DataLoader(Stream(), batch_size=4)))
    assert session.drawn.indices([batch], 4) == ()
    single = next(iter(DataLoader(data(), batch_size=None)))[0]
    assert session.drawn.indices([single], 3) == ()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_shifts_no_names(workers: int, session: Session) -> None:
    loader = iter(DataLoader(Faulty(), batch_size=2, num_workers=workers))
    named = []
    for _ in range(6):
        try:
            x = next(loader)
        except OSError:
            continue
        named.append((x.flatten().tolist(), list(session.drawn.indices([x], 2))))
    assert len(named) == 5
    assert all(a == b for a, b in named)


def test_a_loader_that_began_before_is_left_alone() -> None:
    loader = iter(DataLoader(data(), batch_size=2, num_workers=2))
    next(loader)
    session = Session()
    session.start()
    x, _ = next(loader)  # its indices were drawn before anyone listened
    assert session.drawn.indices([x], 2) == ()
    session.stop()
