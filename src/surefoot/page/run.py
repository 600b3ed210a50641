"""A run: its verdict, its findings, its figures, kept up to date while it goes on."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.page.drawing import bare
from surefoot.page.layers import rows
from surefoot.page.render import html, number_in
from surefoot.page.shelf import Reading
from surefoot.record import RecordError
from surefoot.record.data import RunData
from surefoot.record.proofs import NAME as PROOF
from surefoot.views import words
from surefoot.views.figures import FIGURES
from surefoot.views.figures.rows import root_sum_squares, statistic
from surefoot.views.report import told

_PAUSE = 0.2  # seconds between two looks at a run that someone watches


def page(request: Request) -> Response:
    """The whole page of a run."""
    reading = of(request)
    drawn = [name for name in FIGURES if _drawn(reading, name) is not None]
    return html("run.html.j2", here="", drawn=drawn, **shown(request))


def summary(request: Request) -> Response:
    """Verdict, findings and layers alone, to put in the place of those that have grown old."""
    return html("summary.html.j2", **shown(request))


def layers(request: Request) -> Response:
    """The table of layers alone."""
    return html(
        "layers_part.html.j2",
        layers=of(request).once("layers", rows),
        linked=linked(request.path_params["name"]),
        training=number_in(request, "training"),
    )


def figures(request: Request) -> Response:
    """The figures asked for by name (`?name=depth&name=heatmap`), null where there is nothing."""
    reading = of(request)
    drawn = {name: _drawn(reading, name) for name in request.query_params.getlist("name")[:16]}
    return JSONResponse({name: figure for name, figure in drawn.items() if name in FIGURES})


async def events(request: Request) -> EventSourceResponse:
    """Tells of new steps as they are recorded."""
    return EventSourceResponse(_steps(of(request)))


def of(request: Request) -> Reading:
    """The run that the address names; raises RecordError if there is none such."""
    return request.app.state.shelf.reading(
        request.path_params["name"], number_in(request, "training")
    )


def shown(request: Request) -> dict[str, Any]:
    """What the templates of a run ask for."""
    reading = of(request)
    data = reading.refresh()
    name = request.path_params["name"]
    return {
        **told(data),
        "linked": linked(name),
        "tried": (request.app.state.shelf.root / name / PROOF).exists(),
        "figures": {key: (spec.title, spec.caption) for key, spec in FIGURES.items()},
        "live": reading.live,
        "layers": reading.once("layers", rows),
        "now": now(data),
        "training": number_in(request, "training"),
    }


def linked(name: str) -> str:
    """Where a run is on the page."""
    return f"/run/{quote(name, safe='')}"


def now(data: RunData) -> dict[str, Any]:
    """The newest numbers of a run, as words where they are shown.

    norm: of all gradients together, over their finite elements.
    """
    found: dict[str, Any] = {"steps": data.report.steps, "loss": None, "norm": None, "rate": None}
    loss, rate = data.series.get("loss"), data.series.get("learning_rate")
    if loss is not None and len(loss):
        found["loss"] = float(loss.last[-1, 0])
        found["steps"] = max(found["steps"], int(loss.steps[-1]) + 1)
    if rate is not None and len(rate):
        found["rate"] = float(rate.last[-1, 0])
    norms = statistic(data, "norm")
    if norms is not None:
        found["norm"] = float(root_sum_squares(norms.last[-1:])[0])
        found["steps"] = max(found["steps"], int(norms.steps[-1]) + 1)
    return found


def _drawn(reading: Reading, name: str) -> dict[str, Any] | None:
    """A figure as Plotly's JSON, None where there is nothing to draw."""
    if name not in FIGURES:
        return None
    return reading.once(f"figure {name}", lambda data: bare(FIGURES[name].draw(data)))


async def _steps(reading: Reading) -> AsyncIterator[dict[str, str]]:
    """An event for each look at which something was new; the first tells how things stand."""
    seen: RunData | None = None
    going, verdict = None, None
    while True:
        try:
            data = await run_in_threadpool(reading.refresh)
        except RecordError as error:
            yield {"event": "gone", "data": json.dumps(words.clean(error))}
            return
        # Not by the version: by now others may have looked again.
        if data is not seen or (reading.live, reading.ended) != going:
            seen, going = data, (reading.live, reading.ended)
            looks = json.dumps(data.report.to_json(), default=str) if data.report else ""
            detail = {
                **{key: _word(value) for key, value in now(data).items()},
                "live": reading.live,
                "ended": reading.ended,
                "judged": looks != verdict,
            }
            verdict = looks
            yield {"event": "step", "data": json.dumps(detail)}
        await asyncio.sleep(_PAUSE)


def _word(value: float | int | None) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return words.number(value)
    return "" if value is None else words.number(value)
