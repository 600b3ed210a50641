"""Faulty rows on images: operations outside their domain, and graphs that are cut."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.drawn import broken
from corpus.recipes import Surgery, adam, adamw
from corpus.trainings import image_blocks as blocks
from corpus.trainings import image_nets as nets
from corpus.trainings import image_pixels as pixels
from corpus.trainings.image_blocks import tower
from corpus.trainings.surgery import put


# Operations outside their domain.
class Contrast(nn.Module):
    """Each map by its own mean and spread; a map in which no unit fires has none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)


def corners(x: torch.Tensor) -> torch.Tensor:
    """Total variation: at the lower right corner both differences are zero by construction."""
    wide = F.pad(x, (0, 1, 0, 1), mode="replicate")
    across, down = wide[..., :-1, 1:] - x, wide[..., 1:, :-1] - x
    return 1e-3 * (across.square() + down.square()).sqrt().mean()


UNDEFINED = ("nonfinite", "undefined_operation")
for name, layers, change, more in (
    (
        "image_capsules/lengths_of_nothing",
        (None, "Capsules", "primary"),
        dict(model=nets.capsules(0.0)),
        {},
    ),
    (
        "image_drawn/root_of_log_variance",
        (None, "encoder", "encoder.5", "decoder", "decoder.0"),
        dict(spread=torch.sqrt),
        {},
    ),
    ("image_styled/corners", None, dict(smooth=corners), {}),
    (
        "image_plain_lookahead_place/even_maps",
        ("extra",),
        dict(surgery=put("extra", Contrast)),
        dict(model=tower(blocks.Plain, 3, 16), optimizer=adam(3e-3)),
    ),
):
    broken(name, *UNDEFINED, layers, change, **more)


# Graphs that are cut, parameters that nobody moves.
class Rounded(nn.Module):
    """A code of whole numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (4 * x).round() / 4


class Detached(nn.Module):
    """What comes in, without its history."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


class Unlisted(nn.Module):
    """Convolutions in a Python list, which no one registers, or (kept) in one that does."""

    def __init__(self, task: Any, kept: bool) -> None:
        super().__init__()
        layers = [blocks.conv(i, 8, 3, stride=2) for i in (task.x.shape[1], 8)]
        self.layers = nn.ModuleList(layers) if kept else layers
        self.fc = nn.Linear(32, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.fc(x.flatten(1))


def last_only(model: nn.Module) -> Iterable[Any]:
    """The parameters of the last layer, and no others."""
    return model.fc.parameters()  # type: ignore[union-attr]


def cut_behind(i: int) -> Surgery:
    """Cut the history behind a block."""

    def change(model: nn.Module) -> None:
        model.after = i  # type: ignore[assignment]
        model.extra = Detached()

    return change


CUT = ("stalled|vanishing|dead", "disconnected_parameters")
for name, layers, change, more in (
    (
        "image_tuned_frozen_first/optimizer_of_old_head",
        (None, "head"),
        dict(head_first=False),
        dict(frozen=70),
    ),
    ("image_painters_hinge_spectral/painter_not_given", (None,), dict(wrong_parameters=True), {}),
    ("image_seer_place/other_model", (None,), dict(elsewhere=True), {}),
    ("image_living_cells/other_model", (None,), dict(elsewhere=True), {}),
    (
        "image_funnel_pieces/rounded_code",
        ("extra", "encoder.5", "encoder"),
        dict(surgery=put("extra", Rounded)),
        dict(model=pixels.funnel(12, 6)),
    ),
    (
        "image_buried_towers/detached",
        ("extra", "blocks.2", "blocks.2.conv", "blocks.2.act"),
        dict(surgery=cut_behind(2)),
        {},
    ),
    (
        "image_epochs_cosine/convolutions_in_a_list",
        (None,),
        dict(model=partial(Unlisted, kept=False)),
        dict(model=partial(Unlisted, kept=True), optimizer=adamw(1e-2), batch=32, epochs=3),
    ),
    (
        "image_epochs_small_batches/last_layer_only",
        (None,),
        dict(choose=last_only),
        dict(optimizer=adam(5e-3), model=tower(blocks.Plain, 3, 6)),
    ),
):
    broken(name, *CUT, layers, change, **more)
