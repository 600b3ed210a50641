"""What data-dependent initialisations look at: scales at the outputs of layers, on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surefoot.probes.attributes import Refused
from surefoot.probes.statistics import float_tensors
from surefoot.remedies.initialization.drawn import Fed, matrix
from surefoot.remedies.subject import NotApplicable, Subject

_SMALLEST, _LARGEST = 1e-30, 1e30  # scales beyond which nothing can be rescaled by


@dataclass(slots=True)
class Scale:
    """A layer's output on the batch, over all of its calls.

    count: elements; mean, square: of them and of their squares; gradient: norm of the gradient
    there, of a random combination of the model's outputs.
    """

    count: int = 0
    mean: float = 0.0
    square: float = 0.0
    gradient: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation; 0 where the layer was not called."""
        return math.sqrt(max(self.square - self.mean**2, 0.0)) if self.count else 0.0

    @property
    def rms(self) -> float:
        """The root mean square."""
        return math.sqrt(self.square)

    def see(self, y: torch.Tensor) -> None:
        """Take one more call's output in."""
        values = y.detach().double()
        total = self.count + values.numel()
        share = values.numel() / max(total, 1)
        self.mean += share * (float(values.mean()) - self.mean)
        self.square += share * (float(values.square().mean()) - self.square)
        self.count = total


@dataclass(frozen=True, slots=True)
class Shared:
    """A weight and the layers that it belongs to: more than one where weights are tied."""

    name: str
    modules: tuple[nn.Module, ...]

    def rescale(self, factor: float) -> None:
        """Multiply the weight; `Subject.keep` has to know it already."""
        with torch.no_grad():
            matrix(self.modules[0]).mul_(factor)


def by_weight(layers: Sequence[Fed]) -> list[Shared]:
    """The layers, those with one weight together, in the order in which they come first."""
    groups: dict[int, list[Fed]] = {}
    for fed in layers:
        groups.setdefault(id(matrix(fed[1])), []).append(fed)
    return [Shared(g[0][0], tuple(module for _, module, _ in g)) for g in groups.values()]


def scales(subject: Subject, layers: Sequence[Shared], backward: bool = False) -> list[Scale]:
    """The scales at the outputs of these layers, in one call of the model as it is now.

    backward: measure the gradients as well. The random numbers are the same at each call, so that
    dropout drops the same.

    Raises NotApplicable where the model cannot be called, or no gradient comes back.
    """
    found = [Scale() for _ in layers]
    marks: list[tuple[int, torch.Tensor]] = []

    def watch(index: int) -> Callable[..., Any]:
        def note(module: nn.Module, args: Any, output: Any) -> Any:
            y = next(float_tensors(output), None)
            # What checkpointing calls once more during backward was seen.
            if y is None or not y.numel() or torch._C._current_graph_task_id() != -1:
                return None
            found[index].see(y)
            if not backward or y is not output:
                return None
            # A zero that is added has the output's gradient, even where the script writes on it.
            marks.append((index, torch.zeros_like(y, requires_grad=True)))
            return y + marks[-1][1]

        return note

    hooks = {id(m): watch(i) for i, shared in enumerate(layers) for m in shared.modules}
    with calling(subject, hooks) as again:
        output = again()
        if backward:
            for index, norm in _gradients(output, marks):
                found[index].gradient = math.hypot(found[index].gradient, norm)
    return found


@contextmanager
def calling(
    subject: Subject, hooks: Mapping[int, Callable[..., Any]]
) -> Iterator[Callable[[], Any]]:
    """A function that calls the model on copies, with forward hooks on some of its modules.

    hooks: id(module) -> forward hook. Failures of the model come out as NotApplicable.
    """
    handles: list[Any] = []
    try:
        with subject.trying() as again, torch.enable_grad():
            try:
                # Hooks of ours have to be there inside, where those of the script are muted.
                found = {id(m): m for root in subject.models for m in root.modules()}
                for key, hook in hooks.items():
                    handles.append(found[key].register_forward_hook(hook))
                yield again
            finally:
                for handle in handles:
                    handle.remove()
    except NotApplicable:
        raise
    except Refused as error:
        raise NotApplicable(str(error)) from error
    except Exception as error:
        raise NotApplicable(f"the model refused to be called again ({error})") from error


def _gradients(output: Any, marks: Sequence[tuple[int, torch.Tensor]]) -> list[tuple[int, float]]:
    """(layer, norm of the gradient) for each call, of a random combination of the outputs."""
    ends = [y for y in float_tensors(output) if y.requires_grad]
    if not ends or not marks:
        raise NotApplicable("no gradient comes back from what the model returns")
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in ends]
    inputs = [mark for _, mark in marks]
    found = torch.autograd.grad(ends, inputs, along, allow_unused=True)
    pairs = zip(marks, found, strict=True)
    return [(i, float(g.double().norm())) for (i, _), g in pairs if g is not None]


def usable(scale: float) -> bool:
    """Whether a measured scale can be divided by."""
    return _SMALLEST < scale < _LARGEST


def level(
    subject: Subject, layers: Sequence[Shared], measure: str, tolerance: float, tries: int
) -> None:
    """Scale weights, in execution order, until the square of each layer's `measure` is one.

    measure: an attribute of Scale. One sweep is enough where each layer is called once; from the
    first layer on which it has not settled, the layers are taken one by one. A layer whose output
    is zero on this batch stays. Raises NotApplicable where one is not finite.
    """

    def missing(shared: Shared, scale: Scale) -> float | None:
        now = float(getattr(scale, measure))
        if not math.isfinite(now):
            raise NotApplicable(f"the output of {shared.name} is not finite on this batch")
        return None if not usable(now) or abs(now**2 - 1) <= tolerance else 1 / now

    _sweep(subject, layers, measure)
    found = scales(subject, layers)
    settled = [missing(*pair) is None for pair in zip(layers, found, strict=True)]
    for shared in layers[settled.index(False) :] if False in settled else ():
        for _ in range(tries):
            factor = missing(shared, scales(subject, [shared])[0])
            if factor is None:
                break
            shared.rescale(factor)


def _sweep(subject: Subject, layers: Sequence[Shared], measure: str) -> None:
    """Scale all layers in one call of the model: each output is scaled as its weight will be."""
    factors: dict[int, float] = {}

    def watch(index: int) -> Callable[..., Any]:
        def scaled(module: nn.Module, args: Any, output: Any) -> Any:
            bias = getattr(module, "bias", None)
            if not isinstance(output, torch.Tensor) or not output.numel():
                return None
            if isinstance(bias, torch.Tensor) and bool(bias.any()):
                return None  # a frozen one, which is not scaled along
            if index not in factors:
                scale = Scale()
                scale.see(output)
                now = float(getattr(scale, measure))
                factors[index] = 1 / now if usable(now) else 1.0
            return output * factors[index]

        return scaled

    hooks = {id(m): watch(i) for i, shared in enumerate(layers) for m in shared.modules}
    with calling(subject, hooks) as again:
        again()
    for index, factor in factors.items():
        layers[index].rescale(factor)
