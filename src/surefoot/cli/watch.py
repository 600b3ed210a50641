"""`surefoot watch`: follow a run in the terminal while it trains."""

from __future__ import annotations

import signal
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from surefoot.cli.shared import fail_on_option
from surefoot.findings import Report, Severity
from surefoot.run import FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from surefoot.record import Follower
    from surefoot.views.following import State

_EVERY = 0.25  # seconds between two looks
_BUCKETS = 256  # more than a median needs
_PATIENCE = 3.0  # seconds for a run that has ended to leave its verdict, or to be read again
_WINDOW = 10.0  # seconds over which steps are counted


@click.command("watch")
@click.argument("run", metavar="[RUN]", default="runs", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print how it stands now, and end.")
@fail_on_option
def watch_command(run: Path, once: bool, fail_on: str | None) -> None:
    """Follow a run in the terminal until it ends, and print its verdict.

    RUN is a run folder, or a folder of runs such as `runs`, the default: then it is the newest of
    those that go on, or else the newest. Ctrl-C leaves; the training does not notice.
    """
    from rich.console import Console

    from surefoot.record import RecordError

    console = Console()
    try:
        folder, words = _chosen(run)
        if words:
            click.echo(words, err=True)
        watched = _Watched(folder, console)
        alive = console.is_terminal and not console.is_dumb_terminal
        report = watched.follow() if alive and not once else watched.once()
    except RecordError as error:
        raise click.ClickException(str(error)) from None
    worst = report.worst()
    if worst is not None and fail_on is not None and worst.rank >= Severity(fail_on).rank:
        click.get_current_context().exit(FAILED)


def _chosen(place: Path) -> tuple[Path, str]:
    """The run folder that is meant, and what is to be said about the choice."""
    from surefoot.record import RecordError, list_runs
    from surefoot.record.database import DATABASE
    from surefoot.views.words import clean, plural

    if (place / DATABASE).exists():
        return place, ""
    runs = list_runs(place)
    readable = [run for run in runs if run.problem is None]
    if not runs:
        raise RecordError(
            f"expected a run folder or a folder of runs, found none in {clean(place)}. "
            "Next: surefoot run train.py"
        )
    if not readable:
        raise RecordError(str(runs[0].problem))
    chosen = next((run for run in readable if run.live), readable[0])
    among = f"the newest of {plural(len(readable), 'run')}"
    if len(readable) == 1:
        among = "the only run"
    elif chosen.live:
        among = "the newest that goes on"
    return chosen.path, f"{clean(chosen.path)}: {among} in {clean(place)}"


class _Watched:
    """One run folder before one console."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._follower = self._opened()
        self._follower.poll()
        self._steps: deque[tuple[float, int]] = deque()

    def _opened(self) -> Follower:
        from surefoot.record import Follower

        return Follower(self._folder, buckets=_BUCKETS)

    def once(self) -> Report:
        """Print how it stands now."""
        from surefoot.views.following import frame

        self._console.print(frame(self._follower.data, self._state(), console=self._console))
        return self._follower.data.report

    def follow(self) -> Report:
        """Show it until it ends, then print the verdict."""
        from rich.live import Live

        from surefoot.views.following import over
        from surefoot.views.terminal import print_verdict, shown

        console, seen_live = self._console, self._follower.live
        if seen_live:
            signal.signal(signal.SIGTERM, _leave)  # not without giving the screen back
            with Live(console=console, screen=True, auto_refresh=False) as live:
                self._show(live)
            self._await_verdict()
        report = self._follower.data.report
        if self._cut_off:
            console.print(shown(console, over(report.steps), "yellow"))
        page = self._folder / "report.html"
        print_verdict(
            report,
            console=console,
            report_path=str(page) if page.exists() else None,
            folder=str(self._folder),
        )
        return report

    def _show(self, live: Any) -> None:
        """One frame after the other while the run goes on."""
        from surefoot.views.following import frame

        console = self._console
        while self._follower.live:
            begun = time.monotonic()
            height = console.height
            shot = frame(self._follower.data, self._state(), console=console, height=height)
            live.update(shot, refresh=True)
            time.sleep(max(_EVERY - (time.monotonic() - begun), 0.05))
            self._look()

    def _look(self) -> None:
        """Take in what is new. A run may begin its record again in the same folder."""
        from surefoot.record import RecordError

        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self._follower.poll()
                return
            except RecordError:
                if time.monotonic() > end:
                    raise
                time.sleep(_EVERY)
                self._follower = self._opened()

    def _await_verdict(self) -> None:
        """The last word is written a moment after the last step."""
        end = time.monotonic() + _PATIENCE
        while self._cut_off and time.monotonic() < end:
            time.sleep(_EVERY / 2)
        self._look()

    @property
    def _cut_off(self) -> bool:
        from surefoot.record.folder import REPORT

        return not self._follower.live and not (self._folder / REPORT).exists()

    def _state(self) -> State:
        from surefoot.views.following import State

        data, now = self._follower.data, time.monotonic()
        steps = [int(series.steps[-1]) for series in data.series.values() if len(series)]
        if steps:
            self._steps.append((now, max(steps)))
        while len(self._steps) > 2 and now - self._steps[0][0] > _WINDOW:
            self._steps.popleft()
        rate = None
        if self._steps and (took := now - self._steps[0][0]) >= 1:
            rate = (self._steps[-1][1] - self._steps[0][1]) / took
        return State(self._follower.live, self._follower.started, rate, self._cut_off)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
