"""Run a script or a module in this process as `python` would, and say how it ended.

This is the half of `surefoot run` that knows nothing of training: only the standard library is
imported here, so that the script finds the process as it would have found it under `python`.

The same as under `python`: `sys.argv`, `sys.path[0]`, a fresh `__main__` module that pickle,
dataclasses and multiprocessing find, the text of tracebacks (surefoot's own frames are cut out),
`sys.excepthook`, the exit status, death by SIGINT after an uncaught Ctrl-C. What python does when
a program has ended (joining non-daemon threads, atexit handlers, the last flush of stdout) is left
to the interpreter itself: it happens in `leave`, after the verdict.

Not the same: the stack is a few frames deeper, which `sys._getframe` and `warnings.warn` with a
stacklevel beyond the script can see; and `sys.orig_argv` still names surefoot.
"""

from __future__ import annotations

import builtins
import difflib
import importlib.machinery
import os
import pkgutil
import runpy
import signal
import stat
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

# The rooms that stand between a script and torch: frames in them are never the script's.
_ROOMS = {"attach", "cli", "compiler", "diagnosis", "forks", "guarding", "imports", "kernels"}
_ROOMS |= {"probes", "record", "remedies", "run", "script", "signals", "trial", "watching"}
HALTED = 4  # the exit status of a training that a guard has halted


class ScriptError(Exception):
    """There is no such program to run; the message says what to do instead."""


class _Form(Enum):
    FILE = "file"
    BUNDLE = "bundle"  # a directory or zip file with a __main__.py
    MODULE = "module"


@dataclass(frozen=True, slots=True)
class Program:
    """What `python` would run: `target` as it was typed, `path` the absolute file or folder."""

    target: str
    path: str
    form: _Form

    @property
    def module(self) -> str:
        """The module's name, empty for a file or a folder."""
        return self.target if self.form is _Form.MODULE else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: the status `python` would exit with, and in which way it got there.

    `ended` is "ended" (its last line has run, or sys.exit), "raised", "interrupted" (Ctrl-C) or
    "halted" (by a guard; `words` say why).
    """

    status: int = 0
    ended: str = "ended"
    words: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether an uncaught Ctrl-C ended it."""
        return self.ended == "interrupted"

    @property
    def succeeded(self) -> bool:
        """Whether the shell sees status 0, of which it is given the low byte."""
        return not self.interrupted and self.status & 0xFF == 0


def locate(target: str, *, module: bool = False) -> Program:
    """Find the program that `python TARGET` or `python -m TARGET` names.

    A module is looked up only when it runs, because its parent packages are imported by that.

    Raises:
        ScriptError: the file cannot be read; says what python says, and the likely slip.
    """
    if module:
        return Program(target, "", _Form.MODULE)
    # Joined but not normalised: this is the __file__ that python gives to a script.
    path = os.path.join(working_directory(), target)
    if pkgutil.get_importer(path) is not None:
        return Program(target, path, _Form.BUNDLE)
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # a pipe, as in <(...), can be opened only once
            open(path, "rb").close()
        return Program(target, path, _Form.FILE)
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        raise ScriptError(f"can't open file {path!r}: {reason}{_hint(target)}") from None


def working_directory() -> str:
    """The current directory, or "" where it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _hint(target: str) -> str:
    """The likely reason why a script is not where it was said to be, as a line of its own."""
    script = Path(target)
    try:
        beside = [p.name for p in script.parent.iterdir() if p.suffix == ".py"]
    except OSError:
        return f"\nThere is no folder {script.parent}; expected the path of a Python script."
    close = difflib.get_close_matches(script.name, [*beside, *(n[:-3] for n in beside)], n=1)
    if close:
        name = close[0] if close[0].endswith(".py") else f"{close[0]}.py"
        return f"\nDid you mean {script.parent / name}?"
    if "." in target and os.sep not in target and not target.endswith(".py"):
        return f"\nTo run a module: surefoot run -m {target}"
    return "\nExpected the path of a Python script, as in: surefoot run train.py --epochs 3"


def execute(program: Program, arguments: Sequence[str] = ()) -> Outcome:
    """Run the program to its end, print its traceback if it has one, and return how it ended.

    It changes the process for good, as the interpreter would: `sys.argv`, `sys.path[0]` and
    `sys.modules["__main__"]` stay the script's, because its threads and atexit handlers need them.
    After an uncaught Ctrl-C the next one ends the process at once.
    """
    error: BaseException | None = None
    try:
        _run(program, list(arguments))
    except BaseException as caught:
        error = caught
    # Outside of the except block, so that nothing below sees an exception being handled.
    if error is None:
        return Outcome()
    if isinstance(error, SystemExit):
        return Outcome(_exit_status(error))
    if _halted(error):
        return Outcome(HALTED, "halted", str(error))
    interrupted = type(error) is KeyboardInterrupt
    if interrupted:
        _swap_interrupt_handler(signal.default_int_handler, signal.SIG_DFL)
    override = _print_exception(error)
    if override is not None:
        return Outcome(override, "raised")
    return Outcome(1, "interrupted" if interrupted else "raised")


def _halted(error: BaseException) -> bool:
    """Whether a guard has halted the training: known by name, for its module imports torch."""
    return any(
        (kind.__module__, kind.__qualname__) == ("surefoot.halted", "TrainingHalted")
        for kind in type(error).__mro__
    )


def _run(program: Program, arguments: list[str]) -> None:
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __loader__=importlib.machinery.BuiltinImporter, __annotations__={}, __builtins__=builtins
    )
    sys.modules["__main__"] = main
    if program.form is _Form.FILE:
        sys.argv = [program.target, *arguments]
        _set_first_path(os.path.dirname(os.path.realpath(program.path)))
        exec(_load(program.path, main), main.__dict__)
        return
    # What the interpreter itself calls for `-m`, for directories and for zip files: messages,
    # argv[0] and even the runpy lines of a traceback are python's because it is python's.
    as_main: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
    if program.form is _Form.MODULE:
        sys.argv = ["-m", *arguments]
        _set_first_path(working_directory())
        as_main(program.target)
    else:
        sys.argv = [program.target, *arguments]
        _set_first_path(program.path, bundle=True)
        as_main("__main__", alter_argv=False)


def _set_first_path(entry: str, *, bundle: bool = False) -> None:
    """Put the script's entry where surefoot's own stands; -P and -I allow only a bundle's."""
    if sys.flags.safe_path:
        if bundle:
            sys.path.insert(0, entry)
    else:
        sys.path[:1] = [entry]


def _load(path: str, main: types.ModuleType) -> types.CodeType:
    """The code of a script file, with `main` described as python describes it."""
    loader: importlib.machinery.SourceFileLoader | importlib.machinery.SourcelessFileLoader
    compiled = path.endswith(".pyc")
    if compiled:
        loader = importlib.machinery.SourcelessFileLoader("__main__", path)
    else:
        loader = importlib.machinery.SourceFileLoader("__main__", path)
    main.__dict__.update(__loader__=loader, __file__=path, __cached__=None)
    if compiled:
        return loader.get_code("__main__")  # type: ignore[return-value]
    # Not loader.get_code: it would leave a __pycache__ entry, which python does not for a script.
    with open(path, "rb") as file:
        source = file.read()
    if b"\0" in source:  # compile says ValueError before Python 3.12
        raise SyntaxError("source code cannot contain null bytes")
    return compile(source, path, "exec", dont_inherit=True)


def _exit_status(error: SystemExit) -> int:
    """What `sys.exit(code)` means: None is 0, an int is itself, all else is printed and is 1."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code)
    if getattr(sys, "stderr", None) is None:
        _complain(str(code))
    else:
        with suppress(Exception):  # as python does: what cannot be printed is not
            sys.stderr.write(str(code))
    _complain("\n")
    return 1


def _print_exception(error: BaseException) -> int | None:
    """Hand an uncaught exception to `sys.excepthook`; the exit status, if the hook chose one."""
    _hide_own_frames(error)
    kind, traceback = type(error), error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, traceback
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    hook = getattr(sys, "excepthook", None)
    sys.audit("sys.excepthook", hook, kind, error, traceback)
    if hook is None:
        _complain("sys.excepthook is missing\n")
        hook = sys.__excepthook__
    failure: BaseException | None = None
    try:
        hook(kind, error, traceback)
    except BaseException as caught:
        failure = caught
    if isinstance(failure, SystemExit):
        return _exit_status(failure)
    if failure is not None:
        _hide_own_frames(failure)
        _complain("Error in sys.excepthook:\n")
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        _complain("\nOriginal exception was:\n")
        sys.__excepthook__(kind, error, traceback)
    return None


def _complain(text: str) -> None:
    """Write to `sys.stderr`, or past it if the script took it away, as the interpreter does."""
    try:
        sys.stderr.write(text)
    except Exception:
        with suppress(OSError):  # closed
            os.write(2, text.encode(errors="backslashreplace"))


def _hide_own_frames(error: BaseException) -> None:
    """Cut surefoot's frames out of an exception, of its causes and of all in its groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _without_own_frames(one.__traceback__)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _without_own_frames(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Link a traceback past surefoot's frames, and past the import system's that led to them."""
    kept: types.TracebackType | None = None
    hiding = False
    for entry in reversed(list(_entries(traceback))):
        package, _, module = str(entry.tb_frame.f_globals.get("__name__")).partition(".")
        own = package == "surefoot" and module.partition(".")[0] in _ROOMS
        importing = entry.tb_frame.f_code.co_filename.startswith("<frozen importlib")
        hiding = own or (hiding and importing)
        if not hiding:
            entry.tb_next = kept
            kept = entry
    return kept


def _entries(traceback: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _swap_interrupt_handler(expected: Any, wanted: Any) -> None:
    """Change what Ctrl-C does, unless the script or its parent process has decided otherwise."""
    with suppress(ValueError):  # not the main thread: nothing to change
        if signal.getsignal(signal.SIGINT) is expected:
            signal.signal(signal.SIGINT, wanted)


def leave(outcome: Outcome, status: int | None = None) -> NoReturn:
    """End this process as the program ended, or with `status` in place of its own.

    After Ctrl-C the interpreter itself sends SIGINT to the process once atexit handlers have run,
    so that the shell sees a death by signal (130) and stops its own script too.
    """
    if outcome.interrupted:
        _swap_interrupt_handler(signal.SIG_DFL, signal.default_int_handler)
        sys.excepthook = _say_nothing  # the traceback has been printed
        raise KeyboardInterrupt
    raise SystemExit(outcome.status if status is None else status)


def _say_nothing(*_: object) -> None:
    """An excepthook for an exception that the user has already seen."""
