"""Delta-orthogonal initialisation: a convolution that keeps the norm of every image."""

from __future__ import annotations

import torch
from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.remedies.initialization.drawn import (
    clear_bias,
    gain_of,
    matrix,
    orthogonal,
    outward,
    trained,
)
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment


def _draw(weight: torch.Tensor, gain: float, module: nn.Module) -> None:
    """A matrix in the middle of the kernel, one for each group, and nothing around it."""
    weight.zero_()
    for part in weight.chunk(int(getattr(module, "groups", 1))):
        view = outward(module, part)
        middle = (slice(None), slice(None), *(size // 2 for size in view.shape[2:]))
        view[middle] = gain * orthogonal(*view.shape[:2]).to(view)


class DeltaOrthogonal(Treatment):
    """Convolutions that are zero but for an orthogonal matrix in the middle of the kernel."""

    name = "init.delta_orthogonal"
    why = "lets a convolution keep the norm of every image, not only in the mean"
    guarantee = (
        "with out >= in channels, stride 1 and padding that keeps the size, the norm of every "
        "input is multiplied by exactly the gain of what feeds the layer"
    )
    formula = "K[:, :, middle] = g H, H^T H = 1; K = 0 elsewhere; b = 0"
    source = "Xiao et al. 2018, algorithm 2"
    limits = (
        "with fewer output than input channels H can only be semi-orthogonal (H H^T = 1): what "
        "lies in its null space is lost",
        "with a stride, which drops pixels, or without padding, which drops the border",
        "ReLU switches half of the units off: the promise is for each convolution, and 10,000 "
        "layers were trained with tanh",
        "a kernel of even size has no middle: the image is shifted by half a pixel a layer",
    )
    cost = "one QR decomposition a layer, once"

    def apply(self, subject: Subject) -> None:
        """Draw the kernels anew; linear layers stay as they are."""
        layers = layers_with(subject, self.target)
        convolutions = [fed for fed in layers if kind_of(fed[1]) is Kind.CONVOLUTION]
        if layers and not convolutions:
            raise NotApplicable("it is for convolutions, and there is none")
        with subject.drawing(), torch.no_grad():
            for _, module, function in trained(convolutions, self.target):
                _draw(subject.keep(matrix(module)), gain_of(function), module)
                clear_bias(subject, module)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.init.zeros_(conv.weight)  # [out, in, height, width]\n"
            "rows, columns = conv.weight.shape[2] // 2, conv.weight.shape[3] // 2\n"
            "nn.init.orthogonal_(conv.weight.data[:, :, rows, columns])\n"
            "nn.init.zeros_(conv.bias)"
        )
