"""Run folders: `runs/<name>/` with `run.sqlite`, and `run.json` once the run has ended."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surefoot.files import replace_text
from surefoot.findings import Report, Verdict
from surefoot.record.database import DATABASE, locked, open_reader
from surefoot.record.schema import RecordError

REPORT = "run.json"
_REPORT_BYTES = 16 << 20
_MOST_NAMESAKES = 100_000


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of a list of runs.

    `steps` counts those of the training that has most; `verdict` is None until there is one;
    `live` says that the process that writes it still runs on this machine; `problem` says why the
    folder cannot be read, all else but name and path being unknown then; `busy` that it may be in a
    moment, because another program holds it.
    """

    name: str
    path: Path
    started: datetime | None = None
    steps: int = 0
    trainings: int = 0
    verdict: Verdict | None = None
    live: bool = False
    problem: str | None = None
    busy: bool = False


def new_folder(runs: Path, name: str | None = None, script: str | None = None) -> Path:
    """Make a folder of its own for a run, even if other processes do so in the same second.

    Without a name it is the script's, or "run", and the UTC time; a name that is taken gets -2,
    -3 and so on. Raises ValueError for a name that is no plain folder name, OSError as it comes.

    >>> import tempfile
    >>> runs = Path(tempfile.mkdtemp())
    >>> [new_folder(runs, "first").name for _ in range(3)]
    ['first', 'first-2', 'first-3']
    """
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(script).stem if script else "")
        name = f"{stem.strip('.-')[:80] or 'run'}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    elif name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise ValueError(
            f"expected the name of one folder inside {runs}, got {name!r}. "
            "Next: choose a name without slashes"
        )
    runs = Path(runs)
    runs.mkdir(parents=True, exist_ok=True)
    for count in range(1, _MOST_NAMESAKES):
        folder = runs / (name if count == 1 else f"{name}-{count}")
        try:
            folder.mkdir()  # succeeds in one process only: this is the lock
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"expected a free name like {name!r} in {runs}, and all are taken")


def vacate(folder: Path) -> None:
    """Take the record out of a folder, for another process to keep its own there; raises OSError.

    Its writer is closed.
    """
    sides = (f"{DATABASE}-{kind}" for kind in ("wal", "shm", "journal"))
    for name in (DATABASE, *sides, REPORT):
        (folder / name).unlink(missing_ok=True)


def list_runs(runs: Path) -> list[RunSummary]:
    """The runs in a folder, newest first; one that cannot be read is listed with its problem."""
    runs = Path(runs)
    if not runs.is_dir():
        return []
    return newest_first(
        [summarise(path) for path in runs.iterdir() if os.path.exists(path / DATABASE)]
    )


def newest_first(runs: list[RunSummary]) -> list[RunSummary]:
    """Runs in the order of a list: those that cannot say when they began come last."""
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(runs, key=lambda run: (run.started or oldest, run.name), reverse=True)


def summarise(path: Path) -> RunSummary:
    """One line about a run folder; one that cannot be read has its problem there."""
    try:
        with open_reader(path) as connection:
            facts = read_facts(connection)
            count, steps = connection.execute(
                "SELECT COUNT(*), COALESCE(MAX(rows), 0) FROM progress"
            ).fetchone()
            live = "ended" not in facts and is_alive(facts.get("process"))
            return RunSummary(
                name=path.name,
                path=path,
                started=moment(facts.get("started")),
                steps=int(steps),
                trainings=int(count),
                verdict=_verdict(path, connection),
                live=live,
            )
    except RecordError as error:
        busy = locked(error.__cause__ or error)
        return RunSummary(path.name, path, problem=str(error), busy=busy)


def _verdict(path: Path, connection: sqlite3.Connection) -> Verdict | None:
    """That of run.json, or else the worst that any training has so far."""
    final = read_report(path)
    if final is not None:
        return final.verdict
    found = connection.execute("SELECT value FROM report LIMIT 64")  # one by one: each may be long
    verdicts = {Report.from_json(json.loads(text)).verdict for (text,) in found}
    order = (Verdict.UNSTABLE, Verdict.INCONCLUSIVE, Verdict.HEALTHY)
    return next((verdict for verdict in order if verdict in verdicts), None)


def write_report(folder: Path, report: Report) -> None:
    """Write run.json whole or not at all; raises OSError, and ValueError for what is not JSON."""
    if not folder.is_dir():  # a folder that the user has deleted stays away
        raise FileNotFoundError(f"the run folder {folder} is gone")
    replace_text(folder / REPORT, report.dumps() + "\n", sync=True)


def read_report(folder: Path) -> Report | None:
    """The report in run.json, None without that file; raises on a malformed one."""
    path = folder / REPORT
    if not path.exists():
        return None
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _REPORT_BYTES:
        raise RecordError(f"has a {REPORT} that is no report")
    return Report.from_json(json.loads(path.read_text("utf-8")))


def read_facts(connection: sqlite3.Connection) -> dict[str, str]:
    """The run's own facts as text: environment, started, ended, surefoot, process."""
    found = connection.execute("SELECT name, value FROM run LIMIT 64").fetchall()
    return {k: v for k, v in found if isinstance(k, str) and isinstance(v, str)}


def this_process() -> dict[str, Any]:
    """What tells this process from any other, on this machine or another."""
    return {"host": platform.node(), "pid": os.getpid(), "begun": _begun(os.getpid())}


def is_alive(process: str | None) -> bool:
    """Whether the process that `this_process` described (as JSON) still runs on this machine.

    Known on Linux only, where the kernel tells when a process began; False elsewhere.
    """
    try:
        data = json.loads(process or "")
        pid = data["pid"]
        mine = data["host"] == platform.node() and isinstance(pid, int)
        return mine and data["begun"] is not None and data["begun"] == _begun(pid)
    except (ValueError, TypeError, KeyError):
        return False


def _begun(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since boot; None if there is none such."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def moment(text: str | None) -> datetime | None:
    """A time as the record keeps it; None for what is no time."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
