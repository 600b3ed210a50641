"""Which cases of a long list the suite runs, and which are left to the zoo."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_zoo(cases: Iterable[Any], *suite: Any) -> list[Any]:
    """All cases, of which the suite runs those named; `./dev zoo` runs the others as well.

    A case that is a function may be named by its `__name__`.
    """
    cases = list(cases)
    known = {getattr(case, "__name__", case) for case in cases}
    assert set(suite) <= known, f"expected some of {known}, got {suite}"
    return [
        case
        if getattr(case, "__name__", case) in suite
        else pytest.param(case, marks=pytest.mark.zoo)
        for case in cases
    ]
