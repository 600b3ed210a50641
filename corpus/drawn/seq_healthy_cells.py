"""Healthy rows of recurrent networks, state spaces and convolutions over time."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import seq_tasks, tasks
from corpus.trainings.optimizers import Lion, of
from corpus.trainings.seq_bags import Grams, Kim
from corpus.trainings.seq_cells import (
    Diagonal,
    Quasi,
    Wave,
    alone,
    cells,
    elman,
    layers,
    normed_lstm,
    reservoir,
    shell,
    temporal,
    turning,
)
from corpus.trainings.seq_loops import epochs, norm_clip
from corpus.trainings.seq_writers import Bahdanau, Luong, Pointer, Reduced, Split, writer

GLYPHS, NAMES = seq_tasks.glyphs, seq_tasks.identifiers
NATIONS = seq_tasks.nations


# Cells stepped by hand.
sound(
    "glyphs_gru_cells",
    task=partial(GLYPHS, 16),
    model=shell(cells(nn.GRUCell, 2), 24, "mean"),
    optimizer=adam(5e-3),
    steps=80,
)
sound(
    "tagging_lstm_cells_near",
    task=seq_tasks.tagged,
    model=shell(cells(nn.LSTMCell, 2, near=True), 24),
    optimizer=adamw(5e-3),
    batch=8,
    steps=80,
)
sound(
    "lorenz_elman",
    task=partial(seq_tasks.series, "lorenz"),
    model=shell(elman(), 48),
    optimizer=sgd(0.05, momentum=0.9),
    steps=150,
)
sound(
    "adding_relu_elman",
    task=partial(seq_tasks.adding, 12),
    model=shell(elman(1.0, F.relu), 48),
    optimizer=adam(2e-3),
    batch=64,
    steps=250,
    clip=norm_clip(1.0),
)
sound(
    "numerals_alone",
    task=seq_tasks.numerals,
    model=shell(alone(2, 0.9), 48),
    optimizer=adam(5e-3),
    steps=150,
)
sound(
    "bytes_normed_lstm",
    task=partial(seq_tasks.bytecode, 16),
    model=shell(normed_lstm(), 48),
    optimizer=adam(1e-2, betas=(0.9, 0.95)),
    batch=16,
    steps=80,
    clip=norm_clip(0.25),
)
sound(
    "names_quasi",
    task=NAMES,
    model=shell(layers(lambda w, i: Quasi(w), 2), 40, "max"),
    optimizer=of("RAdam", lr=1e-2),
    steps=100,
)
sound(
    "valve_turning",
    task=partial(seq_tasks.series, "valve", 30, 5),
    model=shell(turning(), 32),
    optimizer=of("RMSprop", lr=2e-3),
    steps=120,
)
sound(
    "hares_reservoir",
    task=partial(seq_tasks.series, "hares"),
    model=shell(reservoir(), 100),
    optimizer=adam(1e-2),
    steps=100,
)
sound(
    "mackey_state_space",
    task=partial(seq_tasks.series, "mackey", 40, 6),
    model=shell(layers(lambda w, i: Diagonal(w), 2), 16, "last"),
    optimizer=adamw(5e-3),
    steps=100,
)
sound(
    "tagging_state_space_plain_sgd",
    task=seq_tasks.tagged,
    model=shell(layers(lambda w, i: Diagonal(w), 1), 32),
    optimizer=sgd(0.3),
    batch=16,
    steps=120,
)
sound(
    "code_elman_wide_lion",
    task=partial(tasks.code, 20),
    model=shell(elman(0.9), 128),
    optimizer=lambda p: Lion(p, lr=1e-3),
    batch=16,
    steps=80,
)
sound(
    "nations_rnn_cells_all_at_once",
    task=NATIONS,
    model=shell(cells(nn.RNNCell, 1), 16, "mean"),
    optimizer=adam(1e-2),
    batch=None,
    steps=100,
)
sound(
    "glyphs_gru_clipped_hard_rate_high",
    task=partial(GLYPHS, 20),
    model=shell(cells(nn.GRUCell, 1), 48, "max"),
    optimizer=sgd(1.0),
    clip=norm_clip(0.5),
    batch=16,
    steps=150,
)
sound(
    "shares_lstm_cells_four_a_batch",
    task=seq_tasks.shares,
    model=shell(cells(nn.LSTMCell, 1), 32),
    optimizer=adam(5e-3),
    batch=4,
    steps=150,
)

# Convolutions over time.
sound(
    "tides_wave",
    task=partial(seq_tasks.series, "tides", 32, 6, 0.3),
    model=shell(layers(lambda w, i: Wave(w, 2 ** (i % 4)), 5), 24),
    optimizer=adam(3e-3),
    steps=100,
)
sound(
    "tagging_temporal_sixteen_skips",
    task=seq_tasks.tagged,
    model=shell(temporal(16, nn.GELU, lambda w: nn.BatchNorm1d(w), skip=True), 16),
    optimizer=sgd(0.05, momentum=0.9),
    batch=16,
    steps=80,
)
sound(
    "glyphs_temporal_plain",
    task=GLYPHS,
    model=shell(temporal(4), 32, "max"),
    optimizer=adam(3e-3),
    steps=100,
)
sound("names_kim_dropout", task=NAMES, model=lambda t: Kim(t, 24, 0.5), steps=120)
sound(
    "names_kim_sgd_warm",
    task=NAMES,
    model=lambda t: Kim(t, 48, 0.1),
    optimizer=sgd(0.1, momentum=0.9),
    schedule=partial(schedules.OneCycleLR, max_lr=0.1, total_steps=121),
    steps=120,
)
sound(
    "glyphs_grams_sparse",
    task=GLYPHS,
    model=lambda t: Grams(t, 16, sparse=True),
    groups=lambda m: m.bag.parameters(),
    optimizer=lambda p: torch.optim.SparseAdam(list(p), lr=0.1),
    steps=150,
)
sound(
    "glyphs_grams_sgd_sparse_decay",
    task=GLYPHS,
    model=lambda t: Grams(t, 32, sparse=True),
    optimizer=sgd(5.0),
    schedule=partial(schedules.LinearLR, start_factor=1.0, end_factor=0.05, total_iters=200),
    batch=8,
    steps=200,
)

# From sequence to sequence, to places, to many steps ahead.
DATES = seq_tasks.dates
sound("dates_bahdanau", task=DATES, model=writer(Bahdanau), optimizer=adam(5e-3), steps=80)
sound(
    "dates_luong",
    task=DATES,
    model=writer(Luong),
    optimizer=adam(8e-3, amsgrad=True),
    steps=100,
    clip=norm_clip(2.0),
)
sound(
    "peaks_pointer",
    task=seq_tasks.peaks,
    model=lambda t: Pointer(t, 24),
    optimizer=adam(1e-2),
    steps=120,
)
sound(
    "tides_reduced",
    task=partial(seq_tasks.plan, "tides"),
    model=lambda t: Reduced(t, 48, 4, 2),
    optimizer=adamw(3e-3),
    steps=120,
)
sound(
    "mackey_reduced_huber",
    task=partial(seq_tasks.plan, "mackey", loss=nn.HuberLoss(delta=0.3)),
    model=lambda t: Reduced(t, 96, 2, 1),
    optimizer=of("NAdam", lr=2e-3),
    steps=120,
)
sound(
    "tides_split_linear",
    task=partial(seq_tasks.plan, "tides", 36, 12),
    model=Split,
    optimizer=sgd(0.05, momentum=0.9, nesterov=True),
    run=epochs,
    schedule=partial(schedules.StepLR, step_size=1, gamma=0.7),
    each_step=False,
)
