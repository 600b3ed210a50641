"""What became of the runs: against the runs without a fault, in a table, and as a verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from faults import Job, Outcome
from faults.faults import FAULTS, Kind
from surefoot.benchmark.table import markdown_table

POINT = 1.0  # of accuracy in percent: what a fault that passes may cost
Outcomes = Mapping[Job, Outcome]

CAPTION = (
    "Points of accuracy against the same training without the fault: the median over the seeds, "
    "and the worst in brackets. Survived, and bold: within a point in every seed where the fault "
    "passes or there is none, halted with its cause where it stays."
)
WANTED = {
    Kind.TRANSIENT: "faults that pass: within a point",
    Kind.PERSISTENT: "faults that stay: halted with the cause",
    Kind.CONTROL: "no fault: within a point, the same bits until it acts",
}


def reference(job: Job) -> Job:
    """The run that this one is compared with."""
    return job.against(*FAULTS[job.fault].reference)


def points(job: Job, outcomes: Outcomes) -> float:
    """By how much the accuracy is above that of the reference."""
    return outcomes[job].accuracy - outcomes[reference(job)].accuracy


def unchanged(job: Job, outcomes: Outcomes) -> bool:
    """Whether all weights were those of the unguarded run, bit by bit, until the guard acted."""
    own = outcomes[job].trail[: outcomes[job].acted]
    return own == outcomes[job.against(job.fault, "nothing")].trail[: len(own)]


def survived(job: Job, outcomes: Outcomes) -> bool:
    """Whether this run came to what may be asked of a guard."""
    fault, own = FAULTS[job.fault], outcomes[job]
    if fault.kind is Kind.PERSISTENT:
        return own.halted == fault.cause
    if own.halted or own.failed:
        return False
    if fault.kind is Kind.CONTROL and not unchanged(job, outcomes):
        return False
    return points(job, outcomes) >= -POINT


def cell(jobs: Sequence[Job], outcomes: Outcomes) -> str:
    """The seeds of a fault under a guard in a few words."""
    own = [outcomes[job] for job in jobs]
    ends = Counter(f"halted: {o.halted}" for o in own if o.halted)
    ends.update("failed" for o in own if o.failed)
    words = [w if n == len(own) else f"{w} {n}/{len(own)}" for w, n in ends.items()]
    went_on = [points(o.job, outcomes) for o in own if not o.halted and not o.failed]
    if went_on:
        words.append(f"{statistics.median(went_on):+.1f} ({min(went_on):+.1f})")
    if all(o.trail == outcomes[reference(o.job)].trail for o in own):
        words.append("same bits")
    return ", ".join(words)


def rows(outcomes: Outcomes, jobs: Iterable[Job], bold: Callable[[str], str]) -> list[list[str]]:
    """The table: a row for each fault under each optimizer, a cell for each guard."""
    jobs = list(jobs)
    guards = list(dict.fromkeys(job.guard for job in jobs))
    made = []
    for fault, optimizer in dict.fromkeys((job.fault, job.optimizer) for job in jobs):
        row = [FAULTS[fault].words, optimizer]
        for guard in guards:
            own = [j for j in jobs if (j.fault, j.optimizer, j.guard) == (fault, optimizer, guard)]
            words = cell(own, outcomes)
            row.append(bold(words) if all(survived(job, outcomes) for job in own) else words)
        made.append(row)
    for kind, wanted in WANTED.items():
        counts = []
        for guard in guards:
            own = [j for j in jobs if j.guard == guard and FAULTS[j.fault].kind is kind]
            counts.append(f"{sum(survived(job, outcomes) for job in own)} of {len(own)}")
        made.append([wanted, "runs", *counts])
    return made


def brief(outcomes: Outcomes, jobs: Iterable[Job]) -> list[list[str]]:
    """The same with one row a fault: the medians, SGD / AdamW, bold if all runs are survived."""
    jobs = list(jobs)
    guards = list(dict.fromkeys(job.guard for job in jobs))
    made = []
    for fault in dict.fromkeys(job.fault for job in jobs):
        row = [FAULTS[fault].words]
        for guard in guards:
            own = [j for j in jobs if (j.fault, j.guard) == (fault, guard)]
            halts = {outcomes[job].halted for job in own}
            optimizers = dict.fromkeys(job.optimizer for job in own)
            words = " / ".join(
                _median([j for j in own if j.optimizer == o], outcomes) for o in optimizers
            )
            words = f"halted: {halts.pop()}" if len(halts) == 1 and None not in halts else words
            row.append(f"**{words}**" if all(survived(job, outcomes) for job in own) else words)
        made.append(row)
    return made + [[row[0], *row[2:]] for row in rows(outcomes, jobs, str)[-len(WANTED) :]]


def _median(jobs: Sequence[Job], outcomes: Outcomes) -> str:
    return f"{statistics.median(points(job, outcomes) for job in jobs):+.1f}"


def draw(outcomes: Outcomes, jobs: Iterable[Job], markdown: bool, console: Console) -> None:
    """Print the table, in colour, or in Markdown in brief and in full."""
    jobs = list(jobs)
    columns = ["fault", "optimizer", *dict.fromkeys(job.guard for job in jobs)]
    if markdown:
        print(markdown_table([columns[0], *columns[2:]], brief(outcomes, jobs)))
        print()
        print(markdown_table(columns, rows(outcomes, jobs, lambda words: f"**{words}**")))
        print(f"\n{CAPTION}")
        return
    table = Table(title="Faults survived", caption=CAPTION, box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number > 1 else "left", min_width=len(name))
    body = rows(outcomes, jobs, lambda words: f"[bold green]{words}[/]")
    for number, row in enumerate(body):
        table.add_row(*row, end_section=number == len(body) - len(WANTED) - 1)
    console.print(table)


def verdict(outcomes: Outcomes, jobs: Iterable[Job], guard: str) -> list[str]:
    """A line for each requirement, with the runs of a guard that do not meet it."""
    own = [job for job in jobs if job.guard == guard]
    lines = []
    for kind, wanted in WANTED.items():
        asked = [job for job in own if FAULTS[job.fault].kind is kind]
        if not asked:
            continue
        missed = [job for job in asked if not survived(job, outcomes)]
        words = f"{guard}, {wanted}: {len(asked) - len(missed)} of {len(asked)} runs"
        if kind is Kind.TRANSIENT:
            costs = [points(job, outcomes) for job in asked if not outcomes[job].failed]
            if costs:
                words += f" (median {statistics.median(costs):+.1f}, worst {min(costs):+.1f})"
        if kind is Kind.CONTROL:
            words += f" ({sum(not outcomes[job].acts for job in asked)} without any act)"
        lines.append("; ".join([words, *(_missed(job, outcomes) for job in missed)]))
    early = [job for job in own if not unchanged(job, outcomes)]
    words = f"{guard}, the same bits as without it until it first acts, under faults too: "
    lines.append(f"{words}{len(own) - len(early)} of {len(own)} runs")
    return lines


def _missed(job: Job, outcomes: Outcomes) -> str:
    own = outcomes[job]
    end = f"halted {own.halted}" if own.halted else own.failed
    return f"{job.fault} {job.optimizer} {job.seed}: {end or f'{points(job, outcomes):+.1f}'}"
