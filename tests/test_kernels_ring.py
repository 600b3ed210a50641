"""The ring: every step once and in order, and nobody waits but at the end.

On the CPU with the pass that serves there; test_kernels_triton.py runs it on the Triton kernel too.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from kernels_fixture import assert_row
from surefoot.kernels import NORM, availability, make_pass, make_ring
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.ring import HostWriter, Ring, Writer
from surefoot.kernels.rows import Rows

CPU = torch.device("cpu")


class Held:
    """A mark that the device passes when the test lets it."""

    made: list[Held]

    def __init__(self, device: torch.device) -> None:
        self.passed, self.waited = False, False
        Held.made.append(self)

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = self.waited = True


@pytest.fixture(autouse=True)
def no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    Held.made = []
    monkeypatch.setattr(availability, "_trouble", None)


def writer() -> Writer:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return Launcher(CPU) if interpreted else HostWriter(make_pass(1))


def ring(count: int, length: int) -> Ring:
    return Ring(count, length, writer(), HostWriter(make_pass(count)), mark=Held)


def step(number: int) -> list[torch.Tensor | None]:
    """Tensors that no other step has: a constant, an infinity whose place moves, ones or None."""
    constant = torch.full((10,), number + 1.0)
    turns = torch.zeros(7, dtype=torch.float64)
    turns[number % 7] = torch.inf
    return [constant, turns, None if number % 3 == 1 else torch.ones(number)]


def launch(ring: Ring, numbers: Sequence[int]) -> None:
    for number in numbers:
        ring.launch(step(number))


def check(arrived: list[tuple[int, np.ndarray]], numbers: Sequence[int]) -> None:
    assert [number for number, _ in arrived] == list(numbers)
    for number, rows in arrived:
        assert rows.shape == (3, 5)
        for row, tensor in zip(rows, step(number), strict=True):
            assert_row(row, tensor)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_every_step_once_and_in_order(length: int) -> None:
    """More steps than places, so that each place is written several times."""
    watched = ring(3, length)
    arrived = []
    for number in range(11):
        watched.launch(step(number))
        for mark in Held.made:
            mark.passed = True
        arrived += watched.poll()
        assert len(arrived) == (number + 1) // length * length
    check(arrived + watched.drain(), range(11))
    assert watched.drain() == watched.poll() == []


def test_polling_never_waits() -> None:
    watched = ring(3, 2)
    launch(watched, range(7))
    assert len(Held.made) == 3
    assert watched.poll() == []
    Held.made[1].passed = True  # the second copy alone: it may not overtake the first
    assert watched.poll() == []
    Held.made[0].passed = True
    check(watched.poll(), range(4))
    assert watched.poll() == []
    assert not any(mark.waited for mark in Held.made)
    check(watched.drain(), range(4, 7))
    assert all(mark.waited for mark in Held.made[2:])


def test_a_copy_on_demand_hands_out_nothing_twice() -> None:
    watched = ring(3, 4)
    launch(watched, range(2))
    watched.flush()
    launch(watched, range(2, 3))
    watched.flush()
    for mark in Held.made:
        mark.passed = True
    check(watched.poll(), range(3))
    launch(watched, range(3, 9))
    check(watched.drain(), range(3, 9))


def test_steps_beyond_the_places_are_missing_and_the_others_keep_their_numbers() -> None:
    """As after replays of a CUDA graph, of which the host hears nothing."""
    watched = ring(3, 4)
    for number in range(6):
        watched._writer.launch(step(number), watched._rows)
    check(watched.drain(), range(2, 6))


def test_what_was_handed_out_stays_as_it_is() -> None:
    watched = ring(3, 2)
    launch(watched, range(2))
    Held.made[0].passed = True
    kept = watched.poll()
    assert all(rows.flags.owndata for _, rows in kept)  # no row holds a whole copy's pinned memory
    launch(watched, range(2, 6))
    watched.drain()
    check(kept, range(2))


def test_no_tensor_is_kept_alive() -> None:
    watched = ring(2, 4)
    batch = [torch.ones(5), torch.ones(6, 2)[:, 1]]
    alive = [weakref.ref(tensor) for tensor in batch]
    watched.launch(batch)
    batch.clear()
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert watched.drain()[0][1][:, NORM].tolist() == pytest.approx([5**0.5, 6**0.5])


def test_a_writer_that_fails_is_replaced_and_no_step_is_lost() -> None:
    class Failing:
        device = CPU
        able = writer()

        def launch(self, tensors: Sequence[torch.Tensor | None], rows: Rows) -> None:
            if int(rows.steps) == 3:
                raise RuntimeError("no compiler for this kind\nand much more")
            self.able.launch(tensors, rows)

    watched = Ring(3, 2, Failing(), HostWriter(make_pass(3)), mark=Held)
    launch(watched, range(8))
    check(watched.drain(), range(8))
    assert availability.trouble() == (
        "Triton does not work here (RuntimeError: no compiler for this kind)"
    )


def test_a_failure_of_the_last_resort_comes_through() -> None:
    def fail(tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        raise MemoryError

    last = HostWriter(fail)  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        Ring(1, 1, last, last).launch([None])
    assert availability.trouble() is None


def test_another_number_of_tensors_is_refused() -> None:
    watched = ring(3, 2)
    with pytest.raises(ValueError, match="expected 3 tensors, got 2"):
        watched.launch([None, None])
    launch(watched, range(1))
    check(watched.drain(), range(1))


@pytest.mark.parametrize(("count", "length"), [(0, 2), (2, 0)])
def test_a_ring_of_nothing_is_refused(count: int, length: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        ring(count, length)


def test_a_ring_on_the_cpu_is_made_in_one_call() -> None:
    watched = make_ring(3, CPU, length=2)
    launch(watched, range(2))
    check(watched.poll(), range(2))


def test_rows_made_in_inference_mode_are_written_outside_of_it() -> None:
    with torch.inference_mode():
        watched = ring(3, 2)
        launch(watched, range(1))
    launch(watched, range(1, 3))
    with torch.inference_mode():
        check(watched.drain(), range(3))
    assert availability.trouble() is None  # without the last resort
