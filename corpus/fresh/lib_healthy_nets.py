"""Healthy rows: torch.nn's own sequence modules, x-transformers, mambapy and torch-geometric."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_lib_nets as nets
from corpus.trainings import others, seq_tasks, tasks
from corpus.trainings.optimizers import of
from corpus.trainings.seq_others import series_x

CLIP = partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)

# torch.nn
sound(
    "lib_encoder_code_sgd_steps",
    task=partial(tasks.code, 20),
    model=nets.language(40, 2, 0.1),
    optimizer=sgd(1.0),
    schedule=partial(schedules.StepLR, step_size=40, gamma=0.95),
    clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=0.5),
    batch=24,
    steps=120,
)
sound(
    "lib_encoder_words_gelu_first",
    task=partial(tasks.words, 10),
    model=nets.language(48, 2, 0.1, activation="gelu", norm_first=True),
    optimizer=adamw(3e-3),
    loss=lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten(), label_smoothing=0.05),
    batch=24,
    steps=120,
)
sound(
    "lib_transformer_dates",
    task=seq_tasks.dates,
    model=nets.translator(18),
    optimizer=adam(3e-3, betas=(0.9, 0.98), eps=1e-9),
    schedule=partial(schedules.LinearLR, start_factor=0.05, total_iters=30),
    batch=24,
    steps=120,
)
sound(
    "lib_forecaster_lorenz",
    task=partial(seq_tasks.series, "lorenz", 16, 3),
    model=nets.forecaster(),
    optimizer=adamw(2e-3),
    steps=150,
)
sound(
    "lib_packed_lstm_names",
    task=seq_tasks.identifiers,
    model=nets.reader(nn.LSTM, 40, num_layers=2, dropout=0.2),
    optimizer=adam(5e-3),
    clip=CLIP,
    steps=130,
)
sound(
    "lib_packed_rnn_names_nll_sgd",  # the names tutorial: log_softmax, NLLLoss, plain steps
    task=partial(seq_tasks.identifiers, metric="error"),
    model=nets.reader(nn.RNN, 64),
    init=lambda m: setattr(m, "out", nn.LogSoftmax(dim=1)),
    loss=F.nll_loss,
    optimizer=sgd(0.3),
    clip=CLIP,
    batch=24,
    steps=250,
)
sound(
    "lib_packed_both_ways_frozen_embedding",
    task=partial(seq_tasks.numerals, digit=1),
    model=nets.reader(nn.GRU, 32, bidirectional=True),
    init=lambda m: m.get_submodule("embedding").requires_grad_(False),
    optimizer=of("RMSprop", lr=5e-3),
    groups=lambda m: [p for p in m.parameters() if p.requires_grad],
    steps=150,
)
sound(
    "lib_lstm_tides_huber",
    task=partial(seq_tasks.series, "tides", 24, 3, 0.1),
    model=nets.series(nn.LSTM, 32),
    loss=F.huber_loss,
    optimizer=adam(5e-3),
    batch=48,
    steps=150,
)
sound(
    "lib_rnn_mackey_sgd",
    task=partial(seq_tasks.series, "mackey", 24, 4),
    model=nets.series(nn.RNN, 40, nonlinearity="tanh"),
    optimizer=sgd(0.05, momentum=0.9),
    clip=CLIP,
    steps=200,
)

# x-transformers and mambapy
sound(
    "lib_x_valve_continuous",
    task=partial(seq_tasks.series, "valve", 16, 6),
    needs="x_transformers",
    model=series_x("Encoder", 32, 3, rotary_pos_emb=True, ff_glu=True),
    optimizer=adamw(2e-3),
    schedule=partial(schedules.CosineAnnealingLR, T_max=120),
    steps=120,
)
sound(
    "lib_mamba_glyphs",
    task=partial(seq_tasks.glyphs, 20),
    needs="mambapy",
    model=others.mamba(1),
    optimizer=adamw(8e-3),
    clip=CLIP,
    steps=100,
    batch=24,
)

# torch-geometric
NODES: dict[str, Any] = dict(needs="torch_geometric", batch=None)
DIGITS = partial(tasks.graph, "digits", 5)
sound(
    "lib_kipf_few_labels",  # dropout, weight decay, ten labels of each class
    **NODES,
    task=DIGITS,
    model=nets.nodes(nets.gcn, 32, drop=0.5),
    loss=nets.labelled_few(10),
    optimizer=adam(1e-2, weight_decay=5e-4),
    steps=150,
)
sound(
    "lib_gat_elu_dropout",
    **NODES,
    task=DIGITS,
    model=nets.nodes(
        lambda g, a, b: g.GATConv(a, b // 2, heads=2) if b > 10 else g.GATConv(a, b),
        32,
        act=nn.ELU,
        drop=0.4,
    ),
    optimizer=adam(5e-3, weight_decay=5e-4),
    steps=120,
)
sound(
    "lib_sage_batchnorm_three",
    **NODES,
    task=partial(tasks.graph, "breast_cancer", 4),
    model=nets.nodes(lambda g, a, b: g.SAGEConv(a, b), 40, 40, norm=True, drop=0.3),
    optimizer=of("AdamW", lr=1e-2),
    steps=100,
)
sound(
    "lib_leconv_wine_sgd",
    **NODES,
    task=partial(tasks.graph, "wine", 5),
    model=nets.nodes(lambda g, a, b: g.LEConv(a, b), 24, act=nn.Tanh),
    optimizer=sgd(0.02, momentum=0.9),
    steps=100,
)
sound(
    "lib_kipf_by_hand_wine",
    **NODES,
    task=partial(tasks.graph, "wine", 4),
    model=nets.nodes(lambda g, a, b: nets.Mean(a, b, True), 28),
    optimizer=adam(1e-2),
    steps=80,
)
