"""The list of runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from surefoot.page.render import html
from surefoot.page.shelf import Shelf
from surefoot.page.stream import stream
from surefoot.record import RunSummary

_PAUSE = 0.5  # seconds between two looks at a folder that someone watches


def page(request: Request) -> Response:
    """All runs of the folder, newest first."""
    shelf = request.app.state.shelf
    return html("overview.html.j2", here="/", runs=shelf.runs(), root=str(shelf.root))


def rows(request: Request) -> Response:
    """The table alone, to put in the place of one that has grown old."""
    return html("runs.html.j2", runs=request.app.state.shelf.runs())


async def events(request: Request) -> Response:
    """Tells when the list looks different, and once at the start: a page may have slept."""
    return stream(request, _changes(request.app.state.shelf))


async def _changes(shelf: Shelf) -> AsyncIterator[dict[str, str]]:
    before = None
    while True:
        now = _looks(await run_in_threadpool(shelf.runs))
        if now != before:
            before = now
            yield {"event": "runs", "data": ""}
        await asyncio.sleep(_PAUSE)


def _looks(runs: list[RunSummary]) -> list[tuple[Any, ...]]:
    return [(run.name, run.steps, run.verdict, run.live, run.problem) for run in runs]
