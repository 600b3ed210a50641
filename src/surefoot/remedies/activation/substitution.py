"""What the substitutions share: which calls are replaced, and which layers are drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.remedies.initialization.drawn import fans, gain_of
from surefoot.remedies.interception import Interception, renamed
from surefoot.remedies.sites import argument, record, within
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import FUNCTIONS, Visit, trace
from surefoot.remedies.treatment import Treatment

# Everything elementwise that a model may call; hardsigmoid and relu6 are named by torch only.
ELEMENTWISE = frozenset(FUNCTIONS.values()) | {
    "selu",
    "relu6",
    "celu",
    "hardsigmoid",
    "logsigmoid",
    "prelu",
    "rrelu",
    "tanhshrink",
}


class Substitution(Treatment):
    """One elementwise function in the place of others, in the hidden layers.

    function: the new one, as `torch.nn.functional` names it; module: as a module; in_graph: what
    autograd calls it.
    """

    function: ClassVar[str]
    module: ClassVar[type[nn.Module]]
    in_graph: ClassVar[str]

    def apply(self, subject: Subject) -> None:
        """Replace the calls, then draw the weights of the layers they feed."""
        replaces = set(self.parameters["replaces"])
        unknown = replaces - ELEMENTWISE
        if unknown:
            known = ", ".join(sorted(ELEMENTWISE))
            raise ValueError(f"expected names of activations ({known}), got {sorted(unknown)}")
        replaces.discard(self.function)
        recorded = record(subject, replaces)
        new = getattr(torch.nn.functional, self.function)
        chosen = {
            site: new
            for site in within(subject, recorded.sites, self.target)
            if site.hidden and not site.gate and not _frozen(site.behind)
        }
        if not chosen:
            raise NotApplicable(self._nothing(bool(recorded.sites), replaces))
        again = self.parameters["reinitialise"]
        before = trace(subject) if again else []
        Interception(replaces, _instead).install(subject, recorded.sites, chosen)
        renamed(subject, chosen, self.module)
        if again:
            behind = {id(site.behind) for site in chosen}
            self._redraw(subject, before, replaces, behind)

    def _nothing(self, any_seen: bool, replaces: set[str]) -> str:
        what = " or ".join(sorted(replaces))
        where = f" in {self.target!r}" if self.target else ""
        if any_seen:
            return (
                f"what {what} there is{where} gates something, makes the output or follows a "
                "frozen layer"
            )
        return f"nothing{where} computes {what}"

    def _redraw(
        self, subject: Subject, before: list[Visit], replaces: set[str], behind: set[int]
    ) -> None:
        """Weights with the new function's gain where it feeds a layer now and did not before.

        The layers `behind` the function as well: what saturated it would kill or spare its units.
        """
        was = {id(v.module): v.fed_by for v in before}
        # autograd knows SELU as ELU
        known = {"elu" if name == "selu" else name for name in replaces}
        gains = {
            v.module: gain_of(self.function if new else v.fed_by)
            for v in trace(subject)
            if (new := v.fed_by == self.in_graph and was.get(id(v.module)) in known)
            or id(v.module) in behind
        }
        # a matrix that is an embedding's too has the embedding's scale
        modules = [m for _, m in subject.modules()]
        redrawn = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)}
        with subject.drawing(), torch.no_grad():
            for module, gain in gains.items():
                weight = module.weight
                assert isinstance(weight, nn.Parameter)
                if not weight.requires_grad or id(weight) in redrawn:
                    continue
                redrawn.add(id(weight))
                subject.keep(weight).normal_(std=gain / fans(module)[0] ** 0.5)
                bias = getattr(module, "bias", None)
                if isinstance(bias, nn.Parameter) and bias.requires_grad:
                    subject.keep(bias).zero_()


def _frozen(layer: nn.Module | None) -> bool:
    """Whether a layer is one that is not trained: what follows was made for it."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, nn.Parameter) and not weight.requires_grad


def _instead(
    new: Callable[..., torch.Tensor],
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """The new function of the same argument; in place where that was asked for."""
    x = argument(args, kwargs)
    if getattr(function, "__name__", "").endswith("_") or kwargs.get("inplace"):
        return x.copy_(new(x.clone()))
    return new(x)
