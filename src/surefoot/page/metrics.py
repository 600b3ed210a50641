"""The newest numbers of all live runs, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from surefoot.page.shelf import Shelf
from surefoot.record import RecordError
from surefoot.record.data import RunData


def page(request: Request) -> Response:
    """Text exposition, of every layer with `?layers=1`; 501 where the library is missing."""
    from surefoot.integrations.prometheus import content_type, exposition

    layers = request.query_params.get("layers") == "1"
    try:
        text = exposition(_live(request.app.state.shelf), layers=layers)
        return Response(text, headers={"content-type": content_type()})
    except ModuleNotFoundError as error:
        return PlainTextResponse(f"{error}\n", 501)


def _live(shelf: Shelf) -> Iterator[RunData]:
    for run in shelf.runs():
        if run.live:
            try:
                yield shelf.reading(run.name).look().data
            except RecordError:  # it has gone since
                continue
