"""What changes around backward and step: clipping, zeroing, a guard, autocast, the loss."""

from __future__ import annotations

import ast
import contextlib
from typing import Any

from surefoot.findings import Remedy
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.optimizer import add_keyword
from surefoot.trial.edits.scope import (
    add_import,
    module_name,
    seen,
    stepped,
    trained,
    variable,
)
from surefoot.trial.edits.text import Function, Text, Unplaced, called, is_path, keyword, last_name

# kind -> (torch's function, its argument, the remedy's parameter)
_CLIPPINGS = {
    "norm": ("clip_grad_norm_", "max_norm", "max_norm"),
    "value": ("clip_grad_value_", "clip_value", "max_value"),
    "parameter_norm": ("clip_grad_norm_", "max_norm", "max_norm"),
}


def clipping(draft: Draft, remedy: Remedy) -> None:
    """clipping.norm, .value, .parameter_norm: torch's function behind the backward.

    Where it is called already, its limit is changed.

    Where the step is taken in a block within (accumulation), in front of the step: what is clipped
    are the gradients that it uses.
    """
    kind = remedy.remedy.partition(".")[2]
    function, name, parameter = _CLIPPINGS[kind]
    limit = float(remedy.parameters.get(parameter, 1.0))
    text, backward = _backward(draft)
    there = [n for n in ast.walk(text.function(backward)) if called(n) == function]
    if there and kind != "parameter_norm":
        _set_limit(text, there, name, limit)
        return
    if any(called(n).startswith("clip_grad") for n in ast.walk(text.function(backward))):
        raise Unplaced("the gradients are clipped in another way already")
    owner = _model(draft, text, backward)
    torch = module_name(text, "torch")
    code = f"{torch}.nn.utils.{function}({owner}.parameters(), {limit!r})"
    if kind == "parameter_norm":
        p = text.fresh("parameter")
        code = (
            f"for {p} in {owner}.parameters():\n    {torch}.nn.utils.{function}([{p}], {limit!r})"
        )
    step = stepped(text, backward, _optimizer(draft))
    if _scaled(backward):
        code = f"{_unscaled(text, backward, step)}\n{code}"
    if step is not None and not _beside(text, step[0], backward):
        text.before(step[0], code)
    else:
        text.after(text.statement(backward), code)


def _set_limit(text: Text, there: list[ast.AST], name: str, limit: Any) -> None:
    call = there[0]
    if len(there) > 1 or not isinstance(call, ast.Call):
        raise Unplaced("the gradients are clipped at several places")
    given = keyword(call, name)
    if given is None and len(call.args) < 2:
        raise Unplaced("the limit is not written out")
    value = given.value if given is not None else call.args[1]
    text.replace(text.start(value), text.end(value), repr(limit))


def _backward(draft: Draft) -> tuple[Text, ast.Call]:
    """The call of backward, which must be a statement of its own."""
    text, call = draft.call("backward")
    statement = text.statement(call)
    if called(call) not in ("backward", "manual_backward"):
        raise Unplaced("a library calls backward")
    if not isinstance(statement, ast.Expr) or statement.value is not call:
        raise Unplaced("backward is a part of a larger statement")
    return text, call


def _optimizer(draft: Draft) -> str:
    """The optimizer's variable where it is built; empty if it has none."""
    with contextlib.suppress(Unplaced):
        return variable(*draft.call("optimizer"), wrapped=False)
    return ""


def _beside(text: Text, step: ast.stmt, backward: ast.Call) -> bool:
    return step in text.block(text.statement(backward))


def _scaled(backward: ast.Call) -> bool:
    """Whether a GradScaler multiplies the loss: `scaler.scale(loss).backward()`."""
    return isinstance(backward.func, ast.Attribute) and called(backward.func.value) == "scale"


def _unscaled(text: Text, backward: ast.Call, step: tuple[ast.stmt, ast.expr] | None) -> str:
    """The line that divides the gradients by the loss scale, which a limit needs."""
    assert isinstance(backward.func, ast.Attribute)
    scale = backward.func.value
    assert isinstance(scale, ast.Call)
    if any(called(node) == "unscale_" for node in ast.walk(text.tree)):
        raise Unplaced("the gradients are unscaled somewhere already")
    if step is None or not isinstance(scale.func, ast.Attribute) or not is_path(step[1]):
        raise Unplaced("the optimizer that the scaler steps is not known")
    return f"{text.source(scale.func.value)}.unscale_({text.source(step[1])})"


def _model(draft: Draft, text: Text, here: ast.AST) -> str:
    """How the model is called at a place: from the optimizer's call, or where it is built."""
    found: list[tuple[Text, str, ast.AST]] = []
    for name in ("optimizer", "model"):
        try:
            there, call = draft.call(name) if name == "optimizer" else draft.model()
            owner = trained(call) if name == "optimizer" else None
            if owner is not None:
                found.append((there, there.source(owner), call))
            elif name == "model":
                found.append((there, variable(there, call), call))
        except Unplaced:
            continue
    for there, name, call in found:
        if there is text and seen(text, name, call, here):
            return name
    # Handed on to a function of another file under the same name.
    arguments = _arguments(text, here)
    for _, name, _ in found:
        if name in arguments:
            return name
    raise Unplaced("the model has no name there")


def _arguments(text: Text, here: ast.AST) -> set[str]:
    function = text.function(here)
    return {a.arg for a in function.args.args} if isinstance(function, Function) else set()


def zero(draft: Draft, remedy: Remedy) -> None:
    """gradients.zero: in front of the backward; behind the step where backwards accumulate."""
    text, backward = _backward(draft)
    step = stepped(text, backward, _optimizer(draft))
    if step is None:
        text.before(text.statement(backward), f"{_closed_over(draft, text, backward)}.zero_grad()")
        return
    statement, owner = step
    if not is_path(owner):
        raise Unplaced("the optimizer has no name")
    line = f"{text.source(owner)}.zero_grad()"
    if _beside(text, statement, backward):
        text.before(text.statement(backward), line)
    else:
        text.after(statement, line)


def _closed_over(draft: Draft, text: Text, backward: ast.Call) -> str:
    """The optimizer that is given the function with this backward as its closure."""
    function = text.function(backward)
    for node in ast.walk(text.tree):
        if called(node) == "step" and isinstance(node, ast.Call) and isinstance(function, Function):
            handed = {last_name(a) for a in (*node.args, *(k.value for k in node.keywords))}
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if function.name in handed and owner is not None and is_path(owner):
                return text.source(owner)
    raise Unplaced("no step follows the backward")


def guard(draft: Draft, remedy: Remedy) -> None:
    """guard.* and the clippings by other names: `surefoot.guard` behind the optimizer."""
    text, call = draft.call("optimizer")
    statement = text.statement(call)
    optimizer = variable(text, call, wrapped=False)
    options = _options(remedy)
    with contextlib.suppress(Unplaced):  # it is searched for
        options = {"model": _model(draft, text, call), **options}
    add_import(text, "surefoot")
    words = ", ".join([optimizer, *(f"{name}={value}" for name, value in options.items())])
    taken = "guard" in text.names()
    text.after(statement, f"{'' if taken else 'guard = '}surefoot.guard({words})")


def _options(remedy: Remedy) -> dict[str, str]:
    """The keywords of the guard: those of the remedy's own code, or the clipping's name."""
    try:
        nodes = list(ast.walk(ast.parse(remedy.code)))
    except SyntaxError:
        nodes = []
    for node in nodes:
        if called(node) == "guard" and isinstance(node, ast.Call):
            given = {k.arg: k.value for k in node.keywords if k.arg and k.arg != "model"}
            if not all(_literal(value) for value in given.values()):
                raise Unplaced("the guard's options are not plain values")
            return {name: ast.unparse(value) for name, value in given.items()}
    group, _, kind = remedy.remedy.partition(".")
    if group == "guard":  # as the remedy: steps are held back, and nothing else
        return {"clip": "None", "rollback": "False"}
    if remedy.parameters:
        raise Unplaced("the clipping has parameters")
    return {"clip": repr(kind)}


def _literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def loss_mean(draft: Draft, remedy: Remedy) -> None:
    """loss.mean: `reduction="sum"` becomes "mean", if there is one such in the file of backward."""
    text = draft.text(draft.place("backward").file)
    found = [
        k.value
        for node in ast.walk(text.tree)
        if isinstance(node, ast.Call) and (k := keyword(node, "reduction")) is not None
        if isinstance(k.value, ast.Constant) and k.value.value == "sum"
    ]
    if len(found) != 1:
        raise Unplaced(f"{len(found)} losses that are summed")
    written = text.source(found[0])
    text.replace(text.start(found[0]), text.end(found[0]), written.replace("sum", "mean"))


def autocast(draft: Draft, remedy: Remedy) -> None:
    """dtype.bfloat16: autocast's dtype; dtype.float32 for all of the model: autocast off."""
    text, call = draft.call("autocast")
    if called(call) != "autocast":
        raise Unplaced("a library casts")
    kind = remedy.remedy.partition(".")[2]
    if kind == "bfloat16":
        # torch.cuda.amp.autocast has the dtype third, and no device.
        device = keyword(call, "device_type") is not None or len(call.args) > 0
        given = keyword(call, "dtype")
        value = given.value if given else call.args[1] if len(call.args) > 1 else None
        if not device or (value is not None and not last_name(value)):
            raise Unplaced("the dtype is not written out")
        _set_value(text, call, "dtype", value, f"{module_name(text, 'torch')}.bfloat16")
    elif kind == "float32" and remedy.target in (None, "", "*"):
        given = keyword(call, "enabled")
        _set_value(text, call, "enabled", given.value if given else None, "False")
    else:
        raise Unplaced("it concerns a part of the model")


def _set_value(text: Text, call: ast.Call, name: str, value: ast.expr | None, new: str) -> None:
    if value is not None:
        text.replace(text.start(value), text.end(value), new)
    else:
        add_keyword(text, call, name, new)
