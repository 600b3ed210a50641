"""Faulty rows on vectors and images: weights, activations, dead units, depth."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from corpus import ANY
from corpus.fresh import broken
from corpus.recipes import adam, gaussian, he, sgd
from corpus.trainings import fresh_vis_made as makers
from corpus.trainings import fresh_vis_nets as nets
from corpus.trainings.fresh_vis_nets import perceptron, stack, vgg
from corpus.trainings.surgery import shifted, times

KINDS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def uniform(model: nn.Module) -> None:
    """nn.init.uniform_ as it is called without arguments: from zero to one."""
    for m in model.modules():
        if isinstance(m, KINDS):
            nn.init.uniform_(m.weight)


def zeros(model: nn.Module) -> None:
    """Everything zero, as one may do with a linear model."""
    for p in model.parameters():
        nn.init.zeros_(p)


def biased(value: float) -> object:
    """The prior that RetinaNet gives its last bias, given to all convolutions."""

    def change(model: nn.Module) -> None:
        for m in model.modules():
            if isinstance(m, KINDS) and m.bias is not None:
                nn.init.constant_(m.bias, value)

    return change


def normal(model: nn.Module) -> None:
    """nn.init.normal_ as it is called without arguments."""
    gaussian(model, 1.0)


VGG = dict(
    model=vgg(12, "M", 16, 16, "M", 24, drop=0.0), init=he, optimizer=sgd(0.03, momentum=0.9)
)

# Weights too large.
LARGE = ("exploding|dead|oscillating|nonfinite", "weights_too_large")
broken("vis_vgg_shapes/normal_without_std", *LARGE, ANY, dict(init=normal), **VGG)
broken(
    "vis_life_adadelta/uniform_zero_one",
    "exploding|dead|collapsed|oscillating|nonfinite",  # all weights of one sign
    "weights_too_large",
    ANY,
    dict(init=uniform),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "vis_boxes_smooth_l1/first_linear_x100",
    *LARGE,
    ("classifier.0", "classifier", "classifier.1"),
    dict(surgery=times("classifier.0", 100.0)),
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "vis_dcgan/std_two",
    "exploding|saturated",
    "weights_too_large",
    ANY,
    dict(init=makers.dcgan_init(2.0)),
)

# Too small.
FADED = "vanishing|stalled|collapsed"
SMALL = (FADED, "weights_too_small")
broken(
    "vis_deep_he_mlp_sgd/times_a_hundredth",
    *SMALL,
    ANY,
    dict(init=partial(gaussian, std=0.01)),
)
broken(
    "vis_unet_no_norm_dice/std_a_thousandth",
    *SMALL,
    ANY,
    dict(init=partial(gaussian, std=1e-3)),
)
broken(
    "vis_properties_many_labels/all_zero",
    f"{FADED}|dead",
    "weights_too_small",
    ANY,
    dict(init=zeros),
)

# Activations that saturate.
FLAT = ("vanishing|saturated|stalled|collapsed", "saturating_activation")
broken("vis_lenet_tanh_epochs/sigmoid", *FLAT, ANY, dict(model=nets.lenet(nn.Sigmoid)), epochs=5)
broken(
    "vis_spirals_seven_tanh/sigmoid", *FLAT, ANY, dict(model=stack(6, 32, nn.Sigmoid, sigma=1.0))
)
broken(
    "vis_breast_bce_epochs/sigmoid_8",
    *FLAT,
    ANY,
    dict(model=perceptron(*[24] * 8, act=nn.Sigmoid)),
    model=perceptron(*[24] * 8, act=nn.Tanh),
    optimizer=sgd(0.05, momentum=0.9),
)


class Square(nn.Module):
    """The activation of networks that compute on ciphers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


class Cubic(nn.Module):
    """x + x^3, a smooth ReLU's odd cousin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x**3


STEEP = ("exploding|nonfinite", "unbounded_activation")
broken("vis_vgg_shapes/square", *STEEP, ANY, dict(model=vgg(
    12, "M", 16, 16, "M", 24, drop=0.0, act=Square)), **VGG)  # fmt: skip
broken("vis_deep_he_mlp_sgd/cubic", *STEEP, ANY, dict(model=stack(5, 48, act=Cubic, sigma=2.0)))
broken(
    "vis_hues_he_sgd/square_4",
    *STEEP,
    ANY,
    dict(model=perceptron(64, 64, 64, 64, act=Square)),
    model=perceptron(64, 64, 64, 64),
    optimizer=sgd(0.03, momentum=0.9),
)

# Dead units.
DEAD = ("dead|stalled|vanishing", "dead_relu")
broken(
    "vis_unet_no_norm_dice/prior_everywhere",
    *DEAD,
    ANY,
    dict(surgery=biased(-4.6)),
)
broken(
    "vis_vgg_bn_digits_step_lr/norm_bias",
    *DEAD,
    ("features.8", "features.9", "features.7", "features"),
    dict(surgery=shifted("features.8", -12.0)),
    by_epoch=None,
)
broken(
    "vis_siamese/linear_bias",
    "dead|collapsed|stalled|vanishing",
    "dead_relu",
    ("7", "8"),
    dict(surgery=shifted("7", -25.0)),
)
broken(
    "vis_squeezenet_no_linear/squeeze_bias",
    *DEAD,
    ("4", "4.squeeze"),
    dict(surgery=shifted("4.squeeze", -40.0)),
)

# Depth without skips; behind default weights the gradient fades as well.
PLAIN = ("collapsed|shattered|stalled", "depth_without_skip")
broken("vis_deep_he_mlp_sgd/depth_52", *PLAIN, ANY, dict(model=stack(52, 48, sigma=2.0)))
broken(
    "vis_properties_many_labels/depth_40",
    *PLAIN,
    ANY,
    dict(model=vgg(12, "M", *[12] * 39, drop=0.0)),
    model=vgg(12, "M", 12, 12, drop=0.0),
    init=he,
    steps=80,
)
broken(
    "vis_life_adadelta/depth_44",
    "collapsed|shattered|stalled|vanishing",
    "depth_without_skip|weights_too_small",
    ANY,
    dict(model=perceptron(*[48] * 44)),
    model=perceptron(48, 48, 48),
    optimizer=adam(1e-3),
)

# Normalisation without skips.
BATCH = ("exploding|shattered|stalled", "normalization_without_skip|depth_without_skip")
broken(
    "vis_stack_skip_bn_40/no_skip",
    *BATCH,
    ANY,
    dict(model=stack(48, 40, norm=True, skip=False)),
    model=stack(48, 40, norm=True, skip=True),
)
broken(
    "vis_vgg_bn_digits_step_lr/depth_44",
    *BATCH,
    ANY,
    dict(model=vgg(8, "M", *[8] * 43, norm=True, drop=0.0)),
    model=vgg(8, "M", 8, 8, norm=True, drop=0.0),
    optimizer=sgd(0.1, momentum=0.9),
    by_epoch=None,
    batch=32,
    epochs=3,
)
broken(
    "vis_friedman_bn_sgd/depth_50",
    *BATCH,
    ANY,
    dict(model=perceptron(*[40] * 50, norm=True)),
    epochs=8,
)
