"""What is not there: said in words, with what its name is like."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from starlette.responses import Response

from surefoot.page.render import html

_LONGEST = 200  # characters of names that are compared: it takes their product of steps
_MOST = 2000  # names


def missing(
    words: str, back: tuple[str, str], near: Sequence[tuple[str, str]] = (), here: str = ""
) -> Response:
    """A page of code 404. back, near: (address, what it is called)."""
    return html("missing.html.j2", 404, words=words, back=back, near=near, here=here)


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the names: those that begin with it, then those that are most like it.

    >>> nearest("sf10", ["SF101", "SF102", "init.lsuv"]), nearest("init.lsv", ["init.lsuv"])
    (['SF101', 'SF102'], ['init.lsuv'])
    """
    given = name[:_LONGEST].lower()
    short = {k[:_LONGEST].lower(): k for k in reversed(known[:_MOST])}
    begun = sorted(k for k in short if given and k.startswith(given))
    like = difflib.get_close_matches(given, short, 3, 0.5)
    return [short[k] for k in dict.fromkeys([*begun, *like])][:3]
