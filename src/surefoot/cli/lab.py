"""`surefoot lab`: pathologies and published results that run themselves."""

from __future__ import annotations

from pathlib import Path

import click

from surefoot.lab.program import options, show


@click.command("lab")
@click.argument("name", metavar="[NAME]", required=False)
@options
def lab_command(name: str | None, output: Path | None, json: Path | None, seed: int) -> None:
    """Run a pathology or a published result and see it; without NAME, list them.

    Each takes two minutes at most. It shows a claim, the failure, surefoot's own diagnosis, the
    cure with its proof, and what the measurement says of the claim. The exit status is 1 if a
    number is not what its source says.
    """
    if name is None:
        from rich.console import Console

        from surefoot.lab.catalogue import print_entries

        print_entries(Console())
        return
    from surefoot.lab.entry import UnknownEntry, load

    try:
        entry = load(name)
    except UnknownEntry as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    click.get_current_context().exit(show(entry, output, json, seed))
