"""Depth-scaled initialisation of transformers: what writes to the residual stream is smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from surefoot.layers import kind_of
from surefoot.remedies.initialization.drawn import clear_bias, matrix
from surefoot.remedies.initialization.residual import branches, candidates, reading, writing
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

# How those that write to the stream are called where no call can show it.
WRITERS = {"proj", "out_proj", "c_proj", "o_proj", "down_proj", "fc2", "w2", "linear2", "wo"}


def writers(subject: Subject) -> dict[int, int]:
    """id(layer that writes to the residual stream) -> how many of them write to that stream.

    Those of blocks of one class count as one stream. Seen in a call where there is one; without,
    taken by their names inside of repeated blocks. Raises NotApplicable where there is none.
    """
    if subject.call is not None:
        found = {id(writing(b.writer)): type(b.block) for b in branches(subject)}
    else:
        found = {
            id(module): type(block)
            for _, block in candidates(subject)
            for name, module in block.named_modules()
            if kind_of(module).weighted and name.rpartition(".")[2] in WRITERS
        }
    if not found:
        raise NotApplicable("no repeated blocks with a residual stream were found")
    sizes = Counter(found.values())
    return {key: sizes[kind] for key, kind in found.items()}


class DepthScaled(Treatment):
    """All matrices and embeddings from N(0, std^2), those that write to the stream smaller.

    With L blocks of attention and MLP, N = 2 L layers write to the residual stream.
    """

    name = "init.depth_scaled"
    why = "keeps the residual stream's variance bounded over the depth of a transformer"
    guarantee = (
        "the 2 L layers that write to the stream have the standard deviation 0.02 / sqrt(2 L), all "
        "others 0.02, so that what all blocks add to it together does not grow with depth"
    )
    formula = "W ~ N(0, 0.02^2); where added to the stream W ~ N(0, 0.02^2 / N), N = 2 L; b = 0"
    source = "Radford et al. 2019 (GPT-2), section 2.3"
    limits = (
        "without normalisation inside the blocks: 0.02 is right for widths of about a thousand "
        "and is otherwise made good by layer norm",
        "against spikes late in training, or a learning rate that is too high",
        "with post-normalisation, where the stream is normalised after each block anyway",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"std": 0.02}

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew; normalisation layers stay."""
        shares = writers(subject)
        std = self.parameters["std"]
        drawn: set[int] = set()

        def draw(weight: Any, count: int = 1) -> bool:
            if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
                return False
            if id(weight) in drawn:
                return False
            drawn.add(id(weight))
            subject.keep(weight).normal_(std=std / count**0.5)
            return True

        with subject.drawing(), torch.no_grad():
            for _, module in subject.modules(self.target):
                for weight in reading(module):
                    draw(weight)
                embedding = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
                if embedding and draw(module.weight) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            for _, module in subject.weighted(self.target):
                if draw(matrix(module), shares.get(id(module), 1)):
                    clear_bias(subject, module)
            for _, module in subject.modules(self.target):
                clear_bias(subject, module, "in_proj_bias")
        if not drawn:
            raise NotApplicable(f"no trained layer is called {self.target!r}")

    def code(self) -> str:
        """Itself as code to paste."""
        names = ", ".join(f"'{name}'" for name in sorted(WRITERS))
        return (
            f"writers = ({names})  # add to the residual stream\n"
            "layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}\n"
            "count = sum(n.endswith(writers) for n in layers)\n"
            "for name, layer in layers.items():\n"
            "    share = count if name.endswith(writers) else 1\n"
            f"    nn.init.normal_(layer.weight, std={self.parameters['std']} / share ** 0.5)\n"
            "    if layer.bias is not None:\n"
            "        nn.init.zeros_(layer.bias)"
        )
