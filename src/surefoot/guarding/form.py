"""The form of a saved state, looked at as a whole before any of it is used.

A checkpoint may be of another run, of another version, or cut short. What is not as expected is
named by its place, as in `ladder.rows[0].lost`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch

Form = Callable[[Any, str], None]  # raises ValueError; the text is the place


def anything(value: Any, where: str) -> None:
    """Whatever it is."""


def number(value: Any, where: str) -> None:
    """NaN and infinity are numbers as well."""
    fits = isinstance(value, Real) and not isinstance(value, bool)
    try:
        float(value) if fits else None
    except OverflowError:
        fits = False
    expect(fits, "a number", value, where)


def whole(value: Any, where: str) -> None:
    """A number without a fraction."""
    expect(isinstance(value, Integral) and not isinstance(value, bool), "an integer", value, where)


def flag(value: Any, where: str) -> None:
    """True or False."""
    expect(isinstance(value, bool), "True or False", value, where)


def text(value: Any, where: str) -> None:
    """Words."""
    expect(isinstance(value, str), "text", value, where)


def maybe(form: Form) -> Form:
    """It, or None."""
    return lambda value, where: None if value is None else form(value, where)


def one_of(values: Iterable[str]) -> Form:
    """One of these words."""
    known = [str(value) for value in values]
    words = f"one of {', '.join(known)}"
    return lambda value, where: expect(
        isinstance(value, str) and value in known, words, value, where
    )


def each(form: Form, count: int | None = None, most: int | None = None) -> Form:
    """A list of it, of `count` or at `most` so many."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, (list, tuple)), "a list", value, where)
        expect(count is None or len(value) == count, f"a list of {count}", value, where)
        expect(most is None or len(value) <= most, f"a list of {most} at most", value, where)
        for i, one in enumerate(value):
            form(one, f"{where}[{i}]")

    return check


def in_turn(forms: Collection[Form]) -> Form:
    """A list of as many, each of its own form."""

    def check(value: Any, where: str) -> None:
        each(anything, len(forms))(value, where)
        for i, (form, one) in enumerate(zip(forms, value, strict=True)):
            form(one, f"{where}[{i}]")

    return check


def keys(**forms: Form) -> Form:
    """A dict in which each of these is there; what else there is does not matter."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, Mapping), "a dict", value, where)
        for name in forms:
            if name not in value:
                raise ValueError(f"expected {_below(where, name)}, which is not there")
        some(forms)(value, where)

    return check


def some(forms: Mapping[str, Form]) -> Form:
    """A dict in which each of these may be there, among others."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, Mapping), "a dict", value, where)
        for name, form in forms.items():
            if name in value:
                form(value[name], _below(where, name))

    return check


def table(key: Form, form: Form) -> Form:
    """A dict from any number of keys to it."""

    def check(value: Any, where: str) -> None:
        expect(isinstance(value, Mapping), "a dict", value, where)
        for name, one in value.items():
            key(name, f"a key of {where}")
            form(one, f"{where}[{name!r}]")

    return check


def tensor(like: torch.Tensor, of: str = "") -> Form:
    """A tensor as this one; of: what has such a shape, in words."""
    words = f"a tensor of shape {list(like.shape)} and {like.dtype}{of and f' ({of})'}"
    return lambda value, where: expect(
        isinstance(value, torch.Tensor) and value.shape == like.shape and value.dtype == like.dtype,
        words,
        value,
        where,
    )


def sized(shape: torch.Size) -> Form:
    """A tensor of this shape."""
    return lambda value, where: expect(
        isinstance(value, torch.Tensor) and value.shape == shape,
        f"a tensor of shape {list(shape)}",
        value,
        where,
    )


def expect(fits: bool, words: str, value: Any, where: str) -> None:
    """Raise ValueError unless it fits."""
    if not fits:
        raise ValueError(f"expected {words} for {where}, got {_shown(value)}")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)} and {value.dtype}"
    if isinstance(value, (list, tuple, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {reprlib.repr(value)}"
