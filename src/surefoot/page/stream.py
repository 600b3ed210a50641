"""Streams of events: what a page listens to for as long as it is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response


def stream(request: Request, events: AsyncIterator[dict[str, str]]) -> Response:
    """The events as they come. HEAD asks for none; an older sse-starlette would never end it."""
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    return EventSourceResponse(events)
