"""What the normalisations share: the layers behind which one is placed."""

from __future__ import annotations

from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.remedies.activation.substitution import ELEMENTWISE
from surefoot.remedies.sites import record
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import NAMES, trace


def before_activations(subject: Subject, target: str | None) -> list[tuple[str, nn.Module]]:
    """The affine layers that a target names whose output goes into an activation, not normalised.

    By the first call, where one is known, else by the order of the modules. What makes the output
    or a gate is left alone. Raises NotApplicable where none is left.
    """
    layers = subject.weighted(target)
    plain, normalised = _traced(subject) if subject.call is not None else _in_order(subject)
    found = [(name, m) for name, m in layers if id(m) in plain and trained(m)]
    if not found and any(id(m) in normalised for _, m in layers):
        raise NotApplicable("what goes into its activations is normalised already")
    if not found and subject.call is not None and not normalised:
        found = _hidden(subject, target)  # an activation that has no name, as x**3
    if not found:
        raise NotApplicable("no affine layer there is followed by an activation")
    return found


def _hidden(subject: Subject, target: str | None) -> list[tuple[str, nn.Module]]:
    """All trained affine layers that a target names but the last one that is reached."""
    order = [v.module for v in trace(subject)]
    named = {id(m): name for name, m in subject.weighted(target)}
    return [(named[id(m)], m) for m in order[:-1] if id(m) in named and trained(m)]


def _traced(subject: Subject) -> tuple[set[int], set[int]]:
    """Identities of the layers (not normalised, normalised) before a hidden activation."""
    sites = record(subject, ELEMENTWISE).sites
    left_alone = {id(s.behind) for s in sites if s.gate or not s.hidden}
    normalised = {id(s.behind) for s in sites if s.normalised}
    behind = {id(s.behind) for s in sites if s.behind is not None}
    return behind - normalised - left_alone, normalised


def _in_order(subject: Subject) -> tuple[set[int], set[int]]:
    """The same by the order of the modules; the last affine layer makes the output."""
    plain: set[int] = set()
    normalised: set[int] = set()
    layer, seen, last = None, False, None
    for _, module in subject.modules():
        if kind_of(module).weighted:
            layer = last = module
            seen = False
        elif kind_of(module) is Kind.NORMALIZATION:
            seen = True
        elif type(module).__name__ in NAMES and layer is not None:
            (normalised if seen else plain).add(id(layer))
            layer = None
    return plain - {id(last)}, normalised


def trained(module: nn.Module) -> bool:
    """Whether any parameter of a module is: one that is frozen was made for what follows it."""
    return any(p.requires_grad for p in module.parameters())


def spatial(module: nn.Module) -> bool:
    """Whether the features of an affine layer's output are along dimension 1."""
    return kind_of(module) is Kind.CONVOLUTION
