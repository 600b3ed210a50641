"""What a project's `build` gives: a model, a batch or a DataLoader, a loss, maybe an optimizer.

A build is what `surefoot check project.train:build` calls. Every slip in it becomes a BuildError
that says what was expected, what came, the likely cause, and shows an example that works.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

EXAMPLE = """\
A build that works:

    def build():
        model = Net()
        inputs, targets = next(iter(train_loader))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)   # optional
        return model, (inputs, targets), torch.nn.CrossEntropyLoss(), optimizer
"""
_PARTS = "model, batch (or DataLoader), loss function and optionally optimizer"


class BuildError(ValueError):
    """A slip in a build; the message says what was expected and what came."""


class BuildFailed(Exception):
    """The project's own code raised; the original exception is the cause of this one."""


@dataclass(frozen=True, slots=True)
class Build:
    """What is to be checked.

    batch: a pair (inputs, targets); anything else is both at once, as an autoencoder's images or
    the dict of a transformers model. Inputs go into the model as they are, a tuple as several
    arguments, a dict as keywords. loss_fn(output, targets) gives one number; None takes the output
    for its own loss (`output.loss`). loader: all batches, where a DataLoader stood in their place;
    `batch` is the first of them.
    """

    model: nn.Module
    batch: Any
    loss_fn: Callable[..., torch.Tensor] | None
    optimizer: torch.optim.Optimizer | None = None
    loader: Any = None

    def batches(self) -> Iterator[Any]:
        """The batches to train on, without end: those of the loader, or the one there is."""
        while True:
            yield from (self.batch,) if self.loader is None else self.loader

    def on(self, batch: Any) -> Build:
        """The same on another batch."""
        return replace(self, batch=batch)

    @property
    def inputs(self) -> Any:
        """What goes into the model."""
        return self.batch[0] if _is_pair(self.batch) else self.batch

    @property
    def targets(self) -> Any:
        """What the loss compares its output with."""
        return self.batch[1] if _is_pair(self.batch) else self.batch

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """(positional, keyword) arguments of the model's call."""
        x = self.inputs
        # A mapping is taken for keywords only where its keys are words, as a BatchEncoding's are.
        if isinstance(x, Mapping):
            return [], dict(x)
        return (list(x), {}) if isinstance(x, (tuple, list)) else ([x], {})

    def loss(self) -> torch.Tensor:
        """One forward pass and the loss [] of it.

        Raises BuildError where the model, the loss function and the batch do not fit together.
        """
        args, kwargs = self.arguments()
        try:
            output = self.model(*args, **kwargs)
        except Exception as error:
            raise BuildError(
                f"the model refused the batch: {_line(error)}\n"
                f"It was called with {_described(self.inputs)}. A tuple goes in as several "
                "arguments, a dict as keywords; a batch that is a pair is taken for (inputs, "
                "targets). Do inputs and model fit in shape, dtype and device?"
            ) from error
        if self.loss_fn is None:
            return _scalar(_own_loss(output))
        try:
            loss = self.loss_fn(output, self.targets)
        except Exception as error:
            raise BuildError(
                f"the loss function failed: {_line(error)}\n"
                f"It was called as loss_fn(output, targets) with {_described(output)} and "
                f"{_described(self.targets)}. Do their shapes and dtypes fit it? Anything unusual "
                "goes into a function of its own: def loss_fn(output, targets): ..."
            ) from error
        return _scalar(loss)


def _own_loss(output: Any) -> Any:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise BuildError(
            "expected a loss function, got None, and the model's output "
            f"({type(output).__name__}) has no loss of its own: return one from build, or put "
            "the labels into the batch if it is a model of transformers"
        )
    return loss


def _scalar(loss: Any) -> torch.Tensor:
    if not isinstance(loss, torch.Tensor):
        raise BuildError(
            f"expected the loss as a tensor, got {type(loss).__name__}: return the tensor itself, "
            "not loss.item()"
        )
    if loss.numel() != 1:
        raise BuildError(
            f"expected one number as the loss, got a tensor of shape {list(loss.shape)}: use "
            "reduction='mean', or loss.mean()"
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise BuildError(
            "expected a loss that depends on the model's parameters, got one without a graph: "
            "is the model frozen (requires_grad=False), is something detached (.data, .item(), "
            "numpy), or does the forward run under torch.no_grad()?"
        )
    return loss.reshape(())


def check_build(build: Build) -> Build:
    """The build, if its parts are what they must be; raises BuildError otherwise."""
    build = _with_first_batch(build)
    model, batch, loss_fn, optimizer = build.model, build.batch, build.loss_fn, build.optimizer
    _check_model(model)
    _check_batch(batch)
    if isinstance(loss_fn, type):
        raise BuildError(
            f"expected a loss function, got the class {loss_fn.__name__}: make one, "
            f"{loss_fn.__name__}()"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise BuildError(
            f"expected a loss function in third place, got {_described(loss_fn)}: build returns "
            f"{_PARTS}, in this order\n\n{EXAMPLE}"
        )
    if optimizer is not None:
        _check_optimizer(optimizer, model)
    return build


def _check_model(model: Any) -> None:
    if isinstance(model, type):
        raise BuildError(
            f"expected a model, got the class {model.__name__}: make one, {model.__name__}(...)"
        )
    if not isinstance(model, nn.Module):
        raise BuildError(
            f"expected a torch.nn.Module in first place, got {_described(model)}: build returns "
            f"{_PARTS}, in this order\n\n{EXAMPLE}"
        )
    parameters = list(model.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise BuildError(
            "expected an initialised model, got lazy layers whose shapes are not known yet: run "
            "one batch through it in build, model(inputs), before the optimizer is made"
        )
    if not any(p.requires_grad for p in parameters):
        what = "all of its parameters are frozen" if parameters else "it has no parameters"
        raise BuildError(f"expected a model that can be trained, but {what}")


def _check_batch(batch: Any) -> None:
    if isinstance(batch, (Iterator, torch.utils.data.Dataset)):
        raise BuildError(
            f"expected one batch in second place, got a {type(batch).__name__}: return a batch "
            "of it, as a DataLoader makes it"
        )
    tensors = [t for t in tree_leaves(batch) if isinstance(t, torch.Tensor)]
    if batch is None or (not tensors and isinstance(batch, (tuple, list, dict, str, int, float))):
        raise BuildError(
            f"expected one batch of tensors in second place, got {_described(batch)}: numpy "
            "arrays go through torch.from_numpy"
        )
    if any(t.numel() == 0 for t in tensors):
        raise BuildError(
            f"expected a batch with samples in it, got an empty one: {_described(batch)}"
        )


def _check_optimizer(optimizer: Any, model: nn.Module) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        hint = ": the scheduler is not needed" if hasattr(optimizer, "get_last_lr") else ""
        raise BuildError(
            "expected a torch.optim.Optimizer in fourth place, got "
            f"{_described(optimizer)}{hint}; build returns {_PARTS}\n\n{EXAMPLE}"
        )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
        raise BuildError(
            "expected an optimizer of this model, got one that holds none of its parameters: was "
            "it made before the model was replaced, moved or wrapped? Make it last"
        )


def load(target: str) -> Build:
    """Import `package.module:function` (or `path/to/file.py:function`), call it, take what comes.

    Raises BuildError for a slip, BuildFailed where the project's own code raises.
    """
    return maker(target)()


def maker(target: str) -> Callable[[], Build]:
    """What makes a new build at each call, found as by `load`; it and the call raise as that."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise BuildError(
            f"expected MODULE:FUNCTION, as in project.train:build, got {target!r}\n\n{EXAMPLE}"
        )
    module = _module(place)
    function = getattr(module, name, None)
    if function is None:
        close = difflib.get_close_matches(name, _functions(module), n=1)
        hint = f"; did you mean {place}:{close[0]}?" if close else f"\n\n{EXAMPLE}"
        raise BuildError(f"expected a function {name!r} in {place}, which has none{hint}")
    if not callable(function) or isinstance(function, nn.Module):
        raise BuildError(
            f"expected a function that makes the parts, got {_described(function)}\n\n{EXAMPLE}"
        )
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BuildError(
            f"expected {target} to need no arguments: {error}. Wrap it in a function that gives "
            "them"
        ) from None
    except ValueError:
        pass  # a callable without a signature

    def make() -> Build:
        try:
            made = function()
        except Exception as error:
            raise BuildFailed(target) from error
        return from_parts(made)

    return make


def from_parts(made: Any) -> Build:
    """The build that a function returned, checked."""
    if inspect.isgenerator(made):
        raise BuildError("expected build to return its parts, but it yields: use return")
    if inspect.iscoroutine(made):
        made.close()
        raise BuildError("expected build to return its parts, but it is async: make it a plain def")
    if made is None:
        raise BuildError(
            f"expected build to return {_PARTS}, got None: is the return missing?\n\n{EXAMPLE}"
        )
    if not isinstance(made, (tuple, list)) or not 3 <= len(made) <= 4:
        count = f" of {len(made)}" if isinstance(made, (tuple, list)) else ""
        raise BuildError(
            f"expected build to return {_PARTS}, got a {type(made).__name__}{count}\n\n{EXAMPLE}"
        )
    return check_build(Build(*made))


def _with_first_batch(build: Build) -> Build:
    if not isinstance(build.batch, torch.utils.data.DataLoader):
        return build
    batch = next(iter(build.batch), None)
    if batch is None:
        raise BuildError("expected a DataLoader with batches in it, got an empty one")
    return replace(build, batch=batch, loader=build.batch)


def _module(place: str) -> types.ModuleType:
    """The module, with the working directory on the path as under `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if place.endswith(".py"):
        return _file(Path(place))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise BuildFailed(place) from error
        beside = [p.stem for p in Path(here).glob("*.py")]
        close = difflib.get_close_matches(place, beside, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise BuildError(
            f"expected a module {place!r}, found none from {here}: run surefoot from the folder "
            f"that you would run `python -m {place}` in.{hint}"
        ) from None
    except Exception as error:
        raise BuildFailed(place) from error


def _file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise BuildError(f"expected a Python file, found none at {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BuildFailed(str(path)) from error
    return module


def _functions(module: types.ModuleType) -> list[str]:
    return [n for n, value in vars(module).items() if inspect.isfunction(value)]


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}"


def _described(value: Any) -> str:
    """A value in a few words: types, shapes and dtypes rather than numbers."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(_described(v) for v in value[:4])
        return f"a {type(value).__name__} of {len(value)} ({inside})"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{k}: {_described(v)}" for k, v in list(value.items())[:4])
        return f"a {type(value).__name__} ({inside})"
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"the class {kind}" if isinstance(value, type) else f"a {kind}"
