"""Where in the user's own source a training was put together, noted while it is.

A patch needs the line that builds the optimizer, a layer or the model, and the line that calls
backward. `Places` notes them from the stack, in a few microseconds each; `Sites` is what it has
found, as plain data that outlives the process.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

from surefoot.attach.wrapping import wrap
from surefoot.compiler import leave_alone
from surefoot.layers import kind_of, modules_of, unwrap

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))
_FOREIGN = tuple(f + os.sep for f in (_HERE, _TORCH, sysconfig.get_path("stdlib")))
# Frames of ours that stand between the user's call and its place; below others it is our own call.
_PASSING = {os.path.join(_HERE, *p) for p in (("trial", "source.py"), ("attach", "patches.py"))}
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OURS = _HERE + os.sep
_CONSTRUCTORS = ("__init__", "__post_init__")
_MOST = 64  # places kept of one kind of call

Spot = tuple[CodeType, int, bool]  # (code, offset of the instruction, whether called from there)


class Place(NamedTuple):
    """A call in a source file. end_line, end_column (in bytes of UTF-8): behind its last bracket,
    which tells it from others on its line; 0 where Python does not tell. direct: whether the call
    itself names what was built, and no library stands in between."""

    file: str
    line: int
    end_line: int = 0
    end_column: int = 0
    direct: bool = True


@dataclass(frozen=True)
class Sites:
    """What `Places` has found for one training. Names are those of the layer table.

    modules: where each was built; classes: of what; forwards: where the `forward` of a class of the
    user's begins; widths: what enters the first and leaves the last affine layer of a module;
    calls: "model", "optimizer", "backward", "autocast", "zero_grad", "clip_grad_norm_", each if
    there is one place only; optimizer: its class, with the module if it is not torch's; grouped:
    whether groups have a learning rate of their own; digests: of the files, as they were.
    """

    modules: dict[str, Place] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    forwards: dict[str, Place] = field(default_factory=dict)
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    calls: dict[str, Place] = field(default_factory=dict)
    optimizer: str = ""
    grouped: bool = False
    digests: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a plain dict: each call and each module as [file, line, ...]."""
        return {
            **{name: list(place) for name, place in self.calls.items()},
            "modules": {name: list(place) for name, place in self.modules.items()},
            "classes": dict(self.classes),
            "forwards": {name: list(place) for name, place in self.forwards.items()},
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "optimizer_class": self.optimizer,
            "grouped": self.grouped,
            "digests": dict(self.digests),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Sites:
        """The inverse of `to_json`; what is missing is empty."""
        places = {
            key: {name: Place(*place) for name, place in data.get(key, {}).items()}
            for key in ("modules", "forwards")
        }
        return Sites(
            classes=dict(data.get("classes", {})),
            widths={name: (pair[0], pair[1]) for name, pair in data.get("widths", {}).items()},
            calls={name: Place(*data[name]) for name in ("model", *_CALLS) if name in data},
            optimizer=data.get("optimizer_class", ""),
            grouped=data.get("grouped", False),
            digests=dict(data.get("digests", {})),
            **places,
        )


_CALLS = ("optimizer", "backward", "autocast", "zero_grad", "clip_grad_norm_")


class _Made(NamedTuple):
    """An optimizer that was made; `firsts`: a parameter of each group, for it may be gone itself,
    with the function that trained."""

    optimizer: weakref.ref[torch.optim.Optimizer]
    kind: str
    spot: Spot | None
    grouped: bool
    firsts: list[weakref.ref[torch.Tensor]]


class Places:
    """Notes places from `install()` to `remove()`, both idempotent. Keeps nothing alive but code.

    >>> with Places() as places:
    ...     net = nn.Linear(2, 1)
    >>> places.sites([net]).classes
    {'': 'Linear'}
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []
        self._built: dict[int, tuple[weakref.ref[Any], Spot]] = {}
        self._optimizers: list[_Made] = []
        self._calls: dict[str, set[Spot]] = {name: set() for name in _CALLS[1:]}
        self._ours: list[Callable[..., Any]] = []
        self._left_alone = False  # by the compiler, once it is there
        self._folder = ""

    def __enter__(self) -> Places:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def install(self) -> None:
        """Begin to note."""
        if self._undo:
            return
        self._folder = os.getcwd()
        self._wrap(nn.Module, "__init__", self._module_init)
        self._wrap(torch.optim.Optimizer, "__init__", self._optimizer_init)
        self._wrap(torch.autocast, "__init__", self._autocast_init)
        self._wrap(torch.autograd, "backward", self._call("backward"))
        self._wrap(torch.optim.Optimizer, "zero_grad", self._call("zero_grad"))
        self._wrap(nn.utils, "clip_grad_norm_", self._call("clip_grad_norm_"))

    def remove(self) -> None:
        """Restore what `install` changed; what was noted stays."""
        while self._undo:
            self._undo.pop()()

    def _wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        wrapper, restore = wrap(owner, name, make)
        self._ours.append(wrapper)
        self._undo.append(restore)

    def _silent(self) -> bool:
        """Whether nothing is to be noted now: removed, or the compiler is tracing."""
        if not self._undo or torch.compiler.is_compiling():
            return True
        if not self._left_alone:
            self._left_alone = leave_alone(*self._ours)
        return False

    def _module_init(self, original: Any) -> Any:
        def __init__(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            if not self._silent():
                self._note_module(module)

        return __init__

    def _note_module(self, module: nn.Module) -> None:
        try:
            key, built = id(module), self._built
            if (spot := _spot(module)) is not None:
                built[key] = weakref.ref(module, lambda ref: _forget(built, key, ref)), spot
        except Exception:
            return  # a place less

    def _optimizer_init(self, original: Any) -> Any:
        def __init__(optimizer: Any, params: Any, *args: Any, **kwargs: Any) -> None:
            groups = params if isinstance(params, (list, tuple)) else ()
            grouped = any(isinstance(group, dict) and "lr" in group for group in groups)
            original(optimizer, params, *args, **kwargs)
            if not self._silent():
                self._note_optimizer(optimizer, grouped)

        return __init__

    def _note_optimizer(self, optimizer: torch.optim.Optimizer, grouped: bool) -> None:
        try:
            usual = optimizer.defaults.get("lr")
            grouped = grouped or any(
                group.get("lr") is not usual for group in optimizer.param_groups
            )
            firsts = [weakref.ref(g["params"][0]) for g in optimizer.param_groups if g["params"]]
            kind = type(optimizer)
            own = getattr(torch.optim, kind.__name__, None) is kind
            name = kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"
            made = _Made(weakref.ref(optimizer), name, _spot(optimizer), grouped, firsts)
            kept = [one for one in self._optimizers if any(ref() is not None for ref in one.firsts)]
            self._optimizers = [*kept[-_MOST:], made]
        except Exception:
            return

    def _autocast_init(self, original: Any) -> Any:
        def __init__(context: Any, *args: Any, **kwargs: Any) -> None:
            original(context, *args, **kwargs)
            if not self._silent():
                self._note_call("autocast", context)

        return __init__

    def _call(self, name: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if not self._silent():
                    self._note_call(name)
                return original(*args, **kwargs)

            return call

        return make

    def _note_call(self, name: str, built: Any = None) -> None:
        try:
            spots = self._calls[name]
            if len(spots) < _MOST and (spot := _spot(built)) is not None:
                spots.add(spot)
        except Exception:
            return

    def sites(
        self,
        models: Sequence[nn.Module],
        optimizers: Iterable[torch.optim.Optimizer] | None = None,
    ) -> Sites:
        """What was noted of these; optimizers: those that train the models if None."""
        roots = [unwrap(m) for m in models]
        found = Sites()
        for root in roots:
            for name, module in modules_of(root, type(root).__name__ if len(roots) > 1 else ""):
                self._describe(found, name, module)
        calls = {name: {self._place(s) for s in spots} for name, spots in self._calls.items()}
        if roots and (spot := self._spot_of(roots[0])) is not None:
            calls["model"] = {self._place(spot)}
        rows = self._rows(roots, optimizers)
        calls["optimizer"] = {self._place(one.spot) for one in rows if one.spot is not None}
        found.calls.update((name, next(iter(p))) for name, p in calls.items() if len(p) == 1)
        places = (*found.modules.values(), *found.forwards.values(), *found.calls.values())
        return Sites(
            found.modules, found.classes, found.forwards, found.widths, found.calls,
            rows[-1].kind if rows else "", any(one.grouped for one in rows),
            {f: d for f in {place.file for place in places} if (d := digest(f))},
        )  # fmt: skip

    def to_json(self, models: Sequence[nn.Module]) -> dict[str, Any]:
        """`sites` as a plain dict."""
        return self.sites(models).to_json()

    def _rows(
        self, roots: list[nn.Module], optimizers: Iterable[torch.optim.Optimizer] | None
    ) -> list[_Made]:
        if optimizers is not None:
            asked = list(optimizers)
            return [m for m in self._optimizers if any(m.optimizer() is o for o in asked)]
        held = {id(p) for root in roots for p in root.parameters()}
        return [m for m in self._optimizers if any(id(ref()) in held for ref in m.firsts)]

    def _spot_of(self, module: nn.Module) -> Spot | None:
        ref, spot = self._built.get(id(module), (None, None))
        return spot if ref is not None and ref() is module else None

    def _describe(self, found: Sites, name: str, module: nn.Module) -> None:
        found.classes[name] = type(module).__name__
        if (spot := self._spot_of(module)) is not None:
            found.modules[name] = self._place(spot)
        code = _forward_of(module)
        own = code is not None and yours(code.co_filename)
        if code is not None and own:
            found.forwards[name] = Place(self._path(code), code.co_firstlineno)
        if (own or kind_of(module).weighted) and (pair := _widths(module)) is not None:
            found.widths[name] = pair

    def _place(self, spot: Spot) -> Place:
        code, offset, direct = spot
        at = next(itertools.islice(code.co_positions(), offset // 2, None), None)
        line, end_line, _, end_column = at or (None, None, None, None)
        first = line or code.co_firstlineno
        return Place(self._path(code), first, end_line or 0, end_column or 0, direct)

    def _path(self, code: CodeType) -> str:
        name = code.co_filename
        return name if name.startswith("<") else os.path.normpath(os.path.join(self._folder, name))


def digest(file: str) -> str:
    """What tells whether a file has changed; empty where it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


@functools.cache
def yours(file: str) -> bool:
    """Whether a source file is the user's own: not torch's, surefoot's, Python's or a package's."""
    if file.startswith("<"):
        return not file.startswith("<frozen")  # a cell of a notebook is the user's
    return not file.startswith(_FOREIGN) and not any(part in file for part in _PACKAGES)


def _spot(built: Any = None) -> Spot | None:
    """Where in the user's source the call comes from that is going on, or that builds an object."""
    frame, direct = sys._getframe(1), True
    while frame is not None:
        code = frame.f_code
        own = yours(code.co_filename)
        # Its constructors, one in another, and who has patched them, are not who builds it.
        maker = not own or code.co_name in _CONSTRUCTORS
        if built is None or not maker or not _takes(frame, built):
            if own:
                return code, frame.f_lasti, direct
            if not code.co_filename.startswith(_OURS):
                direct = False
            elif code.co_filename not in _PASSING:
                return None
        frame = frame.f_back
    return None


def _takes(frame: FrameType, built: Any) -> bool:
    """Whether the first argument is that object. Not asked of the user's functions: what locals
    give is kept with the frame, and would keep alive what is deleted there."""
    names = frame.f_code.co_varnames
    return bool(names) and frame.f_locals.get(names[0]) is built


def _forget(built: dict[int, Any], key: int, ref: weakref.ref[Any]) -> None:
    if built.get(key, (None,))[0] is ref:  # ids are used again
        del built[key]


def _forward_of(module: nn.Module) -> CodeType | None:
    """The code of a module's forward, below what surefoot may have put around it."""
    for kind in type(module).__mro__:
        function = vars(kind).get("forward")
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if code is not None and not code.co_filename.startswith(_OURS):
            return code
    return None


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """What enters the first of a module's affine layers and leaves the last, as registered."""
    affine = [m for m in module.modules() if kind_of(m).weighted]
    if not affine:
        return None
    into = [getattr(affine[0], key, 0) for key in ("in_features", "in_channels")]
    out = [getattr(affine[-1], key, 0) for key in ("out_features", "out_channels")]
    return max(into), max(out)
