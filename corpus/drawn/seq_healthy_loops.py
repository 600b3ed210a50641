"""Healthy rows of loops that people write for sequences: states carried on, words, doubt."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import seq_tasks
from corpus.trainings.seq_cells import cells, shell
from corpus.trainings.seq_loops import carried, epochs, glove, skipgram
from corpus.trainings.seq_more_loops import First, ctc, density

sound("mackey_carried_gru", run=carried)
sound(
    "lorenz_carried_lstm",
    run=carried,
    series="lorenz",
    kind=nn.LSTMCell,
    optimizer=adam(1e-2),
    ahead=1,
    span=8,
)
sound(
    "valve_carried_rnn_unclipped",
    run=carried,
    series="valve",
    kind=nn.RNNCell,
    width=64,
    optimizer=sgd(0.05, momentum=0.9),
    clip=None,
)
sound("words_skipgram_sparse", run=skipgram)
sound(
    "words_skipgram_dense_sgd",
    run=skipgram,
    sparse=False,
    optimizer=sgd(25.0),
    spread=0.05,
    width=48,
)
sound("words_glove", run=glove)
sound(
    "digits_lines_ctc_gru",
    run=ctc,
    net=lambda: nn.Sequential(
        nn.GRU(8, 32, batch_first=True, bidirectional=True), First(), nn.Linear(64, 11)
    ),
)
sound("hares_density", run=density)
sound(
    "names_epochs_restarts",
    run=epochs,
    task=partial(seq_tasks.identifiers, 12),
    model=shell(cells(nn.GRUCell, 1), 32),
    schedule=partial(schedules.CosineAnnealingWarmRestarts, T_0=60),
    optimizer=adamw(1e-2, weight_decay=0.1),
    loss=nn.CrossEntropyLoss(label_smoothing=0.1),
)
