"""Initialisations: a loop over the layers, behind the statement that builds the model."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from surefoot.findings import Remedy
from surefoot.remedies.initialization.drawn import backward_gain_of, gain_of
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.scope import module_name, variable
from surefoot.trial.edits.text import Function, Text, Unplaced, called

_CONVOLUTIONS = [f"{kind}{d}d" for kind in ("Conv", "ConvTranspose") for d in (1, 2, 3)]
WEIGHTED = ("Linear", *_CONVOLUTIONS)
_STRANGE = ("Conv1D", "Bilinear", "LazyLinear")  # affine, but laid out in other ways
_RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
_GATES = (
    "for key, weight in layer.named_parameters():",
    '    if "weight_hh" in key:',
    "        for gate in weight.data.split(layer.hidden_size):",
    "            {nn}.init.orthogonal_(gate)",
)
_LAYER = re.compile(r"\blayer\b")
# Classes and functions of activations -> the function's name.
FUNCTION_OF = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "GELU": "gelu",
    "SiLU": "silu",
    "ELU": "elu",
    "SELU": "selu",
    "Softplus": "softplus",
    "Mish": "mish",
    "Hardtanh": "hardtanh",
    "Softsign": "softsign",
}
_FUNCTIONS = set(FUNCTION_OF.values())


def _fan_in(nn: str, function: str | None) -> str:
    if function == "relu":
        return f'{nn}.init.kaiming_normal_(layer.weight, nonlinearity="relu")'
    return f"{nn}.init.normal_(layer.weight, std={_gain(function)}layer.weight[0].numel() ** -0.5)"


def _gain(function: str | None) -> str:
    return f"{gain_of(function):.5g} * " if gain_of(function) != 1.0 else ""


def _balanced(function: str | None) -> str:
    return f"{(gain_of(function) + backward_gain_of(function)) / 2:.5g}"


# remedy -> (name of torch.nn, function that feeds the layers) -> what sets one layer's weight
SNIPPETS: dict[str, Callable[[str, str | None], str]] = {
    "init.kaiming_normal": _fan_in,
    "init.kaiming_uniform": lambda nn, f: (
        f"{nn}.init.uniform_(layer.weight, -1, 1)"
        f".data.mul_({gain_of(f) * 3**0.5:.5g} * layer.weight[0].numel() ** -0.5)"
    ),
    "init.xavier_normal": lambda nn, f: (
        f"{nn}.init.xavier_normal_(layer.weight, gain={_balanced(f)})"
    ),
    "init.xavier_uniform": lambda nn, f: (
        f"{nn}.init.xavier_uniform_(layer.weight, gain={_balanced(f)})"
    ),
    "init.orthogonal": lambda nn, f: f"{nn}.init.orthogonal_(layer.weight, gain={gain_of(f):.5g})",
    "init.normal": lambda nn, f: (
        f"{nn}.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)"
    ),
}


def initialise(draft: Draft, remedy: Remedy) -> None:
    """init.*: draw the weights of the target's affine layers, with the gain of the activation that
    the model uses, and set their biases to zero."""
    if remedy.remedy not in SNIPPETS:
        raise Unplaced(f"{remedy.remedy} needs more than a line")
    redraw(draft, remedy.target, remedy.remedy, function_used(draft))


def redraw(
    draft: Draft, target: str | None, kind: str, function: str | None, but: str | None = None
) -> None:
    """Insert the loops; but: the name of a layer that stays as it is."""
    named = [name for name in draft.named(target) if name != but]
    if any(draft.sites.classes[name] in _STRANGE for name in named):
        raise Unplaced("layers that are laid out in another way")
    text, owner, statement, wrapped = _where(draft)
    if wrapped and (target not in (None, "", "*") or but is not None):
        raise Unplaced("names are others within a wrapper")
    nn = module_name(text, "torch.nn")
    affine = [
        SNIPPETS[kind](nn, function),
        "if layer.bias is not None:",
        f"    {nn}.init.zeros_(layer.bias)",
    ]
    loops = [_loop(draft, text, (owner, nn), WEIGHTED, named, target, affine)]
    if kind == "init.orthogonal":
        gates = [line.format(nn=nn) for line in _GATES]
        loops.append(_loop(draft, text, (owner, nn), _RECURRENT, named, target, gates))
    if not any(loops):
        raise Unplaced("no layers that are known")
    text.after(statement, "\n".join(loop for loop in loops if loop))


def _loop(
    draft: Draft,
    text: Text,
    of: tuple[str, str],
    family: tuple[str, ...],
    named: list[str],
    target: str | None,
    body: list[str],
) -> str:
    """The loop over those layers of a family that are named; empty where there are none.

    of: how the model and torch.nn are called.
    """
    every = [n for n, kind in draft.sites.classes.items() if kind in family]
    chosen = [n for n in every if n in named]
    if not chosen:
        return ""
    owner, nn = of
    present = {draft.sites.classes[n] for n in chosen}
    kinds = [f"{nn}.{kind}" for kind in family if kind in present]
    which = _condition(every, chosen, target)
    layer, name = text.fresh("layer"), text.fresh("name")
    test = f"isinstance({layer}, {kinds[0] if len(kinds) == 1 else '(' + ', '.join(kinds) + ')'})"
    head = f"for {layer} in {owner}.modules():"
    if which:
        test = f"{name}{which} and {test}"
        head = f"for {name}, {layer} in {owner}.named_modules():"
    rows = [f"        {_LAYER.sub(layer, line)}" for line in body]
    return "\n".join([head, f"    if {test}:", *rows])


def _condition(every: list[str], chosen: list[str], target: str | None) -> str:
    """What tells the layers by their name, to be put behind it; empty where the class does."""
    if chosen == every:
        return ""
    left = [n for n in every if n not in chosen]
    prefix = str(target).removesuffix("*")
    if prefix.endswith(".") and chosen == [n for n in every if n.startswith(prefix)]:
        return f".startswith({prefix!r})"
    if len(chosen) == 1:
        return f" == {chosen[0]!r}"
    return f" != {left[0]!r}" if len(left) == 1 else f" in {tuple(chosen)!r}"


def _where(draft: Draft) -> tuple[Text, str, ast.stmt, bool]:
    """(file, the model's variable, the statement behind which it is there, whether wrapped).

    Where the model has none, as in `return Net()`: the end of the __init__ of its class.
    """
    try:
        text, call = draft.model()
        last = _before_optimizer(draft, text, text.statement(call))
        try:
            return text, variable(text, call, wrapped=False), last, False
        except Unplaced:
            return text, variable(text, call), last, True
    except Unplaced:
        text, owner = class_of(draft, "")
        return text, "self", method(owner, "__init__").body[-1], False


def _before_optimizer(draft: Draft, text: Text, built: ast.stmt) -> ast.stmt:
    """The last statement before the one that makes the optimizer, where both follow in one block.

    What the source does to the weights in between would undo what is put right behind the model.
    """
    try:
        where, call = draft.optimizer()
    except Unplaced:
        return built
    block, made = text.block(built), text.statement(call) if where is text else None
    if made not in block or block.index(made) <= block.index(built):
        return built
    return block[block.index(made) - 1]


def function_used(draft: Draft) -> str | None:
    """The one activation that a model uses between its layers, None for none.

    Unplaced where there are several: which feeds which is not told by the source.
    """
    last = draft.last()
    found = {
        FUNCTION_OF[k] for n, k in draft.sites.classes.items() if k in FUNCTION_OF and n != last
    }
    for place in set(draft.sites.forwards.values()):
        function = function_at(draft.text(place.file), place.line)
        found |= {called(node) for node in ast.walk(function)} & _FUNCTIONS
    if len(found) > 1:
        raise Unplaced(f"several activations: {', '.join(sorted(found))}")
    return next(iter(found), None)


def function_at(text: Text, line: int) -> Function:
    """The function that begins at a line, its decorators included."""
    for node in ast.walk(text.tree):
        if isinstance(node, Function) and line in (
            node.lineno,
            *(d.lineno for d in node.decorator_list),
        ):
            return node
    raise Unplaced(f"no function at {text.path}:{line}")


def class_of(draft: Draft, name: str) -> tuple[Text, ast.ClassDef]:
    """The user's class of a module, by its forward."""
    if name not in draft.sites.forwards:
        raise Unplaced("its class is not the user's own")
    place = draft.sites.forwards[name]
    text = draft.text(place.file)
    parent = text.parents[function_at(text, place.line)]
    if not isinstance(parent, ast.ClassDef) or parent.name != draft.sites.classes[name]:
        raise Unplaced("its forward is inherited, or made elsewhere")
    return text, parent


def method(owner: ast.ClassDef, name: str) -> Function:
    """A method of a class, by its name."""
    found = [node for node in owner.body if isinstance(node, Function) and node.name == name]
    if len(found) != 1:
        raise Unplaced(f"{owner.name} has no {name} of its own")
    if isinstance(found[0].body[-1], ast.Return):
        raise Unplaced(f"{name} ends with a return")
    return found[0]
