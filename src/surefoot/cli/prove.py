"""`surefoot prove`: remedies in paired trials."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surefoot.cli.shared import NoProgram, building, json_option, recorded, save_json, save_text

if TYPE_CHECKING:
    from surefoot.trial.proof import Proof
    from surefoot.trial.prove import Plan, Tell

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType):
    """Seconds, or minutes and hours by their letter."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """`90`, `90s`, `10m` or `1.5h` in seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"expected a time as 90s, 10m or 1.5h, got {value!r}", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command("prove")
@click.argument("target", metavar="MODULE:FUNCTION|RUN")
@click.option(
    "--remedy", "remedies", multiple=True, metavar="NAME", help="Try this one; may be repeated."
)
@click.option(
    "--steps", type=click.IntRange(min=20), help="Of a full run. [default: 300, or RUN's]"
)
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True, help="Pairs.")
@click.option("--budget", type=_Duration(), default="10m", show_default=True, help="Time in all.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Side by side."
)
@click.option("--ray", is_flag=True, help="On a cluster: pip install 'surefoot[ray]'.")
@json_option("Write the proof as JSON; - is standard output.")
@click.option(
    "--patch",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the winner as a diff, for patch -p1 or git apply.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write an HTML page with the curves, one file that opens offline.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def prove_command(
    target: str,
    remedies: tuple[str, ...],
    steps: int | None,
    seeds: int,
    budget: float,
    workers: int,
    ray: bool,
    json: Path | None,
    patch: Path | None,
    output: Path | None,
    quiet: bool,
) -> None:
    """Try the prescribed remedies in paired runs, and say which of them demonstrably help.

    MODULE:FUNCTION, as project.train:build or train.py:build, returns model, batch or DataLoader,
    loss function and optimizer. RUN is the folder of a recorded run, whose script is run again;
    what it saves by torch.save is not written. Ctrl-C keeps what is done.
    """
    from surefoot.trial.prove import Plan

    quiet = quiet or str(json) == "-"
    _check_files(json, patch, output)
    with building(), _tellable(), _terminated(), _progress(quiet) as tell:
        plan = Plan(steps, seeds, budget, workers, ray)
        with redirect_stdout(sys.stderr):  # what the project prints is not the result
            proof = _proof(target, tuple(dict.fromkeys(remedies)), plan, tell)
    unwritten = _write(proof, json, patch, output, Path(target))
    if not quiet:
        _print(proof, None if output is None or unwritten else output)
    if unwritten:
        raise click.ClickException("; ".join(unwritten))


def _check_files(*files: Path | None) -> None:
    """Refuse what cannot be written before the first run and not after the last."""
    for file in files:
        if file is None or str(file) == "-":
            continue
        above = next(folder for folder in file.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise click.ClickException(f"cannot write {file}: {above} is no folder to write into")


def _write(
    proof: Proof, json: Path | None, patch: Path | None, output: Path | None, target: Path
) -> list[str]:
    """Write what was asked for; what could not be written, in words. The rest is written.

    A run's own proof goes into its folder, where its report finds it.
    """
    from surefoot.record.proofs import NAME
    from surefoot.views.proof import render_proof

    unwritten = []

    def save(action: Callable[[], None]) -> None:
        try:
            action()
        except click.ClickException as error:
            unwritten.append(error.message)

    if json is not None:
        save(lambda: save_json(json, proof.dumps()))
    if target.is_dir() and proof.trials:
        save(lambda: save_json(target / NAME, proof.dumps()))
    if patch is not None and proof.patch:
        save(lambda: save_patch(patch, proof.patch))
    if output is not None:
        save(lambda: save_text(output, render_proof(proof.to_json())))
    return unwritten


def save_patch(path: Path, text: str) -> None:
    """Write a diff byte by byte: its line ends are those of the files that it changes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None


def _print(proof: Proof, page: Path | None) -> None:
    from rich.console import Console

    from surefoot.views.proof import print_proof

    print_proof(proof.to_json(), console=Console(), page=str(page) if page else None)


def _proof(target: str, remedies: tuple[str, ...], plan: Plan, tell: Tell) -> Proof:
    from surefoot.trial.prove import prove_build, prove_run

    chosen = list(remedies) or "prescribed"
    path = Path(target)
    if path.is_dir():
        return prove_run(recorded(path), chosen, plan, tell)
    if path.is_file() and path.suffix == ".py":
        raise NoProgram(
            f"expected MODULE:FUNCTION or a run's folder, got the script {target}. Record it "
            f"first: surefoot run --name NAME {target}, then surefoot prove runs/NAME"
        )
    if ":" not in target:
        raise NoProgram(
            "expected MODULE:FUNCTION, as in project.train:build, or the folder of a recorded "
            f"run, and there is no folder {target}"
        )
    return prove_build(target, chosen, plan, tell)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM, as a scheduler sends it when time is up, is a Ctrl-C: what is done is kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _tellable() -> Iterator[None]:
    from surefoot.trial.prove import ProofError

    try:
        yield
    except ProofError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float, float], None]]:
    """A bar with an estimate of what remains, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=None, left="")

        def tell(what: str, done: float, left: float) -> None:
            known = done > 0
            words = f"about {_time(left)} to go" if known else f"at most {_time(left)}"
            total = done + left if known else None
            bar.update(task, description=what, completed=done, total=total, left=words)

        yield tell


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
