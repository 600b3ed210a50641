"""What makes two arms of a trial a pair: the same random numbers, and nothing left on the disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_MODULO = 2**32  # numpy takes no larger seed


def moved(seed: int) -> Callable[[], None]:
    """Seed every global source of random numbers, and move seeds that the program sets by `seed`.

    Returns how to undo the second. A generator of the program's own keeps its seed: the order of
    its data is then the same for all seeds.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if seed == 0:
        return lambda: None
    return _patched(
        (torch, "manual_seed", lambda x: int(x) + seed),
        (torch.random, "manual_seed", lambda x: int(x) + seed),
        (random, "seed", lambda x: x + seed if isinstance(x, int) else x),
        (np.random, "seed", lambda x: (x + seed) % _MODULO if isinstance(x, int) else x),
    )


def silenced() -> Callable[[], None]:
    """Have `torch.save` write nothing: a trial must not replace the checkpoints of the run."""
    return _replaced(torch, "save", lambda *args, **kwargs: None)


def _patched(*places: tuple[Any, str, Callable[[Any], Any]]) -> Callable[[], None]:
    undo = []
    for owner, name, change in places:
        original = getattr(owner, name)

        def seed(x: Any = None, *more: Any, _was: Any = original, _change: Any = change) -> Any:
            return _was(_change(x), *more)

        undo.append(_replaced(owner, name, seed))
    return lambda: [put_back() for put_back in reversed(undo)] and None


def _replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, original)
