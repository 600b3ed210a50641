"""What the tests of the record share: a layer table, waiting, and a disk that stands still."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.findings import Cause, Evidence, Finding, Pathology, Remedy, Report, Severity
from surefoot.layers import Kind, Layer, LayerTable, Parameter
from surefoot.record.database import DATABASE
from surefoot.record.store import Store

TABLE = LayerTable(
    "Net",
    (
        Layer("", "Net", Kind.CONTAINER, None, False),
        Layer("fc", "Linear", Kind.LINEAR, 0, True),
    ),
    (Parameter("fc.weight", 1, (2, 3), "float32", 6, ("head.weight",)),),
)

REPORT = Report(
    findings=(
        Finding(
            rule="SF101",
            pathology=Pathology.EXPLODING,
            cause=Cause.WEIGHTS_TOO_LARGE,
            severity=Severity.HARMFUL,
            sentence="Gradients grow 10x per layer from fc: naïve ≥ 1 — 見.",
            layer="fc",
            root=True,
            last_step=4,
            evidence=(Evidence("gain", float("inf"), "0.5 to 2", 3),),
            remedies=(Remedy("init.kaiming_normal", "fc", "why", parameters={"gain": 1.5}),),
        ),
    ),
    steps=5,
    surefoot="0.1.0",
)


def wait_until(done: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once `done()`; the limit only ends a test that would never end."""
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.002)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, some of which may go while we look."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def buckets_of(folder: Path, training: int = 0) -> list[tuple[int, int]]:
    """(step, rows) of every bucket in the file, read by SQLite and nothing of ours."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        found = connection.execute(f"SELECT step, rows FROM steps_{training} ORDER BY id")
        return found.fetchall()


@contextmanager
def stalled_disk(patch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Within, the writer's thread stands still at its next commit until the event is set."""
    go = threading.Event()
    reached = threading.Event()
    write = Store.write

    def slow(self: Store, *arguments: Any) -> None:
        reached.set()
        go.wait(120.0)
        write(self, *arguments)

    patch.setattr(Store, "write", slow)
    try:
        yield go
    finally:
        go.set()
        patch.setattr(Store, "write", write)


def noise(steps: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows [T, C] of float32 with spikes, infinities and unmeasured values strewn in."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((steps, columns)).astype(np.float32)
    for value in (1e30, -1e30, np.inf, -np.inf):
        rows[random.integers(steps), random.integers(columns)] = value
    rows[random.random((steps, columns)) < 0.05] = np.nan
    return rows
