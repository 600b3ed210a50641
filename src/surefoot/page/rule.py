"""The book: the rules with their pages, and the remedies with what they promise."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from surefoot.diagnosis import RULES
from surefoot.page.book import CHAPTERS, chapters, first_line, inline, rendered, sightings
from surefoot.page.missing import missing, nearest
from surefoot.page.render import html
from surefoot.remedies import TREATMENTS, Treatment
from surefoot.views import words
from surefoot.views.report import flat

_INDEX = ("/rules", "all rules and remedies")


def index(request: Request) -> Response:
    """All rules by chapter, and all remedies by group."""
    groups: dict[str, list[type[Treatment]]] = {}
    for treatment in TREATMENTS.values():
        groups.setdefault(treatment.name.partition(".")[0], []).append(treatment)
    return html(
        "rules.html.j2", here="/rules", chapters=chapters(), lines=first_line, groups=groups
    )


def page(request: Request) -> Response:
    """A rule: its page, and the newest runs in which it was broken."""
    name = request.path_params["name"]
    rule = RULES.get(name)
    if rule is None:
        return _unknown("rule", name)
    names = sorted(RULES)
    at = names.index(rule.id)
    return html(
        "rule.html.j2",
        here="/rules",
        rule=rule,
        chapter=CHAPTERS[rule.id[:3]],
        text=rendered(rule.page, rule.id),
        found=sightings(request.app.state.shelf.runs(), rule.id),
        previous=RULES[names[at - 1]] if at else None,
        following=RULES[names[at + 1]] if at + 1 < len(names) else None,
    )


def remedy(request: Request) -> Response:
    """A remedy: what it guarantees, when it does not help, and its code."""
    name = request.path_params["name"]
    kind = TREATMENTS.get(name)
    if kind is None:
        return _unknown("remedy", name)
    return html(
        "remedy.html.j2",
        here="/rules",
        remedy=kind,
        inline=inline,
        about=rendered(inspect.cleandoc(kind.__doc__ or ""), ""),
        example=kind().code(),
        defaults=[(key, _default(value)) for key, value in kind.defaults.items()],
        conflicts=[(other, why, _members(other)) for other, why in kind.conflicts.items()],
        siblings=[other for other in _members(name.partition(".")[0]) if other != name],
    )


def _unknown(what: str, name: str) -> Response:
    """That there is no such rule or remedy, with the names that are like it in either."""
    near = nearest(name, [*RULES, *TREATMENTS])
    return missing(
        f"there is no {what} {words.shorten(name, 80)}",
        back=_INDEX,
        near=[
            (f"/rule/{known}", f"{known}: {RULES[known].title}")
            if known in RULES
            else (f"/remedy/{known}", known)
            for known in near
        ],
        here="/rules",
    )


def _members(name: str) -> list[str]:
    """The remedies that a name stands for: itself, or those of a group."""
    if name in TREATMENTS:
        return [name]
    return [known for known in TREATMENTS if known.partition(".")[0] == name]


def _default(value: Any) -> str:
    return "found by itself" if value is None else flat(value)
