"""`surefoot run`: an unchanged script under watch."""

from __future__ import annotations

import os
from pathlib import Path

import click

from surefoot.cli.shared import NoProgram, check_rules, fail_on_option, ignore_option, json_option
from surefoot.cli.view import check_extra
from surefoot.findings import Severity
from surefoot.options import Options
from surefoot.script import ScriptError, locate


class _RunCommand(click.Command):
    """The `run` command, with both of its forms in the usage line."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] SCRIPT [ARGS]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -m MODULE [ARGS]...", prefix="       ")


@click.command("run", cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@click.option("-m", "module", is_flag=True, help="Run a module by its name, as in python -m.")
@json_option("Write the report as JSON.")
@fail_on_option
@ignore_option
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
@click.option("--view", is_flag=True, help="Serve a page of it for as long as it goes on.")
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
    view: bool,
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
    _check_view(view, no_record)
    check_rules(ignore)
    try:
        program = locate(script, module=module)
    except ScriptError as error:
        raise NoProgram(str(error)) from None
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
        view=view,
    )


def _check_view(view: bool, no_record: bool) -> None:
    """Refuse a page that could not be served, before the training and not in the middle of it."""
    if not view:
        return
    if no_record:
        raise click.UsageError("expected --view without --no-record: the page shows the record.")
    if not hasattr(os, "fork"):
        raise click.UsageError("--view is for Linux and macOS. Next: surefoot view, beside it")
    check_extra()


def _check_name(name: str | None, runs: Path) -> None:
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise click.BadParameter(
            f"expected the name of one folder inside {runs}, got {name!r}; "
            "--runs says where run folders are made.",
            param_hint="'--name'",
        )
