"""A run: its verdict, its findings, its figures, kept up to date while it goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.page.drawing import bare
from surefoot.page.layers import rows
from surefoot.page.render import html, number_in
from surefoot.page.shelf import Look, Reading
from surefoot.page.stream import stream
from surefoot.record import RecordError
from surefoot.record.data import RunData
from surefoot.record.metrics import GRADIENT_NORM, LEARNING_RATE, LOSS, run_metrics
from surefoot.record.proofs import NAME as PROOF
from surefoot.views import words
from surefoot.views.figures import FIGURES
from surefoot.views.report import told

_PAUSE = 0.2  # seconds between two looks at a run that someone watches


def page(request: Request) -> Response:
    """The whole page of a run."""
    look = of(request).look()
    drawn = [name for name in FIGURES if _drawn(look, name) is not None]
    return html("run.html.j2", here="", drawn=drawn, **_shown(request, look))


def summary(request: Request) -> Response:
    """Verdict, findings and layers alone, to put in the place of those that have grown old."""
    return html("summary.html.j2", **_shown(request, of(request).look()))


def layers(request: Request) -> Response:
    """The table of layers alone."""
    return html(
        "layers_part.html.j2",
        layers=of(request).look().once("layers", rows),
        linked=linked(request.path_params["name"]),
        training=number_in(request, "training"),
    )


def figures(request: Request) -> Response:
    """The figures asked for by name (`?name=depth&name=heatmap`), null where there is nothing."""
    look = of(request).look()
    names = [name for name in request.query_params.getlist("name")[:16] if name in FIGURES]
    return JSONResponse({name: _drawn(look, name) for name in names})


async def events(request: Request) -> Response:
    """Tells of new steps as they are recorded."""
    return stream(request, _steps(of(request)))


def of(request: Request) -> Reading:
    """The run that the address names; raises RecordError if there is none such."""
    return request.app.state.shelf.reading(
        request.path_params["name"], number_in(request, "training")
    )


def linked(name: str) -> str:
    """Where a run is on the page."""
    return f"/run/{quote(name, safe='')}"


def now(data: RunData) -> dict[str, str]:
    """The newest numbers of a run as words; empty where nothing was seen.

    steps: up to the one that the others are of. A report may count more: it is read after them.
    """
    newest = run_metrics(data)
    known = {"loss": LOSS, "norm": GRADIENT_NORM, "rate": LEARNING_RATE}
    told = {key: words.finite(newest[name]) for key, name in known.items() if name in newest}
    ends = [int(series.steps[-1]) + 1 for series in data.series.values() if len(series)]
    steps = words.number(max(ends, default=data.report.steps))
    return {"steps": steps, **dict.fromkeys(known, ""), **told}


def standing(look: Look) -> dict[str, Any]:
    """How a run stands, as its stream tells it and as the pages of it are made.

    state: another whenever a page would be another; verdict: whenever its words would be. A page
    that was made before the stream began learns by them whether it has missed something.
    """
    return look.once("standing", lambda data: _standing(data, look))


def _standing(data: RunData, look: Look) -> dict[str, Any]:
    told = {**now(data), "live": look.live, "ended": look.ended}
    verdict = _digest(data.report.to_json())
    state = _digest([told, verdict, len(data.flows), len(data.events)])
    return {**told, "verdict": verdict, "state": state}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def _shown(request: Request, look: Look) -> dict[str, Any]:
    """What the templates of a run ask for."""
    name = request.path_params["name"]
    return {
        **told(look.data),
        "linked": linked(name),
        "tried": (request.app.state.shelf.root / name / PROOF).exists(),
        "figures": {key: (spec.title, spec.caption) for key, spec in FIGURES.items()},
        "layers": look.once("layers", rows),
        "now": standing(look),
        "training": number_in(request, "training"),
    }


def _drawn(look: Look, name: str) -> dict[str, Any] | None:
    """A figure as Plotly's JSON, None where there is nothing to draw."""
    return look.once(f"figure {name}", lambda data: bare(FIGURES[name].draw(data)))


async def _steps(reading: Reading) -> AsyncIterator[dict[str, str]]:
    """An event for each look at which something was new; the first tells how things stand."""
    seen: Look | None = None
    while True:
        try:
            look = await run_in_threadpool(reading.look)
        except RecordError as error:
            yield {"event": "gone", "data": json.dumps(words.clean(error))}
            return
        if look is not seen:
            seen = look
            stands = await run_in_threadpool(standing, look)
            yield {"event": "step", "data": json.dumps(stands)}
        await asyncio.sleep(_PAUSE)
