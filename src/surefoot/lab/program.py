"""What `surefoot lab NAME` and `python -m surefoot.lab.NAME` do: run an entry, show, write."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surefoot.files import replace_text

if TYPE_CHECKING:
    from surefoot.lab.entry import Entry, Result

OUT_OF_BOUNDS = 1  # exit status where a number is not what its source says
_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that runs an entry."""
    for option in (
        click.option("--seed", type=click.IntRange(0, 999), default=0, show_default=True,
                     help="Draws other weights and other data."),
        click.option("--json", "json", metavar="FILE", type=_FILE,
                     help="Write all numbers as JSON; - is standard output."),
        click.option("-o", "--output", metavar="FILE", type=_FILE,
                     help="Write a page with the figure, one file that opens offline."),
    ):  # fmt: skip
        command = option(command)
    return command


def main(entry: Entry) -> None:
    """The entry as a program of its own."""

    @click.command(help=f"{entry.title}.\n\n{entry.claim}")
    @options
    def command(output: Path | None, json: Path | None, seed: int) -> None:
        click.get_current_context().exit(show(entry, output, json, seed))

    command(prog_name=f"python -m surefoot.lab.{entry.name}")


def show(entry: Entry, output: Path | None, json: Path | None, seed: int) -> int:
    """Run an entry and show it; the exit status. Raises ClickException where that cannot be."""
    import torch
    from rich.console import Console

    from surefoot.lab.entry import MissingExtra
    from surefoot.lab.printed import print_result

    torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings
    quiet = str(json) == "-"
    waiting = Console(stderr=True)
    try:
        with waiting.status(f"running {entry.name}: two minutes at most"):
            result = entry.run(seed)
    except MissingExtra as error:
        raise click.ClickException(str(error)) from None
    if json is not None:
        text = dumps(entry, result, seed)
        click.echo(text) if quiet else _write(json, text + "\n")
    if output is not None:
        from surefoot.lab.paged import render_result

        _write(output, render_result(entry, result, seed))
    if not quiet:
        print_result(entry, result, console=Console(), page=None if output is None else str(output))
    return 0 if result.holds else OUT_OF_BOUNDS


def dumps(entry: Entry, result: Result, seed: int) -> str:
    """All but the figure, as strict JSON text."""
    head = {
        "entry": entry.name,
        "family": entry.family,
        "title": entry.title,
        "claim": entry.claim,
        "source": entry.source,
        "planted": [str(cause) for cause in entry.planted],
        "seed": seed,
    }
    return jsons.dumps({**head, **result.to_json()}, indent=1, ensure_ascii=False, allow_nan=False)


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None
