"""Log-probabilities as the output."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch

from surefoot.layers import unwrap
from surefoot.remedies.output.last import PROBABILITIES, answered, at_output, outermost
from surefoot.remedies.sites import Site, argument
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class LogSoftmax(Treatment):
    """The output is put through a log-softmax, of the raw scores in either case."""

    name = "output.log_softmax"
    why = "the loss (NLLLoss) takes log-probabilities, whose gradient is probability minus target"
    guarantee = "exp(output) sums to 1 over the classes; no logarithm of zero is taken"
    formula = "z - log sum exp z, over the classes"
    source = "Goodfellow, Bengio & Courville 2016, section 6.2.2.3"
    limits = (
        "where the loss is CrossEntropyLoss, which takes raw scores",
        "where the script takes the output for raw scores elsewhere",
    )
    cost = "one log-softmax of the output"
    defaults: ClassVar = {"dim": 1}
    conflicts: ClassVar = {"output": "the output can be of one kind only"}

    def apply(self, subject: Subject) -> None:
        """Replace a softmax at the output, or put one there."""
        sites, chosen = at_output(subject, PROBABILITIES, self.target)
        chosen = outermost(chosen)
        kinds = {s.function for s in chosen}
        if "log_softmax" in kinds:
            raise NotApplicable("its output is a log-softmax already")
        if kinds & {"sigmoid", "logsigmoid", "softmin"}:
            raise NotApplicable("its output is a sigmoid, of which no log-softmax is meant")
        if chosen:
            answered(subject, PROBABILITIES, sites, chosen, _logarithm)
        else:
            self._put_through(subject)

    def _put_through(self, subject: Subject) -> None:
        dim = int(self.parameters["dim"])
        with subject.trying() as again, torch.no_grad():
            output = again()
        if not isinstance(output, torch.Tensor) or not -output.dim() <= dim < output.dim():
            raise NotApplicable(f"its output is not a tensor with a dimension {dim}")
        assert subject.call is not None
        subject.wrap(unwrap(subject.call.module), partial(_through, dim))

    def code(self) -> str:
        """Itself as code to paste."""
        return f"return torch.log_softmax(logits, dim={self.parameters['dim']})"


def _logarithm(planned: Site, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The log-softmax of what a softmax was to be computed of, over the same dimension."""
    x = argument(args, kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    dtype = next((a for a in args if isinstance(a, torch.dtype)), kwargs.get("dtype"))
    return torch.nn.functional.log_softmax(x, dim, dtype=dtype)


def _through(dim: int, inner: Any, *args: Any, **kwargs: Any) -> Any:
    return torch.nn.functional.log_softmax(inner(*args, **kwargs), dim)
