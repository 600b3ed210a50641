"""Which samples of a batch make its gradient: by halves, on the graph of one forward pass.

The gradient is linear in what comes back to the model's outputs, so a sample's part is had by
setting that to nought for all the others. The forward pass is the batch's own: where batch
normalisation couples the samples, a sample's part is that of its own loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from surefoot.probes.entry import Entry
from surefoot.probes.pytrees import tensors_in_call
from surefoot.probes.trial import Batch, Bench, Refused, norm
from surefoot.signals.forensics import Inquiry

_MOST = 4  # samples named at most
_EXPLAINED = 0.05  # of the energy may be left when no more are looked for
_SEARCH = 24  # backward passes, at most: enough for three samples of 128
_SCALE = 5.0  # times the median scale of the batch's samples
_COUPLING = (nn.modules.batchnorm._BatchNorm,)

Gradients = dict[int, torch.Tensor]
Part = Callable[[torch.Tensor], Gradients]


def blame(bench: Bench, batch: Batch, inquiry: Inquiry) -> None:
    """Fill in `batch`, `samples`, `share` and `coupled`, or raise Refused.

    One forward pass, and about log2(B) + 1 backward passes for each sample that is named.
    """
    part, count = _parts(bench, batch)
    inquiry.batch = count
    inquiry.coupled = any(isinstance(m, _COUPLING) and m.training for m in bench.modules)
    if count < 2:
        return
    left = torch.ones(count, dtype=torch.bool)
    whole = rest = part(left)
    found: list[int] = []
    each, end = count.bit_length() + 1, bench.passes + _SEARCH
    while len(found) < _MOST and int(left.sum()) > 1 and bench.passes + each <= end:
        index = _largest(part, left, rest)
        left[index] = False
        without = part(left)
        if norm(without) > 0.7 * norm(rest):  # it was one among many
            break
        found.append(index)
        rest = without
        if norm(rest) ** 2 < _EXPLAINED * norm(whole) ** 2:
            break
    if found:
        own = norm({k: whole[k] - rest[k] for k in whole}) ** 2
        inquiry.samples = sorted(found)
        inquiry.share = own / max(own + norm(rest) ** 2, 1e-300)


def outliers(batch: Batch, inquiry: Inquiry) -> None:
    """Fill in the samples whose input is not finite or stands out in scale from its batch."""
    scales = []
    for entry in batch.entries:
        x = next(
            (t for t in tensors_in_call(entry.args, entry.kwargs) if t.is_floating_point()), None
        )
        if x is None or x.dim() < 2 or x.is_sparse or x.shape[0] < 2:
            return
        scales.append(torch.linalg.vector_norm(x.detach().flatten(1), dim=1, dtype=torch.float64))
    if not scales:
        return
    scale = torch.cat(scales)
    usual = float(scale.nanmedian())
    odd = ~(scale <= _SCALE * usual) if usual > 0 else ~torch.isfinite(scale)
    inquiry.batch = inquiry.batch or len(scale)
    if 0 < int(odd.sum()) <= len(scale) // 2:
        inquiry.outliers = odd.nonzero().flatten().tolist()[: 2 * _MOST]
        worst = float(scale[odd].max())
        inquiry.outlier_scale = worst / usual if usual > 0 and math.isfinite(worst) else None


def _parts(bench: Bench, batch: Batch) -> tuple[Part, int]:
    """(the gradient of a subset [B] of the batch's samples, B), over all calls of the model."""
    used = [e for e in batch.entries if e.received]
    if not used:
        raise Refused("no call of the model received a gradient")
    if any(isinstance(m, nn.RNNBase) and not m.batch_first for m in bench.modules):
        raise Refused("the samples may not lie along the first dimension")
    made = bench.outputs(batch)
    outputs, cotangents, sizes = [], [], []
    for entry in used:
        size = _batch_size(entry)
        for i, gradient in entry.output_gradients.items():
            if gradient.dim() == 0 or gradient.shape[0] != size:
                raise Refused("the model's output does not hold one row for each sample")
            outputs.append(made[id(entry)][i])
            cotangents.append((gradient, sum(sizes)))
        sizes.append(size)
    leaves = list(bench.aliases.values())

    def part(chosen: torch.Tensor) -> Gradients:
        bench.passes += 1
        masked = [_masked(g, chosen[at : at + len(g)]) for g, at in cotangents]
        gradients = torch.autograd.grad(
            outputs, leaves, masked, retain_graph=True, allow_unused=True
        )
        pairs = zip(bench.aliases, gradients, strict=True)
        return {k: g.to_dense() if g.is_sparse else g for k, g in pairs if g is not None}

    return part, sum(sizes)


def _batch_size(entry: Entry) -> int:
    first = next((t for t in tensors_in_call(entry.args, entry.kwargs) if t.dim()), None)
    if first is None:
        raise Refused("the model's input is not a batch")
    return first.shape[0]


def _masked(gradient: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    shape = (len(chosen),) + (1,) * (gradient.dim() - 1)
    return torch.where(chosen.to(gradient.device).reshape(shape), gradient, 0.0)


def _largest(part: Part, among: torch.Tensor, gradient: Gradients) -> int:
    """The sample with the largest gradient, by descending into the larger half."""
    indices = among.nonzero().flatten()
    while len(indices) > 1:
        half = indices[: len(indices) // 2]
        chosen = torch.zeros_like(among)
        chosen[half] = True
        mine = part(chosen)
        others = {k: gradient[k] - mine[k] for k in gradient}
        if norm(mine) >= norm(others):
            indices, gradient = half, mine
        else:
            indices, gradient = indices[len(half) :], others
    return int(indices[0])
