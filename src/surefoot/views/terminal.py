"""The verdict in the terminal: what, where, since when, why and what to do, in five seconds.

Everything is `rich.text.Text`, never markup, so that a layer called `[red]` stays a layer. Words
are reduced to what the terminal's encoding can show before they are printed.
"""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from surefoot.findings import Check, Finding, Remedy, Report, Severity, Verdict
from surefoot.views.acts import guarded
from surefoot.views.words import (
    CAUSE,
    PATHOLOGY,
    clean,
    clean_code,
    lead,
    number,
    plural,
    proof_words,
    sentence,
    shorten,
    when,
)

NAME = 48  # characters of a layer's name in the headline
OTHERS = 8  # findings listed below the first
STYLE = {
    Verdict.HEALTHY: "bold green",
    Verdict.UNSTABLE: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Severity.FATAL: "bold red",
    Severity.HARMFUL: "red",
    Severity.ADVICE: "cyan",
}
_ASCII = str.maketrans({"·": "-", "\u2026": "...", "\ufffd": "?", "\u2019": "'", "\u2192": "->"})


def print_verdict(
    report: Report,
    *,
    console: Console,
    report_path: str | None = None,
    folder: str | None = None,
) -> None:
    """Print the verdict of `report`; `report_path` is the HTML report, `folder` the run's.

    A healthy run takes two lines. Never raises for what the report contains: names are escaped,
    and characters that the terminal's encoding lacks are replaced.
    """
    first, rehearsed = lead(report), isinstance(report, Check)
    seen = (
        "one batch seen before training" if rehearsed else f"{plural(report.steps, 'step')} watched"
    )
    if report.verdict is Verdict.UNSTABLE and first is not None:
        _unstable(report, first, console)
    elif report.verdict is Verdict.HEALTHY:
        console.print(_headline(report, [f"{seen}, nothing wrong found."], console))
        _list(report.findings, console, rehearsed)
    else:
        console.print(_headline(report, [f"{seen}, too little for a verdict:"], console))
        _missing(report, console)
        _list(report.findings, console, rehearsed)
    if acts := guarded(report.guard):
        console.print(shown(console, acts))
    _where(report, report_path, folder, console)


def _unstable(report: Report, first: Finding, console: Console) -> None:
    parts: list[RenderableType] = [
        _headline(report, summary(first, isinstance(report, Check)), console),
        Text(),
        shown(console, clean(first.sentence)),
    ]
    if first.remedies:
        parts += [Text(), *_remedy(first.remedies[0], console)]
    parts += _unhelpful(first, console)
    console.print(Panel(Group(*parts), border_style="red", padding=(0, 1)))
    if first.evidence:
        console.print(_evidence(first, console))
        console.print()
    if first.victims:
        names = ", ".join(shorten(v, NAME) for v in first.victims[:4])
        more = f" and {len(first.victims) - 4} more" if len(first.victims) > 4 else ""
        console.print(shown(console, f"Symptom only: {names}{more}"))
    _list(tuple(f for f in report.findings if f is not first), console, isinstance(report, Check))
    _missing(report, console)


def summary(finding: Finding, rehearsed: bool = False) -> list[str]:
    """What, where, when (in a training) and why, in as few words."""
    where = [] if finding.layer is None else [f"starts at {shorten(finding.layer, NAME)}"]
    cause = CAUSE[finding.cause][0].removeprefix("cause ")
    since = [] if rehearsed else [when(finding)]
    return [PATHOLOGY[finding.pathology][0], *where, *since, f"cause: {cause}"]


def _headline(report: Report, items: list[str], console: Console) -> Text:
    return headline(str(report.verdict).upper(), STYLE[report.verdict], items, console)


def headline(badge: str, style: str, items: list[str], console: Console) -> Text:
    """A badge and `items`, with line breaks between items rather than inside them."""
    lines, room = [f"{badge}  {items[0]}"], console.width - 4
    for item in items[1:]:
        if len(lines[-1]) + 3 + len(item) <= room:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    text = shown(console, "\n".join(lines), "bold")
    text.stylize(style, 0, len(badge))
    return text


def _remedy(remedy: Remedy, console: Console) -> list[RenderableType]:
    on = f" on {shorten(remedy.target, NAME)}" if remedy.target else ""
    words = f"Do first: {clean(remedy.remedy)}{on} ({proof_words(remedy.proof)}). "
    line = shown(console, words + sentence(remedy.why))
    line.stylize("bold", 0, len("Do first:"))
    parts: list[RenderableType] = [line]
    if remedy.code:
        parts.append(Padding(shown(console, clean_code(remedy.code), "cyan"), (0, 0, 0, 4)))
    return parts


def _unhelpful(finding: Finding, console: Console) -> list[RenderableType]:
    """What people reach for, and why it would not help."""
    words = [f"{clean(name)} {clean(why)}" for name, why in finding.unhelpful]
    if not words:
        return []
    line = shown(console, f"Will not help: {'; '.join(words)}.")
    line.stylize("bold", 0, len("Will not help:"))
    return [Text(), line]


def _evidence(finding: Finding, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column(shown(console, f"Evidence ({clean(finding.rule)})"), overflow="fold")
    table.add_column("Measured", justify="right", overflow="fold", min_width=8)
    table.add_column("Healthy", overflow="fold")
    table.add_column("Step", justify="right")
    for e in finding.evidence:
        step = "all" if e.step is None else f"{e.step:,}"
        cells = (clean(e.quantity), number(e.value), clean(e.expected), step)
        table.add_row(*(shown(console, cell) for cell in cells))
    return table


def _list(findings: tuple[Finding, ...], console: Console, rehearsed: bool) -> None:
    """Each finding in a line; the report has the rest."""
    rows = []
    for finding in findings[:OTHERS]:
        follows = [f"follows from {clean(finding.follows)}"] if finding.follows else []
        words = " · ".join([*summary(finding, rehearsed), *follows])
        severity = shown(console, str(finding.severity), STYLE[finding.severity])
        rows.append((severity, shown(console, f"{clean(finding.rule)} {words}")))
    if len(findings) > OTHERS:
        rows.append((Text(), shown(console, f"and {len(findings) - OTHERS} more")))
    _hanging(rows, console)


def _missing(report: Report, console: Console) -> None:
    _hanging([(Text("not seen"), shown(console, clean(x))) for x in report.missing], console)


def _hanging(rows: list[tuple[Text, Text]], console: Console) -> None:
    """Rows of a word and a sentence, the sentence folded beside the word."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    if rows:
        console.print(grid)


def _where(report: Report, path: str | None, folder: str | None, console: Console) -> None:
    """Paths on a line of their own, never folded: they are there to be copied."""
    if path is not None:
        console.print(shown(console, f"Report: {clean(path)}"), soft_wrap=True)
        if report.verdict is not Verdict.HEALTHY:
            uri = Path(path).absolute().as_uri()
            console.print(shown(console, f"  in a browser: {uri}"), soft_wrap=True)
    elif folder is not None:
        console.print(shown(console, f"Run folder: {clean(folder)}"), soft_wrap=True)


def shown(console: Console, words: str, style: str = "") -> Text:
    """`words` reduced to what the console's encoding can write."""
    if not console.encoding.startswith("utf"):
        words = words.translate(_ASCII)
        words = words.encode(console.encoding, "replace").decode(console.encoding)
    return Text(words, style)
