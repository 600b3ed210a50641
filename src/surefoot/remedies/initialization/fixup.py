"""Fixup: residual branches that are zero at the start and change slowly, without normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from surefoot.remedies.initialization.drawn import Fed, clear_bias, fans, gain_of, matrix, trained
from surefoot.remedies.initialization.residual import Branch, branches, reading, writing
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment


class Fixup(Treatment):
    """Kaiming, scaled down in residual branches; the last layer of each and the head are zero.

    A branch is what is added to a stream that goes through a repeated block; it is recognised in a
    call of the model. Layers in parallel (query, key and value) count once for m. A head whose
    weight is tied to another module's is not set to zero. Only identity skips count: the branches
    beside a projection are drawn as layers outside of blocks are.
    """

    name = "init.fixup"
    why = "makes a step change the function of a residual net alike at every depth"
    guarantee = (
        "at the start each residual block is exactly its skip path and the output is zero; one "
        "step of size eta changes the output by the order eta, however many blocks there are"
    )
    formula = (
        "L branches of m layers: W ~ N(0, g^2 / fan_in) L^(-1 / (2m - 2)) in the first m - 1, "
        "W_m = 0; head = 0; elsewhere W ~ N(0, g^2 / fan_in); b = 0"
    )
    source = "Zhang, Dauphin & Ma 2019, section 3: rules 1 and 2 of Fixup"
    limits = (
        "without residual connections",
        "the scalar biases and multipliers of the paper's rule 3 are not added: they gain some "
        "accuracy and no stability at the start",
        "it needs a strong regulariser to reach the accuracy of batch normalisation",
        "AGC beside it: what is zero at the start is clipped to nearly nothing",
    )

    conflicts: ClassVar[Mapping[str, str]] = {
        "clipping.agc": "it limits a step by the norm of the weight, and some begin at zero",
        "normalization": "it undoes the scale that the branches are given",
    }

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        named = {id(m) for _, m in subject.modules(self.target)}
        found = [b for b in branches(subject) if id(b.writer) in named]
        if not found:
            raise NotApplicable("no repeated residual blocks with an identity skip were found")
        for branch in found:
            _check(branch)
        layers = trained(layers_with(subject, self.target), self.target)
        scale = _scales(found)
        zero = {id(matrix(writing(b.writer))) for b in found} | _head(subject, layers, found)
        with subject.drawing(), torch.no_grad():
            for _, module, function in layers:
                if id(weight := matrix(module)) not in zero:
                    std = gain_of(function) * fans(module)[0] ** -0.5
                    subject.keep(weight).normal_(std=std * scale.get(id(module), 1.0))
                else:
                    subject.keep(weight).zero_()
                clear_bias(subject, module)
            _draw_attention(subject, found, scale)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "for block in blocks:  # here with two layers in the branch: m = 2\n"
            "    nn.init.kaiming_normal_(block.conv1.weight, nonlinearity='relu')\n"
            "    block.conv1.weight.data *= len(blocks) ** -0.5  # L^(-1 / (2m - 2))\n"
            "    nn.init.zeros_(block.conv2.weight)\n"
            "nn.init.zeros_(head.weight)\n"
            "nn.init.zeros_(head.bias)"
        )


def _check(branch: Branch) -> None:
    weight = getattr(writing(branch.writer), "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
        raise NotApplicable("the last layer of a residual branch is frozen or parametrised")
    if branch.normalized:
        raise NotApplicable("the residual branches end in normalisation, which undoes the scale")


def _scales(found: list[Branch]) -> dict[int, float]:
    """id(layer) -> L^(-1 / (2m - 2)) for those before the last of a branch."""
    scale: dict[int, float] = {}
    for branch in found:
        if branch.depth > 1:
            factor = len(found) ** (-1 / (2 * branch.depth - 2))
            scale |= {id(m): factor for m in (branch.writer, *branch.before)}
    return scale


def _head(subject: Subject, layers: list[Fed], found: list[Branch]) -> set[int]:
    """The id of the head's weight: the last layer, outside of all blocks and not tied."""
    module = layers[-1][1]
    inside = {id(m) for b in found for m in b.block.modules()}
    holders = [
        m
        for root in subject.models
        for m in root.modules()
        if any(p is matrix(module) for p in m.parameters(recurse=False))
    ]
    return set() if id(module) in inside or len(holders) > 1 else {id(matrix(module))}


def _draw_attention(subject: Subject, found: list[Branch], scale: dict[int, float]) -> None:
    """What torch's attention holds: its matrices are used without a call of a layer."""
    for module in {id(m): m for b in found for m in (b.writer, *b.before)}.values():
        if not (weights := reading(module)):
            continue
        for weight in weights:
            if weight.requires_grad:
                std = weight.shape[1] ** -0.5 * scale.get(id(module), 1.0)
                subject.keep(weight).normal_(std=std)
        if any(b.writer is module for b in found):
            subject.keep(matrix(writing(module))).zero_()
        clear_bias(subject, writing(module))
        clear_bias(subject, module, "in_proj_bias")
