"""An optimizer that holds all that the model is to learn."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class Rebuild(Treatment):
    """The trainable parameters that the optimizer lacks, put into it."""

    name = "optimizer.rebuild"
    why = "only what an optimizer holds can learn"
    guarantee = "every parameter of the model that wants a gradient is trained"
    source = "torch.optim"
    limits = (
        "where parameters are left out on purpose and are not frozen",
        "where parameters have no gradient because nothing connects them to the loss",
    )

    def apply(self, subject: Subject) -> None:
        """Put them into the last group; what the optimizer holds of other models stays.

        In a run that is watched also those that the first loss depends on and no module owns, as
        of modules in a plain list. Raises NotApplicable where none is lacking.
        """
        if not subject.optimizers:
            raise NotApplicable("it acts on the optimizer, and none is known")
        owned = [p for model in subject.models for p in model.parameters()]
        if not _train(subject, owned) and not subject.live:
            raise NotApplicable("the optimizer holds all parameters of the model already")
        if subject.live:
            subject.at_loss(lambda leaves: _train(subject, leaves))
            subject.before_step(lambda _: _train(subject, _with_gradient(subject)))

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "optimizer = torch.optim.AdamW(model.parameters(), lr=lr)"
            "   # once the model is complete"
        )


def _with_gradient(subject: Subject) -> list[nn.Parameter]:
    """Parameters that have come since and have a gradient, as of a layer that was replaced."""
    return [p for m in subject.models for p in m.parameters() if p.grad is not None]


def _train(subject: Subject, parameters: Iterable[nn.Parameter]) -> bool:
    """Put those into the optimizer that it lacks; whether there were any."""
    held = {id(p) for o in subject.optimizers for g in o.param_groups for p in g["params"]}
    lacking = {id(p): p for p in parameters if p.requires_grad and id(p) not in held}
    for parameter in lacking.values():
        subject.train(parameter)
    return bool(lacking)
