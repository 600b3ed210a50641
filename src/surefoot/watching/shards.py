"""Parameters that lie in pieces on several ranks: the statistics of the whole, on each of them.

Each rank measures its own piece. One small table then goes from all to all, and what belongs
together is put together: five numbers of each piece and its size are all that it takes, whatever
the size of the parameters. A rank's own numbers never stand for the whole without a word.
"""

from __future__ import annotations

import hashlib
import logging
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.attach.distributed import alone, placement, world
from surefoot.attach.exchange import Exchange
from surefoot.attach.shards import Layout, layout, layouts
from surefoot.kernels import ZEROS, Pass, make_pass
from surefoot.kernels.pieces import is_distributed, piece
from surefoot.watching.fold import fold, fold_samples
from surefoot.watching.ledger import Ledger
from surefoot.watching.updates import Updates

_LOG = logging.getLogger("surefoot")
_LOCAL = (
    "surefoot cannot put the pieces of sharded parameters together (%s): from here on their "
    "numbers are those of this process's own pieces"
)
_SUMMANDS = 1 << 18  # elements in all, of gradients that are sums of pieces and not made of parts
_SAMPLED = {"update_ratio", "unmoved", "weight", "second_moment"}
_PLANS = 64  # optimizers that take turns; of more each plan is made anew
_NUMEL = ZEROS + 1


class Shards:
    """The distributed ones among the tensors of one training, of which it keeps none.

    key: what tells the training from others of the same processes; unknown: places of parameters
    with a gradient in the step under way of which the whole cannot be told; problem: why the
    numbers are no longer those of the whole, empty as long as they are.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        layouts: dict[int, Layout],
        members: tuple[int, ...],
    ) -> None:
        self.key = ""
        self.unknown: frozenset[int] = frozenset()
        self._members, self._layouts = members, layouts
        # Ranks that do not hold pieces of the same tensors must never meet.
        whole = [(i, is_distributed(tensors[i]) and tuple(tensors[i].shape)) for i in layouts]
        self._name = hashlib.sha256(repr((members, whole)).encode()).hexdigest()[:16]
        self._sizes = {i: piece(tensors[i]).numel() for i in layouts}
        self._cut = [i for i, one in layouts.items() if not one.whole]
        self._exchange: Exchange | None = None
        self.problem = ""
        self._plans: dict[int, _Plan] = {}  # by the order of an optimizer's parameters
        self._sampled = False  # the step under way, on all ranks
        self._noted = False

    @staticmethod
    def among(tensors: Sequence[torch.Tensor], modules: Sequence[nn.Module]) -> Shards | None:
        """None without any: the usual training asks no more than that."""
        found, ranks = layouts(tensors, modules)
        return Shards(tensors, found, ranks) if found else None

    # -- gradients, at every step ---------------------------------------------------------------

    def read(
        self,
        measure: Pass,
        gradients: Sequence[torch.Tensor | None],
        inputs: Sequence[torch.Tensor],
        order: np.ndarray,
        out: np.ndarray,
        wish: bool,
    ) -> bool:
        """Fill `out` [T + K, 5] as a pass would, but with the wholes of which these are pieces.

        wish: whether this rank would sample the weights in this step. Returns whether all of them
        do: as the first of them wishes.
        """
        specs = [getattr(g, "_spec", None) for g in gradients]
        plan = self._plans.get(id(order))
        if plan is None or not plan.fits(specs, order):
            plan = _Plan(gradients, specs, order, self._layouts, self._members)
            self._plans = {**self._plans, id(order): plan} if len(self._plans) < _PLANS else {}
        now: list[Any] = [
            g if s is None else piece(g) for g, s in zip(gradients, specs, strict=True)
        ]
        measure([*now, *inputs], out)
        out[plan.lost] = np.nan
        self.unknown |= plan.lost_places
        return self._put_together(plan, now, out[: len(now)], wish)

    def _put_together(self, plan: _Plan, now: list[Any], rows: np.ndarray, wish: bool) -> bool:
        if not (self._cut or plan.summands):
            return wish
        parts = rows[plan.cut]
        sizes = [float("nan") if now[i] is None else now[i].numel() for i in plan.cut]
        summands = [_flat(now[i], n) for i, n in plan.summands]
        table = np.concatenate([[wish], np.column_stack([parts, sizes]).ravel(), *summands])
        told = self._gather(table)
        if told is None:
            return wish
        end = 1 + parts.shape[0] * (_NUMEL + 1)
        pieces = told[:, 1:end].reshape(len(told), -1, _NUMEL + 1)
        rows[plan.cut] = fold(pieces, plan.mine)
        self._add_up(plan, told[:, end:], rows)
        sampled = bool(told[0, 0])
        self._sampled = self._sampled or sampled
        return sampled

    def _add_up(self, plan: _Plan, told: np.ndarray, rows: np.ndarray) -> None:
        """Gradients of which each rank holds a summand: the sum itself is measured."""
        if not plan.summands:
            return
        sums, begin = [], 0
        for (_, count), (ranks, divisor) in zip(plan.summands, plan.sums, strict=True):
            total = told[ranks, begin : begin + count].sum(0) / divisor
            sums.append(torch.from_numpy(total))
            begin += count
        out = np.empty((len(sums), rows.shape[1]))
        make_pass(len(sums))(sums, out)
        rows[[i for i, _ in plan.summands]] = out

    # -- at the end of a step -------------------------------------------------------------------

    def close(self, step: int, updates: Updates, present: np.ndarray, ledger: Ledger) -> None:
        """Make what was sampled of the pieces that of the parameters; all ranks call it.

        present [P]: steps in which each parameter had a gradient, those that are unknown too.
        """
        present[list(self.unknown)] += 1
        self.unknown = frozenset()
        due, self._sampled = self._sampled, False
        if due and self._cut:
            self._samples(updates.rows, updates.used)
        for name in updates.rows.keys() - _SAMPLED:
            updates.rows[name][self._cut] = np.nan  # of a piece alone it says nothing
        if self.problem and not self._noted:
            self._noted = True
            ledger.remark(step, "ranks", {"problem": _LOCAL % self.problem})

    def _samples(self, rows: dict[str, np.ndarray], used: np.ndarray) -> None:
        """Ratios, sizes and shares: of each quantity the row [P + 1, k]."""
        count = len(used)
        ratio, unmoved, weight, moment = (
            rows.get(name, np.full((count, k), np.nan)).reshape(count, k)[self._cut]
            for name, k in (
                ("update_ratio", 1),
                ("unmoved", 1),
                ("weight", 1),
                ("second_moment", 2),
            )
        )
        sizes = np.array([self._sizes[i] for i in self._cut], float)
        columns = [ratio, unmoved, weight, moment, used[self._cut], sizes]
        told = self._gather(np.column_stack(columns).ravel())
        if told is None:
            return
        mine = _own_parts([self._layouts[i] for i in self._cut], self._members)
        ratio, unmoved, weight, moment = fold_samples(told.reshape(len(told), -1, 7), mine)
        for name, values in (
            ("update_ratio", ratio),
            ("unmoved", unmoved),
            ("weight", weight),
            ("second_moment", moment),
        ):
            if name in rows:
                rows[name].reshape(count, -1)[self._cut] = values.reshape(len(self._cut), -1)

    # -- the others -----------------------------------------------------------------------------

    def _gather(self, table: np.ndarray) -> np.ndarray | None:
        if self._exchange is None and not self.problem:
            here = None if alone() else world(self.key)
            if here is not None and here.rank in self._members:
                self._exchange = Exchange(here, self._members, self._name)
        found = self._exchange.gather(table) if self._exchange is not None else None
        if found is None and not self.problem:
            self.problem = self._exchange.broken if self._exchange else "the ranks share no store"
            first = placement()[0] == 0  # what the others measure is not recorded
            _LOG.log(logging.WARNING if first else logging.DEBUG, _LOCAL, self.problem)
        return found

    def leave(self, aside: bool) -> None:
        """End the exchange, so that nobody waits for this rank; aside: without a training's end."""
        if aside and not alone() and (here := world(self.key)) is not None:
            here.say(f"aside/{here.rank}", "")
        if self._exchange is not None:
            self._exchange.close()


class _Plan:
    """Who holds what of one optimizer's gradients; made anew only where that has changed.

    cut: rows of those that lie in parts; mine [R, len(cut)]: whether a rank's piece is a part of
    the whole as this rank knows it; summands: (row, elements) of those that are sums; lost: rows of
    which nothing can be said.
    """

    def __init__(
        self,
        gradients: Sequence[torch.Tensor | None],
        specs: list[Any],
        order: np.ndarray,
        known: dict[int, Layout],
        members: tuple[int, ...],
    ) -> None:
        self._specs, self._order = specs, order
        places = order.tolist()
        layouts = [
            known.get(place) if spec is None else layout(g)
            for g, spec, place in zip(gradients, specs, places, strict=True)
        ]
        in_parts = [i for i, x in enumerate(layouts) if x and not x.divisor and not x.whole]
        self.lost = [i for i, x in enumerate(layouts) if x and not x.known]
        self.cut = [i for i in in_parts if layouts[i].known and places[i] >= 0]  # type: ignore[union-attr]
        self.mine = _own_parts([layouts[i] for i in self.cut], members)  # type: ignore[misc]
        self.summands: list[tuple[int, int]] = []
        self.sums: list[tuple[list[int], int]] = []
        left = _SUMMANDS
        for i, x in enumerate(layouts):
            if x is None or not x.divisor or not x.known:
                continue
            count = gradients[i].numel()  # type: ignore[union-attr]
            left -= count
            if left < 0:
                self.lost.append(i)
                continue
            self.summands.append((i, count))
            self.sums.append(([members.index(r) for r in x.ranks], x.divisor))
        self.lost_places = frozenset(places[i] for i in self.lost if places[i] >= 0)

    def fits(self, specs: list[Any], order: np.ndarray) -> bool:
        """Whether it is still that of these gradients: torch makes their descriptions once."""
        same = order is self._order and len(specs) == len(self._specs)
        return same and all(map(operator.is_, specs, self._specs))


def _own_parts(layouts: Sequence[Layout], members: tuple[int, ...]) -> np.ndarray:
    """[R, T]: whether the piece of a rank is a part of the tensor as this rank knows it."""
    mine = np.zeros((len(members), len(layouts)), bool)
    for i, one in enumerate(layouts):
        mine[[members.index(r) for r in one.ranks], i] = True
    return mine


def _flat(tensor: torch.Tensor, count: int) -> np.ndarray:
    return tensor.detach().reshape(count).double().cpu().numpy()
