"""Faulty rows of step size and scale, of the optimizer's use and of the output."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.recipes import adam, adamw, sgd
from corpus.trainings import tasks
from corpus.trainings.networks import dense
from corpus.trainings.optimizers import Lion, of
from corpus.trainings.surgery import put
from corpus.tune.tables import broken

HIGH, LOW = "exploding|oscillating|nonfinite", "stalled"

# name of the healthy row, the optimizer with its rate too high
TOO_HIGH = {
    "digits_prelu_nesterov": sgd(5.0, momentum=0.9, nesterov=True),
    "wine_silu_nadam": of("NAdam", lr=2.0),
    "digits_rmsprop_centred": of("RMSprop", lr=0.5, centered=True, momentum=0.5),
    "digits_lion": lambda p: Lion(p, lr=0.5),
    "digits_fused_adamw": adamw(1.0, fused=True),
    "digits_float16_scaler": adam(1.0),
    "digits_accumulation_of_six": adam(2.0),
    "diabetes_double": adam(3.0),
    "cnn_batchnorm_elu": adam(3.0),
    "cnn_plain_relu": sgd(3.0, momentum=0.9),
    "unet_ink": adam(3.0),
    "hourglass_relu": adam(1.0),
    "mixer_rows": adam(1.0),
    "code_gru": adam(1.0),
    "lstm_both_ways": adam(3.0),
    "code_gpt": adamw(0.3),
    "vit_patches": adamw(1.0),
    "hf_bert": adamw(0.3),
    "hf_gpt2": adamw(0.5),
    "x_decoder_rotary": adam(0.5),
    "mamba_rows": adamw(1.0),
    "graph_gcn": adam(5.0),
    "diffusion": adam(1.0),
    "flow_wine": adam(1.0),
}
for twin, optimizer in TOO_HIGH.items():
    broken(
        f"{twin}/rate_high",
        HIGH,
        "learning_rate_too_high",
        None,
        dict(optimizer=optimizer),
    )
broken(
    "digits_one_cycle/peak_high",
    HIGH,
    "learning_rate_too_high",
    None,
    dict(schedule=partial(schedules.OneCycleLR, max_lr=20.0, total_steps=151)),
)

TOO_LOW = {
    "digits_prelu_nesterov": sgd(1e-6, momentum=0.9, nesterov=True),
    "breast_elu_adagrad": of("Adagrad", lr=1e-6),
    "diabetes_leaky_adadelta": of("Adadelta", lr=1e-5),
    "cnn_squeezed": adam(1e-7),
    "unet_ink_wide_sgd": sgd(1e-6, momentum=0.9),
    "code_gru": adam(1e-6),
    "hf_llama": adamw(3e-8),
    "x_vision": adamw(3e-8),
    "graph_attention": adam(1e-6),
    "diffusion": adam(1e-7),
}
for twin, optimizer in TOO_LOW.items():
    broken(
        f"{twin}/rate_low",
        LOW,
        "learning_rate_too_low",
        None,
        dict(optimizer=optimizer),
    )
broken(
    "digits_plateau/decays_at_once",
    LOW,
    "learning_rate_too_low",
    None,
    dict(schedule=partial(schedules.ExponentialLR, gamma=0.2)),
    optimizer=sgd(0.1),
)


# The number on which backward is called.
def scaled(factor: float, loss: tasks.Loss = F.cross_entropy) -> tasks.Loss:
    """A loss times a constant."""
    return lambda out, y: factor * loss(out, y)


def summed_tokens(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Summed over every token of the batch."""
    return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum")


SCALE = "loss_scale"
SUMMED = partial(F.cross_entropy, reduction="sum")
broken(
    "digits_prelu_nesterov/summed",
    HIGH,
    SCALE,
    None,
    dict(loss=SUMMED),
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "unet_ink_wide_sgd/summed",
    HIGH,
    SCALE,
    None,
    dict(loss=partial(F.binary_cross_entropy_with_logits, reduction="sum")),
)
broken(
    "hourglass_summed_loss_small_rate/rate_of_a_mean",
    HIGH,
    SCALE,
    None,
    dict(loss=partial(F.mse_loss, reduction="sum")),
    loss=F.mse_loss,
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "code_lstm_sgd/summed",
    HIGH,
    SCALE,
    None,
    dict(loss=summed_tokens),
    clip=None,
    optimizer=sgd(1.0, momentum=0.9),
)
broken(
    "digits_centred_gradients/scaled_4096",
    HIGH,
    SCALE,
    None,
    dict(loss=scaled(4096.0)),
    optimizer=sgd(0.05, momentum=0.9),
)
broken("graph_gcn_wine_sgd/summed", HIGH, SCALE, None, dict(loss=SUMMED))
broken("wine_full_batch_large_steps/scaled_1e_6", LOW, SCALE, None, dict(loss=scaled(1e-6)))
broken("diabetes_double/scaled_1e_12", LOW, SCALE, None, dict(loss=scaled(1e-12, F.mse_loss)))
broken("cnn_plain_relu/scaled_1e_6", LOW, SCALE, None, dict(loss=scaled(1e-6)))


# The scale of the input.
def column(factor: float) -> object:
    """One feature in a unit of its own."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, 1] *= factor
        return x

    return change


WIDE, NARROW = (
    "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled",
    "stalled|vanishing",
)
INPUT = "input_scale"
broken(
    "wine_full_batch_large_steps/raw",
    WIDE,
    INPUT,
    None,
    dict(task=partial(tasks.table, "wine", raw=True)),
)
broken(
    "breast_elu_adagrad/raw",
    WIDE,
    INPUT,
    None,
    dict(task=partial(tasks.tumours, raw=True)),
    optimizer=sgd(0.1),
    model=dense(3, 32, nn.ReLU),
)
broken("digits_prelu_nesterov/x_2000", WIDE, INPUT, None, dict(scale_input=lambda x: x * 2000))
broken("cnn_plain_relu/x_2000", WIDE, INPUT, None, dict(scale_input=lambda x: x * 2000))
broken(
    "digits_softsign/x_2000",
    WIDE,
    INPUT,
    None,
    dict(scale_input=lambda x: x * 2000),
    model=dense(3, 64, nn.Tanh),
    optimizer=sgd(0.1),
)
broken("digits_centred_gradients/x_1e_5", NARROW, INPUT, None, dict(scale_input=lambda x: x * 1e-5))
broken(
    "rnn_tanh_rows/x_1e_5",
    NARROW,
    INPUT,
    None,
    dict(scale_input=lambda x: x * 1e-5),
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "diabetes_median/one_column_x_1e5",
    WIDE,
    INPUT,
    None,
    dict(scale_input=column(1e5)),
    optimizer=sgd(0.02),
)
broken(
    "hourglass_relu/x_1000",
    WIDE,
    INPUT,
    None,
    dict(scale_input=lambda x: x * 1000),
    optimizer=sgd(0.1, momentum=0.9),
)

# Gradients that are never zeroed.
for twin, more in (
    ("digits_prelu_nesterov", {}),
    ("digits_bfloat16_autocast_adamw", dict(optimizer=adamw(1e-2))),
    ("cnn_batchnorm_elu", dict(optimizer=sgd(0.05))),
    ("unet_ink_wide_sgd", {}),
    ("hourglass_relu", dict(optimizer=sgd(0.2, momentum=0.9))),
    ("code_gpt", dict(optimizer=adamw(1e-2))),
    ("graph_gcn_wine_sgd", {}),
    ("diabetes_leaky_adadelta", dict(optimizer=sgd(0.05))),
):
    broken(
        f"{twin}/never_zeroed",
        HIGH,
        "gradients_not_zeroed",
        None,
        dict(zero=False),
        **more,
    )

# What stands between the last layer and the loss.
TWICE = ("saturated|stalled|vanishing", "output_activation_mismatch", None)


def softmax() -> nn.Module:
    """Probabilities, where scores were wanted."""
    return nn.Softmax(dim=-1)


broken(
    "digits_steps_down/softmax",
    *TWICE,
    dict(surgery=put("out", softmax)),
    task=partial(tasks.digits, metric="error"),
    optimizer=sgd(0.2),
)
broken(
    "vit_patches/softmax",
    *TWICE,
    dict(surgery=put("out", softmax)),
    task=partial(tasks.digits, (16, 4), "error"),
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "cnn_plain_relu/sigmoid",
    *TWICE,
    dict(surgery=put("out", nn.Sigmoid)),
    task=partial(tasks.digits, (1, 8, 8), "error"),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "breast_elu_adagrad/sigmoid", *TWICE, dict(surgery=put("out", nn.Sigmoid)), optimizer=sgd(0.05)
)
broken("code_gru/softmax", *TWICE, dict(surgery=put("out", softmax)))
BOUNDED = ("saturated|stalled|vanishing|dead", "output_activation_mismatch", ("out", None))
broken("diabetes_raw_units/tanh", *BOUNDED, dict(surgery=put("out", nn.Tanh)))
broken("hourglass_relu/sigmoid", *BOUNDED, dict(surgery=put("out", nn.Sigmoid)))

# What the optimizer keeps: an eps above the root of the second moment takes its place, and the
# steps are as small as the gradients again.
KEPT = ("stalled", "optimizer_state", None)
EPS = of("RMSprop", lr=1e-3, centered=True, momentum=0.5, eps=10.0)
broken("cnn_batchnorm_elu/eps_large", *KEPT, dict(optimizer=adam(3e-3, eps=30.0)))
broken("code_gpt/eps_large", *KEPT, dict(optimizer=adamw(3e-3, eps=10.0)))
broken("graph_gcn/eps_large", *KEPT, dict(optimizer=adam(1e-2, eps=10.0)))
broken("digits_rmsprop_centred/eps_large", *KEPT, dict(optimizer=EPS))
