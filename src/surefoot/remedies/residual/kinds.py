"""The kinds of skip connections."""

from __future__ import annotations

from typing import ClassVar

from surefoot.remedies.residual.connection import Connection

_WIDTH = "around layers that change the width: the first and the last are left as they are"


class ReZero(Connection):
    """x + alpha block(x), with a new parameter alpha that begins at 0."""

    name = "residual.rezero"
    learned = True
    why = "a skip connection lets the gradient pass every block unchanged, whatever its weights are"
    guarantee = (
        "at the start the chain of blocks is the identity, and the gradient is the same before "
        "and behind each of them"
    )
    formula = "x + alpha block(x), alpha = 0 at the start, one for each block"
    source = "Bachlechner et al. 2021, equation 1"
    limits = (
        _WIDTH,
        "in the first step, which trains nothing but alpha and the layers outside of the blocks",
        "together with adaptive gradient clipping, which holds a parameter at zero",
    )
    cost = "one parameter and one addition a block"
    conflicts: ClassVar = {
        "clipping.agc": "it limits the step of a parameter by its norm, and alpha begins at 0",
        "residual": "one skip connection around a block is enough",
    }

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = x + self.alpha * block(x)      # self.alpha = nn.Parameter(torch.zeros(()))"


class SkipInit(Connection):
    """The block's output is scaled by a scalar that begins at 0, with or without normalisation."""

    name = "residual.skip_init"
    learned = True
    why = "scaled to nothing at the start, a block cannot drown what skips it, normalised or not"
    guarantee = ReZero.guarantee
    formula = "x + block(x) alpha, alpha = 0 at the end of the block"
    source = "De & Smith 2020"
    limits = (*ReZero.limits, "as a regulariser, which the batch normalisation it spares also was")
    cost = ReZero.cost
    conflicts = ReZero.conflicts

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = x + block(x) * self.scale      # self.scale = nn.Parameter(torch.zeros(()))"


class Identity(Connection):
    """x + block(x) / sqrt(depth), without new parameters."""

    name = "residual.identity"
    learned = False
    why = "the gradient has a way past every block on which nothing scales it"
    guarantee = (
        "the derivative of a block is the identity plus the block's own, divided by sqrt(depth)"
    )
    formula = "x + block(x) / sqrt(L), L blocks"
    source = "He et al. 2016, equation 5; the factor: Hayou et al. 2021"
    limits = (
        _WIDTH,
        "where the blocks themselves explode: their outputs are added up",
    )
    cost = "one addition a block"
    conflicts: ClassVar = {"residual": "one skip connection around a block is enough"}

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = x + block(x) / depth**0.5"


class PreNorm(Connection):
    """x + block(layer_norm(x)) / sqrt(depth), without new parameters."""

    name = "residual.pre_norm"
    learned = False
    normalised = True
    why = "every block sees a signal of variance one, and the gradient has a way past it"
    guarantee = (
        "what goes into a block has mean 0 and variance 1 in every sample, whatever its scale was"
    )
    formula = "x + block((x - mean x) / std x) / sqrt(L), L blocks"
    source = "Xiong et al. 2020; the factor: Hayou et al. 2021"
    limits = (
        _WIDTH,
        "in a depth of hundreds without a factor: later blocks change less and less of the sum",
    )
    cost = "one normalisation and one addition a block"
    conflicts: ClassVar = {
        "residual": "one skip connection around a block is enough",
        "normalization": "what goes into the blocks is normalised by this one",
    }

    def code(self) -> str:
        """Itself as code to paste."""
        return "x = x + block(nn.functional.layer_norm(x, x.shape[-1:])) / depth**0.5"
