"""Healthy rows with other people's models, from configuration."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from corpus.recipes import adam, adamw, sgd
from corpus.trainings import others, tasks
from corpus.trainings.optimizers import of
from corpus.tune.tables import sound
from corpus.tune.tables.healthy_networks import IMAGES, ROWS, frozen

TEXT = dict(task=partial(tasks.code, 16), call=others.logits, needs="transformers", batch=16)
CLASS = dict(task=partial(tasks.sources, 16), call=others.logits, needs="transformers", batch=16)
config = others.from_config

# Language models of transformers.
LLAMA = config("LlamaConfig", "LlamaForCausalLM", **others.SMALL)
sound(
    "hf_gpt2",
    **TEXT,
    model=config("GPT2Config", "GPT2LMHeadModel", **others.GPT2),
    optimizer=adamw(3e-3),
    steps=100,
)
sound("hf_llama", **TEXT, model=LLAMA, optimizer=adamw(5e-3), steps=100)
sound(
    "hf_llama_accumulated",
    **TEXT,
    model=LLAMA,
    optimizer=adamw(5e-3),
    steps=40,
    accumulate=3,
    clip=partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0),
)
sound(
    "hf_mistral_bfloat16",
    **TEXT,
    optimizer=adamw(5e-3),
    steps=80,
    mixed=torch.bfloat16,
    model=config("MistralConfig", "MistralForCausalLM", num_key_value_heads=2, **others.SMALL),
)
sound(
    "hf_opt",
    **TEXT,
    optimizer=adam(3e-3),
    steps=100,
    model=config(
        "OPTConfig",
        "OPTForCausalLM",
        hidden_size=32,
        num_hidden_layers=2,
        ffn_dim=64,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    ),
)
sound(
    "hf_neox",
    **TEXT,
    optimizer=adamw(3e-3),
    steps=100,
    model=config("GPTNeoXConfig", "GPTNeoXForCausalLM", **others.SMALL),
)
sound(
    "hf_bloom",
    **TEXT,
    model=config("BloomConfig", "BloomForCausalLM", **others.BLOOM),
    optimizer=adamw(3e-3),
    steps=100,
)
sound(
    "hf_qwen2_nadam",
    **TEXT,
    optimizer=of("NAdam", lr=4e-3),
    steps=100,
    model=config("Qwen2Config", "Qwen2ForCausalLM", num_key_value_heads=2, **others.SMALL),
)
sound(
    "hf_mixtral",
    **TEXT,
    optimizer=adamw(3e-3),
    steps=60,
    model=config(
        "MixtralConfig",
        "MixtralForCausalLM",
        num_key_value_heads=2,
        num_local_experts=4,
        **others.SMALL,
    ),
)
sound(
    "hf_t5",
    **{**TEXT, "call": others.shifted},
    optimizer=of("Adafactor", lr=2e-2),
    steps=80,
    model=config("T5Config", "T5ForConditionalGeneration", decoder_start_token_id=0, **others.T5),
)

# Classifiers of transformers.
BERT = config("BertConfig", "BertForSequenceClassification", **others.SMALL)
sound("hf_bert", **CLASS, model=BERT, optimizer=adamw(1e-3), steps=100)
sound(
    "hf_bert_embeddings_frozen",
    **CLASS,
    model=BERT,
    surgery=frozen("bert.embeddings"),
    optimizer=adamw(1e-3),
    steps=100,
)
sound(
    "hf_distilbert",
    **CLASS,
    optimizer=adam(1e-3),
    steps=100,
    model=config("DistilBertConfig", "DistilBertForSequenceClassification", **others.DISTIL),
)
sound(
    "hf_electra",
    **CLASS,
    optimizer=adamw(2e-3),
    steps=100,
    model=config(
        "ElectraConfig", "ElectraForSequenceClassification", embedding_size=16, **others.SMALL
    ),
)
sound(
    "hf_albert_shared",
    **CLASS,
    optimizer=adamw(1e-3),
    steps=100,
    model=config(
        "AlbertConfig", "AlbertForSequenceClassification", embedding_size=16, **others.SMALL
    ),
)
PICTURE: dict[str, Any] = dict(task=IMAGES, call=others.logits, needs="transformers", batch=32)
sound(
    "hf_vit",
    **PICTURE,
    optimizer=adamw(2e-3),
    steps=100,
    model=config(
        "ViTConfig",
        "ViTForImageClassification",
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    ),
)
sound(
    "hf_resnet",
    **PICTURE,
    optimizer=sgd(0.05, momentum=0.9),
    steps=80,
    model=config(
        "ResNetConfig",
        "ResNetForImageClassification",
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        layer_type="basic",
    ),
)
sound(
    "hf_convnext",
    **PICTURE,
    optimizer=adamw(4e-3),
    steps=100,
    model=config(
        "ConvNextConfig",
        "ConvNextForImageClassification",
        num_channels=1,
        patch_size=2,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        num_stages=2,
    ),
)

# x-transformers and mambapy.
X = dict(task=tasks.code, needs="x_transformers", batch=16, steps=100)
sound("x_decoder_rotary", **X, model=others.x_decoder(rotary_pos_emb=True), optimizer=adam(3e-3))
sound(
    "x_decoder_glu_rms",
    **X,
    optimizer=adamw(3e-3),
    model=others.x_decoder(ff_glu=True, use_rmsnorm=True, ff_swish=True),
)
sound(
    "x_decoder_alibi_sandwich",
    **X,
    optimizer=adam(3e-3),
    model=others.x_decoder(alibi_pos_bias=True, sandwich_norm=True, attn_qk_norm=True),
)
sound(
    "x_vision",
    task=IMAGES,
    needs="x_transformers",
    model=others.x_vision(),
    steps=100,
    optimizer=adamw(2e-3),
)
sound(
    "mamba_code",
    task=partial(tasks.code, 16),
    needs="mambapy",
    model=others.mamba(),
    batch=16,
    optimizer=adam(5e-3),
    steps=60,
)
sound(
    "mamba_rows", task=ROWS, needs="mambapy", model=others.mamba(1), optimizer=adamw(5e-3), steps=80
)

# torch-geometric: one graph of samples joined to their neighbours; all nodes at each step.
NODES: dict[str, Any] = dict(needs="torch_geometric", batch=None, steps=100)
WINES, DIGITS = partial(tasks.graph, "wine"), partial(tasks.graph, "digits")
TUMOURS = partial(tasks.graph, "breast_cancer")
sound(
    "graph_gcn",
    **NODES,
    task=DIGITS,
    optimizer=adam(1e-2),
    model=others.graph(lambda g, w: g.GCNConv(w, w)),
)
sound(
    "graph_gcn_wine_sgd",
    **NODES,
    task=WINES,
    optimizer=sgd(0.05, momentum=0.9),
    model=others.graph(lambda g, w: g.GCNConv(w, w)),
)
sound(
    "graph_attention",
    **NODES,
    task=DIGITS,
    optimizer=adam(1e-2),
    model=others.graph(lambda g, w: g.GATConv(w, w // 4, heads=4)),
)
sound(
    "graph_sage",
    **NODES,
    task=TUMOURS,
    optimizer=of("Adagrad", lr=2e-2),
    model=others.graph(lambda g, w: g.SAGEConv(w, w)),
)
sound(
    "graph_chebyshev",
    **NODES,
    task=WINES,
    optimizer=adamw(5e-3),
    model=others.graph(lambda g, w: g.ChebConv(w, w, K=3)),
)
sound(
    "graph_transformer",
    **NODES,
    task=DIGITS,
    optimizer=adam(5e-3),
    model=others.graph(lambda g, w: g.TransformerConv(w, w // 2, heads=2)),
)
sound(
    "graph_gcn2_12",
    **NODES,
    task=DIGITS,
    optimizer=adam(1e-2),
    model=others.graph(lambda g, w: g.GCN2Conv(w, alpha=0.2, theta=0.5, layer=1), depth=12),
)
sound(
    "graph_gin_pixels",
    task=tasks.digits,
    needs="torch_geometric",
    model=others.pictures(),
    optimizer=adam(5e-3),
    batch=32,
    steps=100,
)
