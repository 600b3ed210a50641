"""What names stand for: imports, the variable of a model or an optimizer, and where it is seen."""

from __future__ import annotations

import ast

from surefoot.trial.edits.text import Function, Text, Unplaced, called, is_path, last_name

# Methods that return the model itself, and calls that return one made of it.
_SAME = {"to", "cuda", "cpu", "float", "double", "half", "bfloat16", "train", "eval", "apply"}
_SAME |= {"requires_grad_", "to_empty"}
_WRAPPERS = {"compile", "DataParallel", "DistributedDataParallel", "DDP", "prepare", "to"}


def module_name(text: Text, module: str) -> str:
    """How the file names a module of torch ("torch", "torch.nn"); imports torch if it does not."""
    for node in text.tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == module and alias.asname:
                    return alias.asname
                if alias.name == module and "." not in module:
                    return module
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if f"{node.module}.{alias.name}" == module:
                    return alias.asname or alias.name
    if "." in module:
        parent, _, last = module.rpartition(".")
        return f"{module_name(text, parent)}.{last}"
    imports = (node for node in text.tree.body if isinstance(node, ast.Import))
    if not any(a.name.startswith(f"{module}.") and not a.asname for i in imports for a in i.names):
        add_import(text, module)
    return module


def add_import(text: Text, module: str) -> None:
    """Import a module behind the imports that the file begins with."""
    for node in text.tree.body:
        if isinstance(node, ast.Import) and any(a.name == module for a in node.names):
            return
    if module in text.names():
        raise Unplaced(f"{module} is a name of something else")
    head = None
    for i, node in enumerate(text.tree.body):
        words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and i == 0
        if not words and not isinstance(node, (ast.Import, ast.ImportFrom)):
            break
        head = node
    if head is None:
        text.before(text.tree.body[0], f"import {module}")
    else:
        text.after(head, f"import {module}")


def variable(text: Text, call: ast.Call, wrapped: bool = True) -> str:
    """The variable that a call's result is assigned to: "model", "self.net".

    It is looked for through what hands on the same object, `Net().to(device)`; with `wrapped` also
    through what wraps it, `torch.compile(Net())`. Raises Unplaced where there is none.
    """
    node: ast.AST = call
    while True:
        parent = text.parents[node]
        if isinstance(parent, ast.Attribute) and parent.attr in _SAME:
            grand = text.parents[parent]
            if not isinstance(grand, ast.Call) or grand.func is not parent:
                raise Unplaced("not assigned")
            node = grand
        elif (
            wrapped and isinstance(parent, ast.Call) and node in parent.args
            and parent.args[0] is node and called(parent) in _WRAPPERS
        ):  # fmt: skip
            node = parent
        else:
            break
    if isinstance(parent, ast.Assign) and len(parent.targets) == 1 and is_path(parent.targets[0]):
        return text.source(parent.targets[0])
    if isinstance(parent, ast.AnnAssign) and is_path(parent.target):
        return text.source(parent.target)
    raise Unplaced("what is built there has no variable of its own")


def trained(optimizer: ast.Call) -> ast.expr | None:
    """The X of `X.parameters()` that an optimizer is made for."""
    first = optimizer.args[0] if optimizer.args else None
    first = next((k.value for k in optimizer.keywords if k.arg == "params"), first)
    if isinstance(first, ast.Call) and called(first) in ("list", "tuple") and len(first.args) == 1:
        first = first.args[0]
    if isinstance(first, ast.Call) and not first.args and isinstance(first.func, ast.Attribute):
        owner = first.func.value
        return owner if first.func.attr == "parameters" and is_path(owner) else None
    return None


def seen(text: Text, name: str, made: ast.AST, here: ast.AST) -> bool:
    """Whether a variable that is assigned at `made` is the one of that name at `here`.

    An argument of the same name is taken for it: that is how scripts hand models on.
    """
    base, _, rest = name.partition(".")
    there, function = text.function(made), text.function(here)
    if base == "self" and rest:
        return _class(text, made) is not None and _class(text, made) is _class(text, here)
    while isinstance(function, Function):
        if function is there:
            return True
        if base in _arguments(function):
            return True
        if base in _bound(function):
            return False
        function = text.function(function)
    return function is there


def _class(text: Text, node: ast.AST) -> ast.ClassDef | None:
    return next((n for n in text.above(node) if isinstance(n, ast.ClassDef)), None)


def _arguments(function: Function) -> set[str]:
    every = function.args
    return {a.arg for a in (*every.posonlyargs, *every.args, *every.kwonlyargs)}


def _bound(function: Function) -> set[str]:
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def stepped(text: Text, backward: ast.Call, optimizer: str) -> tuple[ast.stmt, ast.expr] | None:
    """The statement that steps after a backward, and the optimizer in it.

    It is looked for behind the backward, in its block, and in what is nested there (accumulation).
    Environments and schedulers step too: an optimizer is called what it was built as, or `opt...`.
    """
    statement = text.statement(backward)
    block = text.block(statement)
    for later in block[block.index(statement) + 1 :]:
        for node in ast.walk(later):
            if not isinstance(node, ast.Call) or called(node) != "step":
                continue
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if owner is None or not is_path(owner):
                continue
            name = last_name(owner).lower()
            if "scaler" in name and node.args:
                return text.statement(node), node.args[0]
            if text.source(owner) == optimizer or name.startswith("opt"):
                return text.statement(node), owner
    return None
