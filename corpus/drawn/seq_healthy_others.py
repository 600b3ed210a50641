"""Healthy rows with other people's sequence models, from configuration."""

from __future__ import annotations

from functools import partial

from torch.optim import lr_scheduler as schedules

from corpus.drawn import sound
from corpus.recipes import adam, adamw
from corpus.trainings import seq_tasks, tasks
from corpus.trainings.optimizers import of
from corpus.trainings.seq_loops import norm_clip
from corpus.trainings.seq_others import (
    embedded,
    hugging,
    jamba,
    learning,
    logits,
    selective,
    series_x,
    text_x,
    translated,
    with_lora,
)

HF = dict(call=logits, needs="transformers", batch=16)
BASE = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
CODE = partial(tasks.code, 16)

# name: configuration, class, what differs from BASE
SPEAKERS: dict[str, tuple[str, str, dict[str, object]]] = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM", dict(num_key_value_heads=1, head_dim=12)),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", dict(num_key_value_heads=2, head_dim=12)),
    "stablelm": (
        "StableLmConfig",
        "StableLmForCausalLM",
        dict(partial_rotary_factor=0.5, num_key_value_heads=4),
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", {}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
}
for name, (config, kind, more) in SPEAKERS.items():
    sound(
        f"letters_hf_{name}",
        **HF,
        task=partial(seq_tasks.bytecode, 12) if name in ("gemma", "phi") else CODE,
        model=hugging(config, kind, **{**BASE, **more}),
        optimizer=adamw(4e-3, weight_decay=0.05),
        steps=60,
    )
NEO = hugging(
    "GPTNeoConfig",
    "GPTNeoForCausalLM",
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    attention_types=[[["global", "local"], 1]],
    window_size=6,
    max_position_embeddings=32,
)
sound(
    "code_hf_neo",
    **HF,
    task=CODE,
    model=NEO,
    steps=120,
    optimizer=adam(3e-3),
    clip=norm_clip(1.0),
)
sound(
    "code_hf_rwkv",
    **{**HF, "batch": 8},
    task=partial(tasks.code, 10),
    model=hugging(
        "RwkvConfig",
        "RwkvForCausalLM",
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
        intermediate_size=64,
        context_length=32,
    ),
    optimizer=adam(5e-3),
    steps=50,
)
sound(
    "code_hf_mamba",
    **HF,
    task=CODE,
    model=hugging(
        "MambaConfig", "MambaForCausalLM", hidden_size=32, num_hidden_layers=1, state_size=4
    ),
    optimizer=adam(5e-3),
    steps=50,
)
READERS: dict[str, tuple[str, str, dict[str, object]]] = {
    "roformer": (
        "RoFormerConfig",
        "RoFormerForSequenceClassification",
        dict(max_position_embeddings=64),
    ),
    "fnet": ("FNetConfig", "FNetForSequenceClassification", dict(max_position_embeddings=64)),
    "mpnet": ("MPNetConfig", "MPNetForSequenceClassification", dict(max_position_embeddings=64)),
}
for name, (config, kind, more) in READERS.items():
    sound(
        f"glyphs_hf_{name}",
        **HF,
        task=partial(seq_tasks.glyphs, 16),
        model=hugging(config, kind, **{**BASE, **more}),
        optimizer=adamw(1.5e-3),
        schedule=partial(schedules.LinearLR, start_factor=0.1, total_iters=20),
        steps=80,
    )
sound(
    "tagging_hf_convbert",
    **HF,
    task=partial(seq_tasks.tagged, 16),
    model=hugging("ConvBertConfig", "ConvBertForTokenClassification", embedding_size=32, **BASE),
    optimizer=adamw(2e-3),
    steps=60,
)
sound(
    "tagging_hf_roberta_last_layer_only_thin",
    **HF,
    task=partial(seq_tasks.tagged, 16),
    model=hugging(
        "RobertaConfig", "RobertaForTokenClassification", max_position_embeddings=64, **BASE
    ),
    surgery=with_lora(("query", "value"), 4),
    groups=learning,
    optimizer=adamw(1e-2),
    steps=100,
)
BART = dict(
    d_model=48,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=96,
    decoder_ffn_dim=96,
    max_position_embeddings=64,
    decoder_start_token_id=0,
)
sound(
    "dates_hf_bart",
    **{**HF, "call": translated(18)},
    task=seq_tasks.dates,
    model=hugging("BartConfig", "BartForConditionalGeneration", **BART),
    optimizer=adamw(4e-3),
    steps=80,
)
sound(
    "lorenz_hf_bert_numbers",
    needs="transformers",
    task=partial(seq_tasks.series, "lorenz", 16, 3),
    model=embedded("BertConfig", "BertModel", 48, vocab_size=2, max_position_embeddings=32, **BASE),
    optimizer=adamw(1e-3),
    steps=80,
)

# x-transformers.
X = dict(needs="x_transformers", batch=16)
sound(
    "valve_x_relative",
    **X,
    task=partial(seq_tasks.series, "valve"),
    steps=80,
    model=series_x("Encoder", rel_pos_bias=True),
    optimizer=adam(2e-3),
)
sound(
    "mackey_x_gated_residual",
    **X,
    task=partial(seq_tasks.series, "mackey", 16),
    steps=80,
    model=series_x("Decoder", 32, 2, gate_residual=True, alibi_pos_bias=True),
    optimizer=of("RAdam", lr=4e-3),
)
sound(
    "glyphs_x_memory_tokens",
    **X,
    task=partial(seq_tasks.glyphs, 16),
    steps=80,
    model=text_x("Encoder", outer=dict(num_memory_tokens=3)),
    optimizer=adam(2e-3),
)
sound(
    "bytes_x_one_key_squared",
    **X,
    task=partial(seq_tasks.bytecode, 16),
    steps=80,
    model=text_x("Decoder", attn_one_kv_head=True, ff_relu_squared=True, shift_tokens=1),
    optimizer=adamw(3e-3),
)
sound(
    "code_x_macaron_scaled",
    **X,
    task=CODE,
    steps=60,
    model=text_x("Decoder", 32, 2, macaron=True, scale_residual=True),
    optimizer=adam(3e-3),
)

# mambapy.
M = dict(needs="mambapy", batch=16)
sound(
    "lorenz_mamba_wide_states",
    **M,
    task=partial(seq_tasks.series, "lorenz", 16),
    steps=60,
    model=selective(16, 2, d_state=16, expand_factor=1),
    optimizer=adamw(4e-3),
)
sound(
    "names_mamba_sequential",
    **M,
    task=partial(seq_tasks.identifiers, 10),
    steps=60,
    model=selective(24, 1, d_state=4, pscan=False),
    optimizer=adam(8e-3),
)
sound("code_jamba", **M, task=CODE, steps=50, model=jamba(), optimizer=adamw(3e-3))
