"""A layer of a run: what is wrong with it, what was seen of it, and its figures over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from surefoot.page import layers
from surefoot.page.drawing import bare
from surefoot.page.missing import missing, nearest
from surefoot.page.render import html, number_in
from surefoot.page.run import linked, of, standing
from surefoot.page.seen import seen
from surefoot.record.data import RunData
from surefoot.views import words
from surefoot.views.figures import LAYER_FIGURES

_CHILDREN = 200
_INSIDE = 20


@dataclass(frozen=True, slots=True)
class Link:
    """A layer to go to. query: what names it in an address."""

    title: str
    type: str
    query: str


def page(request: Request) -> Response:
    """The page of the layer `?name=`; of several by one name the `?nth=`."""
    look = of(request).look()
    data = look.data
    index = _index(request, data)
    if index is None:
        return _missing(request, data)
    place = layers.in_order(data)
    at = place.index(index)
    layer = data.layers.layers[index]
    link = _links(data)
    children = [i for i, other in enumerate(data.layers.layers) if other.parent == index]
    origins, victims = layers.named(data)
    training = number_in(request, "training")
    return html(
        "layer.html.j2",
        here="",
        data=data,
        layer=layer,
        title=data.layers.title(index),
        parameters=[data.layers.parameters[i] for i in data.layers.parameters_of(index)],
        linked=linked(request.path_params["name"]),
        suffix="" if training is None else f"&training={training}",
        query=link(index).query,
        previous=link(place[at - 1]) if at else None,
        following=link(place[at + 1]) if at + 1 < len(place) else None,
        children=[link(i) for i in children[:_CHILDREN]],
        more=max(len(children) - _CHILDREN, 0),
        origin=_findings(data, origins.get(layer.name, ())),
        victim=_findings(data, victims.get(layer.name, ())),
        inside=layers.inside(data, layer.name)[:_INSIDE],
        seen=seen(data, index),
        figures={name: (spec.title, spec.caption) for name, spec in LAYER_FIGURES.items()},
        drawn=[name for name in LAYER_FIGURES if _drawn(data, index, name) is not None],
        now=standing(look),
    )


def figures(request: Request) -> Response:
    """The figures of the layer, null where there is nothing to draw."""
    data = of(request).look().data
    index = _index(request, data)
    if index is None:
        return _missing(request, data)
    return JSONResponse({name: _drawn(data, index, name) for name in LAYER_FIGURES})


def _index(request: Request, data: RunData) -> int | None:
    """The layer that the address names, None if there is none such."""
    name = request.query_params.get("name", "")
    named = [i for i, layer in enumerate(data.layers.layers) if layer.name == name]
    nth = number_in(request, "nth") or 1
    return named[nth - 1] if nth <= len(named) else None


def _missing(request: Request, data: RunData) -> Response:
    """That there is no such layer, with those whose names are like it."""
    name = request.query_params.get("name", "")
    found = {layer.name: i for i, layer in enumerate(data.layers.layers)}
    where = linked(request.path_params["name"])
    return missing(
        f"the run {data.name} has no layer {words.shorten(name, 200)}",
        back=(where, f"the run {data.name}"),
        near=[
            (f"{where}/layer?{layers.query(known)}", data.layers.title(found[known]))
            for known in nearest(name, list(found))
        ],
    )


def _links(data: RunData) -> Callable[[int], Link]:
    """What makes the link of a layer."""
    places = layers.nths(data)

    def link(index: int) -> Link:
        layer = data.layers.layers[index]
        return Link(data.layers.title(index), layer.type, layers.query(layer.name, places[index]))

    return link


def _findings(data: RunData, numbers: tuple[int, ...]) -> list[tuple[int, Any]]:
    return [(number, data.report.findings[number - 1]) for number in numbers]


def _drawn(data: RunData, index: int, name: str) -> dict[str, Any] | None:
    return bare(LAYER_FIGURES[name].draw(data, index))
