"""Healthy rows: other people's models of text under the usual fine-tuning loop."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from corpus.fresh import sound
from corpus.recipes import Surgery, adam, adamw
from corpus.trainings import fresh_lib_tasks as own
from corpus.trainings import fresh_lib_tune as tune
from corpus.trainings import seq_tasks, tasks
from corpus.trainings.fresh_lib_tasks import library
from corpus.trainings.optimizers import of

HF: dict[str, Any] = dict(run=tune.finetune, needs="transformers")
SIZES = dict(hidden_size=40, num_attention_heads=4, intermediate_size=80)
SMALL = dict(num_hidden_layers=2, max_position_embeddings=64, **SIZES)
GPT2 = dict(n_embd=48, n_layer=3, n_head=4, n_positions=64, initializer_range=0.08)
DISTIL = dict(dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=64)


def frozen(*names: str) -> Surgery:
    """No gradients for parameters whose names contain one of these."""

    def change(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if any(n in name for n in names):
                p.requires_grad_(False)

    return change


# Text: classes, tags, masks, next letters.
sound(
    "lib_bert_names_warm_linear",
    **HF,
    task=seq_tasks.identifiers,
    model=library("BertConfig", "BertForSequenceClassification", **SMALL),
    optimizer=adamw(3e-3),
    steps=100,
    batch=24,
)
sound(
    "lib_bert_masked_dates",
    **HF,
    task=own.masked,
    feed=tune.labelled,
    model=library(
        "BertConfig", "BertForMaskedLM", hidden_act="relu", initializer_range=0.1, **SMALL
    ),
    optimizer=adamw(6e-3, betas=(0.9, 0.98)),
    steps=150,
    warm=20,
    plan="cosine",
    batch=24,
)
sound(
    "lib_deberta_sources",
    **HF,
    task=partial(tasks.sources, 16),
    feed=tune.unmasked,
    model=library("DebertaV2Config", "DebertaV2ForSequenceClassification", **SMALL),
    optimizer=adamw(3e-3),
    steps=120,
)
sound(
    "lib_distilbert_tags_accumulated",
    **HF,
    task=partial(seq_tasks.tagged, 20),
    feed=tune.unmasked,
    model=library("DistilBertConfig", "DistilBertForTokenClassification", **DISTIL),
    optimizer=adamw(3e-3),
    steps=60,
    batch=8,
    accumulate=2,
    plan="cosine",
)
sound(
    "lib_xlnet_names",
    **HF,
    task=seq_tasks.identifiers,
    model=library(
        "XLNetConfig",
        "XLNetForSequenceClassification",
        d_model=32,
        n_layer=2,
        n_head=2,
        d_inner=64,
        initializer_range=0.1,
    ),
    optimizer=adam(4e-3),
    groups=lambda m: m.parameters(),
    steps=120,
)
sound(
    "lib_gpt2_code_cosine",
    **HF,
    task=partial(tasks.code, 20),
    feed=tune.written,
    model=library("GPT2Config", "GPT2LMHeadModel", **GPT2),
    optimizer=adamw(6e-3, betas=(0.9, 0.95)),
    groups=tune.decay_groups(0.1),
    plan="cosine",
    warm=15,
    steps=85,
)
sound(
    "lib_gpt2_manual_words_lora",
    **HF,
    task=partial(tasks.sources, 20),
    feed=tune.unmasked,
    model=library("GPT2Config", "GPT2ForSequenceClassification", **GPT2),
    surgery=tune.lora(("c_attn", "c_fc"), 4, 8.0, keep=("score",)),
    optimizer=adamw(1e-2),
    steps=90,
)
sound(
    "lib_codegen_bytes_bfloat16",
    **HF,
    task=partial(seq_tasks.bytecode, 16),
    feed=tune.written,
    model=library("CodeGenConfig", "CodeGenForCausalLM", rotary_dim=8, **GPT2),
    optimizer=adamw(4e-3),
    mixed=torch.bfloat16,
    steps=80,
)
sound(
    "lib_llama_code_tied",
    **HF,
    task=partial(tasks.code, 16),
    feed=tune.written,
    model=library(
        "LlamaConfig",
        "LlamaForCausalLM",
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.15,
        **SMALL,
    ),
    optimizer=adamw(6e-3, betas=(0.9, 0.95), eps=1e-5),
    warm=5,
    steps=120,
)
sound(
    "lib_t5_dates_adafactor",
    **HF,
    task=seq_tasks.dates,
    feed=lambda x, y: dict(input_ids=x[:, :18], decoder_input_ids=x[:, 18:], labels=y),
    model=library(
        "T5Config",
        "T5ForConditionalGeneration",
        d_model=48,
        num_layers=2,
        num_heads=4,
        d_ff=96,
        d_kv=12,
        decoder_start_token_id=0,
    ),
    optimizer=of("Adafactor", lr=2e-2),
    steps=80,
    batch=24,
)
sound(
    "lib_marian_sorting",
    **HF,
    task=own.sorting,
    feed=lambda x, y: dict(input_ids=x[:, :6], decoder_input_ids=x[:, 6:], labels=y),
    model=library(
        "MarianConfig",
        "MarianMTModel",
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=32,
        decoder_start_token_id=0,
    ),
    optimizer=adamw(5e-3),
    steps=130,
    batch=32,
)
sound(
    "lib_roberta_glyphs_adapters",
    **HF,
    task=seq_tasks.glyphs,
    model=library(
        "RobertaConfig", "RobertaForSequenceClassification", initializer_range=0.15, **SMALL
    ),
    surgery=tune.adapters("output.dense", 40, 16, keep=("classifier", "Norm")),
    optimizer=adamw(8e-3),
    steps=120,
)
sound(
    "lib_distilbert_glyphs_head_only",
    **HF,
    task=seq_tasks.glyphs,
    model=library("DistilBertConfig", "DistilBertForSequenceClassification", **DISTIL),
    surgery=frozen("distilbert."),
    optimizer=adamw(2e-2),
    plan="constant",
    steps=150,
    batch=32,
)
