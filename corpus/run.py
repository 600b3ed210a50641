"""Judge the corpus: `python -m corpus [--part report] [--only NAME] [--seeds N] [--json FILE]`."""

from __future__ import annotations

import gc
import itertools
import json
import math
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from corpus import ANY, Entry, load, mark, serious_root
from corpus.early import Looks, Over
from corpus.figures import Row, draw_figures
from surefoot.findings import Report
from surefoot.watching.session import Session


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


def watched_early(entry: Entry, seed: int, steps: Collection[int]) -> dict[int, Report]:
    """The reports after these steps, as far as the training comes; it is broken off at the last."""
    gc.collect()
    session = Session(folder=None)
    looks = Looks(session, steps)
    session.interim = looks
    session.start()
    try:
        entry.train(seed)
    except Over:
        pass
    finally:
        session.stop()
    return looks.reports


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
    row = row_of(entry, seed, report, score)
    return replace(row, seconds=round(time.perf_counter() - begin, 2))


def judge_early(entry: Entry, seed: int, steps: Collection[int]) -> list[Row]:
    """One row for each of the steps that the training has taken."""
    reports = watched_early(entry, seed, steps)
    return [replace(row_of(entry, seed, r, None), steps=n) for n, r in reports.items()]


def row_of(entry: Entry, seed: int, report: Report, score: float | None) -> Row:
    """A report beside the truth."""
    found = mark(entry, report)
    root = serious_root(report) or report.root
    return Row(
        name=entry.name,
        part=entry.part,
        seed=seed,
        healthy=entry.healthy,
        fault="|".join(sorted(entry.causes)),
        placed=not entry.healthy and ANY not in entry.layers,
        expected=expectation(entry),
        verdict=str(report.verdict),
        rule=root.rule if root else "",
        pathology=str(root.pathology) if root else "",
        cause=str(root.cause) if root else "",
        layer=root.layer if root else None,
        severity=str(root.severity) if root else "",
        others=tuple(f"{f.rule}:{f.severity}" for f in report.findings if f is not root),
        score=score,
        detected=found.detected,
        right_cause=found.cause,
        right_layer=found.layer,
        right_pathology=found.pathology,
        silent=found.silent,
    )


def draw_rows(rows: Sequence[Row], console: Console) -> None:
    """What was expected of each run, and what came."""
    table = Table(show_lines=False)
    for column in ("case", "seed", "expected", "got", "loss", "also", "", "s"):
        table.add_column(column, overflow="fold")
    for r in rows:
        got = f"{r.rule} {r.pathology} {r.cause} @{r.layer} {r.severity}" if r.rule else r.verdict
        sign = "[green]ok" if r.right else "[red]WRONG"
        if r.healthy and r.right and not r.silent:
            sign = "[yellow]advice"
        loss = "-" if r.score is None else f"{r.score:.3g}"
        name = f"{r.name}, {r.steps} steps" if r.steps else r.name
        table.add_row(
            name, str(r.seed), r.expected, got, loss, " ".join(r.others), sign, f"{r.seconds:.1f}"
        )
    console.print(table)


def hurts(bad: float | None, good: float | None) -> bool:
    """Whether a faulty training ended clearly worse than its healthy twin."""
    if bad is None or good is None or not math.isfinite(good):
        return False
    return not math.isfinite(bad) or bad > good + 0.1


def draw_twins(entries: Sequence[Entry], seeds: Sequence[int], console: Console) -> None:
    """Train each faulty case and its twin, unwatched; of healthy cases, whether they learn."""
    table = Table("case", "seed", "faulty", "twin", "the change")
    for entry in entries:
        for seed in seeds:
            good = entry.train_twin(seed)
            bad = None if entry.healthy else entry.train(seed)
            word = "" if entry.healthy else "[red]DOES NOT HURT"
            if hurts(bad, good):
                word = "[green]hurts"
            if good is not None and not good < 0.9:
                word += " [red](the twin does not learn)"
            table.add_row(entry.name, str(seed), f"{bad}", f"{good}", word)
    console.print(table)


def judge_all(
    entries: Sequence[Entry], seeds: Sequence[int], steps: Collection[int] = ()
) -> list[Row]:
    """A row for each case and seed, or for each of the early steps; says on which case it is."""
    rows = []
    for i, (seed, entry) in enumerate(itertools.product(seeds, entries)):
        print(f"\r{i}/{len(entries) * len(seeds)} {entry.name:60}", end="", flush=True)
        rows += judge_early(entry, seed, steps) if steps else [judge(entry, seed)]
    print()
    return rows


def chosen(only: tuple[str, ...], part: str | None, console: Console) -> list[Entry]:
    """The cases that were asked for and whose packages are installed."""
    entries = [e for n, e in load().items() if not only or n.startswith(only)]
    entries = [e for e in entries if part in (None, e.part)]
    absent = [e for e in entries if not e.runs]
    if absent:
        packages = ", ".join(sorted({e.needs for e in absent}))
        console.print(f"{len(absent)} cases are left out for want of {packages}: ./dev corpus")
    return [e for e in entries if e.runs]


@click.command()
@click.option("--only", multiple=True, help="A case, or the beginning of its name; repeatable.")
@click.option("--part", type=click.Choice(["tune", "report"]), help="One part; both without it.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option(
    "--at",
    "steps",
    multiple=True,
    type=click.IntRange(1),
    help="Judge after so many steps instead of at the end; repeatable.",
)
@click.option("--twins", is_flag=True, help="Check, unwatched, that every fault really hurts.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option(
    "--read",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Train nothing: figures of rows written before; repeatable.",
)
@click.option("--wrong", is_flag=True, help="Show wrong rows only.")
def main(
    only: tuple[str, ...],
    part: str | None,
    seeds: int,
    first: int,
    steps: tuple[int, ...],
    twins: bool,
    file: Path | None,
    read: tuple[Path, ...],
    wrong: bool,
) -> None:
    """Run the corpus and print how right the verdicts are."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=200)
    if read:
        rows = [Row(**r) for path in read for r in json.loads(path.read_text())]
        rows = [r for r in rows if part in (None, r.part)]
    else:
        entries, numbers = chosen(only, part, console), range(first, first + seeds)
        if twins:
            draw_twins(entries, numbers, console)
            return
        rows = judge_all(entries, numbers, steps)
    if file is not None:
        file.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    draw_rows([r for r in rows if not (wrong and r.right)], console)
    draw_figures(rows, console)


if __name__ == "__main__":
    main()
