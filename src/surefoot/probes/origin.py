"""Where the first non-finite value of a step was made: the operation, its module, forward or back.

Used only inside a replay. Every torch function called by the model passes through a function mode,
which looks at what went in and what came out; tensor hooks then do the same for the gradients. The
maker is the first operation in execution order that turns finite values into non-finite ones, not
one that merely passes them on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surefoot.probes.safely import safely
from surefoot.probes.statistics import float_tensors

# Minus infinity is what these write on purpose, as attention masks do.
_MASKING = {"masked_fill", "full", "full_like", "where", "fill", "tril", "triu"}
_PASSIVE = {"get", "backward", "register_hook", "detach", "numel", "size", "item", "bool"}
# Python's names of operators, as people say them.
_WORDS = dict.fromkeys(["truediv", "rtruediv", "rdiv", "div", "true_divide"], "division")
_WORDS |= {"rpow": "pow", "rmul": "mul", "rsub": "sub", "radd": "add", "rmatmul": "matmul"}


@dataclass(slots=True)
class Origin:
    """The operation that made the first non-finite value.

    where: "input", "weights" (a parameter was not finite before), "forward", "loss" or "backward";
    layer: index of the module that called it, None
    outside of every module; lowest and highest: range of its finite float inputs; dtype: of its
    output; wider: True if the same operation in float64 stays finite (an overflow of the dtype),
    False if it does not (an undefined operation), None if it could not be tried.
    """

    where: str
    operation: str
    layer: int | None
    lowest: float = 0.0
    highest: float = 0.0
    dtype: str = ""
    wider: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as `Flow.origin` keeps it."""
        return asdict(self)


class OriginMode(TorchFunctionMode):
    """Watches every torch function inside `with`; `current_layer` tells the open module.

    failure: what made it stop looking; the functions run on all the same.
    """

    def __init__(self, current_layer: Callable[[], int | None]) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self._layer = current_layer
        self._nan: Origin | None = None
        self._nan_had_infinite_input = False
        self._infinity: Origin | None = None
        self._tags: dict[Any, Origin] = {}  # autograd node -> the operation whose output it is
        self._backward: Origin | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs: list[torch.Tensor] = []
        before: list[Any] = []
        if self.failure is None:
            try:
                inputs = list(float_tensors((args, kwargs)))
                before = [_state(t) for t in inputs] if self._nan is None else []
            except Exception as error:  # a tensor of a kind that cannot be looked at
                self.failure = error
        out = func(*args, **kwargs)
        self._see(func, args, kwargs, inputs, before, out)
        return out

    def remove(self) -> None:
        """Nothing hangs anywhere: it ends with its `with`."""

    @safely
    def _see(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        inputs: list[torch.Tensor],
        before: list[Any],
        out: Any,
    ) -> None:
        name = getattr(func, "__name__", "operation")
        name = _WORDS.get(name.strip("_"), name.strip("_"))
        if name not in _PASSIVE:
            for y in float_tensors(out):
                self._look(func, args, kwargs, name, inputs, before, y)
                self._tag(name, inputs, y)

    def _look(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        name: str,
        inputs: list[torch.Tensor],
        before: Any,
        y: torch.Tensor,
    ) -> None:
        if self._nan is not None:
            return
        nan, infinite, *_ = _state(y)
        if (nan or infinite) and self._infinity is None:
            self._see_weights(name, inputs, before)
        if self._nan is not None:
            return
        fed_nan = any(s[0] for s in before)
        fed_infinite = any(s[1] for s in before)
        if not (nan or infinite) or fed_nan:
            return
        # The logarithm of a sum over nothing but masked terms is that of zero.
        maker = not fed_infinite or (name == "logsumexp" and infinite)
        origin = Origin("forward", name, self._layer(), dtype=str(y.dtype).removeprefix("torch."))
        origin.lowest = min((s[2] for s in before), default=0.0)
        origin.highest = max((s[3] for s in before), default=0.0)
        if maker and not fed_infinite:
            origin.wider = _finite_in_double(func, args, kwargs)
        if nan:
            self._nan, self._nan_had_infinite_input = origin, fed_infinite
        elif maker and self._infinity is None and name not in _MASKING:
            self._infinity = origin

    def _see_weights(self, name: str, inputs: list[torch.Tensor], before: Any) -> None:
        """A parameter that is not finite made what follows, whatever the operation."""
        for tensor, state in zip(inputs, before, strict=True):
            if isinstance(tensor, torch.nn.Parameter) and (state[0] or state[1]):
                dtype = str(tensor.dtype).removeprefix("torch.")
                self._nan = Origin("weights", name, self._layer(), dtype=dtype)
                self._nan_had_infinite_input = False
                return

    def _tag(self, name: str, inputs: list[Any], y: torch.Tensor) -> None:
        if not y.requires_grad or y.grad_fn is None or y.grad_fn in self._tags:
            return
        origin = Origin("backward", name, self._layer(), dtype=str(y.dtype).removeprefix("torch."))
        states = [_state(t) for t in inputs]
        origin.lowest = min((s[2] for s in states), default=0.0)
        origin.highest = max((s[3] for s in states), default=0.0)
        self._tags[y.grad_fn] = origin

    def follow_backward(self, outputs: list[torch.Tensor]) -> None:
        """Watch every node that a backward from `outputs` will run through.

        A node inside a composite function counts as the function's. Node hooks see what this one
        node made, where a tensor hook would see the sum over all that use the tensor.
        """
        seen: set[Any] = set()
        stack: list[tuple[Any, Origin | None]] = [(y.grad_fn, None) for y in outputs]
        while stack:
            node, origin = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            origin = self._tags.get(node, origin)
            if origin is not None:
                node.register_hook(partial(self._ran, origin))
            stack += [(n, origin) for n, _ in node.next_functions]

    @safely
    def _ran(self, origin: Origin, made: Any, came: Any) -> None:
        if self._backward is None and _all_finite(came) and not _all_finite(made):
            self._backward = origin

    def forward_origin(self) -> Origin | None:
        """The maker of the first NaN or, if none was made, of the first stray infinity."""
        if self._nan is not None and not (self._nan_had_infinite_input and self._infinity):
            return self._nan
        return self._infinity

    def backward_origin(self) -> Origin | None:
        """The first operation in backward order that made non-finite gradients of finite ones."""
        return self._backward


def _all_finite(tensors: Any) -> bool:
    return all(bool(torch.isfinite(stored(t)).all()) for t in tensors if t is not None)


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """The values that there are, as the gradient of an embedding may hold a few rows only."""
    return tensor._values() if tensor.is_sparse else tensor


def _state(tensor: torch.Tensor) -> tuple[bool, bool, float, float]:
    """(has NaN, has infinity, lowest finite, highest finite value) of a tensor."""
    t = tensor.detach()
    if t.is_sparse or not t.numel():
        return False, False, 0.0, 0.0
    finite = torch.isfinite(t)
    if bool(finite.all()):
        low, high = torch.aminmax(t)
        return False, False, float(low), float(high)
    nan = bool(torch.isnan(t).any())
    infinite = bool(torch.isinf(t).any())
    rest = t[finite]
    low, high = (float(rest.min()), float(rest.max())) if rest.numel() else (0.0, 0.0)
    return nan, infinite, low, high


def _finite_in_double(func: Any, args: Any, kwargs: Any) -> bool | None:
    """Whether the same call on float64 copies gives finite values; None if it cannot be made."""

    def widen(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.detach().double()
        if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
            return type(x)(widen(item) for item in x)
        return x

    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            out = func(*(widen(a) for a in args), **{k: widen(v) for k, v in kwargs.items()})
        return all(bool(torch.isfinite(y).all()) for y in float_tensors(out))
    except Exception:
        return None


# What makes a non-finite value out of a finite one, seen in the graph's saved tensors: the node's
# name, the saved input to look at, and whether a value of it is outside the operation's domain.
_DOMAINS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = {
    "LogBackward0": ("_saved_self", lambda x: x <= 0, "log of a number that is not positive"),
    "Log2Backward0": ("_saved_self", lambda x: x <= 0, "log2 of a number that is not positive"),
    "Log10Backward0": ("_saved_self", lambda x: x <= 0, "log10 of a number that is not positive"),
    "Log1PBackward0": ("_saved_self", lambda x: x <= -1, "log1p of a number not above -1"),
    "DivBackward0": ("_saved_other", lambda x: x == 0, "division by zero"),
    "ReciprocalBackward0": ("_saved_result", lambda x: ~torch.isfinite(x), "division by zero"),
    "SqrtBackward0": (
        "_saved_result",
        lambda x: torch.isnan(x) | (x == 0),
        "square root at 0 or below",
    ),
    "RsqrtBackward0": ("_saved_result", lambda x: ~torch.isfinite(x), "1/sqrt of 0 or below"),
    "ExpBackward0": ("_saved_result", lambda x: torch.isinf(x), "exp of a number too large"),
    "AcosBackward0": ("_saved_self", lambda x: x.abs() >= 1, "acos at or beyond 1"),
    "AsinBackward0": ("_saved_self", lambda x: x.abs() >= 1, "asin at or beyond 1"),
    "PowBackward0": ("_saved_self", lambda x: x <= 0, "a power of a number that is not positive"),
    "LinalgVectorNormBackward0": ("_saved_result", lambda x: x == 0, "the norm of a zero vector"),
    "NllLossBackward0": ("_saved_total_weight", lambda x: x == 0, "a mean over no target at all"),
    "MeanBackward0": ("_saved_self_sym_numel", lambda x: x == 0, "a mean over nothing at all"),
}


def undefined_in_loss(loss: torch.Tensor, limit: int = 256) -> str | None:
    """What in the loss function, above the model, left its domain; None if nothing is seen.

    Reads the saved tensors of the autograd graph, so call it before backward frees them. Of several
    it names the one closest to the model.

    >>> p = torch.tensor([0.0, 0.5], requires_grad=True)
    >>> undefined_in_loss(-(p * 1.0).log().mean())
    'log of a number that is not positive'
    """
    seen, queue, found = set(), [loss.grad_fn], None
    while queue and len(seen) < limit:
        node = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().rpartition("::")[2]
        if name.startswith(("Addmm", "Mm", "Bmm", "Convolution", "AccumulateGrad", "Compiled")):
            continue
        if name in _DOMAINS and not _whole_power(node, name):
            attribute, outside, words = _DOMAINS[name]
            try:
                saved = getattr(node, attribute)
                if name.startswith("Nll") and getattr(node, "_saved_reduction", 1) != 1:
                    saved = None  # only a mean divides by the weight of its targets
                if saved is not None and bool(outside(torch.as_tensor(saved).detach()).any()):
                    found = words
            except (RuntimeError, AttributeError):
                pass
        queue += [n for n, _ in node.next_functions]
    return found


def half_in_loss(loss: torch.Tensor, limit: int = 256) -> bool:
    """Whether the loss function, above the model, computes in float16.

    >>> half_in_loss((torch.ones(3, requires_grad=True) * 2).half().sum().float())
    True
    """
    seen, queue = set(), [loss.grad_fn]
    while queue and len(seen) < limit:
        node = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().rpartition("::")[2]
        if name.startswith(("Addmm", "Convolution", "AccumulateGrad", "Compiled")):
            continue
        if any(m is not None and m.dtype is torch.float16 for m in node._input_metadata):
            return True
        queue += [n for n, _ in node.next_functions]
    return False


def _whole_power(node: Any, name: str) -> bool:
    """Whether a node raises to a power that every number has, gradient included."""
    exponent = getattr(node, "_saved_exponent", 0.5) if name.startswith("Pow") else 0.5
    return isinstance(exponent, (int, float)) and exponent >= 1 and float(exponent).is_integer()
