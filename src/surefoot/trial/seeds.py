"""What makes two arms of a trial a pair: the same random numbers."""

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
    undo = [
        _patched(torch, "manual_seed", lambda x: int(x) + seed),
        _patched(torch.random, "manual_seed", lambda x: int(x) + seed),
        _patched(random, "seed", lambda x: x + seed if isinstance(x, int) else x),
        _patched(np.random, "seed", lambda x: (int(x) + seed) % _MODULO if _whole(x) else x),
    ]

    def put_back() -> None:
        while undo:
            undo.pop()()

    return put_back


def _whole(x: Any) -> bool:
    return isinstance(x, (int, np.integer))


def _patched(owner: Any, name: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Change the first argument of a function, however it is given; returns how to undo that."""
    original = getattr(owner, name)

    def seed(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (change(args[0]), *args[1:])
        else:
            known = ("seed", "a")  # what torch, numpy and random call it
            kwargs = {k: change(v) if k in known else v for k, v in kwargs.items()}
        return original(*args, **kwargs)

    setattr(owner, name, seed)
    return lambda: setattr(owner, name, original)
