"""Promise: a week of steps takes no more memory and disk than its first hour.

Ten steps a second make six million in a week. 12,000 steps here, 10^6 in the heavier suite, as a
training gives them to the ledger and the writer; `test_growth` has the smallest limit and its
edges, `test_growth_watching` the rest of a watch. The clock is a fake one: it makes ten steps a
second, so that a week of its time passes.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from record_fixture import buckets_of, folder_bytes, wait_until
from surefoot.findings import Report
from surefoot.record import Follower, Writer, new_folder, read_run
from surefoot.record.writer import LIMIT_BYTES
from surefoot.signals import QUANTITIES, Axis
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.watching.ledger import Ledger
from views_fixture import table

PARAMETERS = 40
COUNTS = {Axis.GROUP: 1, Axis.PARAMETER: PARAMETERS, Axis.BLOCK: 10}


class Week:
    """A clock of ten steps a second, and what a training records at each of them."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.now = 0.0
        self.writer = Writer(folder, {}, limit, clock=lambda: self.now)
        self._ledger = Ledger(
            0, table(PARAMETERS // 2, lambda i: f"layers.{i}"), COUNTS, self.writer
        )
        noise = np.random.default_rng(0)
        self._pool = {
            name: noise.lognormal(size=(7, q.columns(COUNTS))).astype(np.float32)
            for name, q in QUANTITIES.items()
        }

    def go(self, steps: range) -> None:
        stats = TensorStats(1.0, 1.0, 0.0, 0, 0, 64)
        ledger, pool = self._ledger, self._pool
        for step in steps:
            self.now = step / 10
            for name, row in ledger.rows.items():
                row[:] = pool[name][step % 7]
            ledger.rows["loss"][:] = step
            if step % 64 == 0:
                for name in pool.keys() - ledger.rows.keys():
                    ledger.put(step, name, pool[name][step % 7])
            if step % 1000 == 0:
                ledger.alarm(step, "spike", {"parameters": list(range(PARAMETERS)), "z": 7.0})
                ledger.flow(Flow(step, [Call(i, i, stats, stats) for i in range(PARAMETERS // 2)]))
                self.writer.report(0, Report(steps=step))
            ledger.commit(step)
            if step % 2000 == 1999:  # no faster than the disk
                wait_until(lambda step=step: self.writer.committed.get(0) == step)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def a_week(folder: Path, steps: int, limit: int) -> None:
    """Assert that the second half takes no more than the first, and that nothing is lost."""
    week = Week(folder, limit)
    week.go(range(steps // 2))
    blocks, memory = sys.getallocatedblocks(), resident()
    largest = folder_bytes(folder)
    for part in range(4):
        week.go(range((4 + part) * steps // 8, (5 + part) * steps // 8))
        largest = max(largest, folder_bytes(folder))
    grown, more = sys.getallocatedblocks() - blocks, resident() - memory
    week.writer.close(Report(steps=steps))
    assert week.writer.problem is None
    assert grown < 5000
    assert more < 64 << 20  # of which the queue may take 16 MiB
    assert max(largest, folder_bytes(folder)) <= limit
    assert sum(rows for _, rows in buckets_of(folder)) >= steps
    begun = time.perf_counter()
    series = read_run(folder).series["loss"]
    assert time.perf_counter() - begun < 30
    assert series.low[0, 0] == 0 and series.high[-1, 0] == steps - 1
    assert len(series) <= 1024 and (np.diff(series.steps) > 0).all()
    follower = Follower(folder)
    follower.poll()
    assert follower.data.series["loss"].high[-1, 0] == steps - 1


@pytest.mark.zoo
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_more_steps_than_the_folder_has_room_for(tmp_path: Path) -> None:
    """With a limit that is reached on the way, and the queue as it is."""
    a_week(new_folder(tmp_path, "week"), 12_000, 1 << 20)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_million_steps_with_the_limit_that_everybody_has(tmp_path: Path) -> None:
    assert LIMIT_BYTES == 256 << 20
    a_week(new_folder(tmp_path, "week"), 1_000_000, LIMIT_BYTES)
