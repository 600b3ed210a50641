"""Faulty rows of spoilt data, ranges that are left, undefined operations and wrong outputs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.fresh import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import fresh_ord_tasks as own
from corpus.trainings import tasks
from corpus.trainings.fresh_ord_cells import Weighed, names_rnn
from corpus.trainings.fresh_ord_graphs import blocks, gcn
from corpus.trainings.fresh_ord_nets import bag
from corpus.trainings.seq_faults import Do, during, sensor, unit_of
from corpus.trainings.surgery import put

# Batches that are not like the others.
BAD = ("spike|exploding|nonfinite|dead|saturated", "bad_batch", None)


def typed(value: float) -> Poison:
    """One rating in which somebody missed the decimal point."""

    def change(x: torch.Tensor, y: torch.Tensor) -> Pair:
        y[0] = value
        return x, y

    return during(360, 2, change)


broken("ord_life_factors_sgd/decimal_point", *BAD, dict(poison=typed(1e7)))
broken(
    "ord_pendulum_tcn_plain_momentum/sensor_in_volts",
    *BAD,
    dict(poison=during(120, 1, unit_of(3e4, True))),
)
broken(
    "ord_atlas_gin_loader/unscaled_answers",
    *BAD,
    dict(spoil=lambda step, y: 1e6 * y if step == 100 else y),
    optimizer=sgd(1e-3, momentum=0.9),
    count=6,
)

# NaN and infinity in the data.
NAN = ("nonfinite", "nonfinite_input", None)
NO, INF = float("nan"), float("inf")


def unrated(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """A rating that nobody gave."""
    y[3] = NO
    return x, y


broken("ord_seasons_lstm/gap", *NAN, dict(poison=during(50, 1, sensor(NO))))
broken("ord_life_neural_factors/unrated", *NAN, dict(poison=during(120, 1, unrated)))
broken(
    "ord_heart_wave_gates/logarithm_of_silence",
    "nonfinite",
    "nonfinite_input|undefined_operation",
    None,
    dict(scale_input=lambda x: x.clamp_min(0).log()),
)
broken("ord_flowers_gcn_whole/measured_as_infinite", *NAN, dict(poison=during(30, 1, sensor(INF))))


def doing(function: object) -> object:
    """Put a function into the place that networks leave for it."""
    return put("between", partial(Do, function))


# Numbers that outgrow their type.
def half_logarithm(x: torch.Tensor) -> torch.Tensor:
    """A log-softmax by hand, in half precision."""
    h = (10 * x).half()
    return (h - h.exp().sum(-1, keepdim=True).log()).float()


def half_pool(x: torch.Tensor) -> torch.Tensor:
    """The shares of a batch in the sum of fourth powers, in half precision."""
    e = (8 * x.half()) ** 4
    return x + (e / e.sum(0, keepdim=True).clamp_min(1e-3)).float()


def bare_exponents(x: torch.Tensor) -> torch.Tensor:
    """A softmax by hand, its largest number not taken away, in half precision."""
    e = (6 * x).half().exp()
    return x + (e / e.sum(-1, keepdim=True)).float()


OVER = ("nonfinite", "dtype_overflow", ("between",))
broken(
    "ord_rows_encoder_class_token_pre/half_logarithm", *OVER, dict(surgery=doing(half_logarithm))
)
broken("ord_life_neural_factors/half_pool", *OVER, dict(surgery=doing(half_pool)))
broken("ord_lines_tutorial_encoder_post/half_softmax", *OVER, dict(surgery=doing(bare_exponents)))


def _as_they_are(alpha: torch.Tensor, table: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return (alpha @ table.exp()) * part.exp()


broken(
    "ord_brackets_chain/not_in_logarithms",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    (None, "hidden2tag", ""),
    dict(forward=_as_they_are, total=lambda alpha: alpha.sum(1).log()),
    task=partial(own.brackets, 56, 800),
    steps=50,
)


# Numbers too small for their type.
def product(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The logarithm of the product of probabilities, as the book has it."""
    p = out.softmax(-1).gather(2, y[..., None])[..., 0]
    return -p.prod(1).log().mean() / y.shape[1]


UNDER = ("vanishing|stalled|dead", "dtype_underflow|loss_scale", None)
broken(
    "ord_brackets_gru_momentum/product_of_shares",
    "nonfinite",
    "dtype_underflow|undefined_operation",
    None,
    dict(loss=product),
    task=partial(own.brackets, 64, 800),
    optimizer=adam(5e-3),
    steps=60,
)


def light(factor: float, loss: tasks.Loss = F.cross_entropy) -> tasks.Loss:
    """A loss of little weight."""
    return lambda out, y: factor * loss(out.float(), y)


HALF, SMALL = dict(mixed=torch.float16), adam(3e-3, eps=1e-20)
broken(
    "ord_lines_averaging_deep/half_without_scaler",
    *UNDER,
    HALF,
    loss=light(1e-8),
    model=bag(48, (64, 64)),
    optimizer=SMALL,
)
broken(
    "ord_words_between_both_sides_large_batch/half_without_scaler",
    *UNDER,
    HALF,
    loss=light(1e-8),
    batch=64,
    optimizer=SMALL,
)
broken(
    "ord_seasons_flat_windows_bottleneck/brain_floats",
    "stalled",
    "dtype_underflow|learning_rate_too_low",
    None,
    dict(dtype=torch.bfloat16),
    task=partial(own.copies, "pendulum", 12),
    optimizer=sgd(1.5e-3),
    model=lambda t: nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 12)),
    steps=400,
)

# Operations outside their domain.
LOST = ("nonfinite", "undefined_operation")


def inverted(model: nn.Module) -> None:
    """The mask of what is padding, where that of what is not was wanted."""
    assert isinstance(model, Weighed)
    model.keep = lambda x: x == 0


broken(
    "ord_lines_weighed_gru_vectors_frozen/mask_inverted",
    *LOST,
    ("", "query", "classify", None),
    dict(surgery=inverted),
    surgery=lambda model: None,
)
broken(
    "ord_heart_codes_warm_divergence/root_of_any_number",
    *LOST,
    ("log", None, "write", ""),
    dict(spread=torch.sqrt),
)


def logarithmic(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The squared logarithmic error, of answers that were standardised and so may be below -1."""
    return (out.log1p() - y.log1p()).square().mean().sqrt()


broken("ord_seasons_lstm/logarithms_below_zero", *LOST, None, dict(loss=logarithmic))


def no_loops(model: nn.Module) -> None:
    """The adjacency normalised without self-loops, where some nodes have no neighbour."""
    adj: torch.Tensor = model.adj  # type: ignore[assignment]
    a = (adj > 0).float().fill_diagonal_(0)
    rate = a.sum(1).rsqrt()
    adj.copy_(rate[:, None] * a * rate)


broken(
    "ord_blocks_gcn_ten_skips/no_loops",
    "nonfinite",
    "undefined_operation",
    ("gc.0", "norms.0", "acts.0", "", None),
    dict(surgery=no_loops),
    task=partial(blocks, 60, 1.0, 0.03),
    model=gcn(24, 2),
    optimizer=adam(1e-2),
)
broken(
    "ord_topics_factors_adam_decayed/cosine_of_nothing",
    *LOST,
    ("between", "user_factors"),
    dict(
        surgery=lambda m: [
            nn.init.zeros_(m.user_factors.weight[0:1]),
            put("between", partial(Do, lambda v: 2 * v / v.norm(dim=1, keepdim=True)))(m),
        ]
    ),
    surgery=lambda m: put("between", partial(Do, lambda v: 2 * F.normalize(v, dim=1)))(m),
)

# What stands between the last layer and the loss.
TWICE = ("saturated|stalled|vanishing", "output_activation_mismatch")
BOUNDED = ("saturated|stalled|vanishing|dead", "output_activation_mismatch")
broken(
    "ord_scripts_names_rnn/shares_for_logarithms",
    *TWICE,
    ("softmax", None),
    dict(model=names_rnn(96, end=lambda: nn.Softmax(1))),
    model=names_rnn(96, end=lambda: nn.LogSoftmax(1)),
    loss=F.nll_loss,
)
broken(
    "ord_brackets_gru_momentum/softmax_twice",
    *TWICE,
    ("final", None),
    dict(surgery=put("final", lambda: nn.Softmax(-1))),
)
broken(
    "ord_life_factors_in_years_slow_huber/years_below_one",
    *BOUNDED,
    ("end", None),
    dict(surgery=put("end", nn.Sigmoid)),
)
broken(
    "ord_regression_noisy_gru_l1/sigmoid",
    *BOUNDED,
    ("final", None),
    dict(surgery=put("final", nn.Sigmoid)),
)
broken(
    "ord_logistic_tanh_rnn_two_layers/relu",
    "saturated|stalled|vanishing|dead",
    "output_activation_mismatch|dead_relu",
    ("final", "decoder", None),
    dict(surgery=put("final", nn.ReLU)),
)
broken(
    "ord_heart_encoder_forecasts/softmax_of_units",
    *BOUNDED,
    ("final", None),
    dict(surgery=put("final", lambda: nn.Softmax(-1))),
)
