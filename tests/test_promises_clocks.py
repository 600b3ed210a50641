"""Promise: clocks that jump by years, back or forward, or stand still, harm nothing."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from record_fixture import REPORT, TABLE
from surefoot.progress import Progress
from surefoot.record import Follower, Writer, list_runs, new_folder, read_run
from surefoot.views.following import State, frame
from surefoot.watching.session import Session

YEAR = 366 * 86400.0


def forward() -> Iterator[float]:
    return itertools.count(1.7e9, YEAR)


def back() -> Iterator[float]:
    return itertools.count(1.7e9, -YEAR)


def to_and_fro() -> Iterator[float]:
    return (1.7e9 + (-1) ** k * 20 * YEAR for k in itertools.count())


def still() -> Iterator[float]:
    return itertools.repeat(1.7e9)


CLOCKS = [forward, back, to_and_fro, still]
Clock = Callable[[], Iterator[float]]


def train(session: Session | None, beside: Any = None) -> list[list[float]]:
    """Forty steps, with a batch that is lost in the thirtieth; the weights at the end."""
    if session is not None:
        session.start()
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(40):
            x, y = torch.randn(16, 4), torch.randint(2, (16,))
            x *= 1e3 if step == 30 else 1.0
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if beside is not None:
                beside(step)
    finally:
        if session is not None:
            session.stop()
    return [p.detach().flatten().tolist() for p in model.parameters()]


@pytest.mark.parametrize(
    ("which", "clock"),
    [
        *(("time", clock) for clock in CLOCKS),
        *((which, clock) for which in ("monotonic", "perf_counter") for clock in (forward, still)),
    ],
)
def test_a_training_is_watched_recorded_and_followed(
    which: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = train(None)
    session = Session(folder=new_folder(tmp_path, "run"), guard="dry run")
    follower = Follower(tmp_path / "run")
    shown: list[str] = []

    class Terminal:
        titled = True
        in_front = staticmethod(lambda: True)
        write = interject = staticmethod(shown.append)

    progress = Progress(Terminal(), session)  # type: ignore[arg-type]
    session.interim.asked = True

    def beside(step: int) -> None:
        if step % 8 == 7:
            follower.poll()
            progress._look()

    ticks = clock()
    real = time.perf_counter()
    monkeypatch.setattr(time, which, lambda: next(ticks))
    watched = train(session, beside)
    monkeypatch.undo()
    assert time.perf_counter() - real < 60
    assert watched == alone
    assert session._error is None and session.problem is None
    assert session.report().steps == 40
    assert read_run(tmp_path / "run").series["loss"].steps.tolist() == list(range(40))
    follower.poll()
    assert follower.data.series["loss"].steps.tolist() == list(range(40))
    assert any("step 40" in words for words in shown)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_writer_loses_nothing_and_does_not_spin(clock: Clock, tmp_path: Path) -> None:
    """Its own clock jumps as well. A thread that spins would use up all of the waiting."""
    ticks = clock()
    writer = Writer(tmp_path, {}, clock=lambda: next(ticks))
    writer.declare(0, TABLE, {"x": 1})
    for step in range(300):
        writer.put(0, step, {"x": np.array([step])})
    used = time.process_time()
    time.sleep(0.5)
    used = time.process_time() - used
    writer.close(REPORT)
    assert writer.problem is None
    assert not writer._thread.is_alive()
    assert used < 0.25
    assert read_run(tmp_path).series["x"].last.ravel().tolist() == list(range(300))


class Wrong(datetime):
    """A clock on the wall that is wrong by as much as `by` says."""

    by = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + cls.by


def test_runs_are_listed_by_the_moment_that_they_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefoot.record.writer.datetime", Wrong)
    monkeypatch.setattr("surefoot.record.folder.datetime", _Namer)
    years = [0, 30, -50, 7000, -1900]
    for by in years:
        monkeypatch.setattr(Wrong, "by", timedelta(days=365 * by))
        writer = Writer(new_folder(tmp_path, None, "train.py"), {})
        writer.declare(0, TABLE, {"x": 1})
        writer.put(0, 0, {"x": np.array([by])})
        writer.close(REPORT)
    runs = list_runs(tmp_path)
    assert all(run.problem is None and run.steps == 1 and run.started for run in runs)
    found = [read_run(run.path).series["x"].last[0, 0] for run in runs]
    assert found == sorted(years, reverse=True)
    assert runs[0].started and runs[0].started > datetime.now(UTC) + timedelta(days=365 * 6900)


class _Namer(Wrong):
    """The one that names folders: always in the same second."""

    min = datetime.min

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime(2030, 1, 1, tzinfo=UTC)


def test_a_run_that_begins_in_the_future_shows_no_negative_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock went back while it ran."""
    monkeypatch.setattr("surefoot.record.writer.datetime", Wrong)
    monkeypatch.setattr(Wrong, "by", timedelta(days=365 * 20))
    writer = Writer(new_folder(tmp_path, "late"), {})
    writer.declare(0, TABLE, {"loss": 1})
    writer.put(0, 0, {"loss": np.array([1.0])})
    writer.close()
    follower = Follower(writer.folder)
    follower.poll()
    assert follower.started and follower.started > datetime.now(UTC)
    console = Console(file=io.StringIO(), width=100)
    console.print(frame(follower.data, State(True, follower.started, 2.0), console=console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0:00:00 elapsed" in text and "-" not in text.partition("elapsed")[0][-20:]
