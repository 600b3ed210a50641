"""A result in the terminal: claim, failure, diagnosis, cure, the numbers, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.views.proof import title
from surefoot.views.terminal import print_verdict, shown
from surefoot.views.words import CAUSE, clean, number

_TONE = {
    Standing.BORNE_OUT: "green",
    Standing.IN_PART: "yellow",
    Standing.NOT_REPRODUCED: "red",
}
_OUTCOME = {"proven": "bold green", "harmed": "bold red", "refused": "yellow"}


def print_result(
    entry: Entry, result: Result, *, console: Console, page: str | None = None
) -> None:
    """Print what came of a run; `page` is the HTML file that was written of it."""
    console.print(shown(console, clean(entry.title), "bold"))
    console.print(shown(console, f"The claim: {clean(entry.claim)}"))
    console.print(shown(console, f"Source: {clean(entry.source)}", "dim"))
    if result.seen is not None:
        console.print(shown(console, f"\nFailure. {clean(result.failure)}"))
        console.print(shown(console, "\nDiagnosis, by surefoot itself:"))
        print_verdict(result.seen.report, console=console)
        console.print(shown(console, planted(entry, result), "dim"))
    if result.cure:
        console.print(shown(console, f"\nCure. {clean(result.cure)}"))
    for proof in result.proofs:
        console.print(_trials(proof.to_json()["trials"], console))
    console.print(shown(console, "\nThe numbers:"))
    console.print(_numbers(result, console))
    console.print(_standing(result, console))
    console.print(shown(console, f"{number(result.seconds)} s", "dim"))
    if page is not None:
        console.print(shown(console, f"Page: {clean(page)}"), soft_wrap=True)


def planted(entry: Entry, result: Result) -> str:
    """Whether surefoot has named what was planted."""
    names = " or ".join(CAUSE[cause][0].removeprefix("cause ") for cause in entry.planted)
    found = result.finding
    if found is None:
        return f"Planted: {names}. Surefoot has found nothing."
    if found.cause in entry.planted:
        return f"Planted: {names}. Surefoot names it."
    return f"Planted: {names}. Surefoot names another cause: {CAUSE[found.cause][0]}."


def limit(row: Row) -> str:
    """What is expected of a number, in words.

    >>> limit(Row("gain", "algebra", 1.0, 1.0, 0.02)), limit(Row("loss", "", 0.5, 0.1, bound="<"))
    ('1 ± 0.0200', 'below 0.500')
    """
    expected = number(row.expected)
    if row.bound == "=":
        return f"{expected} \u00b1 {number(row.tolerance)}" if row.tolerance else expected
    return f"{'below' if row.bound == '<' else 'above'} {expected}"


def _trials(trials: list[Mapping[str, Any]], console: Console) -> Table:
    def cells() -> Iterator[tuple[Text, Text, Text]]:
        for trial in trials:
            outcome = shown(console, trial["outcome"], _OUTCOME.get(trial["outcome"], ""))
            yield shown(console, title(trial)), outcome, shown(console, clean(trial["words"]))

    return _table(("Remedy", "Outcome", "What was seen"), cells(), console)


def _numbers(result: Result, console: Console) -> Table:
    def cells() -> Iterator[tuple[Text, Text, Text, Text, Text]]:
        for row in result.rows:
            word, style = ("holds", "green") if row.holds else ("does not hold", "bold red")
            yield (
                shown(console, clean(row.name)),
                shown(console, clean(row.source), "dim"),
                shown(console, limit(row)),
                shown(console, number(row.measured), "bold"),
                shown(console, word, style),
            )

    return _table(("Value", "Source", "Expected", "Measured", ""), cells(), console)


def _table(titles: tuple[str, ...], rows: Iterator[tuple[Text, ...]], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for words in titles:
        table.add_column(shown(console, words), overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _standing(result: Result, console: Console) -> Panel:
    tone = _TONE[result.standing]
    head = shown(console, f"THE CLAIM IS {str(result.standing).upper()}", f"bold {tone}")
    says = shown(console, clean(result.says))
    return Panel(Group(head, Text(), says), border_style=tone, padding=(0, 1))
