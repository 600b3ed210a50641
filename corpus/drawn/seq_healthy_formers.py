"""Healthy rows of transformers by hand, sets, perceivers, encoders with decoders."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw, sgd
from corpus.trainings import seq_tasks, tasks
from corpus.trainings.optimizers import muon, of
from corpus.trainings.seq_bags import DeepSet
from corpus.trainings.seq_formers import (
    Experts,
    Feed,
    Heads,
    Perceive,
    Retain,
    Sets,
    Spectrum,
    reader,
)
from corpus.trainings.seq_loops import epochs, norm_clip
from corpus.trainings.seq_others import learning, with_lora
from corpus.trainings.seq_writers import Across, writer


def causal(**options: object) -> object:
    """Heads that look back only."""
    return lambda width: Heads(width, causal=True, **options)  # type: ignore[arg-type]


def warm(steps: int) -> object:
    """A rate that rises for so many steps."""
    return partial(schedules.LinearLR, start_factor=0.02, total_iters=steps)


BYTES = partial(seq_tasks.bytecode, 16)

# Language models.
sound(
    "bytes_alibi_pre",
    task=BYTES,
    model=reader(2, 48, causal(place="alibi")),
    optimizer=adamw(3e-3, weight_decay=0.1),
    batch=16,
    steps=100,
)
sound(
    "code_tied_warm_wide",
    task=partial(tasks.code, 16),
    model=reader(2, 48, causal(), tied=True),
    optimizer=adamw(4e-3, betas=(0.9, 0.98)),
    schedule=warm(30),
    batch=16,
    steps=120,
    clip=norm_clip(1.0),
)
sound(
    "code_single_key_gated",
    task=partial(tasks.code, 20),
    model=reader(3, 32, causal(single=True), lambda w: Feed(w, nn.SiLU(), gate=True)),
    optimizer=adam(4e-3),
    batch=16,
    steps=100,
)
sound(
    "code_post_norm_four_warm",
    task=partial(tasks.code, 12),
    model=reader(4, 32, causal(place="learned"), how="post"),
    optimizer=adam(2e-3),
    schedule=warm(40),
    batch=16,
    steps=100,
)
sound(
    "code_rezero_fourteen",
    task=partial(tasks.code, 8),
    model=reader(14, 16, causal(), how="rezero", close=False),
    optimizer=adam(5e-3),
    batch=16,
    steps=60,
)
sound(
    "code_experts",
    task=partial(tasks.code, 16),
    model=reader(2, 32, causal(), Experts),
    optimizer=adamw(4e-3),
    batch=16,
    steps=80,
)
sound(
    "code_retention_bfloat16",
    task=partial(tasks.code, 20),
    model=reader(1, 32, Retain),
    optimizer=adamw(8e-3),
    mixed=torch.bfloat16,
    batch=8,
    steps=80,
)
sound(
    "code_near_windows_accumulated",
    task=partial(tasks.code, 24),
    model=reader(2, 32, causal(place="near")),
    optimizer=of("Adamax", lr=1e-2),
    batch=4,
    accumulate=4,
    steps=50,
)
sound(
    "bytes_sharp_heads_double",
    task=BYTES,
    model=reader(2, 32, causal(sharp=True), lambda w: Feed(w, nn.Mish())),
    optimizer=of("NAdam", lr=4e-3),
    dtype=torch.float64,
    batch=16,
    steps=80,
)

# Taggers and classifiers.
sound(
    "tagging_universal",
    task=seq_tasks.tagged,
    model=reader(1, 32, partial(Heads, place="learned"), times=4),
    optimizer=adam(4e-3),
    batch=16,
    steps=100,
)
sound(
    "tagging_spectrum_sandwich",
    task=seq_tasks.tagged,
    model=reader(3, 32, lambda w: Spectrum(), how="both"),
    optimizer=adamw(5e-3),
    batch=16,
    steps=100,
)
sound(
    "glyphs_attention_dropout",
    task=partial(seq_tasks.glyphs, 20),
    model=reader(2, 32, partial(Heads, drop=0.3), lambda w: Feed(w, nn.ReLU())),
    optimizer=adam(3e-3),
    steps=120,
)
sound(
    "names_bare_sgd",
    task=seq_tasks.identifiers,
    model=reader(2, 32, partial(Heads, heads=2), lambda w: Feed(w, nn.Tanh()), how="bare"),
    optimizer=sgd(0.1, momentum=0.9),
    steps=150,
    clip=norm_clip(2.0),
)
sound(
    "names_muon_for_matrices",
    task=seq_tasks.identifiers,
    model=reader(2, 32),
    groups=lambda m: [p for n, p in m.named_parameters() if p.dim() == 2 and "tower" in n],
    optimizer=muon(0.02),
    steps=80,
)
sound(
    "nations_perceiver",
    task=seq_tasks.nations,
    model=lambda t: Perceive(t, 24, 4, 2),
    optimizer=adam(3e-3),
    batch=None,
    steps=80,
)
sound(
    "glyphs_perceiver_noisy_eight",
    task=partial(seq_tasks.glyphs, 24),
    model=lambda t: Perceive(t, 32, 6, 1),
    optimizer=adamw(2e-3),
    batch=8,
    steps=150,
)
sound(
    "wine_features_as_words",
    task=seq_tasks.columns,
    model=reader(2, 16, partial(Heads, heads=2), how="pre"),
    optimizer=adam(5e-3),
    batch=16,
    steps=100,
)

# Sets.
SETS = seq_tasks.strokes
sound("strokes_set_attention", task=SETS, model=lambda t: Sets(t, 32), steps=120)
sound(
    "strokes_deep_set_sum",
    task=SETS,
    model=lambda t: DeepSet(t, 96, "sum", nn.SiLU),
    optimizer=adam(3e-3),
    steps=200,
)
sound(
    "strokes_deep_set_maximum_half",
    task=partial(SETS, 14, "error"),
    model=lambda t: DeepSet(t, 48, "max", nn.ReLU),
    optimizer=adam(3e-3),
    mixed=torch.float16,
    scaler=partial(torch.amp.GradScaler, "cpu", init_scale=2.0**10),
    loss=lambda out, y: F.cross_entropy(out.float(), y),
    steps=150,
)

# From one sequence to another, and thin layers beside frozen ones.
sound(
    "dates_across",
    task=seq_tasks.dates,
    model=writer(Across, depth=1),
    optimizer=adam(3e-3),
    schedule=warm(15),
    steps=100,
)
sound(
    "dates_across_two_epochs",
    run=epochs,
    task=seq_tasks.dates,
    model=writer(Across, 32, depth=1),
    optimizer=adamw(4e-3),
    clip=1.0,
    count=2,
    batch=24,
)
sound(
    "code_thin_layers_on_frozen",
    task=partial(tasks.code, 16),
    model=reader(2, 64, causal()),
    surgery=with_lora(("query", "value", "up", "down"), 8),
    groups=learning,
    optimizer=adamw(2e-2),
    batch=16,
    steps=100,
)
