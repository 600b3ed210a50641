"""What several commands share: options, and errors in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surefoot.files import replace_text
from surefoot.findings import Severity

if TYPE_CHECKING:
    from surefoot.record.data import RunData

fail_on_option = click.option(
    "--fail-on",
    type=click.Choice([str(s) for s in Severity]),
    help="Exit with status 3 if such a finding or a worse one stands.",
)
ignore_option = click.option(
    "--ignore", multiple=True, metavar="RULE", help="Mute a rule; may be repeated."
)


def json_option(words: str) -> Callable[[Any], Any]:
    """`--json FILE`, with what it writes."""
    return click.option(
        "--json",
        "json",
        metavar="FILE",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        help=words,
    )


class NoProgram(click.ClickException):
    """As python does, a script that cannot be opened is status 2."""

    exit_code = 2


def check_rules(ignore: tuple[str, ...]) -> None:
    """Refuse to mute a rule that does not exist, before the training and not after it."""
    known = known_rules() if ignore else []
    unknown = [rule for rule in ignore if rule not in known]
    if known and unknown:
        raise click.BadParameter(
            f"there is no rule {', '.join(unknown)}. Known rules: {', '.join(known)}. "
            "`surefoot explain RULE` says what each is about.",
            param_hint="'--ignore'",
        )


def known_rules() -> list[str]:
    """All rule ids; none if they cannot be had.

    Asked of another process: the registry imports torch, which must be left to the script.
    """
    import subprocess

    question = "from surefoot.diagnosis import RULES; print(*RULES)"
    answer = subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, check=False
    )
    return sorted(answer.stdout.split()) if answer.returncode == 0 else []


@contextmanager
def building() -> Iterator[None]:
    """What can go wrong with a build, in words."""
    try:
        from surefoot.build import BuildError, BuildFailed
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"expected {error.name}, found none in {sys.executable}: install torch there, or run "
            "surefoot from the environment that your training uses"
        ) from None
    try:
        yield
    except BuildError as error:
        raise NoProgram(str(error)) from None
    except BuildFailed as error:
        _show(error.__cause__)
        raise click.ClickException(f"{error} failed, as shown above") from None


def _show(error: BaseException | None) -> None:
    """The traceback of the project's own code, as python shows it."""
    if error is not None:
        own = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.excepthook(type(error), error.with_traceback(own), own)


def save_json(path: Path, text: str) -> None:
    """Write JSON to a file, or to standard output for `-`."""
    if str(path) == "-":
        click.echo(text)
    else:
        save_text(path, text + "\n")


def save_text(path: Path, text: str) -> None:
    """Write a file, or say why it cannot be written."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None


def write_report(data: RunData, page: Path) -> None:
    """Write the HTML report, or say why it cannot be written."""
    from surefoot.views.report import save_report

    try:
        save_report(data, page)
    except OSError as error:
        raise click.ClickException(f"cannot write {page}: {error.strerror or error}") from None


def recorded(run: Path) -> RunData:
    """What a run folder holds, or why it cannot be read."""
    from surefoot.record import RecordError, read_run

    try:
        return read_run(run)
    except RecordError as error:
        raise click.ClickException(str(error)) from None
