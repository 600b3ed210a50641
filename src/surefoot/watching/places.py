"""Where the parameters of a training stand in its layer table. Holds none of them alive."""

from __future__ import annotations

import weakref

import numpy as np
import torch

_REMEMBERED = 64  # optimizers, besides one for each parameter: inner loops make them without end


class Places:
    """The table's parameters [P] by identity. held: places of those an optimizer is to train."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.refs = [weakref.ref(t) for t in tensors]
        self.all = np.arange(len(tensors), dtype=np.intp)
        self.held: set[int] = set()
        self._handed: set[int] = set()
        self._where = {id(t): i for i, t in enumerate(tensors)}
        # For each optimizer where its parameters stand, and what tells when they have changed.
        self._orders: dict[int, tuple[np.ndarray, tuple[int, ...]]] = {}

    def place(self, tensor: torch.Tensor) -> int:
        """Where a parameter stands, -1 for a foreign one (ids are used again)."""
        i = self._where.get(id(tensor), -1)
        return i if i >= 0 and self.refs[i]() is tensor else -1

    def handed(self, parameters: list[torch.Tensor]) -> bool:
        """Note that an optimizer was made for these; whether one was for any of them before."""
        places = {i for p in parameters if (i := self.place(p)) >= 0}
        before = not places.isdisjoint(self._handed)
        self._handed |= places
        return before

    def live(self) -> list[torch.Tensor]:
        """Those that still exist."""
        return [t for ref in self.refs if (t := ref()) is not None]

    def trainable(self) -> dict[int, torch.Tensor]:
        """id -> parameter of those that still exist and may get a gradient."""
        return {id(t): t for t in self.live() if t.requires_grad}

    def order(self, key: int, parameters: list[torch.Tensor]) -> np.ndarray:
        """For each of an optimizer's parameters its place, -1 for a foreign one.

        It is `all` itself where they stand just as in the table.
        """
        places, known = self._orders.get(key, (self.all, None))
        ends = (id(parameters[0]), id(parameters[-1]), len(parameters)) if parameters else ()
        if known != ends:
            places = np.array([self.place(p) for p in parameters], np.intp)
            together = zip(places.tolist(), parameters, strict=True)
            # A frozen parameter may be held as well, and is not meant to move.
            self.held.update(i for i, p in together if i >= 0 and p.requires_grad)
            if np.array_equal(places, self.all):
                places = self.all
            if key not in self._orders and len(self._orders) >= _REMEMBERED + len(self.refs):
                del self._orders[next(iter(self._orders))]
            self._orders[key] = places, ends
        return places

    def unfed(self, present: np.ndarray) -> tuple[int, ...]:
        """Places that an optimizer holds of which not one ever had a gradient.

        present: steps with a gradient, for each of the table's parameters.
        """
        held = (places[places >= 0] for places, _ in self._orders.values())
        return tuple(i for own in held if len(own) and not present[own].any() for i in own.tolist())
