"""Where operations and their derivatives are defined and finite, and how an argument is kept there.

Each rule takes the arguments of a call and gives them back, elements outside moved to the edge of
the domain, at a distance of eps. What lies inside is given back bit for bit, and the gradient of
what is moved is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

Rule = Callable[[tuple[Any, ...], dict[str, Any], float], tuple[tuple[Any, ...], dict[str, Any]]]


def margin(x: torch.Tensor, eps: float, at: float = 0.0) -> float:
    """The distance to keep: no less than what the dtype can tell from `at`, or divide by."""
    info = torch.finfo(x.dtype)
    return max(eps, 2 * info.tiny if at == 0 else info.eps)


def _replaced(args: Any, kwargs: Any, place: int, name: str, change: Callable[[Any], Any]) -> Any:
    """The arguments with one of them changed, where that is a tensor of real numbers."""
    if len(args) > place:
        value = args[place]
        if isinstance(value, torch.Tensor) and not value.is_complex():
            return (*args[:place], change(value), *args[place + 1 :]), kwargs
    elif isinstance(value := kwargs.get(name), torch.Tensor) and not value.is_complex():
        return args, {**kwargs, name: change(value)}
    return args, kwargs


def _floating(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def between(low: float | None, high: float | None, place: int = 0, name: str = "input") -> Rule:
    """The rule of an operation that is defined between two numbers."""

    def rule(args: Any, kwargs: Any, eps: float) -> Any:
        def inside(x: torch.Tensor) -> torch.Tensor:
            x = _floating(x)
            least = None if low is None else low + margin(x, eps, low)
            most = None if high is None else high - margin(x, eps, high)
            return x.clamp(least, most)

        return _replaced(args, kwargs, place, name, inside)

    return rule


def finite(base: float) -> Rule:
    """The rule of an exponential: no result beyond the root of the largest number there is.

    So that the product of two is finite as well.
    """

    def rule(args: Any, kwargs: Any, eps: float) -> Any:
        def inside(x: torch.Tensor) -> torch.Tensor:
            x = _floating(x)
            return x.clamp(max=0.5 * math.log(torch.finfo(x.dtype).max, base))

        return _replaced(args, kwargs, 0, "input", inside)

    return rule


def away_from_zero(place: int, name: str) -> Rule:
    """The rule of a divisor."""
    return lambda args, kwargs, eps: _replaced(args, kwargs, place, name, lambda x: _away(x, eps))


def _away(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Elements nearer to zero than eps moved to eps, with their sign."""
    x = _floating(x)
    least = margin(x, eps)
    edge = torch.full_like(x, least).copysign(x.detach())
    return torch.where(x.detach().abs() < least, edge, x)


def power(args: Any, kwargs: Any, eps: float) -> Any:
    """The rule of x^p: for p < 0 or broken, by which numbers p is; a broken one wants x > 0."""
    p = args[1] if len(args) > 1 else kwargs.get("exponent", 1)

    def inside(x: torch.Tensor) -> torch.Tensor:
        if isinstance(p, torch.Tensor):
            x = _floating(x)
            wants = (p.detach() < 0) | (p.detach() != p.detach().round())
            least = margin(x, eps)
            return torch.where(wants & (x.detach() < least), x.new_full((), least), x)
        if p == int(p):
            return _away(x, eps) if p < 0 else x
        x = _floating(x)
        return x.clamp(margin(x, eps) if p < 1 else 0.0)

    return _replaced(args, kwargs, 0, "input", inside)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt"), between(0.0, None)),
    "log1p": between(-1.0, None),
    **dict.fromkeys(("acos", "asin", "arccos", "arcsin"), between(-1.0, 1.0)),
    **dict.fromkeys(("atanh", "arctanh", "erfinv", "special_erfinv"), between(-1.0, 1.0)),
    **dict.fromkeys(("acosh", "arccosh"), between(1.0, None)),
    **dict.fromkeys(("xlogy", "special_xlogy"), between(0.0, None, 1, "other")),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), away_from_zero(1, "other")),
    **dict.fromkeys(("reciprocal", "__rdiv__", "__rtruediv__"), away_from_zero(0, "input")),
    **dict.fromkeys(("exp", "expm1", "special_expm1"), finite(math.e)),
    **dict.fromkeys(("exp2", "special_exp2"), finite(2.0)),
    "addcdiv": away_from_zero(2, "tensor2"),
    **dict.fromkeys(("pow", "float_power", "__pow__"), power),
}
_INVOLVED = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "acos", "asin", "arccos", "arcsin"}
_INVOLVED |= {
    "exp",
    "exp2",
    "expm1",
    "atanh",
    "arctanh",
    "acosh",
    "arccosh",
    "erfinv",
    "reciprocal",
    "pow",
}


def defined(function: Any, args: Any, kwargs: Any, eps: float) -> Any:
    """What the function gives, computed of arguments inside of its domain."""
    written = getattr(function, "__name__", "")
    name = written if written.startswith("__") else written.rstrip("_")
    rule = RULES.get(name)
    if rule is None or not any(isinstance(a, torch.Tensor) for a in (*args, *kwargs.values())):
        return function(*args, **kwargs)
    if written != name and name in _INVOLVED and args:
        # It writes on its argument: what it writes is computed of a copy, which can be saved.
        new, named = rule((args[0].clone(), *args[1:]), kwargs, eps)
        return args[0].copy_(getattr(torch, name)(*new, **named))
    new, named = rule(args, kwargs, eps)
    return function(*new, **named)
