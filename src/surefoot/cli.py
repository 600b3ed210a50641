"""The command line: words in, words out. Every decision is made in the room that is called.

Nothing heavy is imported before a command needs it, so that `--version`, `--help` and a mistyped
option answer at once. A script is run after click has returned: it must not find click's context
around it, nor have its exceptions handled by click.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from surefoot.findings import Severity
from surefoot.run import Options, run
from surefoot.script import ScriptError, locate
from surefoot.version import VERSION

if TYPE_CHECKING:
    from surefoot.record.data import RunData


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
@click.option(
    "--fail-on",
    type=click.Choice([str(s) for s in Severity]),
    help="Exit with status 3 if such a finding or a worse one stands.",
)
@click.option("--ignore", multiple=True, metavar="RULE", help="Mute a rule; may be repeated.")
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
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise click.BadParameter(
            f"expected the name of one folder inside {runs}, got {name!r}; "
            "--runs says where run folders are made.",
            param_hint="'--name'",
        )
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
        json=json,
        fail_on=Severity(fail_on) if fail_on else None,
        ignore=ignore,
        quiet=quiet,
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
    from surefoot.views.report import save_report

    page = output if output is not None else run / "report.html"
    data = _read(run)
    try:
        save_report(data, page)
    except OSError as error:
        raise click.ClickException(f"cannot write {page}: {error.strerror or error}") from None
    click.echo(page)


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
