"""`surefoot run`: an unchanged program under watch, and the verdict when it has ended.

Watching starts when the program itself imports torch, and not before: so an `OMP_NUM_THREADS` that
the script sets still counts, and a script that never imports torch pays nothing.

What happens when:
- The verdict comes when the program's last line has run or its traceback has been printed: before
  the interpreter joins non-daemon threads and runs atexit handlers, because `--fail-on` must still
  be able to set the exit status. A training that is left to a thread is judged at that moment.
- Ctrl-C ends the training as under `python`, and the verdict still comes; the next Ctrl-C ends the
  process at once. During the verdict of a program that ended by itself, Ctrl-C skips the verdict.
- A training that the guard halts (`--guard`) ends with exit status 4, and no traceback.
- SIGTERM keeps its meaning: whoever sends it wants the process gone, and the run folder holds all
  steps up to that moment (`surefoot report RUN` gives the verdict). So does `os._exit`.
- Of several processes that train together (torchrun, `torch.multiprocessing.spawn`) each is
  watched; the one of rank 0 keeps the record and gives the verdict. A launcher is no training: it
  is told to watch the processes that it starts (`surefoot.launch`), and owes the exit status.
- Other child processes are not watched. A forked one ends as it would under `python`.

Paths are made absolute before the program runs, so it may change its directory. Nothing in here
changes the exit status of a program that failed, nor raises: what surefoot cannot do is one line
on stderr.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from surefoot.files import replace_text
from surefoot.findings import Report
from surefoot.forks import Fork
from surefoot.imports import when_imported
from surefoot.launch import Delivery, OutOfReach, announced, handed_on, launcher
from surefoot.options import Options
from surefoot.script import Outcome, execute, leave, working_directory
from surefoot.version import VERSION
from surefoot.voice import Voice

if TYPE_CHECKING:
    from surefoot.progress import Progress
    from surefoot.watching.session import Session

FAILED = 3  # the exit status of --fail-on

_NO_TORCH = (
    "This program never imported torch, so there was no training to watch: if it starts the "
    "training as another program, run that one instead, as in `surefoot run train.py`."
)
_UNSEEN = (
    "torch was imported where surefoot could not notice it, so nothing was watched: "
    "put `with surefoot.watch(model, optimizer):` around the training loop."
)


_ELSEWHERE = (
    "No process of this program has left a verdict, or a record to read one from: "
    "see what it has printed."
)


def run(options: Options) -> NoReturn:
    """Run the program under watch, give the verdict, and end this process as the program ended.

    Raises:
        SystemExit: with the program's own status, or with 3 where `fail_on` says so.
        KeyboardInterrupt: the program was ended by Ctrl-C; its traceback has been printed.
    """
    watcher = _Watcher(options)
    if launcher(options.program):
        outcome = watcher.launch()
    else:
        with when_imported("torch", watcher.start):
            outcome = execute(options.program, options.arguments)
    leave(outcome, watcher.conclude(outcome))


@dataclass(frozen=True, slots=True)
class _Spawned:
    """What is to run in a process spawned by the script, under a watch of its own."""

    function: Any
    options: Options
    folder: Path | None
    delivery: Delivery

    def __call__(self, index: int, *arguments: Any) -> Any:
        watcher = _Watcher(self.options, first=index == 0, delivery=self.delivery)
        watcher.start(self.folder)
        ended = "raised"
        try:
            result = self.function(index, *arguments)
            ended = "ended"
            return result
        finally:
            watcher.conclude(Outcome(0, ended))


class _Watcher:
    """From the import of torch to the verdict; no method raises for a fault of surefoot's own."""

    def __init__(
        self, options: Options, first: bool | None = None, delivery: Delivery | None = None
    ) -> None:
        self._options = options
        # Only the first of several processes that train together keeps a record and speaks.
        self._first = announced()[0] == 0 if first is None else first
        self._delivery = delivery or Delivery.awaited()  # for the process that started this one
        self._elsewhere: Delivery | None = None  # of the processes that train instead of this one
        here = working_directory()
        self._runs = Path(here, options.runs)
        self._json = Path(here, options.json) if options.json else None
        self._environment = options.environment()
        self._voice = Voice()
        self._process = Fork()
        self._session: Session | None = None
        self._progress: Progress | None = None
        self._folder: Path | None = None
        self._problem = ""
        self._imports = list(sys.path), list(sys.meta_path)
        self._undo: Callable[[], None] = lambda: None

    def launch(self) -> Outcome:
        """Run a launcher, which has the processes that it starts watched."""
        program, arguments = self._options.program, self._options.arguments
        try:
            changed = handed_on(launcher(program), arguments, self._options.words())
        except OutOfReach as reason:
            self._first = False  # there is no verdict to give
            self._voice.say(str(reason))
            return execute(program, arguments)
        self._elsewhere = Delivery.made()
        self._elsewhere.announce()
        return execute(program, changed)

    def start(self, folder: Path | None = None) -> None:
        """Begin to watch; called in the middle of the script's own `import torch`."""
        if not self._process.here:
            return
        self._problem = "was interrupted before it began to watch"
        self._voice.speak_for("surefoot")
        try:
            with _unheard_warnings():
                from surefoot.watching.session import Session

                if self._first and self._options.record:
                    self._folder = folder or self._new_folder()
                session = Session(
                    folder=self._folder,
                    ignore=self._options.ignore,
                    environment=self._environment,
                    forensics=self._options.forensics,
                    guard=self._options.guard and ("dry run" if self._options.dry_run else "act"),
                )
                session.start()
                self._session, self._problem = session, ""
                if self._delivery is not None and self._folder is not None:
                    self._delivery.leave(record=self._folder)
                self._follow_spawned()
                if self._options.view and self._folder is not None:
                    self._attempt("there is no live page", self._open_page, self._folder)
                if self._voice.terminal and self._first and not self._options.quiet:
                    self._tell(session, announce=folder is None)
        except Exception as error:
            self._problem = f"could not begin to watch: {_in_a_line(error)}"
            self._voice.say(f"{self._problem}. The script goes on without it.")

    def _tell(self, session: Session, announce: bool) -> None:
        """Let whoever sits at the terminal know how it gets on; raises nothing ordinary."""
        with suppress(Exception):
            from surefoot.progress import Progress
            from surefoot.views.words import clean

            follow = ""
            if self._folder is not None and session.problem is None:
                place = str(self._options.runs / self._folder.name)
                follow = clean(f"surefoot watch {shlex.quote(place)}")
                if announce and self._voice.in_front():
                    self._voice.interject(f"recording to {clean(place)}; follow it with: {follow}")
            self._progress = Progress(self._voice, session, follow)
            self._progress.start()

    def _open_page(self, folder: Path) -> None:
        from surefoot.live_page import open_page

        open_page(folder, self._voice)

    def _quiet_down(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _follow_spawned(self) -> None:
        """Watch what the script has run in processes of its own, if it does not train in this."""
        with suppress(KeyError, AttributeError, ImportError):  # a torch without them
            from surefoot.attach.processes import also_in_spawned

            self._undo = also_in_spawned(self._hand_over)

    def _hand_over(self, function: Any) -> Any:
        try:
            if self._session is not None and self._session.trainings:
                return function
            self._quiet_down()
            if self._session is not None:
                self._session.stop("handed over")
                self._session = None
            if self._folder is not None:
                from surefoot.record.folder import vacate

                again = self._elsewhere is not None
                self._folder = self._new_folder() if again else self._folder
                if self._folder is not None:
                    vacate(self._folder)
            self._elsewhere = self._elsewhere or Delivery.made()
            # The page has all runs of the folder, and goes on with this process.
            there = replace(self._options, runs=self._runs, json=None, fail_on=None, view=False)
            return _Spawned(function, there, self._folder, self._elsewhere)
        except Exception as error:
            self._voice.say(f"the spawned processes are not watched: {_in_a_line(error)}")
            return function

    def _new_folder(self) -> Path | None:
        from surefoot.record import new_folder

        try:
            return new_folder(self._runs, self._options.name, self._environment["script"])
        except Exception as error:
            self._voice.say(
                f"nothing of this run will be kept: no folder in {self._runs}: "
                f"{_in_a_line(error)}; choose another place with --runs."
            )
            return None

    def conclude(self, outcome: Outcome) -> int | None:
        """Give the verdict; returns the exit status that replaces the program's, if one does."""
        if not self._process.here:  # a child that the script forked came to its end
            return None
        _flush()
        self._undo()
        if outcome.words:
            self._voice.say(outcome.words)
        try:
            self._quiet_down()
            self._mend_imports()
            with _unheard_warnings():
                report = self._report(outcome.ended)
                if self._first:
                    self._publish(report)
        except Exception as error:
            self._voice.say(f"the verdict failed: {_in_a_line(error)}")
            return None
        except BaseException:  # Ctrl-C, or whatever the script's own handler makes of it
            self._voice.say("interrupted before the verdict was complete.")
            return None
        finally:
            if self._elsewhere is not None:
                self._elsewhere.close()
        if not self._first:
            return None
        worst, limit = report.worst(), self._options.fail_on
        fails = worst is not None and limit is not None and worst.rank >= limit.rank
        return FAILED if fails and outcome.succeeded else None

    def _mend_imports(self) -> None:
        """The verdict needs modules that were not imported before the script changed the path."""
        for before, now in zip(self._imports, (sys.path, sys.meta_path), strict=True):
            now += [entry for entry in before if entry not in now]

    def _report(self, ended: str) -> Report:
        if self._session is not None:
            self._session.stop(ended)
            return self._session.report()
        if self._elsewhere is not None:
            return self._report_from(self._elsewhere)
        if self._problem:
            missing = f"surefoot {self._problem}."
        else:
            missing = _UNSEEN if "torch" in sys.modules else _NO_TORCH
        return Report(missing=(missing,), surefoot=VERSION)

    def _report_from(self, there: Delivery) -> Report:
        """What the process that trained has said, or what its record tells where it was ended."""
        self._folder = there.record()
        report = there.report()
        if report is not None:
            self._options = replace(self._options, quiet=True)  # it has given the verdict itself
            return report
        if self._folder is not None:
            from surefoot.record import read_run

            return read_run(self._folder).report
        return Report(missing=(_ELSEWHERE,), surefoot=VERSION)

    def _publish(self, report: Report) -> None:
        if self._json is not None:
            self._attempt("the report was not written as JSON", self._save_json, report)
        page = self._attempt("there is no HTML report", self._save_page)
        quiet = self._options.quiet
        if not quiet and not self._attempt("the verdict is not in full", self._show, report, page):
            self._voice.say(f"verdict: {report.verdict}. {_gist(report)}")
        if not quiet and in_workflow():
            self._attempt("there are no annotations", self._annotate, report)
        if self._session is not None and self._session.problem:
            self._voice.say(self._session.problem)
        if self._delivery is not None:  # last: whoever finds it need not say it again
            self._attempt("the report did not arrive", self._delivery.leave, report)

    def _attempt(self, loss: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """The action's result, or None and one line that says what is lost."""
        try:
            return action(*arguments)
        except Exception as error:
            self._voice.say(f"{loss}: {_in_a_line(error)}")
            return None

    def _save_json(self, report: Report) -> None:
        assert self._json is not None
        replace_text(self._json, report.dumps() + "\n")

    def _save_page(self) -> Path | None:
        if self._folder is None:
            return None
        data: Any = None
        if self._session is not None:
            data = self._session.data()
        elif self._elsewhere is not None and not self._options.quiet:
            from surefoot.record import read_run

            data = read_run(self._folder)
        if data is None:
            return None
        from surefoot.views.report import save_report

        # The script may have deleted the folder: this makes it again.
        return Path(save_report(data, self._folder / "report.html"))

    def _show(self, report: Report, page: Path | None) -> bool:
        from rich.console import Console

        from surefoot.views.terminal import print_verdict

        with self._voice.stream() as stream:
            if stream is not None:
                places = {
                    "report_path": str(page) if page else None,
                    "folder": str(self._folder) if self._folder else None,
                }
                print_verdict(report, console=Console(file=stream), **places)
        return True

    def _annotate(self, report: Report) -> None:
        from surefoot.views.annotations import annotations

        path = Path(self._options.program.path)
        self._voice.write(annotations(report, path if path.is_file() else None))


def in_workflow() -> bool:
    """Whether this runs in a workflow of GitHub's, or of one that is like it: it shows findings."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


@contextmanager
def _unheard_warnings() -> Iterator[None]:
    """What surefoot's own imports warn of is not the script's, even where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _flush() -> None:
    """Bring out what the script has printed, so that the verdict comes last in a shared log."""
    for stream in (sys.stdout, sys.stderr):
        # The interpreter meets the same failure at its end, and reports it as it always does.
        with suppress(Exception):
            stream.flush()


def _in_a_line(error: BaseException) -> str:
    """An exception in one line, as the last line of its traceback would have it."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _gist(report: Report) -> str:
    root = report.root
    return root.sentence if root is not None else " ".join(report.missing)
