"""`surefoot report` and `surefoot explain`: what was seen, and what it means."""

from __future__ import annotations

import difflib
import sys
import textwrap
from pathlib import Path

import click

from surefoot.cli.shared import recorded, write_report

_MEANT = 5  # names that are offered for one that is unknown


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
@click.argument("name", metavar="RULE|REMEDY")
def explain_command(name: str) -> None:
    """Say what a rule or a remedy means.

    SF101: what the rule sees, why, by which evidence, and what helps. init.kaiming_normal: what the
    remedy guarantees, when it does not help, what it costs, and its code.
    """
    from surefoot.diagnosis import RULES

    rule = RULES.get(name.upper())
    if rule is None:
        click.echo(_remedy(name, list(RULES)))
        return
    page = f"# {rule.id}: {rule.title}\n\n{rule.page.strip()}"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(page))
    else:
        click.echo(page)


def _remedy(name: str, rules: list[str]) -> str:
    """A remedy in plain text; raises BadParameter for a name that is none."""
    from surefoot.remedies import TREATMENTS

    kind = TREATMENTS.get(name.lower())
    if kind is None:
        raise click.BadParameter(
            _unknown(name, rules, list(TREATMENTS)), param_hint="'RULE|REMEDY'"
        )
    lines = [kind().explain()]
    lines += [f"Not with {other}: {why}." for other, why in kind.conflicts.items()]
    if kind.defaults:
        values = ", ".join(f"{key} = {value!r}" for key, value in kind.defaults.items())
        lines.append(f"Parameters: {values}.")
    return "\n".join([*lines, "", textwrap.indent(kind().code(), "    ")])


def _unknown(name: str, rules: list[str], remedies: list[str]) -> str:
    """That a name is neither, and which it may have been meant to be."""
    within = [known for known in remedies if name.lower() in known]
    close = difflib.get_close_matches(name.upper(), rules) + difflib.get_close_matches(
        name.lower(), remedies
    )
    meant = list(dict.fromkeys([*close, *within]))[:_MEANT]
    head = f"there is no rule or remedy {name!r}."
    if meant:
        return f"{head} Did you mean {', '.join(meant)}?"
    return (
        f"{head} Known rules: {', '.join(sorted(rules))}. "
        f"Known remedies: {', '.join(sorted(remedies))}."
    )
