"""Programs that start the processes of a training and do not train themselves, torchrun above all.

Such a launcher is not watched. It is given another command for its processes instead, by its own
options: `torchrun --nproc-per-node 2 train.py` becomes `torchrun --nproc-per-node 2 -m surefoot run
train.py`. Nothing of the launcher is replaced. The process of rank 0 keeps the record, gives the
verdict and leaves its report where the launcher's process finds it, which owes the exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot.files import replace_text
from surefoot.findings import Report
from surefoot.script import Program

_DELIVERY = "SUREFOOT_DELIVERY"  # in the environment: the folder where a report is expected


def announced() -> tuple[int, int]:
    """(rank, size) of the world that a launcher has named in the environment; (0, 1) without one.

    >>> announced()
    (0, 1)
    """
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


class Delivery:
    """A folder in which the process that trains leaves its report for the one that started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def made() -> Delivery:
        """A new one; `close` it in the end."""
        return Delivery(Path(tempfile.mkdtemp(prefix="surefoot-")))

    @staticmethod
    def awaited() -> Delivery | None:
        """That of the launcher that started this process, once: the script is not to find it."""
        folder = os.environ.pop(_DELIVERY, None)
        return Delivery(Path(folder)) if folder else None

    def announce(self) -> None:
        """Name it to the processes that are started from now on."""
        os.environ[_DELIVERY] = str(self.folder)

    def leave(self, report: Report | None = None, record: Path | None = None) -> None:
        """Leave the report, or at first where the record is kept. Raises OSError."""
        if record is not None:
            replace_text(self.folder / "record", str(record))
        if report is not None:
            replace_text(self.folder / "report", report.dumps())

    def report(self) -> Report | None:
        """The report, None if none came."""
        try:
            return Report.from_json(json.loads((self.folder / "report").read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def record(self) -> Path | None:
        """The run folder, None without one."""
        try:
            return Path((self.folder / "record").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Remove the folder; never raises."""
        if os.environ.get(_DELIVERY) == str(self.folder):
            del os.environ[_DELIVERY]
        shutil.rmtree(self.folder, ignore_errors=True)


def launcher(program: Program) -> str:
    """The module of torch's launcher that a program is, empty for any other program.

    >>> from surefoot.script import locate
    >>> launcher(locate("torch.distributed.run", module=True))
    'torch.distributed.run'
    """
    if program.module in ("torch.distributed.run", "torch.distributed.launch"):
        return program.target
    named = not program.module and Path(program.target).name in ("torchrun", "torchrun.exe")
    return "torch.distributed.run" if named else ""


class OutOfReach(Exception):
    """The processes of a launcher cannot be watched; the message says why."""


def handed_on(module: str, arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """The launcher's arguments with `surefoot run`, and its options `own`, before the script's.

    As they are where there is nothing to start: help is asked for, or an argument is wrong, which
    the launcher will say.

    Raises:
        OutOfReach: it is told to start something else than `python` with a script.
    """
    parsed = _parsed(module, list(arguments))
    if parsed is None:
        return list(arguments)
    if parsed.no_python or parsed.run_path:
        option = "--no-python" if parsed.no_python else "--run-path"
        raise OutOfReach(f"what {option} starts is not watched: leave the option away")
    if parsed.module and parsed.training_script == "surefoot":
        return list(arguments)
    rest = list(parsed.training_script_args)
    at = len(arguments) - len(rest) - 1
    while arguments[at] != parsed.training_script:
        at -= 1  # a "--" stood in between
    before = list(arguments[:at])
    if before[-1:] == ["--"]:
        before.pop()
    if not getattr(parsed, "use_env", True):  # the older launcher puts it right behind the script
        before.append("--use-env")
        rest.insert(0, "--local-rank=${local_rank}")
    script = ["-m", parsed.training_script] if parsed.module else [parsed.training_script]
    # The launcher fills in what stands behind a dollar.
    mine = [word.replace("$", "$$") for word in own]
    return [*before, "-m", "surefoot", "run", *mine, *script, *rest]


def _parsed(module: str, arguments: list[str]) -> Any:
    """What the launcher itself makes of its arguments; None if it will refuse them."""
    known = module in sys.modules
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            return importlib.import_module(module).parse_args(arguments)
    except (Exception, SystemExit):
        return None
    finally:
        if not known:  # it is about to run as `__main__`, and was never imported then
            sys.modules.pop(module, None)
