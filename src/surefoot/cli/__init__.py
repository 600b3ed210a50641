"""The command line: words in, words out. Every decision is made in the room that is called.

Nothing heavy is imported before a command needs it, so that `--version`, `--help` and a mistyped
option answer at once. A script is run after click has returned: it must not find click's context
around it, nor have its exceptions handled by click.
"""

from __future__ import annotations

from typing import NoReturn

import click

from surefoot.cli.check import benchmark_command, check_command
from surefoot.cli.export import export_command
from surefoot.cli.lab import lab_command
from surefoot.cli.prove import prove_command
from surefoot.cli.report import explain_command, report_command
from surefoot.cli.run import run_command
from surefoot.cli.view import view_command
from surefoot.cli.watch import watch_command
from surefoot.options import Options
from surefoot.run import run
from surefoot.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=VERSION, prog_name="surefoot")
def cli() -> None:
    """Find out why a PyTorch training is unstable: what is wrong, where it starts, and why."""


for _command in (
    run_command,
    watch_command,
    check_command,
    prove_command,
    benchmark_command,
    report_command,
    export_command,
    view_command,
    explain_command,
    lab_command,
):
    cli.add_command(_command)


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
