"""The command line: words in, words out. Every decision is made in the room that is called.

Nothing heavy is imported before a command needs it, so that `--version`, `--help` and a mistyped
option answer at once. A script is run after click has returned: it must not find click's context
around it, nor have its exceptions handled by click.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from surefoot.files import replace_text
from surefoot.findings import Severity
from surefoot.run import FAILED, Options, run
from surefoot.script import ScriptError, locate
from surefoot.version import VERSION

if TYPE_CHECKING:
    from surefoot.record.data import RunData


# Options that several commands have.
_fail_on = click.option(
    "--fail-on",
    type=click.Choice([str(s) for s in Severity]),
    help="Exit with status 3 if such a finding or a worse one stands.",
)
_ignore = click.option(
    "--ignore", multiple=True, metavar="RULE", help="Mute a rule; may be repeated."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=VERSION, prog_name="surefoot")
def cli() -> None:
    """Find out why a PyTorch training is unstable: what is wrong, where it starts, and why."""


class _RunCommand(click.Command):
    """The `run` command, with both of its forms in the usage line."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] SCRIPT [ARGS]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -m MODULE [ARGS]...", prefix="       ")


@cli.command("run", cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@click.option("-m", "module", is_flag=True, help="Run a module by its name, as in python -m.")
@click.option(
    "--json",
    "json",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the report as JSON.",
)
@_fail_on
@_ignore
@click.option(
    "--runs",
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where run folders are made.",
)
@click.option("--name", metavar="NAME", help="The name of this run's folder.")
@click.option("--no-record", is_flag=True, help="Keep nothing on disk: no folder, no HTML report.")
@click.option("--no-forensics", is_flag=True, help="Never run a part of a step again.")
@click.option("--guard", is_flag=True, help="Hold back what would ruin it; exit 4 if all is vain.")
@click.option("--dry-run", is_flag=True, help="With --guard: only say what would be done.")
@click.option("--quiet", is_flag=True, help="Print no verdict.")
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run_command(
    module: bool,
    json: Path | None,
    fail_on: str | None,
    ignore: tuple[str, ...],
    runs: Path,
    name: str | None,
    no_record: bool,
    no_forensics: bool,
    guard: bool,
    dry_run: bool,
    quiet: bool,
    script: str,
    arguments: tuple[str, ...],
) -> Options:
    """Run a training script, unchanged, and say what is wrong with its gradients.

    SCRIPT runs as under python: same arguments, same output, same exit status. Everything after
    SCRIPT belongs to it, options too. The verdict goes to stderr when it has ended.
    """
    if json is not None and str(json) == "-":
        raise click.BadParameter(
            "expected a file, got '-': standard output belongs to the script.",
            param_hint="'--json'",
        )
    _check_name(name, runs)
    if dry_run and not guard:
        raise click.UsageError("expected --guard with --dry-run: it says what a guard would do.")
    _check_rules(ignore)
    try:
        program = locate(script, module=module)
    except ScriptError as error:
        raise _NoProgram(str(error)) from None
    return Options(
        program=program,
        arguments=arguments,
        runs=runs,
        name=name,
        record=not no_record,
        forensics=not no_forensics,
        guard=guard,
        dry_run=dry_run,
        json=json,
        fail_on=Severity(fail_on) if fail_on else None,
        ignore=ignore,
        quiet=quiet,
    )


def _check_name(name: str | None, runs: Path) -> None:
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise click.BadParameter(
            f"expected the name of one folder inside {runs}, got {name!r}; "
            "--runs says where run folders are made.",
            param_hint="'--name'",
        )


class _NoProgram(click.ClickException):
    """As python does, a script that cannot be opened is status 2."""

    exit_code = 2


def _check_rules(ignore: tuple[str, ...]) -> None:
    """Refuse to mute a rule that does not exist, before the training and not after it."""
    known = _known_rules() if ignore else []
    unknown = [rule for rule in ignore if rule not in known]
    if known and unknown:
        raise click.BadParameter(
            f"there is no rule {', '.join(unknown)}. Known rules: {', '.join(known)}. "
            "`surefoot explain RULE` says what each is about.",
            param_hint="'--ignore'",
        )


def _known_rules() -> list[str]:
    """All rule ids; none if they cannot be had.

    Asked of another process: the registry imports torch, which must be left to the script.
    """
    import subprocess

    question = "from surefoot.diagnosis import RULES; print(*RULES)"
    answer = subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, check=False
    )
    return sorted(answer.stdout.split()) if answer.returncode == 0 else []


@cli.command("check")
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the HTML report, one file that opens offline.",
)
@click.option(
    "--json",
    "json",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the verdict and what was measured as JSON; - is standard output.",
)
@_fail_on
@_ignore
@click.option("--quiet", is_flag=True, help="Print no verdict.")
def check_command(
    target: str,
    output: Path | None,
    json: Path | None,
    fail_on: str | None,
    ignore: tuple[str, ...],
    quiet: bool,
) -> None:
    """Judge a model before it is trained, from one real batch and at most eight passes.

    MODULE:FUNCTION, as project.train:build or train.py:build, returns model, batch, loss function
    and optionally optimizer. Nothing is trained and nothing is changed.
    """
    _check_rules(ignore)
    with _building():
        from surefoot.build import load
        from surefoot.checking import examine

        result, data = examine(load(target), ignore)
    if output is not None:
        _save_report(data, output)
    if json is not None:
        _save_json(json, result.dumps())
    if not quiet and str(json) != "-":
        from rich.console import Console

        from surefoot.views.check import print_check

        print_check(result, console=Console(), report_path=str(output) if output else None)
    worst, limit = result.worst(), Severity(fail_on) if fail_on else None
    if worst is not None and limit is not None and worst.rank >= limit.rank:
        click.get_current_context().exit(FAILED)


@cli.command("benchmark")
@click.argument("target", metavar="[MODULE:FUNCTION]", required=False)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="How long to measure; more makes the error smaller.",
)
@click.option(
    "--json",
    "json",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write what was measured as JSON; - is standard output.",
)
def benchmark_command(target: str | None, seconds: float, json: Path | None) -> None:
    """Measure what watching costs on this machine: the time of a step with and without it.

    MODULE:FUNCTION is as for `surefoot check`; without one, two small trainings are measured.
    """
    with _building():
        from surefoot.benchmark import Unmeasured, benchmark, dumps, print_costs

        if sys.stderr.isatty():
            click.echo(f"measuring for about {seconds:g} s", err=True)
        try:
            costs = benchmark(target, seconds)
        except Unmeasured as error:
            raise click.ClickException(str(error)) from None
    if json is not None:
        _save_json(json, dumps(costs))
    if str(json) != "-":
        from rich.console import Console

        print_costs(costs, console=Console())


@contextmanager
def _building() -> Iterator[None]:
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
        raise _NoProgram(str(error)) from None
    except BuildFailed as error:
        _show(error.__cause__)
        raise click.ClickException(f"{error} failed, as shown above") from None


def _show(error: BaseException | None) -> None:
    """The traceback of the project's own code, as python shows it."""
    if error is not None:
        own = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.excepthook(type(error), error.with_traceback(own), own)


def _save_json(path: Path, text: str) -> None:
    if str(path) == "-":
        click.echo(text)
        return
    try:
        replace_text(path, text + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None


@cli.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where to write it; the default is report.html in the run folder.",
)
def report_command(run: Path, output: Path | None) -> None:
    """Make the HTML report of a recorded run: one file that opens offline."""
    page = output if output is not None else run / "report.html"
    _save_report(_read(run), page)
    click.echo(page)


def _save_report(data: RunData, page: Path) -> None:
    from surefoot.views.report import save_report

    try:
        save_report(data, page)
    except OSError as error:
        raise click.ClickException(f"cannot write {page}: {error.strerror or error}") from None


def _read(run: Path) -> RunData:
    from surefoot.record import RecordError, read_run

    try:
        return read_run(run)
    except RecordError as error:
        raise click.ClickException(str(error)) from None


@cli.command("explain")
@click.argument("rule", metavar="RULE")
def explain_command(rule: str) -> None:
    """Say what a rule means: what it sees, why, by which evidence, and what helps."""
    from surefoot.diagnosis import RULES

    found = RULES.get(rule.upper())
    if found is None:
        raise click.BadParameter(
            f"there is no rule {rule!r}. Known rules: {', '.join(sorted(RULES))}.",
            param_hint="'RULE'",
        )
    page = f"# {found.id}: {found.title}\n\n{found.page.strip()}"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(page))
    else:
        click.echo(page)


def main() -> NoReturn:
    """The entry point of `surefoot` and of `python -m surefoot`."""
    try:
        result = cli.main(prog_name="surefoot", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.Abort:
        raise SystemExit(130) from None
    if isinstance(result, Options):
        run(result)
    raise SystemExit(result)
