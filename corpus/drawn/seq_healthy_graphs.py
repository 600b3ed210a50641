"""Healthy rows on graphs: nodes, pairs of nodes, whole graphs."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import seq_graph_tasks as graphs
from corpus.trainings.optimizers import Lookahead, of
from corpus.trainings.seq_graphs import Gated, Looking, Powers, Spread, layers, passing, ready
from corpus.trainings.seq_loops import epochs
from corpus.trainings.seq_more_loops import links

# Whole graphs, by hand.
sound("atlas_triangles_sum", task=graphs.atlas, model=passing(3, how="sum"), steps=150)
sound(
    "atlas_spanning_trees_counted",
    task=partial(graphs.atlas, "spanning", True, nn.SmoothL1Loss()),
    model=passing(3, 32, "sum", nn.SiLU),
    optimizer=adam(5e-3),
    batch=16,
    steps=200,
)
sound(
    "atlas_diameter_norms_skips",
    task=partial(graphs.atlas, "diameter"),
    model=passing(3, 24, "mean", nn.GELU, nn.LayerNorm, True),
    optimizer=adamw(3e-3),
    steps=120,
)
sound(
    "atlas_wiener_twelve_skips",
    task=partial(graphs.atlas, "wiener"),
    model=passing(12, 16, "mean", nn.Tanh, skip=True),
    optimizer=sgd(1e-3, momentum=0.9),
    batch=16,
    steps=100,
)
sound(
    "atlas_wiener_powers",
    task=partial(graphs.atlas, "wiener"),
    model=lambda t: Powers(t, 24, 4),
    optimizer=of("Rprop", lr=1e-3),
    batch=None,
    steps=60,
)
sound(
    "atlas_epochs_one_cycle",
    run=epochs,
    task=partial(graphs.atlas, "triangles"),
    model=passing(2, 96, "sum"),
    optimizer=sgd(1e-3, momentum=0.9),
    schedule=partial(schedules.OneCycleLR, max_lr=4e-3, total_steps=200),
    batch=24,
    count=5,
    limit=190,
)

# One graph, by hand.
sound(
    "syntax_gated_rounds",
    task=graphs.syntax,
    model=lambda t: Gated(t, 24, 3),
    optimizer=adam(1e-2),
    batch=None,
    steps=60,
)
sound(
    "novel_looking",
    task=graphs.novel,
    model=lambda t: Looking(t, 24, 2),
    optimizer=lambda p: Lookahead(p, lr=1e-2),
    batch=None,
    steps=80,
)
sound(
    "novel_spread_answers",
    task=graphs.novel,
    model=lambda t: Spread(t, 32, 8, 0.2),
    optimizer=adam(2e-2, weight_decay=5e-4),
    batch=None,
    steps=80,
)
sound(
    "club_gated_small",
    task=graphs.club,
    model=lambda t: Gated(t, 8, 4),
    optimizer=sgd(0.3, momentum=0.5),
    batch=None,
    steps=120,
)
sound("novel_links", run=links)
sound(
    "novel_links_variational",
    run=links,
    graph=graphs.novel,
    noise=True,
    width=8,
    optimizer=adamw(2e-2),
)

# torch-geometric's layers and models.
PYG = dict(needs="torch_geometric", batch=None, steps=80)
sound(
    "syntax_gatv2_graph_norm",
    **PYG,
    task=graphs.syntax,
    model=layers(lambda g, w: g.GATv2Conv(w, w // 2, heads=2), norm=lambda g, w: g.GraphNorm(w)),
    optimizer=adam(1e-2),
)
sound(
    "syntax_resgated_jump",
    **PYG,
    task=graphs.syntax,
    model=layers(lambda g, w: g.ResGatedGraphConv(w, w), 3, jump=True),
    optimizer=of("Adamax", lr=1e-2),
)
sound(
    "syntax_tag_float64",
    **PYG,
    task=graphs.syntax,
    model=layers(lambda g, w: g.TAGConv(w, w, K=2), 1, 32),
    optimizer=adam(1e-2),
    dtype=torch.float64,
)
sound(
    "novel_arma",
    **PYG,
    task=graphs.novel,
    model=layers(lambda g, w: g.ARMAConv(w, w, num_stacks=2)),
    optimizer=adam(1e-2),
)
sound(
    "novel_feast_warm_restarts",
    **PYG,
    task=graphs.novel,
    model=layers(lambda g, w: g.FeaStConv(w, w, heads=2), 2, 32),
    optimizer=adamw(2e-2),
    schedule=partial(schedules.CosineAnnealingWarmRestarts, T_0=40),
)
sound(
    "ranks_graphconv_pair_norm",
    **PYG,
    task=graphs.ranks,
    model=layers(lambda g, w: g.GraphConv(w, w, aggr="mean"), 2, norm=lambda g, w: g.PairNorm()),
    optimizer=adam(5e-3),
)
sound(
    "ranks_edge_convolution",
    **PYG,
    task=graphs.ranks,
    model=layers(
        lambda g, w: g.EdgeConv(nn.Sequential(nn.Linear(2 * w, w), nn.ReLU(), nn.Linear(w, w))),
        2,
        16,
    ),
    optimizer=sgd(0.02, momentum=0.9),
)
sound(
    "syntax_model_gin_dropout",
    **PYG,
    task=graphs.syntax,
    model=ready("GIN", hidden_channels=32, num_layers=2, dropout=0.2, norm="batch_norm"),
    optimizer=adam(1e-2),
)
sound(
    "novel_model_graph_unet",
    **PYG,
    task=graphs.novel,
    model=ready("GraphUNet", hidden_channels=24, depth=2, pool_ratios=0.6),
    optimizer=adam(1e-2),
)
sound(
    "syntax_model_pna",
    **{**PYG, "steps": 50},
    task=graphs.syntax,
    model=ready(
        "PNA",
        hidden_channels=16,
        num_layers=2,
        aggregators=["mean", "max", "std"],
        scalers=["identity", "amplification"],
        deg=torch.tensor([0, 900, 500, 200, 50, 10]),
    ),
    optimizer=adam(5e-3),
)
