"""How many faulty trainings of the corpus the prescribed remedies repair.

A training counts as repaired if with the remedy the verdict is not unstable (or what it names was
held back by a guard, and nothing else is wrong) and its final loss is within a tenth of that of its
twin without the fault. The case measures that loss itself, on clean
data; nothing of the truth is told to surefoot.
"""

from __future__ import annotations

import gc
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from corpus import Entry, load, serious_root
from corpus.figures import wilson
from corpus.run import chosen
from surefoot.findings import Remedy, Report
from surefoot.remedies.decision import candidates
from surefoot.trial.judgement import sound
from surefoot.trial.treated import Treated
from surefoot.watching.session import Session

WITHIN = 0.1  # of the twin's loss
NEAR = 0.02  # of the trivial predictor's loss: two losses this close are one
TRIES = 3


@dataclass(frozen=True, slots=True)
class Try:
    """One remedy tried: what came of it."""

    remedy: str
    target: str | None
    verdict: str
    score: float | None
    refused: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One faulty training. score, twin, other: final losses of it, of its twin, and of the twin
    with another seed; seconds: until it was repaired, or given up."""

    name: str
    part: str
    seed: int
    causes: tuple[str, ...]
    found: str
    score: float | None
    twin: float | None
    other: float | None
    tries: list[Try] = field(default_factory=list)

    def repaired(self, within: int, strict: bool = True) -> bool:
        """Whether one of the first remedies that could be applied repaired it. strict: by the
        twin's tenth alone."""
        applied = [t for t in self.tries if not t.refused]
        return any(good(t, self.twin, strict) for t in applied[:within])

    @property
    def seconds(self) -> float:
        """What it took, up to the try that repaired it."""
        total = 0.0
        for t in self.tries:
            total += t.seconds
            if good(t, self.twin, True):
                break
        return total


def good(one: Try, twin: float | None, strict: bool) -> bool:
    """Whether a try repaired the training."""
    if one.refused or one.verdict == "unstable" or twin is None:
        return False
    return close(one.score, twin, strict)


def close(score: float | None, twin: float | None, strict: bool) -> bool:
    """Whether a loss is that of the twin, or better."""
    if score is None or twin is None or not math.isfinite(score):
        return False
    room = WITHIN * abs(twin)
    return score <= twin + (room if strict else max(room, NEAR))


def treated(
    entry: Entry, seed: int, remedies: Sequence[Remedy]
) -> tuple[Report, float | None, Treated]:
    """Train a case under watch, with remedies; one that raises ends with an infinite loss."""
    gc.collect()
    session = Session(folder=None)
    session.start()
    treatment = Treated(remedies, session=session).start()
    try:
        score = entry.train(seed)
    except Exception:
        score = math.inf
    finally:
        treatment.stop()
        session.stop()
        treatment.undo()
    return session.report(), score, treatment


def repair(name: str, seed: int, tries: int = TRIES) -> Row:
    """A case, its twin, and its remedies one after the other until one repairs it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entry = load()[name]
    report, score, _ = treated(entry, seed, [])
    finding = serious_root(report)
    causes = tuple(sorted(entry.causes))
    twin, other = entry.train_twin(seed), entry.train_twin(seed + 1000)
    found = str(finding.cause) if finding else ""
    row = Row(name, entry.part, seed, causes, found, score, twin, other)
    for remedy in candidates(finding) if finding else ():
        row.tries.append(tried(entry, seed, remedy))
        applied = [t for t in row.tries if not t.refused]
        if good(row.tries[-1], twin, True) or len(applied) == tries:
            break
    return row


def tried(entry: Entry, seed: int, remedy: Remedy) -> Try:
    """One remedy on one case."""
    begin = time.perf_counter()
    report, score, treatment = treated(entry, seed, [remedy])
    refused = "; ".join(treatment.refused.values())
    if not treatment.applied and not refused:
        refused = "the model was never called while it was watched"
    spent = round(time.perf_counter() - begin, 2)
    verdict = "healthy" if sound(report) else str(report.verdict)
    return Try(remedy.remedy, remedy.target, verdict, score, refused, spent)


def draw(rows: Sequence[Row], console: Console) -> None:
    """The rows that were not repaired, and the figures by cause and in all."""
    table = Table("case", "found", "loss", "twin", "other seed", "tries")
    for row in rows:
        if not row.repaired(TRIES):
            tries = " | ".join(
                f"{t.remedy}@{t.target} {t.refused or f'{t.verdict} {t.score:.3g}'}"
                for t in row.tries
            )
            losses = (
                f"{x:.3g}" if x is not None else "-" for x in (row.score, row.twin, row.other)
            )
            table.add_row(row.name, f"{row.found} ({'|'.join(row.causes)})", *losses, tries)
    console.print(table)
    causes = Table("cause", "runs", "first", "within three", "within three, or 0.02")
    for cause in sorted({"|".join(r.causes) for r in rows}):
        own = [r for r in rows if "|".join(r.causes) == cause]
        causes.add_row(
            cause, str(len(own)), *(str(sum(x)) for x in zip(*map(_marks, own), strict=True))
        )
    console.print(causes)
    for title, own in (("all", rows), ("detected", [r for r in rows if r.found])):
        _share(f"{title}: first", [r.repaired(1) for r in own], console)
        _share(f"{title}: within three", [r.repaired(3) for r in own], console)
        _share(f"{title}: first, or within 0.02", [r.repaired(1, False) for r in own], console)
        _share(f"{title}: three, or within 0.02", [r.repaired(3, False) for r in own], console)
    same = [close(r.other, r.twin, True) for r in rows if r.other is not None]
    _share("twin, another seed: as good as the twin", same, console)
    mended = sorted(r.seconds for r in rows if r.repaired(TRIES))
    if mended:
        console.print(f"seconds to a repair: median {mended[len(mended) // 2]:.1f}")


def _marks(row: Row) -> tuple[bool, bool, bool]:
    return row.repaired(1), row.repaired(3), row.repaired(3, False)


def _share(title: str, marks: Sequence[bool], console: Console) -> None:
    if marks:
        low, high = wilson(sum(marks), len(marks))
        share = sum(marks) / len(marks)
        console.print(f"{title}: {share:.3f} ({low:.3f} to {high:.3f}), {sum(marks)}/{len(marks)}")


def kept(file: Path | None, seed: int) -> list[Row]:
    """Rows of this seed that an earlier call has left in the file: it goes on from there."""
    if file is None or not file.exists():
        return []
    rows = json.loads(file.read_text())
    made = [Row(**{**r, "tries": [Try(**t) for t in r["tries"]]}) for r in rows]
    return [row for row in made if row.seed == seed]


@click.command()
@click.option("--only", multiple=True, help="A case, or the beginning of its name; repeatable.")
@click.option("--part", type=click.Choice(["tune", "report"]), help="One part; both without it.")
@click.option("--every", default=1, show_default=True, help="Every n-th case only.")
@click.option("--seed", default=0, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Cases side by side.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Rows, to go on from.")
def main(
    only: tuple[str, ...], part: str | None, every: int, seed: int, jobs: int, file: Path | None
) -> None:
    """Repair the corpus' faulty part, and print how often it worked."""
    console = Console(width=220)
    entries = [e for e in chosen(only, part, console) if not e.healthy][::every]
    rows = kept(file, seed)
    left = [e.name for e in entries if e.name not in {r.name for r in rows}]
    # Not ProcessPoolExecutor: with max_tasks_per_child it waits for ever when workers are renewed.
    with get_context("spawn").Pool(jobs, maxtasksperchild=20) as pool:
        for row in pool.imap(partial(repair, seed=seed), left):
            rows.append(row)
            print(f"\r{len(rows)}/{len(entries)} {row.name:60}", end="", flush=True)
            if file is not None:
                file.write_text(json.dumps([asdict(r) for r in rows], indent=1, default=str))
    print()
    draw(rows, console)


if __name__ == "__main__":
    main()
