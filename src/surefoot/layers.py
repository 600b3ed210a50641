"""The layer table: a model's modules and parameters, named, ordered and typed.

Names are those of `model.named_modules()` and `model.named_parameters()`, because those are the
names that the model's author can grep for. Wrappers that only delegate are looked through, so that
wrapping renames nothing: DistributedDataParallel around the model, torch.compile around any part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from surefoot import keras_tree


class Kind(StrEnum):
    """What a module does to a signal, as far as theory has something to say about it."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"
    ATTENTION = "attention"
    NORMALIZATION = "normalization"
    ACTIVATION = "activation"
    DROPOUT = "dropout"
    POOLING = "pooling"
    LOSS = "loss"
    CONTAINER = "container"
    OTHER = "other"

    @property
    def weighted(self) -> bool:
        """Whether the module is an affine map, whose gain its weights set."""
        return self in (Kind.LINEAR, Kind.CONVOLUTION)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor; `layer` indexes the table's layers, `aliases` are its tied names."""

    name: str
    layer: int
    shape: tuple[int, ...]
    dtype: str
    numel: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """One module; `parent` indexes the table's layers, None for the root, whose name is ''."""

    name: str
    type: str
    kind: Kind
    parent: int | None
    leaf: bool


@dataclass(frozen=True, slots=True)
class LayerTable:
    """A model's layers and parameters in `named_modules()` and optimizer order."""

    model: str
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]

    def title(self, layer: int) -> str:
        """The name to print for a layer: its own, or the model's class for the root."""
        return self.layers[layer].name or self.model

    def parameters_of(self, layer: int) -> Iterator[int]:
        """Indices of the parameters that a layer owns itself (not those of its children)."""
        return (i for i, p in enumerate(self.parameters) if p.layer == layer)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for the run folder."""
        return {
            "model": self.model,
            "layers": [asdict(layer) for layer in self.layers],
            "parameters": [asdict(parameter) for parameter in self.parameters],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> LayerTable:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError when malformed."""
        return LayerTable(
            model=data["model"],
            layers=tuple(
                Layer(x["name"], x["type"], Kind(x["kind"]), x["parent"], x["leaf"])
                for x in data["layers"]
            ),
            parameters=tuple(
                Parameter(
                    x["name"],
                    x["layer"],
                    tuple(x["shape"]),
                    x["dtype"],
                    x["numel"],
                    tuple(x["aliases"]),
                )
                for x in data["parameters"]
            ),
        )


_COMPILED = "_orig_mod"  # under which torch.compile's module holds the one it was made of


def unwrap(model: nn.Module) -> nn.Module:
    """The author's own module inside DataParallel, DDP and torch.compile wrappers."""
    while True:
        inner = getattr(model, _COMPILED, None)
        if inner is None and isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def modules_of(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`named_modules()`, with the author's own modules in place of what was compiled of them."""
    named = model.named_modules(prefix=prefix)
    for name, module in keras_tree.modules(model, prefix) if keras_tree.of_keras(model) else named:
        if _COMPILED not in module._modules:
            yield plain_name(name), module


def plain_name(name: str) -> str:
    """A module's or parameter's name without what torch.compile puts into it.

    >>> plain_name("blocks.0._orig_mod.weight")
    'blocks.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def build_table(
    models: list[nn.Module], extra: list[torch.Tensor] | None = None
) -> tuple[LayerTable, list[nn.Module], list[torch.Tensor]]:
    """The table of one model, or of several that are trained together.

    Returns (table, modules [L], parameters [P]), whose indices agree. With several models, names
    carry the class name of theirs in front. `extra` are trained tensors that no module may own:
    they are named `parameter.<index>` and belong to the first layer.
    """
    layers: list[Layer] = []
    modules: list[nn.Module] = []
    index: dict[str, int] = {}
    names: dict[int, list[str]] = {}
    tensors: list[torch.Tensor] = []
    models = [unwrap(m) for m in models]
    for model in models:
        prefix = type(model).__name__ if len(models) > 1 else ""
        for name, module in modules_of(model, prefix):
            index[name] = len(layers)
            parent = index.get(name.rpartition(".")[0]) if name else None
            leaf = next(keras_tree.parts(module), None) is None
            kind = kind_of(module)
            layers.append(Layer(name, type(module).__name__, kind, parent, leaf))
            modules.append(module)
        for name, parameter in _parameters_of(model, prefix):
            if id(parameter) not in names:
                tensors.append(parameter)
            names.setdefault(id(parameter), []).append(plain_name(name))
    tensors += [t for t in extra or () if id(t) not in names]
    if not layers:
        layers.append(Layer("", "", Kind.CONTAINER, None, True))
    rows = []
    for i, tensor in enumerate(tensors):
        first, *aliases = names.get(id(tensor), [f"parameter.{i}"])
        owner = index.get(first.rpartition(".")[0], 0)
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = tuple(tensor.shape)
        rows.append(Parameter(first, owner, shape, dtype, tensor.numel(), tuple(aliases)))
    title = "+".join(type(m).__name__ for m in models) or "model"
    return LayerTable(title, tuple(layers), tuple(rows)), modules, tensors


def _parameters_of(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    """`named_parameters()`, with all names of those that are tied."""
    if keras_tree.of_keras(model):
        return keras_tree.parameters(model, prefix)
    return model.named_parameters(prefix=prefix, remove_duplicate=False)


_KINDS: tuple[tuple[Kind, tuple[type[nn.Module], ...]], ...] = (
    (Kind.LINEAR, (nn.Linear, nn.Bilinear)),
    (Kind.CONVOLUTION, (nn.modules.conv._ConvNd,)),
    (Kind.EMBEDDING, (nn.Embedding, nn.EmbeddingBag)),
    (Kind.RECURRENT, (nn.RNNBase, nn.RNNCellBase)),
    (Kind.ATTENTION, (nn.MultiheadAttention,)),
    (
        Kind.NORMALIZATION,
        (
            nn.modules.batchnorm._NormBase,
            nn.LayerNorm,
            nn.GroupNorm,
            nn.RMSNorm,
            nn.LocalResponseNorm,
        ),
    ),
    (Kind.DROPOUT, (nn.modules.dropout._DropoutNd,)),
    (
        Kind.POOLING,
        (
            nn.modules.pooling._AvgPoolNd,
            nn.modules.pooling._MaxPoolNd,
            nn.modules.pooling._AdaptiveAvgPoolNd,
            nn.modules.pooling._AdaptiveMaxPoolNd,
        ),
    ),
    (Kind.LOSS, (nn.modules.loss._Loss,)),
)


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module: by class for torch's own, by name for those of other libraries."""
    for kind, types in _KINDS:
        if isinstance(module, types):
            return kind
    if next(keras_tree.parts(module), None) is not None:
        return Kind.CONTAINER
    if keras_tree.of_keras(module):
        return Kind(keras_tree.kind(module))
    name = type(module).__name__.lower()
    if type(module).__module__ == "torch.nn.modules.activation" or "activation" in name:
        return Kind.ACTIVATION
    if name == "conv1d":  # transformers' GPT-2 calls its transposed linear layer so
        return Kind.LINEAR
    if "linear" in name and isinstance(getattr(module, "weight", None), nn.Parameter):
        return Kind.LINEAR
    if "norm" in name:
        return Kind.NORMALIZATION
    if name in ("sin", "sine", "snake", "relu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid"):
        return Kind.ACTIVATION
    return Kind.OTHER
