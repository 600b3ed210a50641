"""Faulty rows of spoilt data, ranges that are left, undefined operations and wrong outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from corpus.drawn import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import tasks
from corpus.trainings.seq_faults import (
    Do,
    answer,
    distance,
    during,
    eighth,
    energy,
    exponent,
    products,
    sensor,
    shares,
    steps,
    turn,
    unit,
    unit_of,
)
from corpus.trainings.seq_formers import Heads, reader
from corpus.trainings.surgery import put

# Batches that are not like the others.
BAD = ("spike|exploding|nonfinite|dead|saturated", "bad_batch", None)
for twin, poison, more in (
    ("mackey_reduced_huber", during(90, 1, unit_of(1e5)), dict(optimizer=sgd(0.05, momentum=0.9))),
    ("valve_carried_rnn_unclipped", during(130, 2, unit_of(3e4, True)), {}),
    ("atlas_epochs_one_cycle", during(140, 1, unit_of(1e5, True)), {}),
    ("lorenz_elman", during(130, 2, answer(1e7)), {}),
    ("tides_reduced", during(100, 2, unit_of(1e4)), dict(optimizer=sgd(0.05, momentum=0.9))),
    (
        "shares_lstm_cells_four_a_batch",
        during(140, 3, unit_of(1e4, True)),
        dict(optimizer=sgd(0.1, momentum=0.9)),
    ),
):
    broken(f"{twin}/outlier", *BAD, dict(poison=poison), **more)

# NaN and infinity in the data.
NAN = ("nonfinite", "nonfinite_input", None)
NO, INF = float("nan"), float("inf")
GAPS: dict[str, Poison] = {
    "lorenz_elman": during(70, 1, sensor(NO)),
    "tides_wave": during(40, 1, sensor(INF)),
    "atlas_diameter_norms_skips": during(60, 1, answer(NO)),
    "ranks_graphconv_pair_norm": during(30, 1, sensor(NO)),
    "mackey_x_gated_residual": during(35, 2, sensor(-INF)),
    "hares_density": during(0, 1, sensor(NO)),
}
for twin, poison in GAPS.items():
    broken(f"{twin}/sensor_gap", *NAN, dict(poison=poison))


def doing(function: Callable[[torch.Tensor], torch.Tensor]) -> object:
    """Put a function into the place that networks leave for it."""
    return put("extra", partial(Do, function))


# Numbers that outgrow their type.
OVER = ("nonfinite", "dtype_overflow", "extra")
broken("names_quasi/half_energy", *OVER, dict(surgery=doing(energy)))
broken("tagging_universal/half_scores", *OVER, dict(surgery=doing(products)))
broken("atlas_triangles_sum/half_moment", *OVER, dict(surgery=doing(eighth)))
broken(
    "tides_wave/plain_exponent",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    "extra",
    dict(surgery=doing(exponent)),
)


class HalfHeads(Heads):
    """Scores in half precision that are divided only after they were counted."""

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """The same number, had it fitted."""
        big = (64 * q).half() @ (64 * k).half().transpose(-1, -2)
        return big.float() / 4096 / self.each**0.5


broken(
    "glyphs_attention_dropout/half_heads",
    "nonfinite",
    "dtype_overflow",
    ("tower.0", "tower.0.mix", "tower.1", "tower.1.mix", "tower.0.mix.drop", "tower.1.mix.drop"),
    dict(model=reader(2, 32, HalfHeads)),
    model=reader(2, 32),
)

# Numbers too small for their type.
UNDER = ("vanishing|stalled|dead", "dtype_underflow", None)
TINY = adam(3e-3, eps=1e-20)


def small(factor: float, loss: tasks.Loss = F.cross_entropy) -> tasks.Loss:
    """A loss of little weight."""
    return lambda out, y: factor * loss(out.float(), y)


half = dict(mixed=torch.float16)
broken(
    "names_bare_sgd/half_without_scaler",
    *UNDER,
    half,
    loss=small(1e-8),
    optimizer=TINY,
    clip=None,
    batch=8,
)
broken(
    "mackey_reduced_huber/half_without_scaler",
    *UNDER,
    half,
    loss=small(1e-8, F.mse_loss),
    optimizer=TINY,
)
# Adam's own small number, 1e-8, is zero in half precision.
broken(
    "atlas_triangles_sum/half_weights",
    "nonfinite|vanishing|stalled|dead",
    "dtype_underflow",
    None,
    dict(dtype=torch.float16),
)
broken(
    "strokes_deep_set_maximum_half/scale_far_too_small",
    "vanishing|stalled|dead",
    "dtype_underflow|loss_scale",
    None,
    dict(scaler=partial(torch.amp.GradScaler, "cpu", init_scale=2.0**-24, growth_interval=10**6)),
    optimizer=TINY,
)

# Operations outside their domain.
LOST = ("nonfinite", "undefined_operation")
for twin, function, more in (
    ("names_quasi", shares, {}),
    ("tagging_universal", turn, {}),
    ("bytes_alibi_pre", unit, {}),
    ("numerals_alone", distance, {}),
    ("atlas_triangles_sum", steps, {}),
):
    broken(f"{twin}/{function.__name__}", *LOST, "extra", dict(surgery=doing(function)), **more)


class Lonely(nn.Module):
    """Message passing divided by a degree that a node without neighbours does not have."""

    def __init__(self, task: tasks.Task, width: int, least: float) -> None:
        super().__init__()
        self.lift, self.said = nn.Linear(1, width), nn.Linear(width, width)
        self.share = Do(lambda x: x / x.sum(2, keepdim=True).clamp_min(least))
        self.answer = nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = self.share(x)
        h = F.relu(self.lift(x.sum(2, keepdim=True)))
        return self.answer(F.relu(self.said(share @ h)).mean(1))


broken(
    "atlas_wiener_powers/no_neighbours",
    *LOST,
    ("share",),
    dict(model=lambda t: Lonely(t, 32, 0.0)),
    model=lambda t: Lonely(t, 32, 1.0),
    optimizer=adam(1e-2),
    steps=80,
)


def logarithms(often: torch.Tensor) -> torch.Tensor:
    """Of counts less one, which are often zero."""
    return (often - 1).log()


broken(
    "hares_density/logarithm_of_relu",
    *LOST,
    ("spread", None),
    dict(floor=lambda s: F.relu(s).log()),
)
broken("words_glove/logarithm_of_zero", *LOST, None, dict(logs=logarithms))

# What stands between the last layer and the loss.
TWICE = ("saturated|stalled|vanishing", "output_activation_mismatch", ("out", None))


def softmax() -> nn.Module:
    """Probabilities, where scores were wanted."""
    return nn.Softmax(dim=-1)


SOFT = dict(surgery=put("out", softmax))
broken("dates_bahdanau/softmax", *TWICE, SOFT)
broken("syntax_gatv2_graph_norm/softmax", *TWICE, SOFT)
broken("words_skipgram_sparse/sigmoid", *TWICE, dict(score=torch.sigmoid))
BOUNDED = ("saturated|stalled|vanishing|dead", "output_activation_mismatch", ("out", None))
broken("ranks_graphconv_pair_norm/relu", *BOUNDED, dict(surgery=put("out", nn.ReLU)))
broken("lorenz_hf_bert_numbers/sigmoid", *BOUNDED, dict(surgery=put("out", nn.Sigmoid)))
broken(
    "atlas_spanning_trees_counted/tanh",
    *BOUNDED,
    dict(surgery=put("out", nn.Tanh)),
)
