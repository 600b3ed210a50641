"""Raw scores as the output."""

from __future__ import annotations

from typing import ClassVar

from surefoot.remedies.output.last import PROBABILITIES, answered, at_output, untouched
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Logits(Treatment):
    """The softmax, log-softmax or sigmoid at the output is left out."""

    name = "output.logits"
    why = "the loss puts the output through a softmax or sigmoid itself, and once is enough"
    guarantee = "the output is what the last layer computes, so that the gradient of the loss "
    guarantee += "reaches it as probability minus target"
    formula = "d CE(z) / d z = softmax(z) - y; a second softmax multiplies by a norm of at most 1/2"
    source = "Goodfellow, Bengio & Courville 2016, section 6.2.2"
    limits = (
        "where the loss takes probabilities (BCELoss, NLLLoss): use the loss with logits there",
        "where the script takes the output for probabilities elsewhere",
    )
    conflicts: ClassVar = {"output": "the output can be of one kind only"}

    def apply(self, subject: Subject) -> None:
        """Leave it out, be it a module or a call."""
        sites, chosen = at_output(subject, PROBABILITIES, self.target)
        if not chosen:
            raise NotApplicable("its output is no softmax or sigmoid")
        answered(subject, PROBABILITIES, sites, chosen, untouched)

    def code(self) -> str:
        """Itself as code to paste."""
        return "return logits   # in place of torch.softmax(logits, dim=1)"
