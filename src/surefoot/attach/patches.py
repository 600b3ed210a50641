"""The few places in PyTorch that tell of a training's life, patched together and restored together.

Everything that a listener raises stops here: it is handed to `on_failure` once, after which the
patches only pass calls through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter

from surefoot.attach.closures import closure_of, overheard
from surefoot.attach.copies import leave_hooks_out_of_copies
from surefoot.attach.loaders import Drawn
from surefoot.attach.wrapping import wrap
from surefoot.compiler import leave_alone, outside
from surefoot.halted import TrainingHalted
from surefoot.signals.saved import listen


def in_backward() -> bool:
    """Whether a backward of this thread is under way."""
    return torch._C._current_graph_task_id() != -1


class Listener(Protocol):
    """Who is told. No method may change what it is given."""

    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None: ...
    def compiled(self, module: nn.Module, form: nn.Module) -> None: ...
    def before_backward(self, losses: list[torch.Tensor]) -> None: ...
    def after_backward(self) -> None: ...
    def before_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None: ...
    def closure_ran(self, optimizer: torch.optim.Optimizer) -> None: ...
    def closure_begun(self) -> None: ...
    def closure_raised(self) -> None: ...
    def after_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None: ...
    def loss_scaled(self, scaled: Any, scale: float) -> None: ...
    def step_refused(self, optimizer: torch.optim.Optimizer) -> None: ...
    @property
    def drawn(self) -> Drawn: ...
    def failed(self, error: BaseException) -> None: ...


class Patches:
    """Installs on `install()`, leaves no trace after `remove()`; both are idempotent."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._broken = False
        self._stepped = 0  # optimizer steps begun, to tell whether a GradScaler let one through
        self._undo: list[Callable[[], Any]] = []
        self._ours: list[Callable[..., Any]] = []
        self._left_alone = False  # by the compiler, once it is there
        self._telling = False

    def install(self) -> None:
        """Begin to listen."""
        if self._undo:
            return
        self._ours = [Patches._pre_hook, Patches._post_hook, Patches._tell]
        self._undo += [
            register_optimizer_step_pre_hook(self._pre_hook).remove,
            register_optimizer_step_post_hook(self._post_hook).remove,
        ]
        self._wrap(torch.optim.Optimizer, "__init__", self._optimizer_init)
        self._wrap(torch, "compile", self._compile)
        self._wrap(nn.Module, "compile", self._compile_in_place)
        self._wrap(torch.autograd, "backward", self._backward)
        self._wrap(torch.amp.GradScaler, "scale", self._scale)
        self._wrap(torch.amp.GradScaler, "step", self._scaler_step)
        self._wrap(_BaseDataLoaderIter, "_reset", self._reset)
        self._wrap(_BaseDataLoaderIter, "_next_index", self._next_index)
        self._wrap(_BaseDataLoaderIter, "__next__", self._next)
        self._undo.append(leave_hooks_out_of_copies())
        self._undo += [end for end in [listen(self._wrapped)] if end is not None]

    def remove(self) -> None:
        """Restore everything that `install` changed."""
        failure = None
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:  # the others are restored all the same
                failure = error
        if failure is not None:
            raise failure

    def _wrapped(self, *args: Any) -> tuple[Callable[..., Any], Callable[[], None]]:
        wrapper, restore = wrap(*args)
        self._ours.append(wrapper)
        return wrapper, restore

    def _wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        _, restore = self._wrapped(owner, name, make)
        self._undo.append(restore)
        self._left_alone = False

    def _tell(self, method: Callable[..., None], *args: Any) -> None:
        if self._broken or not self._undo or torch.compiler.is_compiling():
            return
        before, self._telling = self._telling, True
        try:
            if not self._left_alone:
                self._left_alone = leave_alone(*self._ours)
            outside(method, *args)
        except TrainingHalted:  # no failure: what the script is to hear
            raise
        except Exception as error:
            self._broken = True
            self._listener.failed(error)
        finally:
            self._telling = before

    def _pre_hook(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        return outside(self._before_step, optimizer, args, kwargs)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        self._stepped += 1
        has_closure = closure_of(args, kwargs) is not None
        self._tell(self._listener.before_step, optimizer, has_closure)
        if not has_closure or self._broken:
            return None
        ran = functools.partial(self._tell, self._listener.closure_ran, optimizer)
        begun = functools.partial(self._tell, self._listener.closure_begun)
        raised = functools.partial(self._tell, self._listener.closure_raised)
        return overheard(args, kwargs, ran, begun, raised)

    def _post_hook(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        outside(self._after_step, optimizer, args, kwargs)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        has_closure = closure_of(args, kwargs) is not None
        self._tell(self._listener.after_step, optimizer, has_closure)

    def _optimizer_init(self, original: Any) -> Any:
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self._tell(self._listener.optimizer_made, optimizer)

        return __init__

    def _compile(self, original: Any) -> Any:
        def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            form = original(model, *args, **kwargs)
            if isinstance(model, nn.Module) and form is not model:
                self._tell(self._listener.compiled, model, form)
            return form

        return compile

    def _compile_in_place(self, original: Any) -> Any:
        def compile(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            self._tell(self._listener.compiled, module, module)

        return compile

    def _backward(self, original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            # One within another (a reentrant checkpoint) is a part of it; another is a listener's.
            # A function of ours, the compiler would look at.
            nested = self._telling or torch._C._current_graph_task_id() != -1
            if nested or self._broken or not self._undo:
                return original(tensors, *args, **kwargs)
            losses = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            if not isinstance(losses, (list, tuple)):
                losses = []
            self._tell(self._listener.before_backward, list(losses))
            result = original(tensors, *args, **kwargs)
            self._tell(self._listener.after_backward)
            return result

        return backward

    def _reset(self, original: Any) -> Any:
        def _reset(iterator: Any, *args: Any, **kwargs: Any) -> Any:
            self._tell(self._listener.drawn.reset, iterator)
            return original(iterator, *args, **kwargs)

        return _reset

    def _next_index(self, original: Any) -> Any:
        def _next_index(iterator: Any) -> Any:
            indices = original(iterator)
            self._tell(self._listener.drawn.drawn, iterator, indices)
            return indices

        return _next_index

    def _next(self, original: Any) -> Any:
        def __next__(iterator: Any) -> Any:
            try:
                batch = original(iterator)
            except StopIteration:
                raise
            except Exception:
                self._tell(self._listener.drawn.lost, iterator)
                raise
            self._tell(self._listener.drawn.fetched, iterator, batch)
            return batch

        return __next__

    def _scale(self, original: Any) -> Any:
        def scale(scaler: Any, outputs: Any) -> Any:
            scaled = original(scaler, outputs)
            if scaler.is_enabled():
                self._tell(lambda: self._listener.loss_scaled(scaled, scaler.get_scale()))
            return scaled

        return scale

    def _scaler_step(self, original: Any) -> Any:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            before = self._stepped
            result = original(scaler, optimizer, *args, **kwargs)
            if self._stepped == before and scaler.is_enabled():
                self._tell(self._listener.step_refused, optimizer)
            return result

        return step
