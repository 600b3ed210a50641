"""Activations: others in the hidden layers, none on the output."""

from __future__ import annotations

import ast
import re

from surefoot.findings import Remedy
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.models import FUNCTION_OF, WEIGHTED, class_of, function_at, redraw
from surefoot.trial.edits.scope import module_name
from surefoot.trial.edits.text import Text, Unplaced, called, is_path, last_name

# remedy -> (class, its arguments)
_NEW = {
    "activation.relu": "ReLU",
    "activation.gelu": "GELU",
    "activation.selu": "SELU",
    "activation.silu": "SiLU",
    "activation.elu": "ELU",
    "activation.leaky_relu": "LeakyReLU",
}
_SATURATING = ("sigmoid", "tanh")
_CLASS_OF = {function: kind for kind, function in FUNCTION_OF.items()}
_OUTPUTS = {
    "output.logits": ("softmax", "sigmoid", "log_softmax"),
    "output.linear": ("softmax", "sigmoid", "tanh", "relu"),
    "output.log_softmax": ("softmax",),
}
_OUTPUT_CLASS = {"Softmax": "softmax", "LogSoftmax": "log_softmax"} | FUNCTION_OF
_MODULE = re.compile(r"(torch|torch\.nn|nn)?\.?(functional|special|F)|torch")


def substitute(draft: Draft, remedy: Remedy) -> None:
    """activation.*: the class where hidden activations are built, or the function in a forward.

    The output's is left alone, and so is what gates another signal. With `reinitialise` the weights
    of all layers but the first are drawn for the new function, as the remedy does.
    """
    if remedy.remedy not in _NEW:
        raise Unplaced("no such activation")
    new = _NEW[remedy.remedy]
    usual = ("relu",) if new == "LeakyReLU" else _SATURATING
    old = set(remedy.parameters.get("replaces", usual)) - {FUNCTION_OF[new]}
    kinds = {_CLASS_OF[f] for f in old if f in _CLASS_OF}
    inside = _scope(draft, remedy.target, kinds, old)
    changed = _classes(draft, inside, kinds, new)
    changed |= _functions(draft, inside, old, FUNCTION_OF[new])
    if not changed:
        raise Unplaced("no such activation is found")
    if remedy.parameters.get("reinitialise", "init." in remedy.code):
        every = [n for n, kind in draft.sites.classes.items() if kind in WEIGHTED]
        if len(every) > 1:
            drawn = [n for n in draft.named(remedy.target) if n in every and n != every[0]]
            target = remedy.target if drawn else None
            redraw(draft, target, "init.kaiming_normal", FUNCTION_OF[new], but=every[0])


def _scope(draft: Draft, target: str | None, kinds: set[str], old: set[str]) -> set[str]:
    """The modules that a target names, or what stands around a layer that holds no activation."""
    inside = set(draft.named(target))
    while target and not any(
        draft.sites.classes[n] in kinds or (n in draft.sites.forwards) for n in inside
    ):
        target = target.rpartition(".")[0]
        inside = set(draft.named(target))
    return inside


def _classes(draft: Draft, inside: set[str], kinds: set[str], new: str) -> bool:
    """Change what builds the modules of these classes; whether there were any."""
    every = [n for n, kind in draft.sites.classes.items() if kind in kinds]
    chosen = [n for n in every if n in inside and n != draft.last()]
    places = {n: draft.sites.modules.get(n) for n in every}
    meant = {places[n] for n in chosen}
    if None in meant or any(places[n] in meant for n in every if n not in chosen):
        raise Unplaced("the same line builds others, or it is not known")
    for name in chosen:
        place = places[name]
        assert place is not None
        text = draft.text(place.file)
        kind = draft.sites.classes[name]
        call = text.call(place, kind)
        if called(call) == kind and place.direct:
            _rebuild(text, call.func, new)
            _without_arguments(text, call)
        else:
            _passed(draft, text, kind, new, every, chosen)
    return bool(chosen)


def _without_arguments(text: Text, call: ast.Call) -> None:
    every = [*call.args, *call.keywords]
    if every:  # inplace=True, and others that the new one does not have
        start, end = min(map(text.start, every)), max(map(text.end, every))
        text.replace(start, end, "")


def _passed(
    draft: Draft, text: Text, kind: str, new: str, every: list[str], chosen: list[str]
) -> None:
    """A class that is handed on as a value, as in `act=nn.Sigmoid`: the one mention of it."""
    if [n for n in every if n not in chosen]:
        raise Unplaced("others are built of the same class")
    file = draft.sites.calls["model"].file if "model" in draft.sites.calls else text.path
    found = []
    for one in {text.path: text, file: draft.text(file)}.values():
        for node in ast.walk(one.tree):
            if isinstance(node, (ast.Name, ast.Attribute)) and last_name(node) == kind:
                parent = one.parents[node]
                if isinstance(parent, ast.Call) and parent.func is node:
                    raise Unplaced("it is built in several ways")
                found.append((one, node))
    if len(found) != 1:
        raise Unplaced(f"{kind} is named {len(found)} times")
    _rebuild(*found[0], new)


def _rebuild(text: Text, node: ast.expr, new: str) -> None:
    """Name another class of torch.nn in place of one, the way it is named there."""
    if isinstance(node, ast.Attribute):
        text.replace(text.end(node) - len(node.attr.encode()), text.end(node), new)
    else:
        text.replace(text.start(node), text.end(node), f"{module_name(text, 'torch.nn')}.{new}")


def _functions(draft: Draft, inside: set[str], old: set[str], new: str) -> bool:
    """Change the calls of functions in the forwards of the modules meant; whether there were any.

    A target within a class of the user's means the forward of that class.
    """
    last = draft.last()
    owners = {n for n in inside if n in draft.sites.forwards}
    for name in inside - owners if not owners else ():
        while name and name not in draft.sites.forwards:
            name = name.rpartition(".")[0]
        owners |= {name} & draft.sites.forwards.keys()
    places = {draft.sites.forwards[n] for n in owners}
    found = False
    for place in places:
        text = draft.text(place.file)
        forward = function_at(text, place.line)
        calls = [
            node
            for node in ast.walk(forward)
            if isinstance(node, ast.Call)
            and _argument(text, node, old) is not None
            and not _gates(text, node)
        ]
        same = {n for n, p in draft.sites.forwards.items() if p == place}
        if any(n == "" or last == n or last.startswith(f"{n}.") for n in same):
            outer = [c for c in calls if _returned(text, forward, c)]
            if outer and "" not in same:
                raise Unplaced("the last block's may be the output's")
            calls = [c for c in calls if c not in outer]
        if calls and not same <= inside | owners:
            raise Unplaced("modules outside of the target share the forward")
        for call in calls:
            _call_instead(text, call, new)
        found = found or bool(calls)
    return found


def _argument(text: Text, call: ast.AST, functions: set[str]) -> ast.expr | None:
    """The x of torch.tanh(x), F.tanh(x), an imported tanh(x) or x.tanh(), for one of these.

    None for anything else: in `self.tanh(x)` it is a module that is called.
    """
    if not isinstance(call, ast.Call) or called(call) not in functions:
        return None
    func = call.func
    if isinstance(func, ast.Attribute) and _MODULE.fullmatch(ast.unparse(func.value)) is None:
        plain = not isinstance(func.value, ast.Name) or func.value.id != "self"
        # x.softmax(1), but head.softmax(x) is a module's.
        numbers = all(isinstance(a, (ast.Constant, ast.UnaryOp)) for a in call.args)
        return func.value if plain and (numbers or not is_path(func.value)) else None
    imported = isinstance(func, ast.Attribute) or any(
        alias.name == last_name(func) and (node.module or "").startswith("torch")
        for node in text.tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    first = call.args[0] if call.args else None
    return first if imported and not isinstance(first, ast.Starred) else None


def _gates(text: Text, call: ast.Call) -> bool:
    parent = text.parents[call]
    return isinstance(parent, ast.BinOp) and isinstance(parent.op, (ast.Mult, ast.Sub))


def _returned(text: Text, forward: ast.AST, call: ast.Call) -> bool:
    """Whether a call's result is what the forward returns, at once or by a variable."""
    parent = text.parents[call]
    if isinstance(parent, ast.Return):
        return True
    if not isinstance(parent, ast.Assign) or not isinstance(parent.targets[0], ast.Name):
        return False
    block = text.block(parent)
    after = block[block.index(parent) + 1 :]
    name = parent.targets[0].id
    return bool(after) and isinstance(after[0], ast.Return) and last_name_of(after[0]) == name


def last_name_of(statement: ast.Return) -> str:
    """The name that a return returns; empty for anything else."""
    return statement.value.id if isinstance(statement.value, ast.Name) else ""


def _call_instead(text: Text, call: ast.Call, new: str) -> None:
    func = call.func
    if isinstance(func, ast.Attribute) and not call.args:
        functional = f"{module_name(text, 'torch')}.nn.functional.{new}"
        if new == "relu":
            text.replace(text.end(func) - len(func.attr), text.end(func), new)
        else:
            inner = text.source(func.value)
            text.replace(text.start(call), text.end(call), f"{functional}({inner})")
        return
    written = text.source(func)
    owner = written.rpartition(".")[0]
    if owner.endswith("functional") or owner == "F" or (owner and new in ("relu", "selu")):
        text.replace(text.end(func) - len(last_name(func)), text.end(func), new)
    else:
        functional = f"{module_name(text, 'torch')}.nn.functional.{new}"
        text.replace(text.start(func), text.end(func), functional)
    _only_argument(text, call)


def _only_argument(text: Text, call: ast.Call) -> None:
    """Drop what follows the first argument: `inplace=True`."""
    rest = [*call.args[1:], *call.keywords]
    if rest:
        text.replace(text.end(call.args[0]), max(map(text.end, rest)), "")


# -- the output ---------------------------------------------------------------------------------


def output(draft: Draft, remedy: Remedy) -> None:
    """output.logits, .linear: no activation on the output; .log_softmax: the logarithm of it."""
    functions = _OUTPUTS[remedy.remedy]
    logarithm = remedy.remedy == "output.log_softmax"
    last = draft.last()
    kind = _OUTPUT_CLASS.get(draft.sites.classes.get(last, ""), "")
    if kind in functions and last in draft.sites.modules:
        place = draft.sites.modules[last]
        text = draft.text(place.file)
        call = text.call(place, draft.sites.classes[last])
        if called(call) != draft.sites.classes[last] or not place.direct:
            raise Unplaced("the output's activation is built elsewhere")
        if sum(p == place for p in draft.sites.modules.values()) > 1:
            raise Unplaced("the same line builds others")
        if logarithm:
            _rebuild(text, call.func, "LogSoftmax")
        else:
            _drop(text, call)
        return
    text, _ = class_of(draft, "")
    forward = function_at(text, draft.sites.forwards[""].line)
    found = [
        (node, inner)
        for node in ast.walk(forward)
        if (inner := _argument(text, node, set(functions))) is not None
        if isinstance(node, ast.Call) and _returned(text, forward, node)
    ]
    if len(found) != 1:
        raise Unplaced(f"the output has {len(found)} activations")
    call, inner = found[0]
    if logarithm:
        text.replace(text.end(call.func) - len("softmax"), text.end(call.func), "log_softmax")
    else:
        text.replace(text.start(call), text.end(call), text.source(inner))


def _drop(text: Text, call: ast.Call) -> None:
    """Take an element out of a list or of nn.Sequential's arguments; Identity anywhere else."""
    parent = text.parents[call]
    elements: list[ast.expr] = []
    if isinstance(parent, ast.Call) and called(parent) == "Sequential":
        elements = parent.args
    elif isinstance(parent, ast.List):
        elements = parent.elts
    index = elements.index(call) if call in elements else 0
    if index == 0:
        _rebuild(text, call.func, "Identity")
        _without_arguments(text, call)
        return
    row = call.lineno - 1
    line = text.lines[row]
    start, end = text.start(call), text.end(call)
    first = start - call.col_offset
    alone = call.lineno == call.end_lineno and not line[: call.col_offset].strip()
    if alone and re.fullmatch(rb"\s*,?\s*(#.*)?\s*", line[call.end_col_offset :]):
        text.replace(first, first + len(line), "")
        return
    before = text.end(elements[index - 1])
    if b"#" in text.data[before:start] or b")" in text.data[before:start]:
        raise Unplaced("what stands between is not only a comma")
    text.replace(before, end, "")
