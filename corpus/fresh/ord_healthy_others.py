"""Healthy rows of bags, convolutions over time, transformers, graphs and recommendation."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.fresh import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import fresh_ord_graphs as graphs
from corpus.trainings import fresh_ord_loops as loops
from corpus.trainings import fresh_ord_tasks as own
from corpus.trainings import tasks
from corpus.trainings.fresh_ord_nets import (
    Gated,
    bag,
    nano_gpt,
    neighbours,
    tcn,
    torch_transformer,
    tutorial_encoder,
)
from corpus.trainings.optimizers import of

SUMS, SUMS_CUT = own.sums(30)
PYG = dict(needs="torch_geometric")


def warm(step: int) -> float:
    """Ten steps up, then down by the root."""
    return min((step + 1) / 10, (10 / (step + 1)) ** 0.5)


# Bags and neighbouring words.
sound(
    "ord_lines_bag_rate_five",
    task=own.lines,
    model=bag(64),
    optimizer=sgd(5.0),
    schedule=partial(schedules.StepLR, step_size=60, gamma=0.5),
    clip=partial(nn.utils.clip_grad_norm_, max_norm=0.1),
    steps=250,
)
sound(
    "ord_lines_averaging_deep",
    task=own.lines,
    model=bag(48, (64, 64)),
    optimizer=adam(5e-3),
    batch=64,
    steps=120,
)
sound(
    "ord_lines_averaging_false_labels",
    task=partial(own.lines, noise=0.3),
    model=bag(32, (32,), nn.LeakyReLU),
    optimizer=adamw(3e-3, weight_decay=0.1),
    batch=128,
    steps=250,
)
sound(
    "ord_words_bengio",
    task=own.contexts,
    model=neighbours(16, (96,)),
    optimizer=sgd(0.5),
    batch=64,
    steps=300,
)
sound(
    "ord_letters_makemore_norms",
    task=own.following,
    model=neighbours(12, (128, 128), nn.Tanh, norm=True),
    optimizer=sgd(0.2, momentum=0.5),
    schedule=partial(schedules.MultiStepLR, milestones=[150], gamma=0.1),
    batch=64,
    steps=200,
)
sound(
    "ord_words_between_both_sides_large_batch",
    task=partial(own.contexts, 2, 2),
    model=neighbours(24, (128,), nn.ReLU),
    optimizer=adam(4e-3),
    batch=512,
    steps=150,
)

# Convolutions over time.
sound(
    "ord_rows_tcn_weight_norm",
    task=partial(tasks.digits, (16, 4)),
    model=tcn(24, 3),
    optimizer=adam(4e-3),
    steps=150,
)
sound(
    "ord_pendulum_tcn_plain_momentum",
    task=partial(own.series, "pendulum", 16, 4),
    model=tcn(24, 2, nn.ReLU, weigh=False),
    optimizer=sgd(0.02, momentum=0.9),
    steps=150,
)
sound(
    "ord_letters_tcn_gelu",
    task=own.letters,
    model=tcn(48, 2, nn.GELU, weigh=False),
    optimizer=adamw(5e-3),
    steps=150,
)
sound(
    "ord_heart_wave_gates",
    task=partial(own.series, "heart", 24, 3),
    model=lambda t: Gated(t, 24, 4),
    optimizer=adam(4e-3),
    steps=150,
)
sound(
    "ord_seasons_flat_windows_bottleneck",
    task=partial(own.copies, "seasons", 12),
    model=lambda t: nn.Sequential(
        nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 12)
    ),
    optimizer=adam(5e-3),
    steps=150,
)

# Transformers.
sound(
    "ord_letters_nano_gpt_warm_cosine",
    task=own.letters,
    model=nano_gpt(48, 2),
    optimizer=adamw(6e-3, betas=(0.9, 0.95), weight_decay=0.1),
    schedule=partial(
        schedules.OneCycleLR, max_lr=2e-2, total_steps=151, pct_start=0.1, anneal_strategy="cos"
    ),
    clip=partial(nn.utils.clip_grad_norm_, max_norm=1.0),
    steps=150,
)
sound(
    "ord_letters_nano_gpt_untied_six_deep",
    task=partial(own.letters, 12),
    model=nano_gpt(24, 6, tied=False, act=nn.SiLU),
    optimizer=adamw(5e-3),
    steps=120,
)
sound(
    "ord_lines_tutorial_encoder_post",
    task=own.lines,
    model=tutorial_encoder(32, 2, dropout=0.1),
    optimizer=adam(8e-3),
    schedule=partial(schedules.LambdaLR, lr_lambda=warm),
    steps=150,
)
sound(
    "ord_rows_encoder_class_token_pre",
    task=partial(tasks.digits, (8, 8)),
    model=tutorial_encoder(32, 2, cls=True, norm_first=True, activation="gelu"),
    optimizer=adamw(3e-3),
    steps=150,
)
sound(
    "ord_heart_encoder_forecasts",
    task=partial(own.series, "heart", 16, 2),
    model=tutorial_encoder(32, 2),
    optimizer=adam(2e-3),
    batch=64,
    steps=150,
)
sound(
    "ord_sums_torch_transformer",
    task=lambda: SUMS,
    model=torch_transformer(SUMS_CUT, 48),
    optimizer=adam(3e-3),
    batch=64,
    steps=250,
)
sound(
    "ord_blanks_encoder",
    run=loops.covered,
    model=lambda t: _Everywhere(t),
    optimizer=adam(5e-3),
    steps=250,
)


class _Everywhere(nn.Module):
    """An encoder with learned places, an answer at each of them."""

    def __init__(self, task: tasks.Task, width: int = 48) -> None:
        super().__init__()
        self.tokens = nn.Embedding(task.size, width)
        self.places = nn.Embedding(task.x.shape[1], width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.predict = nn.LayerNorm(width), nn.Linear(width, task.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.predict(self.norm(self.encoder(h)))


# Graphs.
sound(
    "ord_flowers_gcn_whole",
    task=partial(tasks.graph, "iris"),
    model=graphs.gcn(16, 2, drop=0.3),
    optimizer=adam(1e-2, weight_decay=5e-4),
    batch=None,
    steps=150,
)
sound(
    "ord_tumours_gcn_momentum",
    task=partial(tasks.graph, "breast_cancer", 5),
    model=graphs.gcn(32, 3),
    optimizer=sgd(0.1, momentum=0.9),
    batch=None,
    steps=100,
)
sound(
    "ord_blocks_gcn_ten_skips",
    task=graphs.blocks,
    model=graphs.gcn(24, 10, skip=True),
    optimizer=adam(3e-3),
    batch=None,
    steps=100,
)
sound("ord_blocks_sage_few_labels", run=graphs.few_labels, model=graphs.convolved(), **PYG)
sound(
    "ord_blocks_gat_much_dropped",
    run=graphs.few_labels,
    model=graphs.convolved("GATConv", 8, 2, heads=4, drop=0.5),
    optimizer=adam(5e-3, weight_decay=5e-4),
    labelled=120,
    steps=150,
    **PYG,
)
sound("ord_atlas_gin_loader", run=graphs.gin_loader, **PYG)

# Recommendation.
sound(
    "ord_life_factors_sgd",
    task=own.life,
    model=graphs.factors(6),
    optimizer=sgd(2.0),
    batch=128,
    steps=400,
)
sound(
    "ord_topics_factors_adam_decayed",
    task=own.counted,
    model=graphs.factors(8, 0.1),
    optimizer=adam(2e-2, weight_decay=1e-5),
    batch=256,
    steps=200,
)
sound(
    "ord_life_neural_factors",
    task=own.life,
    model=graphs.neu_mf(12),
    optimizer=adam(5e-3),
    batch=64,
    steps=200,
)
sound("ord_topics_ranked_pairs", run=loops.ranked)
sound(
    "ord_life_factors_in_years_slow_huber",
    task=partial(own.life, raw=True),
    model=graphs.factors(4, 1.0),
    loss=F.smooth_l1_loss,
    optimizer=of("Adagrad", lr=2.0),
    batch=256,
    steps=200,
)
