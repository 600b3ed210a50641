"""The other processes of a training, as seen from one of them.

Nothing of surefoot's goes through the script's process groups, and no group is made that torch
counts: where one process is watched and another is not, or one has stepped aside, they would wait
for each other for ever. What processes have to tell each other goes into the store in which their
groups were arranged, under names of its own: written without waiting for anyone, and read only once
it is known to be there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from surefoot.launch import announced

_LOG = logging.getLogger("surefoot")
_PATIENCE = timedelta(seconds=5)  # with a store that does not answer


def alone() -> bool:
    """Whether this process trains by itself."""
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_world_size() < 2
    )


def placement() -> tuple[int, int]:
    """(rank, size) of the world that this process trains in, or is about to; (0, 1) alone.

    Before torch.distributed is initialised it is what torchrun has left in the environment.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return announced()


class World:
    """All processes of the default group. rank: this one's, of `size`; names begin with `prefix`.

    No method raises, and none waits for another process.
    """

    def __init__(self, rank: int, size: int, store: Any, prefix: str) -> None:
        self.rank, self.size = rank, size
        # A connection of its own: another thread may be waiting for a value on the script's.
        self.store = distributed.PrefixStore(f"surefoot/{prefix}", _own(store))
        # The process that serves the store ends it with the last reference.
        self._served: Any = store
        self._lost = False

    def say(self, name: str, text: str) -> None:
        """Leave a text for whoever asks for it."""
        self._try(self.store.set, name, text)

    def heard(self, names: Iterable[str]) -> dict[str, str]:
        """What has been said under these names so far."""
        found = {}
        for name in names:
            if self._try(self.store.check, [name]):
                text = self._try(self.store.get, name)
                if text is not None:
                    found[name] = text.decode(errors="replace")
        return found

    def release(self) -> None:
        """Let the script end the store when it likes: what is said after that may be lost."""
        self._served = None

    @property
    def lost(self) -> bool:
        """Whether the store has gone."""
        return self._lost

    def _try(self, ask: Any, *arguments: Any) -> Any:
        if self._lost:
            return None
        try:
            return ask(*arguments)
        except Exception:  # the process that serves it has ended, or the network has
            self._lost = True
            _LOG.debug("the store of the processes does not answer", exc_info=True)
            return None


def _own(store: Any) -> Any:
    """Another connection to the same store, or the store itself where torch cannot make one."""
    try:
        made = store.clone()
        made.set_timeout(_PATIENCE)
    except (AttributeError, RuntimeError, NotImplementedError):
        return store
    return made


def world(prefix: str) -> World | None:
    """The world of this process, None if it trains by itself or its world keeps no store."""
    if alone():
        return None
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return World(distributed.get_rank(), distributed.get_world_size(), store, prefix)
    except Exception:
        _LOG.debug("no store is shared with the other processes", exc_info=True)
        return None
