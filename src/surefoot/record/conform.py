"""Whether data read from a file has the types that its dataclasses declare.

`Report.from_json` and its like trust their input; a stranger's folder may hold any JSON in any
place. After this check a view can use what it got without looking again.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

Check = Callable[[Any], bool]
_INT = 1 << 63


@lru_cache(maxsize=256)
def checker(hint: Any) -> Check:
    """A function that tells whether a value is of the type `hint`, all the way down.

    Integers must fit 64 bits; a float may be written as such an integer; True is no number.

    >>> checker(tuple[int, ...])((1, 2)), checker(tuple[int, ...])((1, "2"))
    (True, False)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _anything
    if hint is float:
        return lambda value: type(value) is float or _is_int(value)
    if hint is int:
        return _is_int
    if origin in (typing.Union, types.UnionType):
        plain, options = _plain(hint), [checker(argument) for argument in arguments]
        return lambda value: type(value) in plain or any(option(value) for option in options)
    if origin in (tuple, list):
        item = checker(arguments[0])
        return lambda value: type(value) is origin and all(map(item, value))
    if origin is dict:
        key, item = checker(arguments[0]), checker(arguments[1])
        return lambda value: (
            type(value) is dict and all(map(key, value)) and all(map(item, value.values()))
        )
    if is_dataclass(hint):
        return _fields_checker(hint)
    return lambda value: isinstance(value, hint)


def _plain(hint: Any) -> frozenset[type]:
    """Types of which every value is of the type `hint`: to know the type is enough then.

    >>> _plain(float | None) == {float, type(None)}, _plain(int)
    (True, frozenset())
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return frozenset().union(*map(_plain, typing.get_args(hint)))
    if not isinstance(hint, type) or typing.get_origin(hint) or hint is int or is_dataclass(hint):
        return frozenset()
    return frozenset({hint})


def _fields_checker(cls: Any) -> Check:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    checks = [(name, _plain(hints[name]), checker(hints[name])) for name in names]

    def check(value: Any) -> bool:
        if not isinstance(value, cls):
            return False
        for name, plain, full in checks:  # a loop: a flow has many thousand fields
            item = getattr(value, name)
            if type(item) not in plain and not full(item):
                return False
        return True

    return check


def _anything(_: Any) -> bool:
    return True


def _is_int(value: Any) -> bool:
    return type(value) is int and -_INT <= value < _INT


def clean(value: Any) -> Any:
    """JSON data in which every string can be printed: no control character, no lone surrogate.

    A terminal obeys escape sequences, so those of a stranger's layer names must not reach it. Line
    breaks and tabs stay.

    >>> clean({"name": "fc\\x1b[2J", "n": [1, None]})
    {'name': 'fc\\ufffd[2J', 'n': [1, None]}
    """
    if isinstance(value, str):
        return "".join(c if _printable(c) else "\ufffd" for c in value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return None if isinstance(value, int) and not math.isfinite(_as_float(value)) else value


def _printable(c: str) -> bool:
    code = ord(c)
    return c in "\n\t" or (code >= 0xA0 and not 0xD800 <= code < 0xE000) or 0x20 <= code < 0x7F


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def valid(value: Any, hint: Any) -> Any:
    """The value itself, if it is what its type says; raises ValueError otherwise."""
    if not checker(hint)(value):
        raise ValueError(f"expected a {getattr(hint, '__name__', hint)}, got something else")
    return value
