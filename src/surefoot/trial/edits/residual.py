"""Residual connections: around the forward of a block, with a scale that begins at zero."""

from __future__ import annotations

import ast

from surefoot.findings import Remedy
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.models import class_of, function_at, method
from surefoot.trial.edits.scope import module_name
from surefoot.trial.edits.text import Function, Text, Unplaced, called, last_name

ATTRIBUTE = "residual_scale"  # as the remedy calls it
_LEARNED = ("residual.rezero", "residual.skip_init")


def residual(draft: Draft, remedy: Remedy) -> None:
    """residual.rezero, .skip_init, .identity: `return EXPR` becomes `return x + scale * (EXPR)`.

    Only where all blocks that the target means are of one class of the user's, as wide at their
    end as at their beginning, whose forward has one return, at its end; or where they are what a
    `for layer in self.layers` of a forward calls in turn.
    """
    learned = remedy.remedy in _LEARNED
    loop = _loop(draft, remedy.target)
    if loop is not None:
        _around_loop(*loop, learned)
        return
    blocks = _blocks(draft, remedy.target)
    _equally_wide(draft, blocks)
    text, owner = class_of(draft, blocks[0])
    forward = function_at(text, draft.sites.forwards[blocks[0]].line)
    statement = _only_return(forward)
    value = statement.value
    if value is None or isinstance(value, (ast.Tuple, ast.Dict, ast.List, ast.Constant)):
        raise Unplaced("it does not return one tensor")
    _unscaled(owner)
    skip = _input(text, forward)
    scale = f"{len(blocks) ** -0.5:.6g}"
    if learned:
        init = method(owner, "__init__")
        text.after(init.body[-1], f"{init.args.args[0].arg}.{ATTRIBUTE} = {_scalar(text)}")
        scale = f"{forward.args.args[0].arg}.{ATTRIBUTE}"
    new = f"{skip} + {scale} * {_bracketed(text, value)}"
    text.replace(text.start(value), text.end(value), new)


def _scalar(text: Text) -> str:
    torch = module_name(text, "torch")
    return f"{torch}.nn.Parameter({torch}.zeros(()))"


def _unscaled(owner: ast.ClassDef) -> None:
    if any(isinstance(n, ast.Attribute) and n.attr == ATTRIBUTE for n in ast.walk(owner)):
        raise Unplaced(f"it has a {ATTRIBUTE} already")


def _equally_wide(draft: Draft, blocks: list[str]) -> None:
    for name in blocks:
        into, out = draft.sites.widths.get(name, (0, -1))
        if into != out:
            raise Unplaced(f"{name} is not as wide at its end as at its beginning")


Loop = tuple[Text, ast.ClassDef, ast.For, int]  # and how many blocks it calls


def _loop(draft: Draft, target: str | None) -> Loop | None:
    """The one loop over the blocks that a target names, in a forward of the user's.

    What it calls must not be blocks of the user's, into which the connection goes as a rule.
    """
    found: list[tuple[str, ast.For]] = []
    for name, place in draft.sites.forwards.items():
        function = function_at(draft.text(place.file), place.line)
        found += [(name, n) for n in ast.walk(function) if isinstance(n, ast.For) and _over(n)]
    fitting = []
    for name, loop in found:
        prefix = f"{name}.{_over(loop)}.".lstrip(".")
        inside = [n for n in draft.sites.classes if n.startswith(prefix)]
        blocks = [n for n in inside if "." not in n.removeprefix(prefix)]
        if len(blocks) > 1 and set(blocks) <= set(draft.named(target)):
            fitting.append((name, loop, blocks))
    if not fitting or any(b in draft.sites.forwards for _, _, blocks in fitting for b in blocks):
        return None
    if len(fitting) != 1:
        raise Unplaced(f"{len(fitting)} loops over blocks")
    name, loop, blocks = fitting[0]
    _equally_wide(draft, blocks)
    text, owner = class_of(draft, name)
    return text, owner, loop, len(blocks)


def _over(loop: ast.For) -> str:
    """ "layers" of `for layer in self.layers`, empty for any other loop."""
    source = loop.iter
    if not isinstance(source, ast.Attribute) or last_name(source.value) != "self":
        return ""
    return source.attr if isinstance(source.value, ast.Name) else ""


def _around_loop(text: Text, owner: ast.ClassDef, loop: ast.For, count: int, learned: bool) -> None:
    """`x = f(layer(x))` in the loop becomes `x = x + layer.residual_scale * f(layer(x))`."""
    _unscaled(owner)
    layer = last_name(loop.target)
    variables = {_assigned(statement) for statement in loop.body}
    calls = [n for s in loop.body for n in ast.walk(s) if layer and called(n) == layer]
    x = variables.pop()
    if variables or not x or len(calls) != 1 or loop.orelse:
        raise Unplaced("the loop does more than to call its blocks in turn")
    scale = f"{count**-0.5:.6g}"
    if learned:
        init = method(owner, "__init__")
        each = text.fresh("layer")
        loops = f"for {each} in {text.source(loop.iter)}:\n    {each}.{ATTRIBUTE} = {_scalar(text)}"
        text.after(init.body[-1], loops)
        scale = f"{layer}.{ATTRIBUTE}"
    first, last = loop.body[0], loop.body[-1]
    if len(loop.body) == 1 and isinstance(first, ast.Assign):
        new = f"{x} + {scale} * {_bracketed(text, first.value)}"
        text.replace(text.start(first.value), text.end(first.value), new)
        return
    skip = text.fresh("skip")
    text.before(first, f"{skip} = {x}")
    text.after(last, f"{x} = {skip} + {scale} * {x}")


def _assigned(statement: ast.stmt) -> str:
    """The one name that a statement assigns to; empty for anything else."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else ""
    return ""


def _bracketed(text: Text, value: ast.expr) -> str:
    written = text.source(value)
    simple = isinstance(value, (ast.Name, ast.Call, ast.Attribute)) or "\n" in written
    return written if simple else f"({written})"


def _blocks(draft: Draft, target: str | None) -> list[str]:
    """The outermost modules of a class of the user's that a target names, all of that class.

    A target within a block means the block. Unplaced where they are of several classes.
    """
    own = [n for n in draft.sites.forwards if n]
    inside = [n for n in draft.named(target) if n in own]
    if not inside:
        found = [n for n in own if target and target.startswith(f"{n}.")]
        inside = found[-1:]
    inside = [n for n in inside if not any(n.startswith(f"{m}.") for m in inside)]
    kinds = {draft.sites.classes[n] for n in inside}
    if len(kinds) != 1:
        raise Unplaced(f"{len(kinds)} classes of blocks")
    places = {draft.sites.forwards[n] for n in inside}
    every = [n for n in own if draft.sites.forwards[n] in places]
    if any(draft.sites.classes[n] not in kinds for n in every):
        raise Unplaced("other classes share the forward")
    return every


def _only_return(forward: Function) -> ast.Return:
    inner = [n for s in forward.body for n in ast.walk(s) if isinstance(n, Function | ast.Lambda)]
    hidden = {n for f in inner for n in ast.walk(f)}
    found = [n for n in ast.walk(forward) if isinstance(n, ast.Return) and n not in hidden]
    last = forward.body[-1]
    if len(found) != 1 or not isinstance(last, ast.Return):
        raise Unplaced(f"it returns at {len(found)} places")
    return last


def _input(text: Text, forward: Function) -> str:
    """The name of what enters the forward, saved first where that is assigned anew."""
    arguments = forward.args.args
    if len(arguments) < 2:
        raise Unplaced("its forward takes no tensor")
    name = arguments[1].arg
    for node in ast.walk(forward):
        if isinstance(node, ast.AugAssign) and last_name(node.target) == name:
            raise Unplaced("its input is changed in place")
    stored = any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, (ast.Store, ast.Del))
        for n in ast.walk(forward)
    )
    if not stored:
        return name
    skip = text.fresh("skip")
    first = forward.body[0]
    words = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    text.before(forward.body[1 if words else 0], f"{skip} = {name}")
    return skip
