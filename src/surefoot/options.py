"""What `surefoot run` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.findings import Severity
from surefoot.script import Program, working_directory


@dataclass(frozen=True, slots=True)
class Options:
    """What `surefoot run` was asked to do; `record=False` leaves nothing on disk but `json`.

    forensics: whether a step that turned bad may be tried again on copies. guard: whether a guard
    acts on the training; dry_run: or only says what it would do. view: whether a page of the run is
    served while it goes on.
    """

    program: Program
    arguments: tuple[str, ...] = ()
    runs: Path = Path("runs")
    name: str | None = None
    record: bool = True
    forensics: bool = True
    guard: bool = False
    dry_run: bool = False
    json: Path | None = None
    fail_on: Severity | None = None
    ignore: tuple[str, ...] = ()
    quiet: bool = False
    view: bool = False

    def words(self) -> list[str]:
        """The options as they are typed, for the processes of a launcher: those that are theirs."""
        words = ["--runs", str(Path(working_directory(), self.runs))]
        words += ["--name", self.name] if self.name else []
        words += [word for rule in self.ignore for word in ("--ignore", rule)]
        words += [] if self.record else ["--no-record"]
        words += [] if self.forensics else ["--no-forensics"]
        words += ["--guard"] if self.guard else []
        words += ["--dry-run"] if self.dry_run else []
        words += ["--view"] if self.view else []
        return [*words, "--quiet"] if self.quiet else words

    def environment(self) -> dict[str, Any]:
        """What the record says of the command, as plain JSON values."""
        return {
            "script": self.program.target,
            "argv": [self.program.target, *self.arguments],
            "module": bool(self.program.module),
            "cwd": working_directory(),
            "options": {
                "forensics": self.forensics,
                "guard": self.guard and ("dry run" if self.dry_run else "act"),
                "ignore": list(self.ignore),
                "record": self.record,
            },
        }
