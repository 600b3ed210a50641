"""`surefoot check` and `surefoot benchmark`: a build judged and timed, before it is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from surefoot.cli.shared import (
    building,
    check_rules,
    fail_on_option,
    ignore_option,
    json_option,
    save_json,
    write_report,
)
from surefoot.findings import Severity
from surefoot.run import FAILED, in_workflow


@click.command("check")
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the HTML report, one file that opens offline.",
)
@json_option("Write the verdict and what was measured as JSON; - is standard output.")
@fail_on_option
@ignore_option
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
    check_rules(ignore)
    with building():
        from surefoot.build import load
        from surefoot.checking import examine

        result, data = examine(load(target), ignore)
    if output is not None:
        write_report(data, output)
    if json is not None:
        save_json(json, result.dumps())
    if not quiet and str(json) != "-":
        from rich.console import Console

        from surefoot.views.check import print_check

        print_check(result, console=Console(), report_path=str(output) if output else None)
    if not quiet and in_workflow():
        from surefoot.views.annotations import annotations

        script = target.rpartition(":")[0]
        file = script if script.endswith(".py") else None
        click.echo(annotations(result, file), err=True, nl=False)
    worst, limit = result.worst(), Severity(fail_on) if fail_on else None
    if worst is not None and limit is not None and worst.rank >= limit.rank:
        click.get_current_context().exit(FAILED)


@click.command("benchmark")
@click.argument("target", metavar="[MODULE:FUNCTION]", required=False)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="How long to measure; more makes the error smaller.",
)
@json_option("Write what was measured as JSON; - is standard output.")
def benchmark_command(target: str | None, seconds: float, json: Path | None) -> None:
    """Measure what watching costs on this machine: the time of a step with and without it.

    MODULE:FUNCTION is as for `surefoot check`; without one, two small trainings are measured.
    """
    with building():
        from surefoot.benchmark import Unmeasured, benchmark, dumps, print_costs

        if sys.stderr.isatty():
            click.echo(f"measuring for about {seconds:g} s", err=True)
        try:
            costs = benchmark(target, seconds)
        except Unmeasured as error:
            raise click.ClickException(str(error)) from None
    if json is not None:
        save_json(json, dumps(costs))
    if str(json) != "-":
        from rich.console import Console

        print_costs(costs, console=Console())
