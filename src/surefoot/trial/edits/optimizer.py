"""What changes in the call that builds the optimizer: learning rate, eps, betas, weight decay."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import torch

from surefoot.findings import Remedy
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.text import Text, Unplaced, called, keyword

_COMMENT = re.compile(rb"#[^\r\n]*")
_DEFAULTS = {"optimizer.eps": 1e-8, "optimizer.beta2": 0.95, "optimizer.weight_decay": 0.01}
# Schedulers with learning rates of their own, to which the optimizer's is nothing.
_OWN_RATE = ("OneCycleLR", "CyclicLR", "CosineAnnealingWarmupRestarts")


def learning_rate(draft: Draft, remedy: Remedy) -> None:
    """learning_rate.scale: `lr=EXPR` times the factor, and `"lr": EXPR` of groups written there."""
    factor = float(remedy.parameters.get("factor", 0.1))
    text, call = draft.optimizer()
    _rate_is_free(text)
    groups = [
        value
        for node in ast.walk(call)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "lr"
    ]
    if draft.sites.grouped and not groups:
        raise Unplaced("groups have a learning rate of their own")
    for value in groups:
        text.replace(text.start(value), text.end(value), scaled(text, value, factor))
    value = _argument(draft, call, "lr")
    if value is not None:
        text.replace(text.start(value), text.end(value), scaled(text, value, factor))
    elif not groups or "lr" in _signature(draft.sites.optimizer):
        usual = _default(draft.sites.optimizer, "lr")
        _set(draft, text, call, "lr", _number(float(usual) * factor))


def settings(draft: Draft, remedy: Remedy) -> None:
    """optimizer.eps, .beta2, .weight_decay, .settings: keywords set to the remedy's values.

    A parameter is a keyword of the optimizer, or beta1 or beta2. "value" stands for the one that
    the remedy is called after.
    """
    values = {name: value for name, value in remedy.parameters.items() if value is not None}
    own = remedy.remedy.partition(".")[2]
    if remedy.remedy in _DEFAULTS:
        values = {own: values.get(own, values.get("value", _DEFAULTS[remedy.remedy]))}
    elif "name" in values and "value" in values:
        values = {str(values["name"]): values["value"]}
    if not values:
        raise Unplaced("no value is given")
    text, call = draft.optimizer()
    betas = {name: value for name, value in values.items() if name in ("beta1", "beta2")}
    for name, value in values.items():
        if name not in betas:
            if name not in _signature(draft.sites.optimizer):
                raise Unplaced(f"{draft.sites.optimizer} takes no {name}")
            _set(draft, text, call, name, repr(value))
    if betas:
        _set_betas(draft, text, call, betas)


def _set_betas(draft: Draft, text: Text, call: ast.Call, betas: dict[str, Any]) -> None:
    given = _argument(draft, call, "betas")
    if given is None:
        pair = list(_default(draft.sites.optimizer, "betas"))
        for name, value in betas.items():
            pair[int(name[-1]) - 1] = value
        _set(draft, text, call, "betas", repr(tuple(pair)))
        return
    if not isinstance(given, (ast.Tuple, ast.List)) or len(given.elts) != 2:
        raise Unplaced("betas are not written out")
    for name, value in betas.items():
        old = given.elts[int(name[-1]) - 1]
        text.replace(text.start(old), text.end(old), repr(value))


def _rate_is_free(text: Text) -> None:
    """Unplaced where something else in the file sets the learning rate later."""
    for node in ast.walk(text.tree):
        if called(node) in _OWN_RATE:
            raise Unplaced(f"{called(node)} sets the learning rate")
        if not isinstance(node, ast.Subscript) or not isinstance(node.ctx, ast.Store):
            continue
        if isinstance(node.slice, ast.Constant) and node.slice.value == "lr":
            raise Unplaced("the learning rate is assigned to the groups")


def scaled(text: Text, value: ast.expr, factor: float) -> str:
    """An expression times a factor, as short as it can be written."""
    number = value.value if isinstance(value, ast.Constant) else None
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        return _number(number * factor)
    written = text.source(value)
    simple = (ast.Name, ast.Attribute, ast.Subscript, ast.Call)
    inner = written if isinstance(value, simple) or written.startswith("(") else f"({written})"
    return f"{_number(factor)} * {inner}"


def _number(value: float) -> str:
    """To twelve digits: 0.1 * 3.0 is 0.3.

    >>> _number(0.1 * 3.0), _number(1e-4 * 0.1)
    ('0.3', '1e-05')
    """
    return repr(float(f"{value:.12g}"))


def _signature(name: str) -> dict[str, inspect.Parameter]:
    """The parameters of one of torch's optimizers; empty for others."""
    kind = getattr(torch.optim, name, None)
    if not isinstance(kind, type):
        return {}
    parameters = dict(inspect.signature(kind.__init__).parameters)
    parameters.pop("self", None)
    return parameters


def _default(name: str, argument: str) -> Any:
    parameter = _signature(name).get(argument)
    if parameter is None or not isinstance(parameter.default, (int, float, tuple)):
        raise Unplaced(f"the default of {argument} is not known for {name}")
    return parameter.default


def _argument(draft: Draft, call: ast.Call, name: str) -> ast.expr | None:
    """An argument's expression, by its keyword or its position; None if it is not given."""
    if (given := keyword(call, name)) is not None:
        return given.value
    if any(k.arg is None for k in call.keywords) or any(
        isinstance(a, ast.Starred) for a in call.args
    ):
        raise Unplaced("some arguments are not written out")
    if called(call) != draft.sites.optimizer:  # a partial may give more
        raise Unplaced("it is called by another name")
    for parameter, value in zip(_positional(draft.sites.optimizer), call.args, strict=False):
        if parameter == name:
            return value
    return None


def _positional(name: str) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [n for n, p in _signature(name).items() if p.kind in kinds]


def _set(draft: Draft, text: Text, call: ast.Call, name: str, value: str) -> None:
    """Give an argument a value, where it stands or as a further keyword."""
    given = _argument(draft, call, name)
    if given is not None:
        text.replace(text.start(given), text.end(given), value)
    else:
        add_keyword(text, call, name, value)


def add_keyword(text: Text, call: ast.Call, name: str, value: str) -> None:
    """A further keyword, behind the last argument."""
    last = max([*call.args, *(k for k in call.keywords)], key=text.end, default=None)
    if last is None:
        at = text.end(call) - 1
        text.replace(at, at, f"{name}={value}")
        return
    at, end = text.end(last), text.end(call) - 1
    # An argument in brackets of its own: they belong to it, but not to its node.
    tail = _COMMENT.sub(lambda match: b" " * len(match.group()), text.data[at:end])
    at += tail.rfind(b")") + 1
    text.replace(at, at, f", {name}={value}")
