"""Faulty rows of initialisation, activation, depth and recurrence."""

from __future__ import annotations

from functools import partial

from torch import nn

from corpus import ANY
from corpus.drawn import broken
from corpus.recipes import adam, sgd
from corpus.trainings.seq_bags import DeepSet
from corpus.trainings.seq_cells import elman, shell, temporal
from corpus.trainings.seq_faults import (
    Do,
    biased,
    cubed,
    drawn,
    gate,
    grown,
    kaiming,
    negative,
    squared,
)
from corpus.trainings.seq_graphs import passing
from corpus.trainings.seq_others import embedded, hugging
from corpus.trainings.seq_writers import Reduced
from corpus.trainings.surgery import both, times

# Too large, everywhere or in one layer.
LARGE = ("exploding|nonfinite", "weights_too_large")
BEHIND = ("exploding|saturated", "weights_too_large")
BERT = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
broken(
    "letters_hf_qwen3/range_one",
    *BEHIND,
    ANY,
    dict(
        model=hugging(
            "Qwen3Config",
            "Qwen3ForCausalLM",
            num_key_value_heads=2,
            head_dim=12,
            initializer_range=1.0,
            **BERT,
        )
    ),
)
broken(
    "lorenz_hf_bert_numbers/range_one",
    *BEHIND,
    ANY,
    dict(
        model=embedded(
            "BertConfig",
            "BertModel",
            48,
            vocab_size=2,
            max_position_embeddings=32,
            initializer_range=1.5,
            **BERT,
        )
    ),
    steps=60,
)
broken("tides_reduced/unit_normal", *LARGE, ANY, dict(surgery=drawn(0.7)))
broken("names_bare_sgd/unit_normal", *BEHIND, ANY, dict(surgery=drawn(1.0)))
broken(
    "atlas_triangles_sum/lone_x80",
    *LARGE,
    ("said.2",),
    dict(surgery=times("said.2", 80.0)),
    model=passing(4, 32, "sum"),
    optimizer=sgd(2e-3, momentum=0.9),
)
broken(
    "glyphs_temporal_plain/lone_x60",
    *LARGE,
    ("body.3", "body.3.conv"),
    dict(surgery=both(kaiming, times("body.3", 60.0))),
    model=shell(temporal(6), 32, "max"),
    surgery=kaiming,
    optimizer=sgd(0.02, momentum=0.9),
)

# Too small.
SMALL = ("vanishing|stalled", "weights_too_small")
broken(
    "glyphs_temporal_plain/std_002",
    *SMALL,
    ANY,
    dict(surgery=drawn(0.02)),
    surgery=kaiming,
    model=shell(temporal(6), 32, "max"),
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "words_skipgram_dense_sgd/spread_1e_5",
    *SMALL,
    ANY,
    dict(spread=1e-5),
    optimizer=sgd(10.0),
    spread=0.2,
)
broken(
    "tides_reduced/uniform_001",
    *SMALL,
    ANY,
    dict(surgery=drawn(0.01)),
    optimizer=sgd(0.05, momentum=0.9),
    model=lambda t: Reduced(t, 48, 3, 3),
)
broken(
    "strokes_deep_set_sum/lone_1e_4",
    *SMALL,
    ("rho.0",),
    dict(surgery=times("rho.0", 1e-4)),
    model=lambda t: DeepSet(t, 64, "max", nn.ReLU),
    optimizer=sgd(0.1, momentum=0.9),
)
broken(
    "tides_reduced/lone_1e_5",
    *SMALL,
    ("stacks.0.4",),
    dict(surgery=times("stacks.0.4", 1e-5)),
    model=lambda t: Reduced(t, 64, 1, 3),
    optimizer=sgd(0.05, momentum=0.9),
    steps=40,
)

# Activations that saturate, and gates that are shut.
FLAT = ("vanishing|saturated|stalled", "saturating_activation")
broken(
    "glyphs_temporal_plain/sigmoid_7",
    *FLAT,
    ANY,
    dict(model=shell(temporal(7, nn.Sigmoid), 32, "max")),
    model=shell(temporal(7, nn.Tanh), 32, "max"),
)
broken(
    "atlas_triangles_sum/sigmoid_6",
    *FLAT,
    ANY,
    dict(model=passing(6, 32, "mean", nn.Sigmoid)),
    model=passing(6, 32, "mean", nn.Tanh),
    optimizer=adam(2e-3),
)
broken(
    "bytes_normed_lstm/output_gate_shut",
    *FLAT,
    ("body", "body.norm", "body.gates"),
    dict(surgery=gate("body.norm.bias", 2, 4, -25.0)),
)
broken(
    "glyphs_gru_clipped_hard_rate_high/update_gate_stuck",
    *FLAT,
    ("body", "body.cells.0", "body.cells"),
    dict(surgery=gate("body.cells.0.bias_ih", 1, 3, 25.0)),
)
broken(
    "numerals_alone/tanh_far_off",
    *FLAT,
    ("body.2", "body.2.conv", "body.2.act"),
    dict(surgery=biased("body.2.conv", value=14.0)),
    model=shell(temporal(5, nn.Tanh), 32, "max"),
    optimizer=adam(3e-3),
)

# Activations without a bound.
STEEP = ("exploding|nonfinite", "unbounded_activation")
broken(
    "glyphs_temporal_plain/cubed",
    *STEEP,
    ANY,
    dict(model=shell(temporal(4, partial(Do, cubed)), 32, "max")),
    optimizer=sgd(0.02, momentum=0.9),
    surgery=kaiming,
)
broken(
    "atlas_triangles_sum/squared_relu",
    *STEEP,
    ANY,
    dict(model=passing(3, 32, "sum", partial(Do, squared))),
    model=passing(3, 32, "sum"),
    optimizer=sgd(1e-3, momentum=0.9),
)
broken(
    "lorenz_elman/cubed_recurrence",
    *STEEP,
    ANY,
    dict(model=shell(elman(1.0, cubed), 48)),
)
broken(
    "strokes_deep_set_sum/grown",
    *STEEP,
    ANY,
    dict(model=lambda t: DeepSet(t, 64, "sum", partial(Do, grown))),
    model=lambda t: DeepSet(t, 64, "sum", nn.SiLU),
    surgery=kaiming,
    optimizer=adam(3e-3),
)

# Units that never open.
DEAD = ("dead|vanishing", "dead_relu")
broken(
    "glyphs_temporal_plain/bias_minus_40",
    *DEAD,
    ("body.1", "body.1.conv", "body.1.act"),
    dict(surgery=biased("body.1.conv", value=-40.0)),
)
broken(
    "strokes_deep_set_sum/weights_below_zero",
    *DEAD,
    ("phi.2", "phi.3"),
    dict(surgery=negative("phi.2")),
    model=lambda t: DeepSet(t, 80, "sum", nn.ReLU),
    optimizer=adam(2e-3),
)
broken(
    "strokes_deep_set_maximum_half/bias_minus_30",
    *DEAD,
    ("rho.0", "rho.1"),
    dict(surgery=biased("rho.0", value=-60.0)),
)
broken(
    "names_kim_dropout/filters_below_zero",
    *DEAD,
    ("filters.0", "filters.1", "filters.2"),
    dict(surgery=biased("filters.0", "filters.1", "filters.2", value=-25.0)),
)
