"""Files that are not this page's own: the charts' library, its two looks, the report's style."""

from __future__ import annotations

from functools import cache

from plotly.offline import get_plotlyjs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.views.figures.style import DARK, LIGHT
from surefoot.views.report import asset, plain_figure

# The address of the library carries its version, so it may be kept for as long as a browser likes.
_KEPT = {"cache-control": "private, max-age=604800, immutable"}


@cache
def _library() -> bytes:
    return get_plotlyjs().encode()


def plotly(request: Request) -> Response:
    """The library that draws the figures, from the installed plotly."""
    return Response(_library(), media_type="text/javascript", headers=_KEPT)


def themes(request: Request) -> Response:
    """The templates of light and dark."""
    return JSONResponse({"light": plain_figure(LIGHT), "dark": plain_figure(DARK)})


def shared(request: Request) -> Response:
    """The style that report and page share."""
    return Response(asset("report.css"), media_type="text/css")
