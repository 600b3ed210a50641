"""Healthy rows on images and sequences, with networks written by hand."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.recipes import adam, adamw, sgd
from corpus.trainings import tasks
from corpus.trainings.losses import cut_and_mix
from corpus.trainings.networks import convolutions, dense, hourglass, mixer, unet
from corpus.trainings.optimizers import Lion, of, trainable
from corpus.trainings.sequences import averaging, between, by_hand, former, recurrent, temporal
from corpus.tune.tables import sound

IMAGES = partial(tasks.digits, (1, 8, 8))
ROWS = partial(tasks.digits, (8, 8))
PIXELS = partial(tasks.digits, (32, 2))
PATCHES = partial(tasks.digits, (16, 4))


def clip(value: float) -> object:
    """Clip the norm of all gradients together."""
    return partial(torch.nn.utils.clip_grad_norm_, max_norm=value)


# Images.
sound(
    "cnn_plain_relu",
    task=IMAGES,
    model=convolutions(3, 12, norm=None),
    optimizer=sgd(0.05, momentum=0.9),
)
sound("cnn_batchnorm_elu", task=IMAGES, model=convolutions(4, 12, nn.ELU), optimizer=adam(3e-3))
sound(
    "cnn_groupnorm_silu",
    task=IMAGES,
    optimizer=of("NAdam", lr=3e-3),
    model=convolutions(4, 12, nn.SiLU, partial(nn.GroupNorm, 3)),
)
sound(
    "cnn_instancenorm",
    task=IMAGES,
    optimizer=adamw(3e-3),
    model=convolutions(3, 12, nn.LeakyReLU, partial(nn.InstanceNorm2d, affine=True)),
)
sound(
    "cnn_skip_14",
    task=IMAGES,
    model=convolutions(14, 10, how="skip"),
    steps=80,
    optimizer=adamw(2e-3),
)
sound("cnn_dense_6", task=IMAGES, model=convolutions(6, 6, how="dense"), optimizer=adam(3e-3))
sound("cnn_separable", task=IMAGES, model=convolutions(4, 16, separable=True), optimizer=adam(5e-3))
sound("cnn_squeezed", task=IMAGES, model=convolutions(4, 12, squeeze=True), optimizer=adam(3e-3))
sound(
    "cnn_tanh_lion",
    task=IMAGES,
    model=convolutions(3, 12, nn.Tanh, None),
    optimizer=lambda p: Lion(p, lr=1e-3),
)
sound(
    "cnn_cut_and_mix",
    task=IMAGES,
    model=convolutions(3, 16),
    poison=cut_and_mix,
    optimizer=adam(5e-3),
)
sound(
    "cnn_bfloat16_autocast",
    task=IMAGES,
    model=convolutions(3, 12),
    mixed=torch.bfloat16,
    optimizer=sgd(0.05, momentum=0.9),
    steps=100,
)
sound(
    "cnn_float16_scaler",
    task=IMAGES,
    model=convolutions(3, 12),
    mixed=torch.float16,
    scaler=partial(torch.amp.GradScaler, "cpu"),
    optimizer=adamw(3e-3),
    steps=80,
)
sound(
    "cnn_accumulation_one_cycle",
    task=IMAGES,
    model=convolutions(3, 12),
    accumulate=4,
    batch=16,
    optimizer=sgd(0.01, momentum=0.9),
    steps=80,
    schedule=partial(schedules.OneCycleLR, max_lr=0.1, total_steps=81),
)
sound("unet_ink", task=tasks.ink, model=unet(), optimizer=adam(5e-3), steps=100)
sound(
    "unet_ink_wide_sgd", task=tasks.ink, model=unet(16), optimizer=sgd(0.2, momentum=0.9), steps=80
)
sound("hourglass_relu", task=tasks.repaint, model=hourglass(), optimizer=adam(3e-3))
sound(
    "hourglass_tanh_denoising",
    task=partial(tasks.repaint, noise=0.5),
    steps=200,
    model=hourglass((48, 16), nn.Tanh),
    optimizer=adam(3e-3),
)
sound(
    "hourglass_summed_loss_small_rate",
    task=tasks.repaint,
    model=hourglass((48, 24)),
    steps=250,
    loss=partial(F.mse_loss, reduction="sum"),
    optimizer=sgd(1e-4, momentum=0.9),
)
sound(
    "hourglass_absolute_error",
    task=partial(tasks.repaint, loss=F.l1_loss),
    steps=200,
    model=hourglass((48, 24), nn.SiLU),
    optimizer=adamw(3e-3),
)
sound("mixer_rows", task=ROWS, model=mixer(), optimizer=adam(3e-3))
sound("mixer_rows_8", task=ROWS, model=mixer(8, 16), optimizer=adamw(3e-3), steps=80)

# Rows and pixels of digits, one after another.
sound("rnn_tanh_rows", task=ROWS, model=recurrent(nn.RNN), optimizer=adam(5e-3))
sound(
    "rnn_relu_pixels",
    task=PIXELS,
    optimizer=adam(2e-3),
    clip=clip(1.0),
    batch=64,
    steps=200,
    model=recurrent(nn.RNN, 48, radius=1.0, nonlinearity="relu"),
)
sound("rnn_by_hand_pixels", task=PIXELS, model=by_hand(48), optimizer=adam(3e-3), batch=64)
sound("lstm_both_ways", task=ROWS, model=recurrent(nn.LSTM, 24, both=True), optimizer=adam(1e-2))
sound(
    "gru_two_layers_dropout",
    task=ROWS,
    model=recurrent(nn.GRU, 32, 2, drop=0.2),
    optimizer=of("RMSprop", lr=3e-3),
)
sound(
    "lstm_pixels_clipped",
    task=PIXELS,
    model=recurrent(nn.LSTM, 48),
    optimizer=adam(1e-2),
    clip=clip(0.5),
    batch=64,
    steps=140,
)
sound("vit_patches", task=PATCHES, model=former(2, 32), optimizer=adamw(3e-3), steps=100)
sound(
    "vit_patches_post_norm",
    task=PATCHES,
    model=former(2, 32, post=True),
    steps=100,
    optimizer=adam(2e-3),
)
sound(
    "vit_patches_sgd_warm_up",
    task=PATCHES,
    model=former(2, 32),
    optimizer=sgd(0.1, momentum=0.9),
    schedule=lambda o: schedules.LinearLR(o, 0.05, 1.0, 40),
)
sound(
    "vit_patches_3_float16_scaler",
    task=PATCHES,
    model=former(3, 24, 2),
    steps=60,
    mixed=torch.float16,
    scaler=partial(torch.amp.GradScaler, "cpu"),
    optimizer=adamw(2e-3),
)

# Text.
sound("code_gru", task=tasks.code, model=recurrent(nn.GRU, 48), optimizer=adam(1e-2))
sound(
    "code_lstm_sgd",
    task=tasks.code,
    model=recurrent(nn.LSTM, 48),
    steps=200,
    clip=clip(1.0),
    optimizer=sgd(2.0, momentum=0.9),
)
sound("code_averaging", task=tasks.code, model=averaging(), optimizer=adam(1e-2))
sound("code_temporal", task=tasks.code, model=temporal(), optimizer=adam(5e-3))
sound("code_gpt", task=tasks.code, model=former(2, 32), optimizer=adamw(3e-3), steps=100)
sound(
    "code_gpt_rotary_rms",
    task=tasks.code,
    model=former(3, 32, mode="rotary", rms=True),
    optimizer=adamw(3e-3),
    steps=80,
)
sound(
    "code_linear_attention",
    task=tasks.code,
    model=former(2, 32, mode="linear"),
    optimizer=adamw(3e-3),
    steps=80,
)
sound("code_encoder_decoder", task=tasks.code, model=between(), optimizer=adam(3e-3), steps=80)
sound(
    "code_gpt_4_bfloat16",
    task=partial(tasks.code, 16),
    model=former(4, 24, 2),
    steps=60,
    batch=16,
    mixed=torch.bfloat16,
    optimizer=adamw(3e-3),
    clip=clip(1.0),
)
sound("words_gru_rare", task=tasks.words, model=recurrent(nn.GRU, 48), optimizer=adam(1e-2))
sound("words_gpt_adagrad", task=tasks.words, model=former(2, 32), optimizer=of("Adagrad", lr=3e-2))
sound("sources_encoder", task=tasks.sources, model=former(2, 32), optimizer=adam(3e-3))
sound("sources_lstm", task=tasks.sources, model=recurrent(nn.LSTM, 32), optimizer=adam(1e-2))


# Only a part of the network learns.
def frozen(prefix: str) -> object:
    """Freeze the parameters whose names begin so."""

    def change(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if name.startswith(prefix):
                p.requires_grad_(False)

    return change


def biases_only(model: nn.Module) -> None:
    """Freeze all but biases and the head."""
    for name, p in model.named_parameters():
        p.requires_grad_("bias" in name or name.startswith("head"))


sound(
    "frozen_random_features",
    task=tasks.digits,
    model=dense(2, 128),
    surgery=frozen("blocks"),
    optimizer=adam(5e-3),
    groups=trainable,
)
sound(
    "frozen_but_in_the_optimizer",
    task=tasks.digits,
    model=dense(3, 96),
    surgery=frozen("blocks.0"),
    optimizer=sgd(0.1, momentum=0.9),
)
sound(
    "biases_only",
    task=tasks.digits,
    model=dense(3, 128),
    surgery=biases_only,
    optimizer=adam(1e-2),
    groups=trainable,
)


def thaw(step: int, model: nn.Module) -> None:
    """Let the body learn from the sixtieth step on."""
    if step == 60:
        for p in model.parameters():
            p.requires_grad_(True)


sound(
    "thawed_half_way",
    task=tasks.digits,
    model=dense(3, 64),
    surgery=frozen("blocks"),
    optimizer=adam(3e-3),
    each=thaw,
)
