"""`surefoot report` and `surefoot explain`: what was seen, and what it means."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from surefoot.cli.shared import recorded, write_report


@click.command("report")
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
    write_report(recorded(run), page)
    click.echo(page)


@click.command("explain")
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
