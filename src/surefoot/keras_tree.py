"""The tree of a Keras model on torch, whose modules hold few of their layers as children.

Keras keeps the layers of a Sequential or Functional model in lists, and all variables of a model a
second time in a dict of its own. Here each layer is found below the one that it is a part of, by
the names that `model.summary()` shows, and each variable with its layer. Keras is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_VARIABLES = "_torch_params"  # a child that holds variables, and is no layer
# What a class is, by the first of these that its name has in it, in small letters.
_KINDS = {
    "dense": "linear",
    "conv": "convolution",
    "embedding": "embedding",
    "lstm": "recurrent",
    "gru": "recurrent",
    "rnn": "recurrent",
    "attention": "attention",
    "norm": "normalization",
    "dropout": "dropout",
    "pool": "pooling",
    "activation": "activation",
    "softmax": "activation",
    "elu": "activation",
}
_WHOLE = ("attention", "recurrent")  # whose parts are no layers of the model


def of_keras(module: nn.Module) -> bool:
    """Whether a module is one of Keras's, or made from one."""
    return _class(module) != ""


def kind(module: nn.Module) -> str:
    """What a layer of Keras does to a signal, as a `Kind`.

    An affine layer with its activation inside is one that is affine: what the activation takes of
    a gradient, its weights are then held to take.
    """
    name = _class(module).lower()
    return next((kind for part, kind in _KINDS.items() if part in name), "other")


def parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of which one of Keras consists, and their names; of any other its children."""
    if not of_keras(module):
        yield from module.named_children()
        return
    if kind(module) in _WHOLE:
        return
    layers = getattr(module, "layers", None)
    named = module.named_children()
    for name, part in ((x.name, x) for x in layers) if isinstance(layers, list) else named:
        if isinstance(part, nn.Module) and name != _VARIABLES and _class(part) != "InputLayer":
            yield name.replace(".", "_"), part


def modules(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`named_modules()` of a Keras model."""
    seen: set[int] = set()

    def below(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for own, part in parts(module):
            yield from below(f"{name}.{own}" if name else own, part)

    return below(prefix, model)


def parameters(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """`named_parameters()` of a Keras model, each under the innermost layer that has it.

    Those that Keras never trains, such as the statistics of batch norm, are what torch has buffers
    for, and are left out.
    """
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in modules(model, prefix):
        for variable in getattr(module, "variables", ()):
            value, own = variable.value, variable.name.replace(".", "_")
            if isinstance(value, nn.Parameter) and value.requires_grad:
                found[id(value)] = (f"{name}.{own}" if name else own), value
    return iter(found.values())


def _class(module: nn.Module) -> str:
    """The class of Keras that a module is of, or was made from, "" for none."""
    kinds = type(module).__mro__
    return next((k.__name__ for k in kinds if k.__module__.startswith("keras.")), "")
