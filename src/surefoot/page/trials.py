"""What trials have shown of a run's remedies: the proof that `surefoot prove RUN` left there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.page.render import html
from surefoot.page.run import linked
from surefoot.record import RecordError
from surefoot.record.proofs import NAME, kept
from surefoot.views.proof import told_of


def page(request: Request) -> Response:
    """What was tried, what it did, and what to change."""
    name = request.path_params["name"]
    return _made(
        request,
        lambda told: html("proof_page.html.j2", here="", run=name, linked=linked(name), **told),
    )


def figures(request: Request) -> Response:
    """The losses before and after, as Plotly's JSON."""
    return _made(request, lambda told: JSONResponse(told["drawn"]))


def _made(request: Request, make: Callable[[dict[str, Any]], Response]) -> Response:
    """What is made of the kept proof; raises RecordError where there is none that can be shown."""
    name = request.path_params["name"]
    folder = request.app.state.shelf.folder(name)
    proof = kept(folder) if folder is not None else None
    if proof is None:
        raise RecordError(f"no remedy was tried on {name}. Next: surefoot prove {folder or name}")
    try:
        return make(told_of(proof))
    except Exception as error:  # a stranger's file: any type may be in the place of any other
        raise RecordError(f"{folder}/{NAME} is not as surefoot writes it: {error!r}") from None
