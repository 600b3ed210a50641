"""`surefoot run`: an unchanged program under watch, and the verdict when it has ended.

Watching starts when the program itself imports torch, and not before: so an `OMP_NUM_THREADS` that
the script sets still counts, and a script that never imports torch pays nothing.

What happens when:
- The verdict comes when the program's last line has run or its traceback has been printed: before
  the interpreter joins non-daemon threads and runs atexit handlers, because `--fail-on` must still
  be able to set the exit status. A training that is left to a thread is judged at that moment.
- Ctrl-C ends the training as under `python`, and the verdict still comes; the next Ctrl-C ends the
  process at once. During the verdict of a program that ended by itself, Ctrl-C skips the verdict.
- SIGTERM keeps its meaning: whoever sends it wants the process gone, and the run folder holds all
  steps up to that moment (`surefoot report RUN` gives the verdict). So does `os._exit`.
- Child processes are not watched. A child forked by the script ends as it would under `python`.

Paths are made absolute before the program runs, so it may change its directory. Nothing in here
changes the exit status of a program that failed, nor raises: what surefoot cannot do is one line
on stderr.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO

from surefoot.files import replace_text
from surefoot.findings import Report, Severity
from surefoot.forks import Fork
from surefoot.script import Outcome, Program, execute, leave, working_directory
from surefoot.version import VERSION

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True)
class Options:
    """What `surefoot run` was asked to do; `record=False` leaves nothing on disk but `json`.

    forensics: whether a step that turned bad may be tried again on copies.
    """

    program: Program
    arguments: tuple[str, ...] = ()
    runs: Path = Path("runs")
    name: str | None = None
    record: bool = True
    forensics: bool = True
    json: Path | None = None
    fail_on: Severity | None = None
    ignore: tuple[str, ...] = ()
    quiet: bool = False


def run(options: Options) -> NoReturn:
    """Run the program under watch, give the verdict, and end this process as the program ended.

    Raises:
        SystemExit: with the program's own status, or with 3 where `fail_on` says so.
        KeyboardInterrupt: the program was ended by Ctrl-C; its traceback has been printed.
    """
    watcher = _Watcher(options)
    with when_imported("torch", watcher.start):
        outcome = execute(options.program, options.arguments)
    leave(outcome, watcher.conclude(outcome))


class _Watcher:
    """From the import of torch to the verdict; no method raises for a fault of surefoot's own."""

    def __init__(self, options: Options) -> None:
        self._options = options
        here = working_directory()
        self._runs = Path(here, options.runs)
        self._json = Path(here, options.json) if options.json else None
        self._environment = _environment(options)
        self._voice = Voice()
        self._process = Fork()
        self._session: Session | None = None
        self._folder: Path | None = None
        self._problem = ""
        self._imports = list(sys.path), list(sys.meta_path)

    def start(self) -> None:
        """Begin to watch; called in the middle of the script's own `import torch`."""
        if not self._process.here:
            return
        self._problem = "was interrupted before it began to watch"
        self._voice.speak_for("surefoot")
        try:
            with _unheard_warnings():
                from surefoot.watching.session import Session

                self._folder = self._new_folder() if self._options.record else None
                session = Session(
                    folder=self._folder,
                    ignore=self._options.ignore,
                    environment=self._environment,
                    forensics=self._options.forensics,
                )
                session.start()
                self._session, self._problem = session, ""
        except Exception as error:
            self._problem = f"could not begin to watch: {_in_a_line(error)}"
            self._voice.say(f"{self._problem}. The script goes on without it.")

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
        try:
            self._mend_imports()
            with _unheard_warnings():
                report = self._report(outcome.ended)
                self._publish(report)
        except Exception as error:
            self._voice.say(f"the verdict failed: {_in_a_line(error)}")
            return None
        except BaseException:  # Ctrl-C, or whatever the script's own handler makes of it
            self._voice.say("interrupted before the verdict was complete.")
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
        if self._problem:
            missing = f"surefoot {self._problem}."
        else:
            missing = _UNSEEN if "torch" in sys.modules else _NO_TORCH
        return Report(missing=(missing,), surefoot=VERSION)

    def _publish(self, report: Report) -> None:
        if self._json is not None:
            self._attempt("the report was not written as JSON", self._save_json, report)
        page = self._attempt("there is no HTML report", self._save_page)
        quiet = self._options.quiet
        if not quiet and not self._attempt("the verdict is not in full", self._show, report, page):
            self._voice.say(f"verdict: {report.verdict}. {_gist(report)}")
        if self._session is not None and self._session.problem:
            self._voice.say(self._session.problem)

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
        data = self._session.data() if self._session is not None and self._folder else None
        if data is None or self._folder is None:
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


class Voice:
    """surefoot's own words: they go to the stderr it was started with, or nowhere.

    The script may close stderr, replace it, or open a file that is then given its number: what is
    written to is always checked to be the very file that stderr was at the start.
    """

    def __init__(self) -> None:
        self._given: TextIO | None = sys.stderr
        self._spare = -1
        self._identity: tuple[int, int] | None = None
        try:
            number = sys.stderr.fileno()
            self._identity = _identity(number)
            self._spare = os.dup(number)
        except (AttributeError, OSError, ValueError):
            return  # not a file (a test's buffer, a notebook), or closed from the start
        # A daemon forked by the script must be able to let go of stderr.
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        if _identity(self._spare) == self._identity:
            os.close(self._spare)
        self._spare = -1

    @contextmanager
    def stream(self) -> Iterator[IO[str] | None]:
        """A stream to write to, None if the stderr of the start is gone."""
        if self._identity is None:
            yield self._given
            return
        number = next((n for n in (self._spare, 2) if _identity(n) == self._identity), None)
        if number is None:
            yield None
            return
        encoding = getattr(self._given, "encoding", None) or "utf-8"
        with open(number, "w", encoding=encoding, errors="backslashreplace", closefd=False) as file:
            yield file

    def speak_for(self, logger: str) -> None:
        """Say what a logger warns of, and keep it out of the script's own log and stdout."""
        import logging

        voice = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                voice.say(record.getMessage())

        log = logging.getLogger(logger)
        log.propagate = False
        log.addHandler(Handler(logging.WARNING))

    def say(self, sentence: str) -> None:
        """One line, marked as surefoot's; never raises an ordinary exception."""
        with suppress(Exception), self.stream() as stream:  # a broken pipe: no one is left to tell
            if stream is not None:
                stream.write(f"surefoot: {sentence}\n")


def _identity(number: int) -> tuple[int, int] | None:
    """Which file a descriptor stands for: device and inode; None if it is closed."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _ImportWatch(MetaPathFinder):
    """Calls back once, after a module has been imported; the import itself stays as it was."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action
        self._done = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Let the other finders find the module, and listen on the loader they chose."""
        if fullname != self._name or self._done:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self._listen(spec.loader)
                return spec
        return None

    def _listen(self, loader: Any) -> None:
        # On this one loader object and not around it: whoever looks at the module's loader
        # (inspect, pkgutil, importlib.resources) finds the class that he expects.
        def exec_module(module: Any) -> None:
            del loader.exec_module
            loader.exec_module(module)
            if not self._done:
                self._done = True
                self.remove()
                self._action()

        with suppress(AttributeError):  # a loader without room: the report says so
            loader.exec_module = exec_module

    def remove(self) -> None:
        """Take this finder out of the import system; a second time does nothing."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


@contextmanager
def when_imported(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` as soon as the top-level module `name` is imported; at once if it is.

    >>> import sys
    >>> _ = sys.modules.pop("antigravity", None)
    >>> with when_imported("wave", lambda: print("heard")):
    ...     import wave
    heard
    """
    if name in sys.modules:
        action()
        yield
        return
    watch = _ImportWatch(name, action)
    sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        watch.remove()


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


def _environment(options: Options) -> dict[str, Any]:
    """What the record says of the command, as plain JSON values."""
    return {
        "script": options.program.target,
        "argv": [options.program.target, *options.arguments],
        "cwd": working_directory(),
        "options": {
            "forensics": options.forensics,
            "ignore": list(options.ignore),
            "record": options.record,
        },
    }


def _in_a_line(error: BaseException) -> str:
    """An exception in one line, as the last line of its traceback would have it."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _gist(report: Report) -> str:
    root = report.root
    return root.sentence if root is not None else " ".join(report.missing)
