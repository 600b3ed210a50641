"""Faulty rows of values: bad batches, numbers that are none, ranges that are left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import tasks
from corpus.trainings.networks import convolutions, hourglass
from corpus.trainings.surgery import put
from corpus.tune.tables import broken

Change = Callable[[torch.Tensor, torch.Tensor], Pair]


def at(step: int, change: Change, length: int = 1) -> Poison:
    """Touch the batches of some steps."""

    def poison(now: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        return change(x.clone(), y.clone()) if step <= now < step + length else (x, y)

    return poison


def spoil(value: float, target: bool = False) -> Change:
    """One number of the batch is replaced."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        (y if target else x).view(-1)[7] = value
        return x, y

    return change


def blown(factor: float, target: bool = False) -> Change:
    """The whole batch, or its answers, in another unit."""
    return lambda x, y: (x, y * factor) if target else (x * factor, y)


# One batch that is not like the others.
BAD = ("spike|exploding|nonfinite|dead", "bad_batch", None)
broken("digits_centred_gradients/batch_x2000", *BAD, dict(poison=at(100, blown(2000.0))))
broken("cnn_plain_relu/batch_x1000", *BAD, dict(poison=at(90, blown(1000.0))))
broken(
    "hourglass_relu/batch_x500",
    *BAD,
    dict(poison=at(100, blown(500.0))),
    optimizer=sgd(0.2, momentum=0.9),
)
broken(
    "diabetes_median/target_1e6",
    *BAD,
    dict(poison=at(110, spoil(1e6, True))),
    loss=F.mse_loss,
    optimizer=sgd(0.02),
)
broken("linnerud_twenty_samples/targets_x1e5", *BAD, dict(poison=at(150, blown(1e5, True), 2)))
broken(
    "cnn_groupnorm_silu/targets_x1e4",
    *BAD,
    dict(poison=at(80, blown(1e4, True))),
    task=partial(tasks.repaint, (1, 8, 8)),
    model=lambda t: nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.GroupNorm(3, 12),
        nn.SiLU(),
        nn.Conv2d(12, 1, 3, padding=1),
    ),
    optimizer=sgd(0.03),
    steps=100,
)
broken("unet_ink_wide_sgd/targets_x1e4", *BAD, dict(poison=at(60, blown(1e4, True))))

# NaN and infinity in the data.
NAN = ("nonfinite", "nonfinite_input", None)
INF = float("inf")
NO = float("nan")
broken("diabetes_leaky_adadelta/nan_feature", *NAN, dict(poison=at(120, spoil(NO))))
broken("linnerud_raw_units/nan_target", *NAN, dict(poison=at(90, spoil(NO, True))))
broken("cnn_batchnorm_elu/inf_pixel", *NAN, dict(poison=at(70, spoil(INF))))
broken("graph_attention/nan_node", *NAN, dict(poison=at(40, spoil(NO))))
broken("lstm_both_ways/nan_row", *NAN, dict(poison=at(80, spoil(NO))))
broken("vit_patches/nan_patch", *NAN, dict(poison=at(60, spoil(NO))))
broken("hf_vit/inf_pixel", *NAN, dict(poison=at(50, spoil(-INF))))
broken("digits_bfloat16_weights/nan_at_once", *NAN, dict(poison=at(0, spoil(NO))))


# Numbers that outgrow their type.
class Squares(nn.Module):
    """Energy relative to the mean, counted in half precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = (200 * x.half()) ** 2
        return (e / e.mean(-1, keepdim=True).clamp_min(1e-3)).float()


class Share(nn.Module):
    """A softmax by hand that does not subtract its largest number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = torch.exp(80 * x)
        return x.shape[-1] * e / e.sum(-1, keepdim=True)


class Scores(nn.Module):
    """Attention without parameters whose scores, not yet divided, are in half precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = 60 * x.half()
        return x + ((h @ h.transpose(1, 2)) / 3600).float().softmax(-1) @ x


OVER = ("nonfinite", "dtype_overflow", "extra")
broken("digits_prelu_nesterov/half_squares", *OVER, dict(surgery=put("extra", Squares)))
broken(
    "hourglass_tanh_denoising/exp_by_hand",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    "extra",
    dict(surgery=put("extra", Share)),
    model=hourglass((48, 24), nn.SiLU),
)
broken("vit_patches/half_scores", *OVER, dict(surgery=put("extra", Scores)))
broken(
    "graph_gcn/exp_by_hand",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    "extra",
    dict(surgery=put("extra", Share)),
)

# Numbers too small for their type: a small weight on the loss is nothing to Adam (with a small eps)
# in float32, and in half precision its gradients are zero.
UNDER = ("vanishing|stalled|dead", "dtype_underflow", (None,))
TINY = adam(3e-3, eps=1e-20)


def weighted(factor: float) -> tasks.Loss:
    """A loss of small weight."""
    return lambda out, y: factor * F.cross_entropy(out.float(), y)


half = dict(mixed=torch.float16)
broken(
    "digits_amsgrad_foreach/half_without_scaler", *UNDER, half, loss=weighted(1e-7), optimizer=TINY
)
broken(
    "cnn_plain_relu/half_without_scaler",
    *UNDER,
    half,
    loss=weighted(1e-8),
    model=convolutions(3, 12, norm=None),
    optimizer=TINY,
)
broken("vit_patches/half_without_scaler", *UNDER, half, loss=weighted(1e-8), optimizer=TINY)
small = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**-24, growth_interval=10**6)
broken(
    "digits_float16_scaler/scale_too_small",
    "vanishing|stalled|dead",
    "dtype_underflow|loss_scale",
    None,
    dict(scaler=small),
    optimizer=TINY,
)
broken(
    "digits_fused_adamw/bfloat16_small_steps",
    "stalled",
    "dtype_underflow|learning_rate_too_low",
    None,
    dict(dtype=torch.bfloat16),
    optimizer=sgd(0.01),
    steps=800,
)
