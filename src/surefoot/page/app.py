"""The addresses of the page."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from surefoot.page import assets, compare, lab, layer, metrics, overview, render, rule, run, trials
from surefoot.page.access import Access, Door
from surefoot.page.shelf import Shelf
from surefoot.record import RecordError

ROUTES = [
    Route("/", overview.page),
    Route("/list", overview.rows),
    Route("/events", overview.events),
    Route("/run/{name}", run.page),
    Route("/run/{name}/summary", run.summary),
    Route("/run/{name}/figures.json", run.figures),
    Route("/run/{name}/events", run.events),
    Route("/run/{name}/layers", run.layers),
    Route("/run/{name}/layer", layer.page),
    Route("/run/{name}/layer.json", layer.figures),
    Route("/run/{name}/trials", trials.page),
    Route("/run/{name}/trials.json", trials.figures),
    Route("/compare", compare.page),
    Route("/compare.json", compare.figures),
    Route("/rules", rule.index),
    Route("/rule/{name}", rule.page),
    Route("/remedy/{name}", rule.remedy),
    Route("/metrics", metrics.page),
    Route("/lab", lab.page),
    Route("/lab/result", lab.result),
    Route("/plotly.js", assets.plotly),
    Route("/themes.json", assets.themes),
    Route("/report.css", assets.shared),
    Mount("/static", StaticFiles(directory=render.HERE / "static")),
]


def create(runs: str | Path, access: Access | None = None) -> Door:
    """The page for a folder of runs, or for one run, as an ASGI application.

    >>> from starlette.testclient import TestClient
    >>> client = TestClient(create("runs"), base_url="http://localhost")
    >>> client.get("/").status_code, client.get("/", headers={"host": "evil.example"}).status_code
    (200, 421)
    """
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(GZipMiddleware, minimum_size=4096, compresslevel=4)],
        exception_handlers={
            RecordError: render.failed,
            HTTPException: render.failed,
            500: render.failed,
        },
    )
    app.state.shelf = Shelf(runs)
    return Door(app, access or Access())  # around everything: an error's page passes it as well
