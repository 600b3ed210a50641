"""Two runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.page.differences import judged, measured, settings
from surefoot.page.drawing import bare
from surefoot.page.render import html
from surefoot.page.run import linked, standing
from surefoot.page.shelf import Look
from surefoot.record import RecordError
from surefoot.views import words
from surefoot.views.figures import COMPARED, compared
from surefoot.views.story import ending

_CHOICE = 500  # runs that the form offers


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. look: None where it cannot be shown; problem says why then."""

    name: str
    linked: str
    look: Look | None = None
    problem: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """What its card says."""
        if self.look is None:
            return {}
        report = self.look.data.report
        return {
            "report": report,
            "lead": words.lead(report),
            "ending": ending(self.look.data),
            "now": standing(self.look),
        }


def page(request: Request) -> Response:
    """The runs `?run=a&run=b`; with fewer of them a form to choose them by."""
    names = request.query_params.getlist("run")
    sides = [_side(request, name) for name in names[:2]]
    known = [side.look.data for side in sides if side.look is not None]
    runs = request.app.state.shelf.runs()[:_CHOICE]
    told: dict[str, Any] = {"judged": [], "measured": [], "differ": [], "same": []}
    if len(known) == 2:
        differ, same = settings(*known)
        told = {
            "judged": judged(*known),
            "measured": measured(*known),
            "differ": differ,
            "same": same,
        }
    return html(
        "compare.html.j2",
        code=404 if sides and not known else 200,
        here="/compare",
        sides=sides,
        chosen=_chosen(names, [run.name for run in runs]),
        runs=runs,
        unused=names[2:],
        both=len(known) == 2,
        alike=len(names) >= 2 and names[0] == names[1],
        swapped=urlencode([("run", name) for name in reversed(names[:2])]),
        asked=urlencode([("run", name) for name in names[:2]]),
        figures=COMPARED,
        **told,
    )


def figures(request: Request) -> Response:
    """The figures in which both runs appear; null where there is nothing to draw."""
    names = request.query_params.getlist("run")[:2]
    drawn: dict[str, Any] = dict.fromkeys(COMPARED)
    if len(names) == 2:
        one, other = (_look(request, name).data for name in names)
        drawn |= {name: bare(figure) for name, figure in compared(one, other).items()}
    return JSONResponse(drawn)


def _look(request: Request, name: str) -> Look:
    return request.app.state.shelf.reading(name).look()


def _side(request: Request, name: str) -> Side:
    try:
        return Side(name, linked(name), _look(request, name))
    except RecordError as error:
        return Side(name, linked(name), problem=str(error))


def _chosen(names: list[str], known: list[str]) -> list[str]:
    """What the form's two fields show: what was asked for, else the newest that was not."""
    free = [name for name in known if name not in names]
    return [*names[:2], *free, "", ""][:2]
