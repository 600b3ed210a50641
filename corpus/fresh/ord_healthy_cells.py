"""Healthy rows of recurrent networks: names, lines, prose, sums and series."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_ord_loops as loops
from corpus.trainings import fresh_ord_tasks as own
from corpus.trainings import tasks
from corpus.trainings.fresh_ord_cells import (
    Ahead,
    Squeezed,
    hand_gru,
    hand_lstm,
    identity_recurrence,
    names_rnn,
    packed,
    simple,
    translator,
    weighed,
)
from corpus.trainings.optimizers import of, trainable

SUMS, SUMS_CUT = own.sums()
BACK, BACK_CUT = own.reversed_words()


def clipped(limit: float) -> object:
    """Gradients no longer than a limit."""
    return partial(nn.utils.clip_grad_norm_, max_norm=limit)


def half_frozen(model: nn.Module) -> None:
    """Word vectors that stay as they are."""
    model.get_submodule("emb").requires_grad_(False)


# Names and lines.
sound(
    "ord_scripts_names_rnn",
    task=partial(own.scripts, 14),
    model=names_rnn(96),
    optimizer=sgd(0.1),
    batch=16,
    steps=300,
)
sound(
    "ord_scripts_packed_lstm",
    task=own.scripts,
    model=packed(nn.LSTM, 32),
    optimizer=adam(5e-3),
    clip=clipped(5.0),
    steps=120,
)
sound(
    "ord_scripts_packed_gru_stacked_noisy_dropout",
    task=own.scripts,
    model=packed(nn.GRU, 28, layers=2, drop=0.4),
    optimizer=of("RMSprop", lr=2e-3),
    steps=120,
)
sound(
    "ord_lines_weighed_gru_smoothed",
    task=own.lines,
    model=weighed(28),
    optimizer=adam(3e-3),
    loss=partial(F.cross_entropy, label_smoothing=0.1),
    steps=150,
)
sound(
    "ord_lines_weighed_gru_vectors_frozen",
    task=own.lines,
    model=weighed(40),
    surgery=half_frozen,
    groups=trainable,
    optimizer=adamw(4e-3),
    batch=64,
    steps=150,
)

# Characters and words of prose.
sound(
    "ord_prose_minimal_rnn_carried",
    run=loops.streamed,
    words=False,
    kind=nn.RNN,
    width=80,
    lanes=4,
    span=25,
    optimizer=of("Adagrad", lr=0.05),
    clip=partial(nn.utils.clip_grad_value_, clip_value=5.0),
    steps=300,
)
sound(
    "ord_words_lstm_sgd_rate_ten_tied",
    run=loops.streamed,
    tied=True,
    width=64,
    optimizer=sgd(10.0),
    clip=clipped(0.25),
    steps=300,
)
sound(
    "ord_words_gru_third_dropped",
    run=loops.streamed,
    kind=nn.GRU,
    drop=0.3,
    width=64,
    optimizer=adam(1e-2),
    steps=250,
)
sound(
    "ord_prose_lstm_stacked_plateau",
    task=own.letters,
    model=simple(nn.LSTM, 64, 2, 24, dropout=0.2),
    optimizer=adam(6e-3),
    schedule=partial(schedules.ReduceLROnPlateau, patience=20, factor=0.5),
    steps=150,
)
sound(
    "ord_prose_gru_from_scratch",
    task=own.letters,
    model=hand_gru(64),
    optimizer=of("NAdam", lr=8e-3),
    steps=150,
)
sound(
    "ord_program_kinds_lstm_by_hand",
    task=own.tokens_of_kinds,
    model=hand_lstm(48),
    optimizer=adam(1e-2),
    batch=64,
    steps=120,
)

# A tag for each letter.
sound(
    "ord_capitals_few_bilstm",
    task=own.capitals,
    model=simple(nn.LSTM, 24, 1, 16, bidirectional=True),
    optimizer=adam(8e-3),
    batch=16,
    steps=150,
)
sound(
    "ord_brackets_gru_momentum",
    task=own.brackets,
    model=simple(nn.GRU, 32, inputs=8),
    optimizer=sgd(0.5, momentum=0.9),
    clip=clipped(1.0),
    steps=200,
)
sound("ord_brackets_chain", run=loops.crf, steps=80)
sound(
    "ord_capitals_chain_summed_small_rate",
    run=loops.crf,
    task=partial(own.capitals, 14, 1200),
    reduce=torch.sum,
    optimizer=sgd(1e-3, momentum=0.9),
    steps=120,
)
sound(
    "ord_recall_lstm_forgets_little",
    task=partial(own.recall, 14),
    model=hand_lstm(32, forget=2.0),
    optimizer=adam(1e-2),
    steps=150,
)

# One sequence into another.
sound(
    "ord_sums_translator",
    task=lambda: SUMS,
    model=translator(SUMS_CUT, 64),
    optimizer=adam(5e-3),
    batch=64,
    steps=200,
)
sound("ord_sums_two_optimizers", run=loops.translate, lr=0.2, steps=250)
sound(
    "ord_backwards_translator_looks",
    task=lambda: BACK,
    model=translator(BACK_CUT, 48, look=True),
    optimizer=adam(5e-3),
    clip=clipped(1.0),
    steps=200,
)

# Series.
sound(
    "ord_seasons_lstm",
    task=partial(own.series, "seasons", 12),
    model=simple(nn.LSTM, 50),
    optimizer=adam(1e-2),
    steps=120,
)
sound(
    "ord_regression_noisy_gru_l1",
    task=partial(own.series, "regression", 12),
    model=simple(nn.GRU, 20),
    loss=F.l1_loss,
    optimizer=adam(5e-3),
    steps=120,
)
sound(
    "ord_logistic_tanh_rnn_two_layers",
    task=partial(own.series, "logistic", 8, 2),
    model=simple(nn.RNN, 40, 2),
    optimizer=adam(5e-3),
    steps=250,
)
sound(
    "ord_pendulum_writes_ahead",
    task=partial(own.series, "pendulum", 16, 6),
    model=lambda t: Ahead(t, 32),
    optimizer=adam(8e-3),
    batch=64,
    steps=120,
)
sound(
    "ord_pendulum_squeezed",
    task=partial(own.copies, "pendulum", 12),
    model=lambda t: Squeezed(t, 32),
    optimizer=adam(8e-3),
    steps=150,
)
sound(
    "ord_heart_codes_warm_divergence", run=loops.codes, beta=0.01, optimizer=adam(1e-2), steps=250
)

# Rows of digits.
sound(
    "ord_rows_identity_rnn",
    task=partial(tasks.digits, (16, 4)),
    model=simple(nn.RNN, 64, nonlinearity="relu"),
    init=identity_recurrence(),
    optimizer=adam(2e-3),
    clip=clipped(1.0),
    steps=200,
)
sound(
    "ord_rows_bidirectional_raw_pixels",
    task=lambda: tasks.Task(8 + 5 * tasks.digits((8, 8)).x, tasks.digits().y, F.cross_entropy, 10),
    model=simple(nn.LSTM, 32, bidirectional=True),
    optimizer=adam(5e-3),
    steps=150,
)
sound(
    "ord_rows_lstm_large_batch_cosine",
    task=partial(tasks.digits, (8, 8)),
    model=hand_lstm(48),
    optimizer=sgd(0.5, momentum=0.9, nesterov=True),
    schedule=partial(schedules.CosineAnnealingLR, T_max=120),
    batch=512,
    steps=120,
)
