"""`python -m faults`: run the faults under the guards and print what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import click
from rich.console import Console
from rich.progress import track

from faults import Job, Outcome
from faults.faults import FAULTS
from faults.guards import GUARDS, installed
from faults.run import run
from faults.table import draw, reference, verdict
from faults.task import OPTIMIZERS


def needed(jobs: Iterable[Job]) -> list[Job]:
    """These, those that they are compared with, and the same without a guard; each once."""
    return list(
        dict.fromkeys(
            each
            for job in jobs
            for each in (job, reference(job), job.against(job.fault, "nothing"))
        )
    )


def ran(jobs: list[Job], processes: int) -> Iterator[Outcome]:
    """Their outcomes, as they come."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job) for job in jobs]):
            yield done.result()


def line(outcome: Outcome) -> str:
    """One run, with the first things that the guard did."""
    job = outcome.job
    end = outcome.failed or (f"halted {outcome.halted}" if outcome.halted else "")
    acts = f"{outcome.acts} acts {' | '.join(outcome.told[:4])}" if outcome.acts else ""
    name = f"{job.fault:18}{job.optimizer:6}{job.guard:16}{job.seed:2}"
    return f"{name} {outcome.accuracy:6.2f} {outcome.seconds:5.1f} s  {end} {acts}"


@click.command()
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)))
@click.option("--guard", "guards", multiple=True, type=click.Choice(list(GUARDS)))
@click.option("--optimizer", "optimizers", multiple=True, type=click.Choice(OPTIMIZERS))
@click.option("--seeds", default=5, show_default=True)
@click.option("--jobs", "processes", default=1, show_default=True, help="Processes at a time.")
@click.option("--quick", is_flag=True, help="One seed.")
@click.option("--markdown", is_flag=True, help="The table as Markdown.")
@click.option("--each", is_flag=True, help="Print each run, with what the guard did.")
def main(
    faults: tuple[str, ...],
    guards: tuple[str, ...],
    optimizers: tuple[str, ...],
    seeds: int,
    processes: int,
    quick: bool,
    markdown: bool,
    each: bool,
) -> None:
    """Plant faults in small trainings and print what the guards make of them."""
    jobs = [
        Job(fault, guard, optimizer, seed)
        for fault in faults or FAULTS
        for optimizer in optimizers or OPTIMIZERS
        for guard in guards or installed()
        for seed in range(1 if quick else seeds)
    ]
    console, aside = Console(width=160), Console(stderr=True)
    todo, outcomes = needed(jobs), {}
    for outcome in track(ran(todo, processes), "training", len(todo), console=aside):
        outcomes[outcome.job] = outcome
        if each:
            aside.print(line(outcome), markup=False, highlight=False, soft_wrap=True)
    draw(outcomes, jobs, markdown, console)
    for guard in ("surefoot",) if "surefoot" in {j.guard for j in jobs} else ():
        console.print(*verdict(outcomes, jobs, guard), sep="\n", markup=False, highlight=False)


if __name__ == "__main__":
    main()
