"""Healthy rows on tables: networks, units, optimizers, schedules, losses and precision."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from corpus.recipes import adam, adamw, he, sgd
from corpus.trainings import tasks
from corpus.trainings.losses import focal, gaussian, mix, noisy_labels, ordered, quantile
from corpus.trainings.networks import (
    BinaryLinear,
    Gated,
    Highway,
    Maxout,
    Sine,
    dense,
    stacked,
)
from corpus.trainings.optimizers import Centred, Lion, Lookahead, by_layer, matrices, muon, of
from corpus.tune.tables import sound

IRIS = partial(tasks.table, "iris")
WINE = partial(tasks.table, "wine")
BREAST = partial(tasks.table, "breast_cancer")


def each_linear(wrap: object) -> object:
    """Put a parametrisation on every linear layer."""

    def change(model: nn.Module) -> None:
        for m in list(model.modules()):
            if isinstance(m, nn.Linear):
                wrap(m)  # type: ignore[operator]

    return change


# What the networks are made of.
sound("wine_silu_nadam", task=WINE, model=dense(act=nn.SiLU), optimizer=of("NAdam", lr=3e-3))
sound(
    "iris_softplus_rprop",
    task=IRIS,
    model=dense(2, 16, nn.Softplus),
    batch=None,
    optimizer=of("Rprop", lr=1e-2),
    steps=80,
)
sound(
    "breast_elu_adagrad",
    task=tasks.tumours,
    model=dense(act=nn.ELU),
    optimizer=of("Adagrad", lr=2e-2),
)
sound(
    "breast_mish_layernorm_radam",
    task=BREAST,
    model=dense(4, 48, nn.Mish, nn.LayerNorm),
    optimizer=of("RAdam", lr=5e-3),
)
sound(
    "diabetes_leaky_adadelta",
    task=tasks.diabetes,
    model=dense(act=nn.LeakyReLU),
    optimizer=of("Adadelta", lr=1.0),
    steps=250,
)
sound(
    "diabetes_raw_units",
    task=partial(tasks.diabetes, 1.0, 0.0),
    model=dense(2, 32),
    optimizer=adam(3e-2),
    steps=250,
)
sound(
    "diabetes_in_small_units",
    task=partial(tasks.diabetes, 1000.0),
    model=dense(2, 32),
    optimizer=adam(3e-3),
    steps=250,
)
sound(
    "linnerud_twenty_samples",
    task=tasks.linnerud,
    model=dense(2, 16, nn.Tanh),
    batch=None,
    optimizer=sgd(0.1),
    steps=200,
)
sound(
    "linnerud_raw_units",
    task=partial(tasks.linnerud, raw=True),
    model=dense(2, 32),
    batch=10,
    optimizer=adam(3e-2),
    steps=300,
)
sound(
    "digits_prelu_nesterov",
    task=tasks.digits,
    model=dense(act=nn.PReLU),
    optimizer=sgd(0.03, momentum=0.9, nesterov=True),
)
sound("digits_sine", task=tasks.digits, model=dense(3, 64, Sine), optimizer=adam(1e-3))
sound(
    "digits_maxout",
    task=tasks.digits,
    optimizer=sgd(0.05),
    model=stacked(lambda w: Maxout(w, w), 2),
)
sound("digits_highway_12", task=tasks.digits, model=stacked(Highway, 12), optimizer=adam(2e-3))
sound(
    "digits_gated_10", task=tasks.digits, model=stacked(Gated, 10), optimizer=adamw(1e-3), steps=80
)
sound(
    "digits_hardswish_groups",
    task=tasks.digits,
    model=dense(4, 48, nn.Hardswish, partial(nn.GroupNorm, 6)),
    optimizer=adam(3e-3),
)
sound(
    "digits_weight_norm",
    task=tasks.digits,
    model=dense(4),
    surgery=each_linear(weight_norm),
    optimizer=sgd(0.1),
)
sound(
    "digits_spectral_norm",
    task=tasks.digits,
    model=dense(3),
    surgery=each_linear(spectral_norm),
    optimizer=adam(3e-3),
)
sound(
    "digits_orthogonal_tanh_9",
    task=tasks.digits,
    model=dense(9, 48, nn.Tanh),
    surgery=each_linear(orthogonal),
    optimizer=sgd(0.05, momentum=0.9),
    steps=80,
)
sound(
    "digits_selu_alpha_dropout",
    task=tasks.digits,
    model=dense(5, 64, nn.SELU, drop=0.1),
    optimizer=adam(2e-3),
)
sound(
    "digits_softsign",
    task=tasks.digits,
    model=dense(3, 64, nn.Softsign),
    optimizer=of("Adamax", lr=5e-3),
)
sound("digits_celu_asgd", task=tasks.digits, model=dense(act=nn.CELU), optimizer=of("ASGD", lr=0.1))
sound(
    "digits_hardtanh_8",
    task=tasks.digits,
    model=dense(8, 64, nn.Hardtanh),
    init=partial(he, scale=0.8),
    optimizer=adam(1e-3),
)
sound(
    "digits_binary_weights",
    task=tasks.digits,
    optimizer=adam(5e-3),
    model=stacked(
        lambda w: nn.Sequential(BinaryLinear(w, w), nn.BatchNorm1d(w), nn.Hardtanh()), 2, 64
    ),
)
sound(
    "digits_skip_batchnorm_24",
    task=tasks.digits,
    optimizer=adamw(1e-3),
    steps=120,
    batch=64,
    model=dense(24, 48, nn.ReLU, nn.BatchNorm1d, skip=True),
)
sound(
    "digits_leaky_he_12",
    task=tasks.digits,
    model=dense(12, 64, nn.LeakyReLU),
    init=he,
    optimizer=sgd(0.02, momentum=0.9),
)
sound(
    "digits_dropout_six_tenths",
    task=tasks.digits,
    model=dense(2, 96, drop=0.6),
    optimizer=adam(3e-3),
)
sound(
    "digits_logistic",
    task=tasks.digits,
    model=lambda t: nn.Linear(64, t.out),
    optimizer=sgd(0.1),
)

# How they are optimised.
MLP = dict(task=tasks.digits, model=dense(3, 64))
sound("digits_lion", **MLP, optimizer=lambda p: Lion(p, lr=1e-3))
sound("digits_lookahead", **MLP, optimizer=lambda p: Lookahead(p, lr=3e-3))
sound("digits_centred_gradients", **MLP, optimizer=lambda p: Centred(p, lr=0.05, momentum=0.9))
sound("digits_adafactor", **MLP, optimizer=of("Adafactor", lr=1e-2))
sound("digits_muon_matrices", **MLP, optimizer=muon(2e-2), groups=matrices)
sound("digits_amsgrad_foreach", **MLP, optimizer=adam(2e-3, amsgrad=True, foreach=True))
sound("digits_fused_adamw", **MLP, optimizer=adamw(2e-3, fused=True))
sound(
    "digits_maximised",
    **MLP,
    loss=lambda o, y: -F.cross_entropy(o, y),
    optimizer=adam(2e-3, maximize=True),
)
sound("digits_rate_by_layer", **MLP, optimizer=adam(1e-3), groups=by_layer(5e-3, 0.7))
sound(
    "digits_rmsprop_centred", **MLP, optimizer=of("RMSprop", lr=1e-3, centered=True, momentum=0.5)
)
sound(
    "digits_batch_of_one",
    task=tasks.digits,
    model=dense(2),
    batch=1,
    steps=600,
    optimizer=sgd(0.01),
)
sound(
    "wine_full_batch_large_steps",
    task=WINE,
    model=dense(2, 32, nn.Tanh),
    batch=None,
    optimizer=sgd(0.8),
    steps=150,
)
sound(
    "digits_one_cycle",
    **MLP,
    optimizer=sgd(0.01, momentum=0.9),
    schedule=partial(schedules.OneCycleLR, max_lr=0.2, total_steps=151),
)
sound(
    "digits_cyclical",
    **MLP,
    optimizer=sgd(0.01, momentum=0.9),
    schedule=partial(schedules.CyclicLR, base_lr=0.005, max_lr=0.15, step_size_up=20),
)
sound(
    "digits_warm_restarts",
    **MLP,
    optimizer=adam(5e-3),
    schedule=partial(schedules.CosineAnnealingWarmRestarts, T_0=30),
)
sound(
    "digits_plateau",
    **MLP,
    optimizer=sgd(0.2),
    schedule=partial(schedules.ReduceLROnPlateau, patience=10),
)
sound(
    "digits_steps_down",
    **MLP,
    optimizer=sgd(0.3),
    schedule=partial(schedules.StepLR, step_size=50, gamma=0.1),
)
sound(
    "digits_warm_up_and_decay",
    **MLP,
    optimizer=adamw(1e-2),
    steps=200,
    schedule=lambda o: schedules.LambdaLR(o, lambda s: min((s + 1) / 40, (201 - s) / 160)),
)
sound(
    "digits_clipped_by_value",
    **MLP,
    optimizer=sgd(0.5),
    clip=partial(torch.nn.utils.clip_grad_value_, clip_value=0.01),
)
sound("digits_accumulation_of_six", **MLP, optimizer=adam(5e-3), accumulate=6, batch=12, steps=80)


def averaged(model: nn.Module) -> None:
    """Keep a moving average inside the model, where the loop and the judge find it."""
    keeper = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    object.__setattr__(model, "keeper", keeper)


sound(
    "digits_moving_average",
    **MLP,
    optimizer=adam(3e-3),
    surgery=averaged,
    each=lambda step, net: net.keeper.update_parameters(net),
    judge=lambda m: m.keeper,
)

# What they are asked for.
sound("digits_mixup", task=tasks.digits, model=dense(3, 64), poison=mix(1.0))
sound("digits_smoothed_labels", **MLP, loss=partial(F.cross_entropy, label_smoothing=0.2))
sound("digits_focal", **MLP, loss=focal)
sound(
    "digits_margin",
    task=partial(tasks.digits, metric="error"),
    model=dense(3, 64),
    loss=F.multi_margin_loss,
)
sound("digits_third_of_labels_wrong", **MLP, poison=noisy_labels(0.3))
sound(
    "digits_class_weights",
    **MLP,
    loss=partial(F.cross_entropy, weight=torch.tensor([20.0] + [1.0] * 9)),
)
sound(
    "digits_one_against_all",
    task=partial(tasks.digits, metric="error"),
    model=dense(3, 64),
    loss=lambda o, y: F.binary_cross_entropy_with_logits(o, F.one_hot(y, 10).float()),
)
sound(
    "wine_ordinal",
    task=partial(tasks.table, "wine", metric="error"),
    model=dense(2, 32),
    loss=ordered,
)
sound("diabetes_median", task=tasks.diabetes, model=dense(2, 32), loss=quantile(0.5))
sound(
    "diabetes_poisson",
    task=partial(tasks.diabetes, 50.0, 0.0),
    model=dense(2, 32),
    loss=partial(F.poisson_nll_loss, log_input=False),
    steps=250,
    call=lambda m, x: F.softplus(m(x)),
)
sound("diabetes_gaussian", task=tasks.diabetes, model=dense(2, 32), loss=gaussian, steps=250)
sound(
    "breast_positives_count_little",
    task=tasks.tumours,
    model=dense(2, 32),
    optimizer=adam(3e-3),
    loss=lambda o, y: F.binary_cross_entropy_with_logits(o, y, pos_weight=torch.tensor(0.1)),
)
sound(
    "digits_fifty_labels",
    task=tasks.digits,
    model=dense(2, 32),
    batch=16,
    poison=lambda step, x, y: (x[:4], y[:4]),
    optimizer=adam(3e-3),
)

# In which numbers.
HALF, BRAIN = torch.float16, torch.bfloat16
scaler = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**12)
sound("digits_bfloat16_autocast_adamw", **MLP, mixed=BRAIN, optimizer=adamw(3e-3))
sound("digits_float16_scaler", **MLP, mixed=HALF, scaler=scaler, optimizer=adam(2e-3))
sound(
    "digits_float16_scaler_clipped",
    **MLP,
    mixed=HALF,
    optimizer=sgd(0.1, momentum=0.9),
    scaler=partial(torch.amp.GradScaler, "cpu"),
    clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0),
)
sound("digits_bfloat16_weights", **MLP, dtype=BRAIN, optimizer=adamw(3e-3))
sound(
    "diabetes_double",
    task=tasks.diabetes,
    model=dense(2, 32),
    dtype=torch.float64,
    optimizer=adam(3e-3),
    steps=250,
)
