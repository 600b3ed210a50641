"""What helps: one remedy a file, and the registry that knows them all by name."""

from __future__ import annotations

from surefoot.findings import Remedy
from surefoot.remedies.initialization.kaiming import KaimingNormal
from surefoot.remedies.subject import FirstCall as FirstCall
from surefoot.remedies.subject import NotApplicable as NotApplicable
from surefoot.remedies.subject import Subject as Subject
from surefoot.remedies.treatment import Treatment as Treatment

TREATMENTS: dict[str, type[Treatment]] = {
    kind.name: kind
    for kind in (
        KaimingNormal,
    )
}


def treatment(remedy: Remedy) -> Treatment:
    """The definition of a prescribed remedy, aimed as prescribed.

    Raises ValueError for a name that is not in the book.
    """
    kind = TREATMENTS.get(remedy.remedy)
    if kind is None:
        known = ", ".join(sorted(TREATMENTS))
        raise ValueError(f"expected the name of a remedy, got {remedy.remedy!r}; known are {known}")
    return kind(remedy.target, **remedy.parameters)
