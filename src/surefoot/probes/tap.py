"""The entry tap: keeps of the step under way what a replay needs.

That is references to the inputs of the modules that the script calls, the state of torch's random
numbers, and the gradient that arrived at their outputs. It runs at every step, so the usual call,
one tensor in and one out, takes a way of its own through it; benchmarks/replay_capture.py has the
price.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from surefoot.kernels.layout import flatten
from surefoot.probes.autocast import Casting, any_autocast
from surefoot.probes.compiled_calls import Door, compiled_in_place
from surefoot.probes.entry import Entry, Output, version_of, versions_of
from surefoot.probes.module_hooks import Placed, place
from surefoot.probes.pytrees import flat_tensors, tensors_in_call, tensors_of
from surefoot.probes.restoring import thoroughly
from surefoot.probes.side_effects import Habits, Past, sources_in
from surefoot.signals.criterion import mark

MOST = 8  # calls of entry modules kept in one step (micro-batches)

_random_state = torch.default_generator.get_state
_grad_enabled = torch.is_grad_enabled
_tensor = torch.Tensor


class EntryTap:
    """Keeps the current step's entries; `clear` after each optimizer step.

    marking: whether outputs are marked for `signals.criterion`; keeping: whether they are kept too;
    comparing: kept as well, because a replay could compare nothing else; overflowed: whether there
    were more calls than are kept; failure: what made it stop.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self.marking = self.keeping = self.comparing = self.overflowed = False
        self.entries: list[Entry] = []
        self.failure: Exception | None = None
        self.types: tuple[str, ...] = ("cpu",)
        self.none = self._casting = Casting.now(self.types).none()
        self.pending: Entry | None = None
        self.open = True  # whether the next call may be kept
        self.inner = 0  # calls of the pending call's module by itself, under way
        self._paused, self._able = False, True  # able: neither paused nor failed
        self._marked = self._cleared = 0
        self._all_habits: list[Habits] = []
        self._handles: list[Placed | Door] = []
        self._hooks: dict[int, tuple[_Enter, _Leave]] = {}
        for module in modules:
            habits = Habits()
            self._all_habits.append(habits)
            enter, leave = hooks = _Enter(self, habits), _Leave(self, habits)
            self._hooks[id(module)] = hooks
            # Always called: after a forward that raised, its entry is not the one under way.
            placed = place(module, enter, leave, lasting=True, always_call=True)
            self._handles += [placed] if placed is not None else []
            if compiled_in_place(module):
                self.open_door(module, module)

    def open_door(self, module: nn.Module, form: nn.Module) -> None:
        """Listen to the compiled form of a module as well, if it is one that is listened to."""
        if (hooks := self._hooks.get(id(module))) is not None:
            self._handles = [h for h in self._handles if not (isinstance(h, Door) and h.gone)]
            self._handles.append(Door(module, form, *hooks))

    @property
    def paused(self) -> bool:
        """Whether calls are ignored for now."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._able = not paused and self.failure is None
        self.reopen()

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The floating-point tensors that went in, of a memory that can be read as it lies."""
        used = [e for e in self.entries if e.received] or self.entries
        leaves = [t for e in used for t in tensors_in_call(e.args, e.kwargs)]
        return [_plain(t) for t in leaves if t.is_floating_point() and _has_data(t)]

    def remove(self) -> None:
        """Take the hooks away and forget everything."""
        thoroughly([handle.remove for handle in self._handles])
        self._handles.clear()
        self._hooks.clear()
        self.clear()
        self.open = False

    def mark(self) -> None:
        """Note that what was kept so far belongs to a step that has been taken."""
        self._marked = len(self.entries)

    def clear(self, marked: bool = False) -> None:
        """Forget the step's entries, so that its tensors can be freed; or only the marked ones."""
        entries = self.entries
        gone = entries[: self._marked] if marked else entries
        for entry in gone:
            if sys.getrefcount(entry) > 3:  # more than the list, the loop and the argument
                entry.forget()
        del entries[: len(gone)]
        if self._marked or self.overflowed or self.pending is not None:
            self._marked = self.inner = 0
            self.overflowed, self.pending = False, None
        self.open = self._able and len(entries) < MOST
        self._cleared = cleared = self._cleared + 1
        if not cleared & (cleared - 1):
            for habits in self._all_habits:
                habits.look_again()

    # -- the hooks' side ------------------------------------------------------------------------

    def reopen(self) -> None:
        """After a call: whether the next one may be kept."""
        self.open = self._able and self.pending is None and len(self.entries) < MOST

    def turn_away(self, module: nn.Module) -> bool:
        """A call that comes while the tap is closed; whether it can be kept all the same."""
        if self.pending is not None:
            self.inner += self.pending.module is module
        elif self._able and not self.overflowed and torch.is_grad_enabled():
            self._evict()
            self.overflowed = not self.open
        return self.open

    def _evict(self) -> None:
        """Drop the entries that nobody else refers to: their outputs are gone, without gradient."""
        kept = [e.received or sys.getrefcount(e) > 3 for e in self.entries]  # list, loop, argument
        self._marked = sum(map(bool, kept[: self._marked]))
        self.entries[:] = [e for e, k in zip(self.entries, kept, strict=True) if k]
        self.reopen()

    def casting(self) -> Casting:
        """Autocast as it stands, which is as it stood at the last call."""
        self._casting = Casting.now(self.types, self._casting)
        return self._casting

    def know(self, devices: list[torch.device]) -> None:
        """Take account of the types of these devices."""
        if types := {d.type for d in devices} - set(self.types):
            self.types = (*self.types, *sorted(types))
            self.none = Casting.now(self.types).none()

    def stop(self, error: Exception) -> None:
        """Something failed in a hook: no more calls are kept, and the step's are forgotten."""
        self.failure, self._able = error, False
        self.remove()


class _Enter:
    __slots__ = ("_habits", "_tap")

    def __init__(self, tap: EntryTap, habits: Habits) -> None:
        self._tap, self._habits = tap, habits

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tap, habits = self._tap, self._habits
        try:
            if not (tap.open or tap.turn_away(module)) or not _grad_enabled():
                return
            training = module.training
            plain = habits.plain and training in habits.modes
            if plain and len(args) == 1 and not kwargs and type(args[0]) is _tensor:
                versions, past = [version_of(args[0])], None
            else:
                versions, past = self._found(module, args, kwargs)
            tap.pending = Entry(
                module,
                args,
                kwargs,
                versions,
                _random_state() if habits.draws else None,
                tap.casting() if any_autocast() else tap.none,
                training,
                past,
                [],
                {},
            )
            tap.open = False
        except Exception as error:
            tap.stop(error)

    def _found(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[list[int], Past | None]:
        """Of any call that is not the usual one: the versions of what goes in, and the past."""
        past = self._habits.before(module)
        tensors = flat_tensors((*args, *kwargs.values()))
        if tensors is not None:
            return list(map(version_of, tensors)), past
        given = sources_in(tree_leaves((args, kwargs)))
        if given:
            past = past or Past()
            past.given = given
        return versions_of(args, kwargs), past


class _Leave:
    __slots__ = ("_habits", "_tap")

    def __init__(self, tap: EntryTap, habits: Habits) -> None:
        self._tap, self._habits = tap, habits

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        tap = self._tap
        entry = tap.pending
        if entry is None or entry.module is not module:
            return
        if tap.inner:  # a call that the module has made of itself
            tap.inner -= 1
            return
        tap.pending = None
        try:
            if self._habits.looking:
                self._habits.after(module, entry.past, entry.rng)
                tap.know(self._habits.devices)
            entries = tap.entries
            if output is not None:  # else the forward raised, or has nothing to give
                entries.append(entry)
                if type(output) is not _tensor or tap.keeping or tap.comparing:
                    self._follow(entry, output)
                elif output.requires_grad:
                    _listen(output, Output(entry, 0), tap)
            tap.open = len(entries) < MOST
        except Exception as error:
            tap.stop(error)

    def _follow(self, entry: Entry, output: Any) -> None:
        """Wait for the gradients of all outputs, and keep those that are to be kept."""
        tap = self._tap
        seen: set[int] = set()
        for i, tensor in enumerate(tensors_of(output)):
            if not tensor.requires_grad or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            _listen(tensor, Output(entry, i), tap)
            if tap.keeping or tap.comparing:
                entry.outputs[i] = tensor.detach()


def _listen(tensor: torch.Tensor, out: Output, tap: EntryTap) -> None:
    """Have `out` called with the gradient of a tensor, and mark its node of the graph.

    As `Tensor.register_hook` does it, without the handle: making that is most of its cost.
    """
    node, hooks = tensor.grad_fn, tensor._backward_hooks
    if node is None or type(tensor) is not _tensor:
        tensor.register_hook(out)
    elif hooks is None:
        tensor._backward_hooks = hooks = OrderedDict()
        node._register_hook_dict(tensor)  # type: ignore[attr-defined]
        hooks[out] = out
    else:
        hooks[out] = out  # type: ignore[index]
    if tap.marking and node is not None:
        mark(node, tensor.output_nr, id(tap), out)


def _has_data(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_nested)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its memory can be read as it lies, else a copy that can."""
    if tensor.layout is torch.strided and tensor.is_contiguous():
        return tensor
    return flatten(tensor)[0]  # pyrefly: ignore[bad-return]
