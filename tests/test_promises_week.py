"""Promise: a week of steps takes no more memory and disk than its first hour.

Ten steps a second make six million in a week. 12,000 steps here, 10^6 in the heavier suite, as a
training gives them to the ledger and the writer; `test_growth` has the smallest limit and its
edges, `test_growth_watching` the rest of a watch. The clock is a fake one: it makes ten steps a
second, so that a week of its time passes.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from record_fixture import buckets_of, folder_bytes, wait_until
from surefoot.findings import Report
from surefoot.record import Follower, Writer, new_folder, read_run
from surefoot.record.backlog import Row
from surefoot.record.writer import LIMIT_BYTES
from surefoot.signals import QUANTITIES, Axis
from surefoot.signals.flow import Call, Flow, TensorStats
from surefoot.watching.ledger import Ledger
from views_fixture import table

PARAMETERS = 40
COUNTS = {Axis.GROUP: 1, Axis.PARAMETER: PARAMETERS, Axis.BLOCK: 10}
EVENT_STEPS = 1000  # between alarms, flows and reports


class Week:
    """A clock of ten steps a second, and what a training records at each of them.

    largest: the most bytes that the folder had, looked at every 2 ms while the writer is at work.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.now = 0.0
        self.largest = 0
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
            if step % EVENT_STEPS == 0:
                ledger.alarm(step, "spike", {"parameters": list(range(PARAMETERS)), "z": 7.0})
                ledger.flow(Flow(step, [Call(i, i, stats, stats) for i in range(PARAMETERS // 2)]))
                self.writer.report(0, Report(steps=step))
            ledger.commit(step)
            if step % 2000 == 1999:  # no faster than the disk
                wait_until(lambda step=step: self._written(step))

    def _written(self, step: int) -> bool:
        self.largest = max(self.largest, folder_bytes(self.writer.folder))
        return self.writer.committed.get(0) == step


def held() -> tuple[int, int]:
    """(blocks of memory that Python objects take, bytes of this process), the writer at rest.

    While the log moves into the file the writer's thread still has what it committed last, 2 MiB
    at most: of these steps 970 rows of 10 blocks, or none, as it happens.
    """
    wait_until(lambda: gc.collect() >= 0 and not any(type(o) is Row for o in gc.get_objects()))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * resource.getpagesize()


def may_be_kept(steps: int) -> int:
    """Blocks of memory that the second half of so many steps may add, by what is kept of it.

    Of the first 32 alarms the ledger keeps the whole (6 blocks), of 12 flows each with its 20
    calls (45), and the store of 64 the number and the size (3). Of the first thousand events, all
    alarms here, the store keeps how many they are, and of later ones again a number and a size:
    one may come for each of 20 doublings of the buckets' width. 500 are for what Python and
    SQLite keep ready. One block kept at every 800th of a million steps would be more.
    """
    events = steps // 2 // EVENT_STEPS
    first = min(events, max(32 - events, 0))
    return (6 + 45 + 3) * first + 3 * 20 + 500


def a_week(folder: Path, steps: int, limit: int) -> None:
    """Assert that the second half takes no more than the first, and that nothing is lost."""
    week = Week(folder, limit)
    week.go(range(steps // 2))
    blocks, memory = held()
    week.go(range(steps // 2, steps))
    grown, more = (now - before for now, before in zip(held(), (blocks, memory), strict=True))
    week.writer.close(Report(steps=steps))
    assert week.writer.problem is None
    assert grown <= may_be_kept(steps)
    assert more < 32 << 20  # the queue may have taken 16 MiB, and SQLite's cache 2
    assert max(week.largest, folder_bytes(folder)) <= limit
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


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_million_steps_with_the_limit_that_everybody_has(tmp_path: Path) -> None:
    assert LIMIT_BYTES == 256 << 20
    a_week(new_folder(tmp_path, "week"), 1_000_000, LIMIT_BYTES)
