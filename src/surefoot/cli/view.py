"""`surefoot view`: the runs of a folder as a local web page."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import click

_EXTRA = "expected {}, found none: install what the page needs with `pip install 'surefoot[view]'`"
NEEDED = ("markdown_it", "sse_starlette", "starlette", "uvicorn")


def check_extra() -> None:
    """Refuse to go on without what the page needs; nothing of it is imported for that."""
    missing = next((name for name in NEEDED if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise click.ClickException(_EXTRA.format(missing))


@click.command("view")
@click.argument("runs", metavar="[RUNS]", default=Path("runs"), type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 7575, or any that is free.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; any but this machine's own asks for a token.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view_command(runs: Path, port: int | None, host: str, no_browser: bool) -> None:
    """Show runs in the browser, live while they go on.

    RUNS is the folder in which `surefoot run` keeps them, or a single run of it.
    """
    try:
        from surefoot.page.server import PortTaken, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("surefoot"):
            raise
        raise click.ClickException(_EXTRA.format(error.name)) from None
    if os.path.exists(runs) and not os.path.isdir(runs):
        raise click.UsageError(f"expected a folder of runs, got the file {runs}. Next: its folder")
    if not os.path.exists(runs):
        click.echo(f"{runs} does not exist yet: the page waits for a first run there.", err=True)
    click.echo("surefoot view: Ctrl-C ends it.", err=True)
    try:
        serve(runs, host=host, port=port, browser=not no_browser, say=_say)
    except PortTaken as error:
        raise click.ClickException(
            f"{error}. Next: surefoot view {runs} --port 0, which takes any that is free"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"cannot listen at {host}: {error.strerror or error}. "
            "Next: --host 0.0.0.0, for every address of this machine"
        ) from None


def _say(address: str) -> None:
    with contextlib.suppress(OSError):  # whoever reads it through a pipe may have gone
        click.echo(address)
        sys.stdout.flush()
    from surefoot.page.lab import prepare

    prepare()
