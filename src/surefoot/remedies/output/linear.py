"""An output without a bound."""

from __future__ import annotations

from typing import ClassVar

from surefoot.remedies.activation.substitution import ELEMENTWISE
from surefoot.remedies.output.last import answered, at_output, untouched
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class LinearOutput(Treatment):
    """The activation at the output is left out."""

    name = "output.linear"
    why = "an activation at the output keeps it from the targets beyond its range"
    guarantee = "every target can be reached, and the gradient of the loss reaches the last layer "
    guarantee += "as it is"
    formula = "y = W x + b in place of phi(W x + b)"
    source = "Goodfellow, Bengio & Courville 2016, section 6.2.2"
    limits = (
        "where all targets lie well inside of the activation's range",
        "where the output has to be positive or bounded by its meaning",
    )
    conflicts: ClassVar = {"output": "the output can be of one kind only"}

    def apply(self, subject: Subject) -> None:
        """Leave it out, be it a module or a call."""
        sites, chosen = at_output(subject, ELEMENTWISE, self.target)
        if not chosen:
            raise NotApplicable("its output is not put through an activation")
        answered(subject, ELEMENTWISE, sites, chosen, untouched)

    def code(self) -> str:
        """Itself as code to paste."""
        return "return self.last(x)   # in place of torch.relu(self.last(x))"
