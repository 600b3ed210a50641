"""Pages and errors in HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from surefoot.record import RecordError
from surefoot.version import VERSION
from surefoot.views.report import environment

HERE = Path(__file__).parent


@cache
def _templates() -> jinja2.Environment:
    """The page's own templates, and those that it shares with the report."""
    return environment(HERE / "templates")


def html(name: str, code: int = 200, **told: Any) -> HTMLResponse:
    """A page, or a part of one."""
    text = _templates().get_template(name).render(version=VERSION, **told)
    return HTMLResponse(text.encode("utf-8", "replace"), code)


async def failed(request: Request, error: Exception) -> HTMLResponse:
    """What went wrong, in words, and where to go on."""
    status = getattr(error, "status_code", 404 if isinstance(error, RecordError) else 500)
    words = str(getattr(error, "detail", error)) if status < 500 else ""
    return html("error.html.j2", code=status, status=status, words=words, here="")


def number_in(request: Request, name: str) -> int | None:
    """A whole number of the address's query, None if it is not there or is none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
