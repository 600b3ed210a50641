"""What a verdict lacks: why nothing, or not everything, could be seen, and what would settle it."""

from __future__ import annotations

from collections.abc import Sequence

from surefoot.watching.training import Training


def missing(trainings: Sequence[Training], error: str | None) -> list[str]:
    """Of the trainings of a session; error: why it has stepped aside, None if it has not."""
    if error is not None:
        return [f"surefoot stepped aside ({error}); please report this"]
    if not trainings:
        return [
            "no optimizer was made and backward was never called: nothing was trained here, or "
            "by gradients of torch.func or torch.autograd.grad, which leave no trace. Run the "
            "script that holds the training loop (surefoot run train.py), or hand such "
            "gradients to an optimizer of torch.optim"
        ]
    if all(t.step == 0 for t in trainings):
        return [
            "an optimizer was made but it never took a step: there is no gradient to judge. "
            "Let the training run for at least one step"
        ]
    return [
        "the model ran inside a compiled graph, where only its gradients are seen, and no step "
        f"could be made again outside of it: {words}. Compile the model itself "
        "(torch.compile(model) or model.compile()), or let it run uncompiled for a few steps"
        for words in {t.blind for t in trainings if t.blind}
    ]
