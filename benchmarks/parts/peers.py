"""Other ways to watch a training, each as its own documentation says and with its defaults.

A regime puts a copy of a training under one of them for the time of a turn. What is to happen
between backward and the update is hung on the optimizer, so the training stays as it is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surefoot.benchmark import Contender, Regime, watched
from surefoot.benchmark.copies import Copy

_OFFLINE = Path(tempfile.gettempdir(), f"cost-wandb-{os.getpid()}")


@contextmanager
def before_update(copy: Copy, act: Callable[[], object]) -> Iterator[Contender]:
    """Have something done between each backward and its update."""

    def hook(*_: object) -> None:
        act()

    handle = copy.optimizer.register_step_pre_hook(hook)
    try:
        yield Contender(copy)
    finally:
        handle.remove()


def clipping(copy: Copy) -> AbstractContextManager[Contender]:
    """PyTorch's own clipping, with the norm read as a number."""
    clip = torch.nn.utils.clip_grad_norm_
    return before_update(copy, lambda: clip(copy.parameters, 1.0).item())


def norms(copy: Copy) -> AbstractContextManager[Contender]:
    """The norm of each gradient as a number: the usual few lines in a training loop."""
    return before_update(
        copy, lambda: [p.grad.norm().item() for p in copy.parameters if p.grad is not None]
    )


@contextmanager
def hooks(copy: Copy) -> Iterator[Contender]:
    """Norms of what leaves each layer, forward and backward, by hooks on all of them."""
    handles: list[Any] = []

    def forward(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.norm().item()

    def backward(module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        grad_output[0].norm().item()

    for module in copy.model.modules():
        if next(module.children(), None) is None:
            handles.append(module.register_forward_hook(forward))
            handles.append(module.register_full_backward_hook(backward))
    try:
        yield Contender(copy)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def wandb(copy: Copy, every: int | None) -> Iterator[Contender]:
    """`watch` of the gradients in an offline run, and a `log` of the loss a step."""
    run = _offline_run()
    often = {} if every is None else {"log_freq": every}
    run.watch(copy.model, log="gradients", **often)
    try:
        with before_update(copy, lambda: run.log({"loss": _loss(copy).item()})) as contender:
            yield contender
    finally:
        run.unwatch(copy.model)


def _offline_run() -> Any:
    """The process's one run, to which all that is watched is written in any case."""
    library = import_module("wandb")
    if library.run is None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        quiet = library.Settings(
            mode="offline", console="off", silent=True, x_disable_stats=True, x_disable_meta=True
        )
        _OFFLINE.mkdir(exist_ok=True)
        library.init(project="cost", dir=_OFFLINE, settings=quiet)
    return library.run


def end_offline_run() -> None:
    """Close that run, if there is one, and remove what it wrote."""
    if _OFFLINE.exists():
        import_module("wandb").finish()
        shutil.rmtree(_OFFLINE, ignore_errors=True)


@contextmanager
def ormas(copy: Copy, every: int | None) -> Iterator[Contender]:
    """A monitor that checks each fiftieth step unless told otherwise."""
    often = {} if every is None else {"check_every": every}
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        monitor = import_module("ormas_monitor").Monitor(
            copy.model, copy.optimizer, out=folder, overwrite=True, verbose=False, **often
        )
        try:
            with before_update(copy, lambda: monitor.step(_loss(copy))) as contender:
                yield contender
        finally:
            monitor.close(report=False)


def traintools(copy: Copy) -> AbstractContextManager[Contender]:
    """Its inspection of all gradients at every step."""
    monitor = import_module("traintools").GradientHealthMonitor()
    return before_update(
        copy,
        lambda: monitor.inspect(
            copy.model, step=copy.taken, lr=copy.optimizer.param_groups[0]["lr"]
        ),
    )


@contextmanager
def trainscope(copy: Copy) -> Iterator[Contender]:
    """Its recorder of layers, weights and activations, kept from the run that wandb has open."""
    library = import_module("trainscope")
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        config = library.TrainScopeConfig(run_dir=folder, integrations={"wandb": False})
        scope = library.TrainScope(copy.model, copy.optimizer, config=config).attach()
        try:
            with before_update(copy, lambda: scope.step(_loss(copy).item())) as contender:
                yield contender
        finally:
            scope.detach()


def _loss(copy: Copy) -> torch.Tensor:
    """The loss [] of the step under way."""
    assert copy.loss is not None
    return copy.loss


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to watch: how it is called in the table, what does it, of which package."""

    words: str
    regime: Regime
    package: str | None = None

    @property
    def title(self) -> str:
        """With the version that is installed."""
        if self.package is None:
            return self.words
        try:
            return f"{self.package} {version(self.package)}, {self.words}"
        except PackageNotFoundError:
            return f"{self.package}, {self.words}"

    def obstacle(self, copy: Copy) -> str | None:
        """Why it cannot be measured on this training, tried with two steps; None if it can."""
        try:
            with self.regime(copy) as contender:
                contender.resume()
                copy.step()
                copy.step()
                contender.pause()
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed"
        except Exception as error:
            cause = error.__cause__ or error
            return f"fails: {type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
        return None


PEERS = (
    Peer("surefoot", watched),
    Peer("clip_grad_norm_ and item", clipping),
    Peer("norm of each gradient and item", norms),
    Peer("hooks on every layer, norms and item", hooks),
    Peer("check each fiftieth step", partial(ormas, every=None), "ormas-monitor"),
    Peer("check each step", partial(ormas, every=1), "ormas-monitor"),
    Peer("inspect each step", traintools, "traintools"),
    Peer("record each step", trainscope, "trainscope"),
    Peer("watch each thousandth step", partial(wandb, every=None), "wandb"),
    Peer("watch each step", partial(wandb, every=1), "wandb"),
)
