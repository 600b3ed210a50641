"""What the lab's networks learn: which of four classes a point belongs to.

Each class is a cloud of points around a centre of its own. A sound network has it in a few dozen
steps; a constant answer has a cross-entropy of ln 4 = 1.386, whatever the network is.
"""

from __future__ import annotations

import torch

FEATURES, CLASSES, SAMPLES = 16, 4, 512
_SPREAD = 0.6  # of a cloud, where the centres are one from the origin in every direction


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs [512, 16] of mean 0 and variance 1, classes [512]), the same for the same seed.

    Each class has exactly a quarter of the points, and each run of 32 points an eighth of those.
    """
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    classes = torch.arange(CLASSES).repeat(SAMPLES // CLASSES)
    noise = torch.randn(SAMPLES, FEATURES, generator=generator)
    inputs = centres[classes] + _SPREAD * noise
    return (inputs - inputs.mean(0)) / inputs.std(0, correction=0), classes
