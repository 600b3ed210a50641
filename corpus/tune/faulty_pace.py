"""Faults of step size and scale: learning rates, loss factors, inputs, gradients never zeroed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus import faulty_case
from corpus.recipes import (
    adam,
    adamw,
    binary,
    cnn,
    mlp,
    named,
    regression,
    sgd,
)
from corpus.recipes_sequences import char_rnn, pixels, transformer

HIGH = "exploding|oscillating|nonfinite"

faulty_case(
    "lr_high_mlp_sgd_x100", mlp, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(10.0)), fast=True, optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "lr_high_mlp_momentum_x100", mlp, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(5.0, momentum=0.9)), optimizer=sgd(0.05, momentum=0.9),
)  # fmt: skip
faulty_case(
    "lr_high_named_adam_x300", named, HIGH, "learning_rate_too_high", None,
    dict(optimizer=adam(0.5)), optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "lr_high_named_adam_x1000", named, HIGH, "learning_rate_too_high", None,
    dict(optimizer=adam(1.0)), optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "lr_high_cnn_momentum_x100", cnn, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(2.0, momentum=0.9)), optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
faulty_case(
    "lr_high_cnn_bn_adam_x1000", cnn, HIGH, "learning_rate_too_high", None,
    dict(optimizer=adam(3.0)), norm=True, optimizer=adam(3e-3),
)  # fmt: skip
faulty_case(
    "lr_high_transformer_x100", transformer, HIGH, "learning_rate_too_high", None,
    dict(optimizer=adamw(0.3)),
)  # fmt: skip
faulty_case(
    "lr_high_lstm_adam_x100", char_rnn, HIGH, "learning_rate_too_high", None,
    dict(optimizer=adam(1.0)),
)  # fmt: skip
faulty_case(
    "lr_high_lstm_sgd", char_rnn, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(100.0)), optimizer=sgd(1.0, momentum=0.8),
)  # fmt: skip
faulty_case(
    "lr_high_regression_x100", regression, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(2.0, momentum=0.9)),
)  # fmt: skip
faulty_case(
    "lr_high_rmsprop", named, HIGH, "learning_rate_too_high", None,
    dict(optimizer=lambda p: torch.optim.RMSprop(p, lr=0.5)),
    optimizer=lambda p: torch.optim.RMSprop(p, lr=5e-4),
)  # fmt: skip
faulty_case(
    "lr_high_deep_he", mlp, HIGH, "learning_rate_too_high", None,
    dict(optimizer=sgd(2.0, momentum=0.9)), depth=10, optimizer=sgd(0.02, momentum=0.9),
)  # fmt: skip
for factor in (1e-4, 1e-6):
    faulty_case(
        f"lr_low_mlp_x{factor:.0e}", mlp, "stalled", "learning_rate_too_low", None,
        dict(optimizer=sgd(0.1 * factor)), fast=factor == 1e-4, optimizer=sgd(0.1),
    )  # fmt: skip
faulty_case(
    "lr_low_transformer", transformer, "stalled", "learning_rate_too_low", None,
    dict(optimizer=adamw(3e-8)),
)  # fmt: skip
faulty_case(
    "lr_low_cnn", cnn, "stalled", "learning_rate_too_low", None,
    dict(optimizer=sgd(2e-6, momentum=0.9)),
)  # fmt: skip
faulty_case(
    "lr_low_lstm_adam", char_rnn, "stalled", "learning_rate_too_low", None,
    dict(optimizer=adam(1e-6)),
)  # fmt: skip


def one_column(factor: float) -> object:
    """Leave the first feature unscaled."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, 0] *= factor
        return x

    return change


faulty_case(
    "input_x1000_mlp", mlp, "exploding|dead|oscillating|nonfinite", "input_scale", None,
    dict(scale_input=lambda x: x * 1000), fast=True, optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "input_x1000_regression", regression, "exploding|dead|oscillating|nonfinite", "input_scale",
    None,
    dict(scale_input=lambda x: x * 1000), optimizer=sgd(0.02),
)  # fmt: skip
faulty_case(
    "input_x1000_tanh", mlp, "exploding|saturated|oscillating|vanishing|stalled", "input_scale",
    None,
    dict(scale_input=lambda x: x * 1000), act=nn.Tanh, optimizer=sgd(0.05),
)  # fmt: skip
faulty_case(
    "input_x1e_4_mlp", mlp, "stalled|vanishing", "input_scale", None,
    dict(scale_input=lambda x: x * 1e-4), optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "input_x1e_4_binary", binary, "stalled|vanishing", "input_scale", None,
    dict(scale_input=lambda x: x * 1e-4),
)  # fmt: skip
faulty_case(
    "input_one_feature_1e4", regression, "exploding|dead|oscillating|nonfinite", "input_scale",
    None,
    dict(scale_input=one_column(1e4)), optimizer=sgd(0.02),
)  # fmt: skip
faulty_case(
    "input_one_feature_1e4_binary", binary, "exploding|saturated|oscillating|stalled|vanishing",
    "input_scale", None, dict(scale_input=one_column(1e4)),
)  # fmt: skip


def summed(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A sum where a mean was meant."""
    return F.cross_entropy(out, y, reduction="sum")


faulty_case(
    "loss_sum_mlp", mlp, HIGH, "loss_scale", None, dict(loss=summed),
    fast=True, optimizer=sgd(0.1, momentum=0.9),
)  # fmt: skip
faulty_case(
    "loss_sum_cnn", cnn, HIGH, "loss_scale", None, dict(loss=summed),
    optimizer=sgd(0.05, momentum=0.9),
)  # fmt: skip
faulty_case(
    "loss_sum_regression", regression, HIGH, "loss_scale", None,
    dict(loss=lambda out, y: F.mse_loss(out, y, reduction="sum")),
)  # fmt: skip
faulty_case(
    "loss_x1e_6_mlp", mlp, "stalled", "loss_scale", None,
    dict(loss=lambda out, y: 1e-6 * F.cross_entropy(out, y)),
)  # fmt: skip
faulty_case(
    "loss_x1e_6_regression", regression, "stalled", "loss_scale", None,
    dict(loss=lambda out, y: F.mse_loss(out, y) / 1e6),
)  # fmt: skip
faulty_case(
    "loss_x1e_10_adam", named, "stalled", "loss_scale", None,
    dict(loss=lambda out, y: 1e-10 * F.cross_entropy(out, y)),
)  # fmt: skip
faulty_case(
    "not_zeroed_sgd", mlp, HIGH, "gradients_not_zeroed", None, dict(zero=False),
    fast=True, optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "not_zeroed_momentum_cnn", cnn, HIGH, "gradients_not_zeroed", None, dict(zero=False),
)  # fmt: skip
faulty_case(
    "not_zeroed_adam", named, HIGH, "gradients_not_zeroed", None, dict(zero=False),
    optimizer=adam(5e-3),
)  # fmt: skip
faulty_case(
    "not_zeroed_transformer", transformer, HIGH, "gradients_not_zeroed", None, dict(zero=False),
)  # fmt: skip
faulty_case(
    "not_zeroed_recurrent", pixels, HIGH, "gradients_not_zeroed", None, dict(zero=False),
    kind=nn.GRU, relu=False, optimizer=adam(5e-3),
)  # fmt: skip
faulty_case(
    "softmax_before_cross_entropy", mlp, "saturated|stalled|vanishing",
    "output_activation_mismatch",
    None, dict(surgery=lambda m: m.append(nn.Softmax(dim=1))), fast=True, optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "softmax_before_cross_entropy_adam", mlp, "saturated|stalled|vanishing",
    "output_activation_mismatch", None, dict(surgery=lambda m: m.append(nn.Softmax(dim=1))),
    optimizer=adam(1e-3),
)  # fmt: skip
faulty_case(
    "sigmoid_before_cross_entropy", mlp, "saturated|stalled|vanishing",
    "output_activation_mismatch",
    None, dict(surgery=lambda m: m.append(nn.Sigmoid())), optimizer=sgd(0.1),
)  # fmt: skip
faulty_case(
    "sigmoid_before_bce_with_logits", binary, "saturated|stalled|vanishing",
    "output_activation_mismatch", None, dict(head=nn.Sigmoid),
)  # fmt: skip
