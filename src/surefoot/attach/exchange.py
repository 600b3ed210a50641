"""A small table from every rank to every rank, in a group that nobody but surefoot knows.

torch's own gloo group is made directly: it is in no list of groups, takes no number of theirs, and
no collective of the script's can meet one of ours in it. A rank that steps aside closes it, which
the others notice at once; one that is silent is waited for once.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed

from surefoot.attach.distributed import World

_LOG = logging.getLogger("surefoot")
_MEET = 5.0  # seconds for the others to come, once
_ANSWER = timedelta(seconds=10)  # for them to answer: their step may have taken longer
_LOOK = 0.02  # seconds between two looks into the store


class Exchange:
    """Between the ranks `members` of the world, which all call `gather` in the same order.

    broken: why it does not work any more, empty while it does. No method raises.
    """

    def __init__(self, world: World, members: tuple[int, ...], name: str) -> None:
        self.members = members
        self.own = members.index(world.rank)
        self.broken = ""
        self._world, self._calls = world, 0
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._group: Any = None
        try:
            self.broken = self._meet(name)
            world.release()
            if not self.broken:
                store = distributed.PrefixStore(f"{name}/group", world.store)
                make = distributed.ProcessGroupGloo
                self._group = make(store, self.own, len(members), timeout=_ANSWER)
        except Exception as error:
            self._break("no connection between the ranks could be made", error)

    def _meet(self, name: str) -> str:
        """Wait for the others to be about to do the same; why in vain, if so."""
        world = self._world
        world.say(f"{name}/here/{world.rank}", "")
        missing = set(self.members)
        end = time.monotonic() + _MEET
        while missing and not world.lost:
            missing -= {r for r in missing if world.heard([f"{name}/here/{r}"])}
            if (gone := self._aside()) is not None:
                return f"surefoot has stepped aside on rank {gone}"
            if missing and time.monotonic() > end:
                return f"nothing is heard of surefoot on rank {min(missing)}"
            time.sleep(_LOOK if missing else 0.0)
        return "the store of the processes does not answer" if missing else ""

    def _aside(self) -> int | None:
        """The first rank that has said that it takes no part any more."""
        return next((r for r in self.members if self._world.heard([f"aside/{r}"])), None)

    def gather(self, table: np.ndarray) -> np.ndarray | None:
        """The tables [R, N] of all members, from this one's [N] float64; None if broken.

        Waits until the others have called it too, 10 s at most, and that once.
        """
        if self._group is None:
            return None
        sent, received = self._buffers_for(len(table))
        sent[0], sent[1] = self._calls, len(table)
        sent[2:] = torch.from_numpy(table)
        self._calls += 1
        begin = time.monotonic()
        try:
            self._group.allgather([list(received)], [sent]).wait()
        except Exception as error:
            late = time.monotonic() - begin >= 0.9 * _ANSWER.total_seconds()
            gone = None if late else self._aside()
            words = "a rank did not answer" if late else "another rank has ended its watch"
            self._break(
                words if gone is None else f"surefoot has stepped aside on rank {gone}", error
            )
            return None
        if not torch.equal(received[:, :2], sent[:2].expand(len(received), 2)):
            self._break("the ranks are not at the same step")
            return None
        return received[:, 2:].numpy()

    def _buffers_for(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        if count not in self._buffers:
            size = count + 2, len(self.members)
            sent = torch.empty(size[0], dtype=torch.float64)
            self._buffers[count] = sent, torch.empty(size[1], size[0], dtype=torch.float64)
        return self._buffers[count]

    def _break(self, why: str, error: Exception | None = None) -> None:
        self.broken = why
        _LOG.debug("the exchange between ranks has ended", exc_info=error)
        self.close()

    def close(self) -> None:
        """Leave the group: the others are told by that."""
        self._group = None
        self._buffers.clear()
