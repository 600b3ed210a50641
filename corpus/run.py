"""Judge the whole corpus: `python -m corpus [--only NAME] [--seeds N] [--json FILE]`."""

from __future__ import annotations

import gc
import json
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from corpus import Entry, load, mark, serious_root
from surefoot.findings import Report
from surefoot.watching.session import Session


@dataclass(frozen=True, slots=True)
class Row:
    """One watched run of a case, as plain data."""

    name: str
    seed: int
    healthy: bool
    expected: str
    verdict: str
    rule: str
    pathology: str
    cause: str
    layer: str | None
    severity: str
    others: tuple[str, ...]
    score: float | None
    detected: bool
    right_cause: bool
    right_layer: bool
    right_pathology: bool
    silent: bool
    seconds: float

    @property
    def right(self) -> bool:
        return self.detected and self.right_cause and self.right_layer and self.right_pathology


def watched(entry: Entry, seed: int) -> tuple[Report, Session, float | None]:
    """Train a case under watch; its own exception propagates after the watch is taken down."""
    gc.collect()
    session = Session(folder=None)
    session.start()
    try:
        score = entry.train(seed)
    finally:
        session.stop()
    return session.report(), session, score


def expectation(entry: Entry) -> str:
    """The truth in one cell."""
    if entry.healthy:
        return "healthy"
    layers = "|".join(str(x) for x in entry.layers)
    return f"{'|'.join(sorted(entry.pathologies))} {'|'.join(sorted(entry.causes))} @{layers}"


def judge(entry: Entry, seed: int) -> Row:
    """One row of the table."""
    begin = time.perf_counter()
    report, _, score = watched(entry, seed)
    found = mark(entry, report)
    root = serious_root(report) or report.root
    others = tuple(f"{f.rule}:{f.severity}" for f in report.findings if f is not root)
    return Row(
        entry.name,
        seed,
        entry.healthy,
        expectation(entry),
        str(report.verdict),
        root.rule if root else "",
        str(root.pathology) if root else "",
        str(root.cause) if root else "",
        root.layer if root else None,
        str(root.severity) if root else "",
        others,
        score,
        found.detected,
        found.cause,
        found.layer,
        found.pathology,
        found.silent,
        round(time.perf_counter() - begin, 2),
    )


def draw(rows: list[Row], console: Console) -> None:
    """The table and its totals."""
    table = Table(title="corpus", show_lines=False)
    for column in ("case", "seed", "expected", "got", "loss", "also", "", "s"):
        table.add_column(column, overflow="fold")
    for r in rows:
        got = f"{r.rule} {r.pathology} {r.cause} @{r.layer} {r.severity}" if r.rule else r.verdict
        sign = "[green]ok" if r.right else "[red]WRONG"
        if r.healthy and r.right and not r.silent:
            sign = "[yellow]advice"
        loss = "-" if r.score is None else f"{r.score:.3g}"
        table.add_row(
            r.name, str(r.seed), r.expected, got, loss, " ".join(r.others), sign, f"{r.seconds:.1f}"
        )
    console.print(table)
    ill, well = [r for r in rows if not r.healthy], [r for r in rows if r.healthy]
    for word, part, good in (
        ("detected", ill, [r for r in ill if r.detected]),
        ("cause right", ill, [r for r in ill if r.right_cause]),
        ("cause and layer right", ill, [r for r in ill if r.right_cause and r.right_layer]),
        ("all right", ill, [r for r in ill if r.right]),
        ("false alarms", well, [r for r in well if not r.detected]),
        ("healthy and silent", well, [r for r in well if r.silent]),
    ):
        console.print(f"{word}: {len(good)}/{len(part)} = {len(good) / max(len(part), 1):.1%}")
    console.print(f"seconds: {sum(r.seconds for r in rows):.0f}")


def hurts(bad: float | None, good: float | None) -> bool:
    """Whether a faulty training ended clearly worse than its healthy twin."""
    if bad is None or good is None or not math.isfinite(good):
        return False
    return not math.isfinite(bad) or bad > good + 0.1


def draw_twins(entries: list[Entry], seeds: int, console: Console) -> None:
    """Train each faulty case and its twin, unwatched."""
    table = Table("case", "seed", "faulty", "twin", "the change")
    for entry in (e for e in entries if not e.healthy):
        for seed in range(seeds):
            bad, good = entry.train(seed), entry.train_twin(seed)
            word = "[green]hurts" if hurts(bad, good) else "[red]DOES NOT HURT"
            if good is None or not good < 0.9:
                word += " [red](the twin does not learn)"
            table.add_row(entry.name, str(seed), f"{bad}", f"{good}", word)
    console.print(table)


@click.command()
@click.option("--only", multiple=True, help="A case, or the beginning of its name; repeatable.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--twins", is_flag=True, help="Check, unwatched, that every fault really hurts.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--wrong", is_flag=True, help="Show wrong rows only.")
def main(
    only: tuple[str, ...], seeds: int, first: int, twins: bool, file: Path | None, wrong: bool
) -> None:
    """Run the corpus and print how right the verdicts are."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=200)
    entries = [e for n, e in load().items() if not only or n.startswith(only)]
    if twins:
        draw_twins(entries, seeds, console)
        return
    rows = []
    for entry in entries:
        for seed in range(first, first + seeds):
            rows.append(judge(entry, seed))
            print(f"\r{len(rows)}/{len(entries) * seeds} {entry.name:40}", end="", flush=True)
    print()
    if file is not None:
        file.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    draw([r for r in rows if not (wrong and r.right)] if wrong else rows, console)
