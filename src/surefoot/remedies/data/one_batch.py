"""A single batch, learned by heart: a test of the network, not a cure."""

from __future__ import annotations

from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class OneBatch(Treatment):
    """Advice: train on the same few samples until the loss is near zero."""

    name = "data.one_batch"
    why = "a sound network learns a few samples by heart, whatever their labels are"
    guarantee = "if it cannot, the fault is in network, loss or optimizer, and not in the data"
    source = "Zhang et al. 2017, arXiv 1611.03530 (networks fit random labels)"
    limits = ("it is a test: it mends nothing",)

    def apply(self, subject: Subject) -> None:
        """Refuse."""
        raise NotApplicable("it is a test for the program to make, which mends nothing by itself")

    def code(self) -> str:
        """Itself as code to paste."""
        return "for _ in range(500): ...   # the same batch; its loss must approach zero"
