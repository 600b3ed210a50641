"""How many elements each parameter of some well-known models has, for the benchmarks."""

from __future__ import annotations


def resnet50_sizes() -> list[int]:
    """Elements of the 161 parameters of a ResNet-50 (25.6 million)."""
    sizes = [64 * 3 * 49, 64, 64]
    width_in = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(depth):
            convolutions = [width_in * width, width * width * 9, width * width * 4]
            norms = [width, width, width * 4]
            if block == 0:
                convolutions.append(width_in * width * 4)
                norms.append(width * 4)
            for convolution, norm in zip(convolutions, norms, strict=True):
                sizes += [convolution, norm, norm]
            width_in = width * 4
    return [*sizes, 2048 * 1000, 1000]


def gpt2_sizes() -> list[int]:
    """Elements of the 148 parameters of GPT-2 small (124 million)."""
    d = 768
    layer = [d, d, d * 3 * d, 3 * d, d * d, d, d, d, d * 4 * d, 4 * d, 4 * d * d, d]
    return [50257 * d, 1024 * d, *layer * 12, d, d]


def tiny_sizes() -> list[int]:
    """Elements of the 200 parameters of a 100-layer perceptron of width 180 (3.26 million)."""
    return [180 * 180, 180] * 100
