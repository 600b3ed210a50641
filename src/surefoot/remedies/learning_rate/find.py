"""The learning rate that a range test suggests, or the answer that none will work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from surefoot.probes.learning_rate import find_rate
from surefoot.remedies.learning_rate.scaled import scale_steps
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Find(Treatment):
    """Each group's rate times what brings the first one's to the suggestion."""

    name = "learning_rate.find"
    why = "a range test on copies has tried all rates on these batches"
    guarantee = (
        "at the suggested rate the loss of the tested batches falls; where it falls at none, it "
        "says so"
    )
    formula = "the rate of steepest descent over log(rate), a tenth of the highest stable at most"
    source = "Smith 2017 (range test), section 3.3; its failures: docs/prove.md"
    limits = (
        "where the gradients themselves are lost: no rate works, and it says so",
        "where the best rate changes during the run: use it with a schedule",
    )
    cost = "60 forward and backward passes on copies, once; some hundreds before it says no"
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 60}

    def apply(self, subject: Subject) -> None:
        """Test, and scale. Raises NotApplicable where no rate works, with what was seen."""
        if subject.loss is None:
            raise NotApplicable("it needs the loss as a function: use `surefoot prove` on a build")
        if not subject.models or not subject.optimizers:
            raise NotApplicable("it acts on the optimizer, and none is known")
        optimizer = subject.optimizers[0]
        test = find_rate(subject.models[0], optimizer, subject.loss, steps=self.parameters["steps"])
        if test.suggestion is None:
            raise NotApplicable(test.sentence.removesuffix("."))
        present = max(float(g["lr"]) for g in optimizer.param_groups)
        if present <= 0:
            raise NotApplicable("the optimizer's own rate is zero")
        factor = test.suggestion / present
        scale_steps(subject, lambda _: factor)

    def code(self) -> str:
        """Itself as code to paste."""
        return "surefoot.prove(build, remedies=['learning_rate.find'])   # says which rate"
