"""Faulty rows of step size and scale, of the optimizer's use and of what it keeps."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import broken
from corpus.recipes import Optimizer, Surgery, adam, adamw, sgd
from corpus.trainings import seq_tasks
from corpus.trainings.optimizers import Lion, of
from corpus.trainings.seq_bags import DeepSet
from corpus.trainings.seq_cells import cells, shell
from corpus.trainings.seq_faults import Do, resumed
from corpus.trainings.seq_writers import Pointer
from corpus.trainings.surgery import put
from corpus.trainings.tasks import Loss

HIGH = "exploding|oscillating|nonfinite|spike|saturated|dead|stalled"
LOW = "stalled"
RATE = ("learning_rate_too_high", None)

# name of the healthy row, the optimizer with its rate too high
TOO_HIGH: dict[str, Optimizer] = {
    "code_elman_wide_lion": lambda p: Lion(p, lr=0.3),
    "syntax_gated_rounds": adam(3.0),
    "dates_across": adam(1.0),
    "lorenz_carried_lstm": adam(2.0),
    "syntax_resgated_jump": of("Adamax", lr=3.0),
}
for twin, optimizer in TOO_HIGH.items():
    broken(f"{twin}/rate_high", HIGH, *RATE, dict(optimizer=optimizer))
broken(
    "names_kim_sgd_warm/peak_high",
    HIGH,
    *RATE,
    dict(schedule=partial(schedules.OneCycleLR, max_lr=15.0, total_steps=121)),
)
broken(
    "tides_reduced/rate_grows",
    HIGH,
    *RATE,
    dict(schedule=partial(schedules.ExponentialLR, gamma=1.12)),
    schedule=partial(schedules.ExponentialLR, gamma=0.99),
)

TOO_LOW: dict[str, Optimizer] = {
    "strokes_set_attention": adam(1e-7),
    "words_skipgram_sparse": lambda p: torch.optim.SparseAdam(list(p), lr=1e-6),
    "dates_hf_bart": adamw(1e-7),
    "hares_density": of("RMSprop", lr=1e-7),
}
for twin, optimizer in TOO_LOW.items():
    broken(f"{twin}/rate_low", LOW, "learning_rate_too_low", None, dict(optimizer=optimizer))
broken(
    "code_tied_warm_wide/warm_for_ever",
    LOW,
    "learning_rate_too_low",
    None,
    dict(schedule=partial(schedules.LambdaLR, lr_lambda=lambda step: (step + 1) / 2_000_000)),
)
broken(
    "tides_split_linear/decays_each_step",
    LOW,
    "learning_rate_too_low",
    None,
    dict(each_step=True, schedule=partial(schedules.StepLR, step_size=1, gamma=0.3)),
    schedule=partial(schedules.StepLR, step_size=1, gamma=0.3),
    optimizer=sgd(0.02),
)


# The number on which backward is called.
def summed(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Over all tokens of the batch."""
    return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum")


def weighted(factor: float, loss: Loss) -> Loss:
    """A loss times a constant."""
    return lambda out, y: factor * loss(out, y)


SCALE = ("loss_scale", None)
broken("tagging_state_space_plain_sgd/summed", HIGH, *SCALE, dict(loss=summed))
broken(
    "club_gated_small/summed_nodes",
    HIGH,
    *SCALE,
    dict(loss=partial(F.cross_entropy, reduction="sum")),
)
broken(
    "names_bare_sgd/never_unscaled",
    HIGH,
    *SCALE,
    dict(loss=weighted(2.0**14, F.cross_entropy)),
    clip=None,
    optimizer=sgd(0.02, momentum=0.9),
)
broken("words_skipgram_dense_sgd/weight_1e_6", LOW, *SCALE, dict(factor=1e-6))
broken(
    "digits_lines_ctc_gru/per_thousand",
    "stalled|vanishing",
    *SCALE,
    dict(factor=1e-6),
    optimizer=sgd(0.02, momentum=0.9),
    steps=200,
)
broken(
    "atlas_epochs_one_cycle/in_millionths",
    "stalled|vanishing",
    *SCALE,
    dict(loss=weighted(1e-6, F.mse_loss)),
)

# The scale of the input.
WIDE = "exploding|dead|oscillating|nonfinite|saturated|vanishing|stalled|spike"
INPUT = ("input_scale", None)
broken(
    "nations_rnn_cells_all_at_once/people_and_money",
    WIDE,
    *INPUT,
    dict(task=partial(seq_tasks.nations, raw=True)),
)
broken(
    "nations_perceiver/people_and_money",
    WIDE,
    *INPUT,
    dict(task=partial(seq_tasks.nations, raw=True)),
)
broken("tides_wave/in_millimetres", WIDE, *INPUT, dict(scale_input=lambda x: 2e4 * x))
broken(
    "mackey_reduced_huber/x_3000",
    WIDE,
    *INPUT,
    dict(scale_input=lambda x: 3000 * x),
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "lorenz_elman/x_1e_6",
    "stalled|vanishing",
    *INPUT,
    dict(scale_input=lambda x: 1e-6 * x),
)
broken(
    "ranks_edge_convolution/x_1000",
    WIDE,
    *INPUT,
    dict(scale_input=lambda x: 1000 * x),
)

# Gradients that are never zeroed.
NEVER = ("gradients_not_zeroed", None, dict(zero=False))
for twin, more in (
    ("dates_luong", dict(clip=None, optimizer=adam(1e-2))),
    ("tagging_state_space_plain_sgd", {}),
    ("nations_perceiver", dict(optimizer=adam(5e-3))),
    ("atlas_epochs_one_cycle", {}),
    ("words_skipgram_dense_sgd", {}),
):
    broken(f"{twin}/never_zeroed", HIGH, *NEVER, **more)

# What the optimizer keeps.
KEPT = ("stalled", "optimizer_state", None)
broken("code_experts/eps_20", *KEPT, dict(optimizer=adamw(4e-3, eps=20.0)))
broken("dates_across/resumed_after_divergence", *KEPT, dict(optimizer=resumed(adam(3e-3), 1e8)))
broken(
    "novel_arma/resumed_after_divergence",
    *KEPT,
    dict(optimizer=resumed(adam(1e-2, betas=(0.9, 0.9999)), 1e6)),
)
broken(
    "syntax_model_gin_dropout/accumulator_full",
    *KEPT,
    dict(optimizer=of("Adagrad", lr=0.05, initial_accumulator_value=1e9)),
    optimizer=of("Adagrad", lr=0.05),
)
broken(
    "ranks_edge_convolution/damped_away",
    *KEPT,
    dict(optimizer=sgd(0.02, momentum=0.9, dampening=0.9999)),
)
# Parameters that the loss or the optimizer does not reach.
CUT = "stalled|vanishing|dead"
LOST = "disconnected_parameters"
for twin in (
    "code_near_windows_accumulated",
    "atlas_diameter_norms_skips",
    "names_mamba_sequential",
):
    broken(f"{twin}/other_model", CUT, LOST, None, dict(elsewhere=True))


class Quiet(nn.Module):
    """A module that is called without gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> object:
        with torch.no_grad():
            return self.inner(x)


def quiet(name: str) -> Surgery:
    """As was right while the module was a finished one."""

    def change(model: nn.Module) -> None:
        setattr(model, name, Quiet(model.get_submodule(name)))

    return change


broken(
    "glyphs_gru_cells/detached",
    CUT,
    LOST,
    ("extra", "body", "body.cells", "body.cells.1"),
    dict(surgery=put("extra", partial(Do, torch.Tensor.detach))),
    model=shell(cells(nn.GRUCell, 2), 16, "mean"),
    steps=120,
)
broken(
    "peaks_pointer/through_numpy",
    CUT,
    LOST,
    ("extra", "read", "lift"),
    dict(surgery=put("extra", partial(Do, lambda x: torch.tensor(x.tolist())))),
    model=lambda t: Pointer(t, 8),
    steps=200,
)
broken(
    "dates_bahdanau/encoder_without_gradients",
    CUT,
    LOST,
    ("encoder", "encoder.inner"),
    dict(surgery=quiet("encoder")),
)
broken(
    "strokes_deep_set_sum/phi_without_gradients",
    CUT,
    LOST,
    ("phi", "phi.inner", "phi.inner.3"),
    dict(surgery=quiet("phi")),
    model=lambda t: DeepSet(t, 40, "max", nn.ReLU),
)
